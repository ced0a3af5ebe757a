"""All counts of this process in columns: what they are worth today is worked out quickly, for all cells at once.

Counts stand by the hour, as a change of a model needs it; those that were old when the service began, by the week.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, select

from bandit.history import Table, row_of, table_of
from bandit.posteriors import MICRO, CellKey, Counts
from bandit.vocabulary import EXPLICIT_CHANNELS
from service.storage.store import total
from service.storage.tables import cells

_WEEK_H = 168
_FIRST_ROWS = 256


def cells_by_week(connection: Connection, before_hour: int) -> dict[CellKey, Counts]:
    """Counts of the hours before one, added up by week; as its hour stands the middle of the week."""
    week = (cells.c.hour // _WEEK_H).label("week")
    names = (cells.c.namespace, cells.c.arm, cells.c.task_type, cells.c.tier, week, cells.c.channel)
    sums = (total(column) for column in (cells.c.n, cells.c.s, cells.c.s2))
    statement = select(*names, *sums).where(cells.c.hour < before_hour).group_by(*names)
    return {
        CellKey(space, arm, task_type, tier, number * _WEEK_H + _WEEK_H // 2, channel): Counts(n, s, s2)
        for space, arm, task_type, tier, number, channel, n, s, s2 in connection.execute(statement)
    }


class Ledger:
    """Counts by cell and hour, for each namespace. Changed on the event loop only."""

    def __init__(self) -> None:
        self._columns: dict[str, _Columns] = {}
        self._bases: dict[str, Table] = {}  # by namespace: what it began with
        self._heard: tuple[str, ...] = ()
        self.labels = 0.0  # that came or went, in all
        self.changes = 0

    def add(self, cell: CellKey, counts: Counts) -> None:
        """Add to a cell."""
        row = row_of(cell)
        if row is None:
            return
        self.changes += 1
        if cell.channel in EXPLICIT_CHANNELS:
            self.labels += abs(counts.n) / MICRO
        columns = self._columns.get(cell.namespace)
        if columns is None:
            columns = self._columns[cell.namespace] = _Columns()
        columns.add(cell, row, counts)

    def clear(self) -> None:
        """Forget all."""
        self._columns.clear()
        self.changes += 1

    def table(self, namespace: str) -> Table:
        """What is known now; it does not change when more is added."""
        names = (namespace, *self._heard) if namespace == "" else (namespace,)
        tables = [self._columns[name].table() for name in names if name in self._columns]
        if namespace in self._bases:
            tables.append(self._bases[namespace])
        return joined(tables) if tables else table_of({})

    def begin(self, namespace: str, base: Table | None) -> None:
        """Count `base` with all that a namespace learns; None: no longer."""
        if base is None:
            self._bases.pop(namespace, None)
        else:
            self._bases[namespace] = base
        self.changes += 1

    def listen(self, namespaces: tuple[str, ...]) -> None:
        """Count what these namespaces learned in the common one, too."""
        self._heard = namespaces
        self.changes += 1


def joined(tables: Sequence[Table]) -> Table:
    """All rows of some tables."""
    if len(tables) == 1:
        return tables[0]
    arms = tuple(sorted({arm for table in tables for arm in table.arms}))
    place = {arm: index for index, arm in enumerate(arms)}
    of_table = [np.array([place[arm] for arm in table.arms], dtype=np.int64)[table.arm] for table in tables]
    columns = (np.concatenate([table[column] for table in tables]) for column in range(2, len(Table._fields)))
    return Table(arms, np.concatenate(of_table), *columns)


class _Columns:
    def __init__(self) -> None:
        self._arms: dict[str, int] = {}
        self._rows: dict[CellKey, int] = {}
        self._keys: NDArray[np.int64] = np.zeros((_FIRST_ROWS, 5), dtype=np.int64)
        self._counts: NDArray[np.int64] = np.zeros((_FIRST_ROWS, 3), dtype=np.int64)

    def add(self, cell: CellKey, row: tuple[int, int, bool, int], counts: Counts) -> None:
        number = self._rows.get(cell)
        if number is None:
            number = self._rows[cell] = len(self._rows)
            if number == len(self._keys):  # a table given out before keeps the old array
                self._keys = np.concatenate([self._keys, np.zeros_like(self._keys)])
                self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
            self._keys[number] = (self._arms.setdefault(cell.arm, len(self._arms)), *row)
        self._counts[number] += counts

    def table(self) -> Table:
        size = len(self._rows)
        keys = self._keys[:size]
        labelled = keys[:, 3].astype(bool)
        return Table(
            tuple(self._arms), keys[:, 0], keys[:, 1], keys[:, 2], labelled, keys[:, 4], self._counts[:size].copy()
        )
