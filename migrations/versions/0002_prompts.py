"""Prompts, for owners who keep them."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "prompts",
        sa.Column("decision_id", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("decision_id", name=op.f("pk_prompts")),
    )
    op.create_index(op.f("ix_prompts_created_at"), "prompts", ["created_at"], unique=False)


def downgrade() -> None:
    op.drop_index(op.f("ix_prompts_created_at"), table_name="prompts")
    op.drop_table("prompts")
