"""Alarms and events of models that changed, and what the detectors remember."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "alarms",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("event", sa.String(length=16), nullable=False),
        sa.Column("arm", sa.String(length=128), nullable=False),
        sa.Column("task_type", sa.String(length=32), nullable=True),
        sa.Column("direction", sa.String(length=8), nullable=True),
        sa.Column("stream", sa.String(length=16), nullable=True),
        sa.Column("evidence", sa.Double(), nullable=True),
        sa.Column("readings", sa.Double(), nullable=True),
        sa.Column("mean", sa.Double(), nullable=True),
        sa.Column("past_readings", sa.Double(), nullable=True),
        sa.Column("past_mean", sa.Double(), nullable=True),
        sa.Column("hour", sa.Integer(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_alarms")),
    )
    op.create_index(op.f("ix_alarms_at"), "alarms", ["at"], unique=False)
    op.create_table(
        "watches",
        sa.Column("name", sa.String(length=32), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_watches")),
    )
    op.create_table(
        "watched",
        sa.Column("namespace", sa.String(length=128), nullable=False),
        sa.Column("arm", sa.String(length=128), nullable=False),
        sa.Column("task_type", sa.String(length=32), nullable=False),
        sa.Column("tier", sa.String(length=16), nullable=False),
        sa.Column("hour", sa.Integer(), nullable=False),
        sa.Column("channel", sa.String(length=16), nullable=False),
        sa.Column("n", sa.BigInteger(), nullable=False),
        sa.Column("s", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint(
            "namespace", "arm", "task_type", "tier", "hour", "channel", name=op.f("pk_watched")
        ),
    )  # fmt: skip


def downgrade() -> None:
    op.drop_table("watched")
    op.drop_table("watches")
    op.drop_index(op.f("ix_alarms_at"), table_name="alarms")
    op.drop_table("alarms")
