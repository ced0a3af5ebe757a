"""What happened to each request: what was decided, on what, and which providers were called."""

from sqlalchemy import Boolean, Column, Double, ForeignKey, Index, Integer, String, Table, Text, text

from service.storage.tables.metadata import metadata

_IN_AN_EXPERIMENT = text("experiment IS NOT NULL")

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
