"""NVIDIA's prompt task and complexity classifier: exact, refused when damaged, and fast."""
