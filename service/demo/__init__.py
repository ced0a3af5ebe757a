"""`armwise demo`: simulated models, honest thumbs, and what routing gains."""
