"""Questions of our own: canaries, quizzes, and the judge who marks replies."""
