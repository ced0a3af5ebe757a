"""What was said of replies, and the sums that are learned from it."""

from sqlalchemy import BigInteger, Column, Double, Index, Integer, String, Table, Text, text

from service.storage.tables.metadata import metadata

_COUNTED_OF_A_USER = text("\"user\" <> '' AND weight > 0")  # what the cap of a user's influence looks for

# One row per measurement; a changed mind replaces it.
rewards = Table(
    "rewards",
    metadata,
    Column("decision_id", String(64), primary_key=True),
    Column("metric", String(128), primary_key=True),
    Column("source", String(64), primary_key=True),  # user, api, heuristics ...
    Column("user", String(256), primary_key=True),
    Column("value", Double, nullable=False),
    Column("weight", Double, nullable=False),
    Column("channel", String(16), nullable=False),
    Column("namespace", String(128), nullable=False),  # with arm .. hour: the cell it counts in
    Column("arm", String(128), nullable=False),
    Column("task_type", String(32), nullable=False),
    Column("tier", String(16), nullable=False),
    Column("hour", Integer, nullable=False),
    Column("comment", Text, nullable=False),
    Column("detail", Text, nullable=False),  # tags, findings: JSON
    Column("created_at", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
    Index(None, "created_at"),
    Index(
        "ix_rewards_influence", "user", "arm", "created_at",
        sqlite_where=_COUNTED_OF_A_USER, postgresql_where=_COUNTED_OF_A_USER,
    ),
)  # fmt: skip

# The posterior: sums over rewards, changed only by adding.
cells = Table(
    "cells",
    metadata,
    Column("namespace", String(128), primary_key=True),
    Column("arm", String(128), primary_key=True),
    Column("task_type", String(32), primary_key=True),
    Column("tier", String(16), primary_key=True),
    Column("hour", Integer, primary_key=True),
    Column("channel", String(16), primary_key=True),
    Column("n", BigInteger, nullable=False),
    Column("s", BigInteger, nullable=False),
    Column("s2", BigInteger, nullable=False),
    Column("updated_at", Double, nullable=False),
    Index(None, "updated_at"),
)

# Sums over calls that have both a label and a reading of the heuristics, changed only by adding.
calibrations = Table(
    "calibrations",
    metadata,
    Column("namespace", String(128), primary_key=True),
    Column("task_type", String(32), primary_key=True),
    Column("arm", String(128), primary_key=True),
    Column("version", String(32), primary_key=True),  # of the weights that made the readings
    Column("n", BigInteger, nullable=False),
    Column("y", BigInteger, nullable=False),
    Column("h", BigInteger, nullable=False),
    Column("yy", BigInteger, nullable=False),
    Column("yh", BigInteger, nullable=False),
    Column("updated_at", Double, nullable=False),
)

# What people said of models, in sums that are changed only by adding. User "": everybody, those without a name too.
opinions = Table(
    "opinions",
    metadata,
    Column("user", String(256), primary_key=True),
    Column("metric", String(128), primary_key=True),
    Column("arm", String(128), primary_key=True),
    Column("task_type", String(32), primary_key=True),
    Column("people", BigInteger, nullable=False),  # who said so; each label without a name is one
    Column("labels", BigInteger, nullable=False),  # how many, whatever they weigh
    Column("said", BigInteger, nullable=False),  # sum of their values, in millionths
    Column("n", BigInteger, nullable=False),  # sum of their weights, and of weight times value
    Column("s", BigInteger, nullable=False),
)

# Users whose labels cannot be explained by what others say.
outliers = Table(
    "outliers",
    metadata,
    Column("user", String(256), primary_key=True),
    Column("since", Double, nullable=False),
)

# Weights of the heuristics that were learned; the newest ones are in force.
reading_weights = Table(
    "reading_weights",
    metadata,
    Column("version", String(32), primary_key=True),
    Column("content", Text, nullable=False),  # service.quality.readings.Weights as JSON
    Column("labelled", Integer, nullable=False),  # calls they were learned from
    Column("fitted_at", Double, nullable=False),
)
