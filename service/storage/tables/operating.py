"""What the operator sees and sets: sums of the traffic, budgets, switches, keys."""

from sqlalchemy import BigInteger, Column, Double, Integer, String, Table, Text

from service.storage.tables.metadata import metadata

TRAFFIC_KEY = ("hour", "arm", "task_type", "policy", "method")

TRAFFIC_DECIDED = ("decisions", "explored", "fallbacks", "simple", "medium", "complex", "routing_us")

TRAFFIC_CALLED = (
    "calls", "failures", "prompt_tokens", "completion_tokens", "cost_nano", "latency_us", "first_tokens",
    "first_token_us",
)  # fmt: skip

TRAFFIC_RATED = ("ratings", "rating_micro", "lag_ms")

TRAFFIC_LATENCY = tuple(
    f"latency_{number}" for number in range(28)
)  # answered calls, see `service.traffic.sums.BOUNDS_S`

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

# The same by the day, added to in the same transactions: with many models an hour has nearly as many sums as decisions.
traffic_days = Table(
    "traffic_days",
    metadata,
    Column("day", Integer, primary_key=True),  # since 1970-01-01 UTC
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

# The last exchange of each process with the budgets: what is written again is not counted twice.
exchanges = Table(
    "exchanges",
    metadata,
    Column("process", String(32), primary_key=True),  # drawn when it starts
    Column("number", BigInteger, nullable=False),
    Column("at", Double, nullable=False),
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
