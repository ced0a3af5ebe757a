"""What the log adds up to by hour, from the rows there are; whether a decision explored, and whose it was."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_NOT_AUTO = sa.text("method <> 'auto'")
_OF_A_USER = sa.text("\"user\" <> ''")
_WITH_A_KEY = sa.text("key_id <> ''")
_KEY = ("hour", "arm", "task_type", "policy", "method")
_DECIDED = ("decisions", "explored", "fallbacks", "simple", "medium", "complex", "routing_us")
_CALLED = (
    "calls", "failures", "prompt_tokens", "completion_tokens", "cost_nano", "latency_us", "first_tokens",
    "first_token_us",
)  # fmt: skip
_RATED = ("ratings", "rating_micro", "lag_ms")
_LATENCY = tuple(f"latency_{number}" for number in range(28))
_BOUNDS_S = tuple(0.01 * 2.0 ** (number / 2) for number in range(27))


def upgrade() -> None:
    op.add_column("decisions", sa.Column("explored", sa.Boolean(), nullable=True))
    op.create_index(
        op.f("ix_decisions_method"), "decisions", ["method", "created_at"], unique=False,
        sqlite_where=_NOT_AUTO, postgresql_where=_NOT_AUTO,
    )  # fmt: skip
    op.create_index(
        op.f("ix_decisions_user"), "decisions", ["user", "created_at"], unique=False,
        sqlite_where=_OF_A_USER, postgresql_where=_OF_A_USER,
    )  # fmt: skip
    op.create_index(
        op.f("ix_decisions_key_id"), "decisions", ["key_id", "created_at"], unique=False,
        sqlite_where=_WITH_A_KEY, postgresql_where=_WITH_A_KEY,
    )  # fmt: skip
    op.create_table(
        "traffic",
        sa.Column("hour", sa.Integer(), nullable=False),
        sa.Column("arm", sa.String(length=128), nullable=False),
        sa.Column("task_type", sa.String(length=32), nullable=False),
        sa.Column("policy", sa.String(length=128), nullable=False),
        sa.Column("method", sa.String(length=32), nullable=False),
        *(
            sa.Column(name, sa.BigInteger(), nullable=False, server_default="0")
            for name in (*_DECIDED, *_CALLED, *_RATED, *_LATENCY)
        ),
        sa.PrimaryKeyConstraint(*_KEY, name=op.f("pk_traffic")),
        sqlite_with_rowid=False,
    )
    _fill()


def _fill() -> None:
    """The sums of `service.traffic.sums.folded`, as they were defined when this table was made."""
    floor = "FLOOR" if op.get_bind().dialect.name == "postgresql" else ""  # SQLite's cast cuts off by itself

    def whole(amount: str, unit: float) -> str:
        used = f"CASE WHEN {amount} < 0 THEN 0.0 WHEN {amount} > 1e6 THEN 1e6 ELSE {amount} END"
        return f"CAST({floor}({used} * {unit!r} + 0.5) AS BIGINT)"

    hour = f"CAST({floor}(d.created_at / 3600.0) AS INTEGER)"
    decided = (
        "1", "0", "CASE WHEN d.served_arm IS NOT NULL AND d.served_arm <> d.arm THEN 1 ELSE 0 END",
        *(f"CASE WHEN d.tier = '{tier}' THEN 1 ELSE 0 END" for tier in ("simple", "medium", "complex")),
        whole("d.routing_s", 1e6),
    )  # fmt: skip
    called = (
        "1", "CASE WHEN a.outcome <> 'ok' THEN 1 ELSE 0 END", "a.prompt_tokens", "a.completion_tokens",
        whole("a.cost_usd", 1e9), whole("a.latency_s", 1e6), "CASE WHEN a.first_token_s IS NOT NULL THEN 1 ELSE 0 END",
        whole("COALESCE(a.first_token_s, 0.0)", 1e6),
        *(f"CASE WHEN a.outcome = 'ok' AND {bounds} THEN 1 ELSE 0 END" for bounds in _between("a.latency_s")),
    )  # fmt: skip
    rated = ("1", whole("r.value", 1e6), whole("r.created_at - d.created_at", 1e3))
    peoples = "r.channel IN ('thumb', 'score') AND r.source NOT IN ('judge', 'quiz')"
    sources = (
        (_DECIDED, decided, "COALESCE(d.served_arm, d.arm)", "decisions d"),
        ((*_CALLED, *_LATENCY), called, "a.arm", "attempts a JOIN decisions d ON d.id = a.decision_id"),
        (_RATED, rated, "r.arm", f"rewards r JOIN decisions d ON d.id = r.decision_id AND {peoples}"),
    )
    bounds = {f"bound_{number}": bound for number, bound in enumerate(_BOUNDS_S)}
    for names, values, arm, rows in sources:
        sums = ", ".join(f"CAST(SUM({value}) AS BIGINT)" for value in values)
        added = ", ".join(f"{name} = traffic.{name} + excluded.{name}" for name in names)
        words = (
            f"INTO traffic ({', '.join((*_KEY, *names))})",
            f"SELECT {hour}, {arm}, d.task_type, d.policy, d.method, {sums} FROM {rows} WHERE 1 = 1",  # noqa: S608
            f"GROUP BY 1, 2, 3, 4, 5 ON CONFLICT ({', '.join(_KEY)}) DO UPDATE SET {added}",
        )
        op.get_bind().execute(sa.text(" ".join(("INSERT", *words))), bounds if values is called else {})


def _between(latency: str) -> list[str]:
    """The conditions of the classes of latency."""
    low = [f"{latency} >= :bound_{number}" for number in range(len(_BOUNDS_S))]
    high = [f"{latency} < :bound_{number}" for number in range(len(_BOUNDS_S))]
    return [high[0], *(f"{low[number]} AND {high[number + 1]}" for number in range(len(high) - 1)), low[-1]]


def downgrade() -> None:
    op.drop_table("traffic")
    op.drop_index(op.f("ix_decisions_key_id"), table_name="decisions")
    op.drop_index(op.f("ix_decisions_user"), table_name="decisions")
    op.drop_index(op.f("ix_decisions_method"), table_name="decisions")
    op.drop_column("decisions", "explored")
