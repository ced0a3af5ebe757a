"""What is known of the models: the posteriors, what they are made of, and what the owner switched."""
