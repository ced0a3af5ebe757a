"""What the log adds up to, and what is looked for in it."""
