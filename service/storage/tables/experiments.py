"""Experiments between policies: their steps, their units and what was seen of them."""

from sqlalchemy import BigInteger, Column, Double, Index, Integer, String, Table, Text, text

from service.storage.tables.metadata import metadata

_OPEN = text("outcome IS NULL")

# What was done with each experiment, in order, the same for all replicas; rows are only ever added.
experiment_steps = Table(
    "experiment_steps",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),  # one more than the last: of two at once one wins
    Column("at", Double, nullable=False),
    Column("experiment", String(64), nullable=False),
    Column("action", String(16), nullable=False),  # create, start, pause, stop, decide, archive
    Column("who", String(128), nullable=False),  # id of an API key, or a person at the command line
    Column("note", Text, nullable=False),
    Column("content", Text, nullable=False),  # service.experiments.lifecycle: the content of that action as JSON
)

# When each unit was first in an experiment; written with the decision.
exposures = Table(
    "exposures",
    metadata,
    Column("experiment", String(64), primary_key=True),
    Column("unit", String(32), primary_key=True),  # salted digest, as in `decisions`
    Column("variant", String(48), nullable=False),
    Column("first_at", Double, nullable=False),
    Column("outcome", Text),  # service.experiments.measuring.Outcome as JSON; NULL: its time is not over
    Index(None, "experiment", "first_at"),
    Index("ix_exposures_open", "experiment", "first_at", sqlite_where=_OPEN, postgresql_where=_OPEN),
)

# What was seen of each experiment, and when.
looks = Table(
    "looks",
    metadata,
    Column("experiment", String(64), primary_key=True),
    Column("at", Double, primary_key=True),
    Column("content", Text, nullable=False),  # service.experiments.looks.Look as JSON
)

# What was known when an experiment started: its variants' own posteriors begin with it.
seeds = Table(
    "seeds",
    metadata,
    Column("experiment", String(64), primary_key=True),
    Column("arm", String(128), primary_key=True),
    Column("task_type", String(32), primary_key=True),
    Column("tier", String(16), primary_key=True),
    Column("hour", Integer, primary_key=True),  # the middle of a week for hours that were long ago
    Column("channel", String(16), primary_key=True),
    Column("n", BigInteger, nullable=False),
    Column("s", BigInteger, nullable=False),
    Column("s2", BigInteger, nullable=False),
)
