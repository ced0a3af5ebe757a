"""The HTTP surface: what applications call, and what the owner calls."""
