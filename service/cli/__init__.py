"""The command `armwise`: a file for each command, which imports only what it runs."""
