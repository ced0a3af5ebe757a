"""Experiments: what became of each unit when its time was over, and what was seen at each look."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_OPEN = sa.text("outcome IS NULL")


def upgrade() -> None:
    op.add_column("exposures", sa.Column("outcome", sa.Text(), nullable=True))
    op.create_index(
        op.f("ix_exposures_open"), "exposures", ["experiment", "first_at"], unique=False,
        sqlite_where=_OPEN, postgresql_where=_OPEN,
    )  # fmt: skip
    op.create_table(
        "looks",
        sa.Column("experiment", sa.String(length=64), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("experiment", "at", name=op.f("pk_looks")),
    )


def downgrade() -> None:
    op.drop_table("looks")
    op.drop_index(op.f("ix_exposures_open"), table_name="exposures")
    op.drop_column("exposures", "outcome")
