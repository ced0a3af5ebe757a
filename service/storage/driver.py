"""Inserts as the driver takes them: a decision's commit waits for these, and SQLAlchemy's part costs as much as theirs.

Errors are SQLAlchemy's own, as everywhere.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection, Table


def insert_rows(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Store new rows, all with the same columns.

    Raises:
        IntegrityError: one of them is stored already, or what it refers to is not.
    """
    names = tuple(rows[0])
    values = itemgetter(*names)
    connection.exec_driver_sql(_insert(connection.dialect.name, table.name, names), [values(row) for row in rows])


@lru_cache
def _insert(dialect: str, table: str, names: tuple[str, ...]) -> str:
    quoted = ", ".join(f'"{name}"' for name in names)  # `user` is a word of Postgres
    values = f"VALUES ({marks(dialect, len(names))})"
    return f"INSERT INTO {table} ({quoted}) {values}"


def marks(dialect: str, count: int) -> str:
    """Places for so many values of a row."""
    return ", ".join(f"${number}" if dialect == "postgresql" else "?" for number in range(1, count + 1))
