"""Answers to canary probes, and who asks next."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "canaries",
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("arm", sa.String(length=128), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("version", sa.String(length=16), nullable=False),
        sa.Column("right", sa.Boolean(), nullable=True),
        sa.Column("error", sa.String(length=32), nullable=False),
        sa.Column("latency_s", sa.Double(), nullable=False),
        sa.Column("cost_usd", sa.Double(), nullable=False),
        sa.Column("seen", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("name", "arm", "at", name=op.f("pk_canaries")),
    )
    op.create_index(op.f("ix_canaries_at"), "canaries", ["at"], unique=False)
    op.create_table(
        "canary_leases",
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("arm", sa.String(length=128), nullable=False),
        sa.Column("asked_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name", "arm", name=op.f("pk_canary_leases")),
    )


def downgrade() -> None:
    op.drop_table("canary_leases")
    op.drop_index(op.f("ix_canaries_at"), table_name="canaries")
    op.drop_table("canaries")
