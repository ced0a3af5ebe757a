"""What readings are worth, the weights they are made with, and an index for how much one user said of a model."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "calibrations",
        sa.Column("namespace", sa.String(length=128), nullable=False),
        sa.Column("task_type", sa.String(length=32), nullable=False),
        sa.Column("arm", sa.String(length=128), nullable=False),
        sa.Column("version", sa.String(length=32), nullable=False),
        sa.Column("n", sa.BigInteger(), nullable=False),
        sa.Column("y", sa.BigInteger(), nullable=False),
        sa.Column("h", sa.BigInteger(), nullable=False),
        sa.Column("yy", sa.BigInteger(), nullable=False),
        sa.Column("yh", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("namespace", "task_type", "arm", "version", name=op.f("pk_calibrations")),
    )
    op.create_table(
        "reading_weights",
        sa.Column("version", sa.String(length=32), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("labelled", sa.Integer(), nullable=False),
        sa.Column("fitted_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("version", name=op.f("pk_reading_weights")),
    )
    said = sa.text("\"user\" <> '' AND weight > 0")
    op.create_index(
        "ix_rewards_influence",
        "rewards",
        ["user", "arm", "created_at"],
        unique=False,
        sqlite_where=said,
        postgresql_where=said,
    )


def downgrade() -> None:
    op.drop_index("ix_rewards_influence", table_name="rewards")
    op.drop_table("reading_weights")
    op.drop_table("calibrations")
