"""Measurements of Armwise: what it costs, how well it chooses, what training gives. Never collected by the tests."""
