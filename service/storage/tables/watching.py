"""What is watched of models: what changed about them, and the probes they are asked."""

from sqlalchemy import BigInteger, Boolean, Column, Double, Index, Integer, String, Table, Text

from service.storage.tables.metadata import metadata

# What changed about models: found by a detector, told by the owner, or seen in the settings.
alarms = Table(
    "alarms",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("at", Double, nullable=False),
    Column("event", String(16), nullable=False),  # detected, price, version, incident, new
    Column("arm", String(128), nullable=False),
    Column("task_type", String(32)),  # NULL: on all of its traffic
    Column("direction", String(8)),  # this and what follows to past_mean: NULL unless detected
    Column("stream", String(16)),
    Column("evidence", Double),
    Column("readings", Double),
    Column("mean", Double),
    Column("past_readings", Double),
    Column("past_mean", Double),
    Column("hour", Integer, nullable=False),  # decisions of earlier hours count less
    Column("note", Text, nullable=False),
    Index(None, "at"),
)

# What is remembered between two looks, as JSON; `revision` counts the changes, so that of several replicas one wins.
watches = Table(
    "watches",
    metadata,
    Column("name", String(32), primary_key=True),  # detectors, prices
    Column("revision", BigInteger, nullable=False),
    Column("content", Text, nullable=False),
)

# What of each cell the detectors have seen.
watched = Table(
    "watched",
    metadata,
    Column("namespace", String(128), primary_key=True),
    Column("arm", String(128), primary_key=True),
    Column("task_type", String(32), primary_key=True),
    Column("tier", String(16), primary_key=True),
    Column("hour", Integer, primary_key=True),
    Column("channel", String(16), primary_key=True),
    Column("n", BigInteger, nullable=False),
    Column("s", BigInteger, nullable=False),
)

# One row per answer of a model to a canary probe.
canaries = Table(
    "canaries",
    metadata,
    Column("name", String(128), primary_key=True),
    Column("arm", String(128), primary_key=True),
    Column("at", Double, primary_key=True),
    Column("version", String(16), nullable=False),  # of the prompt and what is expected
    Column("right", Boolean),  # NULL: the call failed
    Column("error", String(32), nullable=False),  # a FailureKind; "" when the call did not fail
    Column("latency_s", Double, nullable=False),
    Column("cost_usd", Double, nullable=False),
    Column("seen", Boolean, nullable=False),  # by the detectors
    Index(None, "at"),
)

# When each canary was last begun to be asked of each model, by whichever replica.
canary_leases = Table(
    "canary_leases",
    metadata,
    Column("name", String(128), primary_key=True),
    Column("arm", String(128), primary_key=True),
    Column("asked_at", Double, nullable=False),
)
