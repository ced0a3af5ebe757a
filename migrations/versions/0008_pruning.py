"""Indexes for pruning: without them every hour read all decisions while nobody else could write."""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(op.f("ix_decisions_beliefs_version"), "decisions", ["beliefs_version"], unique=False)
    op.create_index(op.f("ix_beliefs_created_at"), "beliefs", ["created_at"], unique=False)


def downgrade() -> None:
    op.drop_index(op.f("ix_beliefs_created_at"), table_name="beliefs")
    op.drop_index(op.f("ix_decisions_beliefs_version"), table_name="decisions")
