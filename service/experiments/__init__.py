"""Experiments between policies: what one is, its life, who is in it, and whose posteriors it reads and teaches."""
