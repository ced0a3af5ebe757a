"""SQLAlchemy tables; Alembic compares the database with these.

Times are seconds since 1970-01-01 UTC. JSON is kept as text, encoded by msgspec, so that floats return bit for bit.
Counts are integers in millionths (see `bandit.posteriors`).
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    text,
)  # fmt: skip

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    }
)

_IN_AN_EXPERIMENT = text("experiment IS NOT NULL")
_OPEN = text("outcome IS NULL")

_NOT_AUTO = text("method <> 'auto'")
_OF_A_USER = text("\"user\" <> ''")
_WITH_A_KEY = text("key_id <> ''")

# One row per routed request, written once; `served_arm` is set when a fallback answered.
decisions = Table(
    "decisions",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("created_at", Double, nullable=False),
    Column("key_id", String(32), nullable=False),  # "" without keys
    Column("method", String(32), nullable=False),  # service.decide.Decision says which there are
    Column("policy", String(128), nullable=False),
    Column("namespace", String(128), nullable=False),  # whose posteriors this decision teaches
    Column("task_type", String(32), nullable=False),
    Column("tier", String(16), nullable=False),
    Column("arm", String(128), nullable=False),
    Column("served_arm", String(128)),
    Column("propensity", Double, nullable=False),
    Column("routing_s", Double, nullable=False),  # seconds to classify and decide
    Column("beliefs_version", String(64), nullable=False),
    Column("config_version", String(64), nullable=False),
    Column("session", String(256), nullable=False),
    Column("user", String(256), nullable=False),
    Column("detail", Text, nullable=False),  # service.decide.Decision as JSON
    Column("explored", Boolean),  # whether another than the likeliest arm was drawn; NULL: not written down then
    Column("experiment", String(64)),  # this and what follows: NULL outside of experiments
    Column("variant", String(48)),
    Column("unit", String(32)),  # salted digest of the user, session, key or request
    Index(None, "created_at"),
    Index(None, "beliefs_version"),
    Index("ix_decisions_method", "method", "created_at", sqlite_where=_NOT_AUTO, postgresql_where=_NOT_AUTO),
    Index("ix_decisions_user", "user", "created_at", sqlite_where=_OF_A_USER, postgresql_where=_OF_A_USER),
    Index("ix_decisions_key_id", "key_id", "created_at", sqlite_where=_WITH_A_KEY, postgresql_where=_WITH_A_KEY),
    Index(
        None, "experiment", "unit",
        sqlite_where=_IN_AN_EXPERIMENT, postgresql_where=_IN_AN_EXPERIMENT,
    ),
)  # fmt: skip

# One row per call to a provider.
attempts = Table(
    "attempts",
    metadata,
    Column("decision_id", String(64), ForeignKey("decisions.id", ondelete="CASCADE"), primary_key=True),
    Column("step", Integer, primary_key=True),  # 0 is the drawn arm, then the fallbacks
    Column("arm", String(128), nullable=False),
    Column("outcome", String(32), nullable=False),  # "ok" or a FailureKind
    Column("status", Integer, nullable=False),  # HTTP status; 0 without one
    Column("streamed", Boolean, nullable=False),
    Column("started_at", Double, nullable=False),
    Column("latency_s", Double, nullable=False),
    Column("first_token_s", Double),
    Column("prompt_tokens", Integer, nullable=False),
    Column("completion_tokens", Integer, nullable=False),
    Column("cached_tokens", Integer, nullable=False),
    Column("cost_usd", Double, nullable=False),
    Column("error", Text, nullable=False),  # the provider's code for the failure; "" when ok
    Index(None, "started_at"),
)

# What was classified of a request, when the owner keeps prompts; pruned by its own retention, hence no foreign key.
prompts = Table(
    "prompts",
    metadata,
    Column("decision_id", String(64), primary_key=True),
    Column("created_at", Double, nullable=False),
    Column("text", Text, nullable=False),
    Index(None, "created_at"),
)

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

# What the owner switched, in the order in which it was done; rows are only ever added.
controls = Table(
    "controls",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", Double, nullable=False),
    Column("action", String(16), nullable=False),  # freeze, unfreeze, reset, rollback, off, on
    Column("task_type", String(32)),  # NULL: all
    Column("arm", String(128)),  # NULL: all
    Column("who", String(128), nullable=False),  # name of an API key, or of a person at the command line
    Column("note", Text, nullable=False),
    Column("content", Text, nullable=False),  # service.controls.Saved as JSON
)

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

# What a decision was taken on: evidence and settings, stored once per content.
beliefs = Table(
    "beliefs",
    metadata,
    Column("version", String(64), primary_key=True),
    Column("content", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Index(None, "created_at"),
)
configs = Table(
    "configs",
    metadata,
    Column("version", String(64), primary_key=True),
    Column("content", Text, nullable=False),
    Column("created_at", Double, nullable=False),
)

TRAFFIC_KEY = ("hour", "arm", "task_type", "policy", "method")
TRAFFIC_DECIDED = ("decisions", "explored", "fallbacks", "simple", "medium", "complex", "routing_us")
TRAFFIC_CALLED = (
    "calls", "failures", "prompt_tokens", "completion_tokens", "cost_nano", "latency_us", "first_tokens",
    "first_token_us",
)  # fmt: skip
TRAFFIC_RATED = ("ratings", "rating_micro", "lag_ms")
TRAFFIC_LATENCY = tuple(f"latency_{number}" for number in range(28))  # answered calls, see `service.traffic.BOUNDS_S`

# What the log adds up to, for pages that must not read all of it; changed only by adding. A decision counts under the
# model that answered it, a call under the model that was called, a rating under the model that was rated, all of them
# in the hour of the decision.
traffic = Table(
    "traffic",
    metadata,
    Column("hour", Integer, primary_key=True),  # since 1970-01-01 UTC
    Column("arm", String(128), primary_key=True),
    Column("task_type", String(32), primary_key=True),
    Column("policy", String(128), primary_key=True),
    Column("method", String(32), primary_key=True),
    *(
        Column(name, BigInteger, nullable=False, server_default="0")
        for name in (*TRAFFIC_DECIDED, *TRAFFIC_CALLED, *TRAFFIC_RATED, *TRAFFIC_LATENCY)
    ),
    sqlite_with_rowid=False,
)

# What was granted and spent, in billionths of a dollar; day 0: since the beginning.
budgets = Table(
    "budgets",
    metadata,
    Column("name", String(160), primary_key=True),  # a policy, or "key:" and an API key's id
    Column("day", Integer, primary_key=True),  # since 1970-01-01 UTC
    Column("requests", BigInteger, nullable=False),
    Column("granted", BigInteger, nullable=False),
    Column("spent", BigInteger, nullable=False),
    Column("updated_at", Double, nullable=False),
)

keys = Table(
    "keys",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("name", String(128), nullable=False),
    Column("digest", String(64), nullable=False, unique=True),  # sha256 of the secret
    Column("scopes", String(128), nullable=False),  # comma-separated
    Column("created_at", Double, nullable=False),
    Column("revoked_at", Double),
)
