"""The web service: everything that touches the world."""
