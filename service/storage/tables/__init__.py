"""SQLAlchemy tables; Alembic compares the database with these.

Times are seconds since 1970-01-01 UTC. JSON is kept as text, encoded by msgspec, so that floats return bit for bit.
Counts are integers in millionths (see `bandit.posteriors`).
"""

from service.storage.tables.experiments import experiment_steps, exposures, looks, seeds
from service.storage.tables.learning import calibrations, cells, opinions, outliers, reading_weights, rewards
from service.storage.tables.metadata import metadata
from service.storage.tables.operating import (
    TRAFFIC_CALLED,
    TRAFFIC_DECIDED,
    TRAFFIC_KEY,
    TRAFFIC_LATENCY,
    TRAFFIC_RATED,
    budgets,
    controls,
    exchanges,
    keys,
    traffic,
    traffic_days,
)
from service.storage.tables.requests import attempts, beliefs, configs, decisions, prompts
from service.storage.tables.watching import alarms, canaries, canary_leases, watched, watches

__all__ = [
    "TRAFFIC_CALLED",
    "TRAFFIC_DECIDED",
    "TRAFFIC_KEY",
    "TRAFFIC_LATENCY",
    "TRAFFIC_RATED",
    "alarms",
    "attempts",
    "beliefs",
    "budgets",
    "calibrations",
    "canaries",
    "canary_leases",
    "cells",
    "configs",
    "controls",
    "decisions",
    "exchanges",
    "experiment_steps",
    "exposures",
    "keys",
    "looks",
    "metadata",
    "opinions",
    "outliers",
    "prompts",
    "reading_weights",
    "rewards",
    "seeds",
    "traffic",
    "traffic_days",
    "watched",
    "watches",
]
