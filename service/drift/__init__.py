"""Models that change: noticed, told, and written down."""
