"""What posteriors of an experiment's own begin with: a copy of all counts at its start, the same for every variant.

The cells of such a namespace hold only what it learned itself, so they stay a fold of its rewards. Hours that were long
ago are added up by the week, as a service that begins reads them.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Integer, case, cast, insert, literal, select, tuple_

from bandit.history import Table, table_of
from bandit.posteriors import CellKey, Counts
from bandit.vocabulary import PROMPT_TIERS, TASK_TYPES, Channel
from service.storage.database import Database
from service.storage.store import total
from service.storage.tables import cells, seeds

_WEEK_H = 168
_LONG_AGO_H = 14 * 24
_TASKS, _TIERS = frozenset(TASK_TYPES), frozenset(PROMPT_TIERS)
_PAGE = 500  # rows in one read: on Postgres they are fetched on the event loop

_KEY = (seeds.c.arm, seeds.c.task_type, seeds.c.tier, seeds.c.hour, seeds.c.channel)

Sums = dict[tuple[str, str, Channel], Counts]  # by arm, tier, channel


class Base(NamedTuple):
    """What a namespace begins with: by the hour, and as sums by task type."""

    table: Table
    sums: dict[str, Sums]


def plant(connection: Connection, experiment: str, heard: Sequence[str], at: float) -> None:
    """Copy what the common posterior counts now, itself and in the namespaces that it listens to.

    In the database, in one statement: a million counts never pass through this process.
    """
    recent = int(at // 3600) - _LONG_AGO_H
    week = cast(cells.c.hour // _WEEK_H, Integer) * _WEEK_H + _WEEK_H // 2
    dated = (
        select(
            cells.c.arm, cells.c.task_type, cells.c.tier,
            case((cells.c.hour < recent, week), else_=cells.c.hour).label("hour"),
            cells.c.channel, cells.c.n, cells.c.s, cells.c.s2,
        )
        .where(cells.c.namespace.in_(["", *heard]))
        .subquery()
    )  # fmt: skip
    names = (dated.c.arm, dated.c.task_type, dated.c.tier, dated.c.hour, dated.c.channel)
    sums = (total(dated.c.n), total(dated.c.s), total(dated.c.s2))
    copied = select(literal(experiment), *names, *sums).group_by(*names)
    connection.execute(insert(seeds).from_select([column.name for column in seeds.c], copied))


async def base_of(database: Database, experiment: str) -> Base:
    """What an experiment's own posteriors begin with.

    Raises:
        StorageUnavailable: the database could not be read.
    """
    found: dict[CellKey, Counts] = {}
    last: tuple[Any, ...] | None = None
    while True:
        page = await database.read(_page, experiment, last)
        known = (
            row for row in page if row[1] in _TASKS and row[2] in _TIERS
        )  # others are a newer version's, or damage
        found |= {CellKey("", *row[:5]): Counts(*row[5:]) for row in known}
        if len(page) < _PAGE:
            return await asyncio.to_thread(_base, found)
        last = tuple(page[-1][:5])


def _page(connection: Connection, experiment: str, last: tuple[Any, ...] | None) -> list[tuple[Any, ...]]:
    wanted = select(*_KEY, seeds.c.n, seeds.c.s, seeds.c.s2).where(seeds.c.experiment == experiment)
    if last is not None:
        wanted = wanted.where(tuple_(*_KEY) > last)
    return [tuple(row) for row in connection.execute(wanted.order_by(*_KEY).limit(_PAGE))]


def _base(found: dict[CellKey, Counts]) -> Base:
    sums: dict[str, Sums] = {}
    for cell, counts in found.items():
        of_task = sums.setdefault(cell.task_type, {})
        key = (cell.arm, cell.tier, cell.channel)
        of_task[key] = of_task.get(key, Counts()).plus(counts)
    return Base(table_of(found), sums)
