"""What each user says of models beside what others do, from the labels there are, and users who are outliers."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_SUMS = """
    COUNT(*),
    SUM(CAST(ROUND(value * 1000000) AS BIGINT)),
    SUM(CAST(ROUND(weight * 1000000) AS BIGINT)),
    SUM(CAST(ROUND(weight * value * 1000000) AS BIGINT))
"""
_EACH = f"""
INSERT INTO opinions ("user", metric, arm, task_type, people, labels, said, n, s)
SELECT "user", metric, arm, task_type, 1, {_SUMS} FROM rewards
WHERE channel IN ('thumb', 'score') AND "user" <> '' GROUP BY "user", metric, arm, task_type
"""
_ALL = f"""
INSERT INTO opinions ("user", metric, arm, task_type, people, labels, said, n, s)
SELECT '', metric, arm, task_type,
    COUNT(DISTINCT CASE WHEN "user" <> '' THEN "user" END) + SUM(CASE WHEN "user" = '' THEN 1 ELSE 0 END), {_SUMS}
FROM rewards WHERE channel IN ('thumb', 'score') AND ("user" <> '' OR source NOT IN ('judge', 'quiz'))
GROUP BY metric, arm, task_type
"""


def upgrade() -> None:
    op.create_table(
        "opinions",
        sa.Column("user", sa.String(length=256), nullable=False),
        sa.Column("metric", sa.String(length=128), nullable=False),
        sa.Column("arm", sa.String(length=128), nullable=False),
        sa.Column("task_type", sa.String(length=32), nullable=False),
        sa.Column("people", sa.BigInteger(), nullable=False),
        sa.Column("labels", sa.BigInteger(), nullable=False),
        sa.Column("said", sa.BigInteger(), nullable=False),
        sa.Column("n", sa.BigInteger(), nullable=False),
        sa.Column("s", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("user", "metric", "arm", "task_type", name=op.f("pk_opinions")),
    )
    op.create_table(
        "outliers",
        sa.Column("user", sa.String(length=256), nullable=False),
        sa.Column("since", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("user", name=op.f("pk_outliers")),
    )
    op.execute(_EACH)
    op.execute(_ALL)


def downgrade() -> None:
    op.drop_table("outliers")
    op.drop_table("opinions")
