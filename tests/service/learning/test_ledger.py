"""The columns of counts: they grow, what was given out stays, and old hours stand by the week."""

import pytest

from bandit.posteriors import MICRO, CellKey, Counts
from bandit.vocabulary import PROMPT_TIERS, TASK_TYPES
from service.learning.ledger import Ledger, cells_by_week
from service.storage import store
from service.storage.store import add_to_cells

WEEK = 168


def cell(arm="small", hour=500_000, channel="thumb", namespace=""):
    return CellKey(namespace, arm, TASK_TYPES[1], PROMPT_TIERS[0], hour, channel)


def good(labels=1):
    return Counts(*[round(labels * MICRO)] * 3)


def rows(table):
    """What a table holds, as a set of rows."""
    arms = [table.arms[index] for index in table.arm]
    parts = (arms, table.hour.tolist(), table.labelled.tolist(), map(tuple, table.counts.tolist()))
    return set(zip(*parts, strict=True))


def test_it_grows_and_keeps_every_row():
    ledger = Ledger()
    for hour in range(700):
        ledger.add(cell(hour=hour), good(hour))
        ledger.add(cell("large", hour=hour, channel="reading"), good(2))
    expected = {("small", hour, True, good(hour)) for hour in range(700)}
    assert rows(ledger.table("")) == expected | {("large", hour, False, good(2)) for hour in range(700)}
    for hour in range(700):
        ledger.add(cell(hour=hour), good(1))
    assert ledger.table("").counts[:, 0].sum() == (sum(range(700)) + 700 + 1400) * MICRO
    assert len(ledger.table("").arm) == 1400


@pytest.mark.parametrize("before", [10, 255, 256, 257, 511])
def test_a_table_given_out_does_not_change(before):
    ledger = Ledger()
    for hour in range(before):
        ledger.add(cell(hour=hour), good())
    table = ledger.table("")
    known = rows(table)
    for hour in range(before + 300):
        ledger.add(cell("other", hour=hour), good(5))
        ledger.add(cell(hour=hour), good(5))
    assert rows(table) == known == {("small", hour, True, good()) for hour in range(before)}


def test_namespaces_are_apart():
    ledger = Ledger()
    ledger.add(cell(), good())
    ledger.add(cell(namespace="experiment"), good(7))
    assert rows(ledger.table("")) == {("small", 500_000, True, good())}
    assert rows(ledger.table("experiment")) == {("small", 500_000, True, good(7))}
    assert rows(ledger.table("nothing")) == set()


def test_changes_and_labels_are_counted_corrections_too():
    ledger = Ledger()
    ledger.add(cell(), good(2))
    ledger.add(cell(), Counts().minus(good(0.5)))
    ledger.add(cell(channel="reading"), good(9))
    assert (ledger.changes, ledger.labels) == (3, 2.5)
    ledger.add(cell(channel="heuristic"), good())  # what no policy with estimates reads
    assert ledger.changes == 3
    ledger.clear()
    assert ledger.changes == 4
    assert rows(ledger.table("")) == set()


async def test_old_hours_are_added_up_by_week_in_the_database(database):
    monday = 2_900 * WEEK
    known = {
        cell(hour=monday): good(1), cell(hour=monday + WEEK - 1): good(2), cell(hour=monday + WEEK): good(4),
        cell(hour=monday, channel="reading"): good(8), cell("large", hour=monday + 5): good(16),
        cell(hour=monday + 2 * WEEK): good(32),
    }  # fmt: skip
    await database.write(lambda connection: add_to_cells(connection, known, 0.0))
    found = await database.read(lambda connection: cells_by_week(connection, monday + 2 * WEEK))
    middle = monday + WEEK // 2
    assert found == {
        cell(hour=middle): good(3), cell(hour=middle + WEEK): good(4),
        cell(hour=middle, channel="reading"): good(8), cell("large", hour=middle): good(16),
    }  # fmt: skip
    newer = await database.read(lambda connection: store.cells_from_hour(connection, monday + 2 * WEEK))
    assert newer == {cell(hour=monday + 2 * WEEK): good(32)}
