"""The learning core of Armwise: values in, values out.

Nothing here knows of the web, a database, a clock, the environment or a log. Time, randomness and prices are
arguments, so every decision can be replayed in a plain interpreter.
"""
