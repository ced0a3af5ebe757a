"""What the log says of decisions and policies: explained, taken again, and worth how much."""
