"""What the log adds up to by day, from the sums by hour."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

_KEY = ("arm", "task_type", "policy", "method")
_COUNTS = (
    "decisions", "explored", "fallbacks", "simple", "medium", "complex", "routing_us", "calls", "failures",
    "prompt_tokens", "completion_tokens", "cost_nano", "latency_us", "first_tokens", "first_token_us", "ratings",
    "rating_micro", "lag_ms", *(f"latency_{number}" for number in range(28)),
)  # fmt: skip


def upgrade() -> None:
    op.create_table(
        "traffic_days",
        sa.Column("day", sa.Integer(), nullable=False),
        sa.Column("arm", sa.String(length=128), nullable=False),
        sa.Column("task_type", sa.String(length=32), nullable=False),
        sa.Column("policy", sa.String(length=128), nullable=False),
        sa.Column("method", sa.String(length=32), nullable=False),
        *(sa.Column(name, sa.BigInteger(), nullable=False, server_default="0") for name in _COUNTS),
        sa.PrimaryKeyConstraint("day", *_KEY, name=op.f("pk_traffic_days")),
        sqlite_with_rowid=False,
    )
    sums = ", ".join(f"CAST(SUM({name}) AS BIGINT)" for name in _COUNTS)
    op.execute(
        f"INSERT INTO traffic_days (day, {', '.join((*_KEY, *_COUNTS))}) "  # noqa: S608 - our own names
        f"SELECT hour / 24, {', '.join(_KEY)}, {sums} FROM traffic GROUP BY hour / 24, {', '.join(_KEY)}"
    )


def downgrade() -> None:
    op.drop_table("traffic_days")
