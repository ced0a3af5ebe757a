"""Experiments: what was done with each, who is in which variant, and what their posteriors began with."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_IN_AN_EXPERIMENT = sa.text("experiment IS NOT NULL")


def upgrade() -> None:
    op.create_table(
        "experiment_steps",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("experiment", sa.String(length=64), nullable=False),
        sa.Column("action", sa.String(length=16), nullable=False),
        sa.Column("who", sa.String(length=128), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_experiment_steps")),
    )
    op.create_table(
        "exposures",
        sa.Column("experiment", sa.String(length=64), nullable=False),
        sa.Column("unit", sa.String(length=32), nullable=False),
        sa.Column("variant", sa.String(length=48), nullable=False),
        sa.Column("first_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("experiment", "unit", name=op.f("pk_exposures")),
    )
    op.create_index(op.f("ix_exposures_experiment_first_at"), "exposures", ["experiment", "first_at"], unique=False)
    op.create_table(
        "seeds",
        sa.Column("experiment", sa.String(length=64), nullable=False),
        sa.Column("arm", sa.String(length=128), nullable=False),
        sa.Column("task_type", sa.String(length=32), nullable=False),
        sa.Column("tier", sa.String(length=16), nullable=False),
        sa.Column("hour", sa.Integer(), nullable=False),
        sa.Column("channel", sa.String(length=16), nullable=False),
        sa.Column("n", sa.BigInteger(), nullable=False),
        sa.Column("s", sa.BigInteger(), nullable=False),
        sa.Column("s2", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("experiment", "arm", "task_type", "tier", "hour", "channel", name=op.f("pk_seeds")),
    )
    for name, length in (("experiment", 64), ("variant", 48), ("unit", 32)):
        op.add_column("decisions", sa.Column(name, sa.String(length=length), nullable=True))
    op.create_index(
        op.f("ix_decisions_experiment_unit"), "decisions", ["experiment", "unit"], unique=False,
        sqlite_where=_IN_AN_EXPERIMENT, postgresql_where=_IN_AN_EXPERIMENT,
    )  # fmt: skip


def downgrade() -> None:
    op.drop_index(op.f("ix_decisions_experiment_unit"), table_name="decisions")
    for name in ("unit", "variant", "experiment"):
        op.drop_column("decisions", name)
    op.drop_table("seeds")
    op.drop_index(op.f("ix_exposures_experiment_first_at"), table_name="exposures")
    op.drop_table("exposures")
    op.drop_table("experiment_steps")
