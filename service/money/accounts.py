"""Sums of what was granted and spent, counted by every replica and added up in the database.

A replica counts for itself, adds its counts to the rows a few times a second, and takes the sums of all over then.
What it adds has a number, and is sent with the same one until it is known to be stored: a commit whose acknowledgement
was lost is not counted twice.
"""

import uuid
from collections.abc import Mapping
from typing import NamedTuple

from sqlalchemy import Connection, case, delete, select
from sqlalchemy.dialects import postgresql, sqlite

from service.storage.tables import budgets, exchanges
from service.storage.writer import Writer

DAY_S = 86_400.0
NANO = 1_000_000_000  # sums are integers, in billionths of a dollar (or of a late reply)
NO_LIMIT = 1 << 60
_READ_EVERY_S = 1.0  # while nothing is counted here


class Row(NamedTuple):
    """The sums of one account."""

    requests: int = 0
    granted: int = 0
    spent: int = 0


class Name(NamedTuple):
    """Whose account it is, and of which day since 1970-01-01 UTC; 0: since the beginning."""

    owner: str
    day: int = 0


def today(now: float) -> int:
    """The day of a time."""
    return int(now // DAY_S)


class Accounts:
    """The sums as this process knows them. Belongs to the event loop."""

    def __init__(self) -> None:
        self._rows: dict[Name, Row] = {}
        self._pending: dict[Name, Row] = {}  # counted here, and not known to be in the database
        self._sent: dict[Name, Row] = {}  # what of it is being added, or was tried to
        self._number = 0  # of what is sent
        self._process = uuid.uuid4().hex
        self._read_at = float("-inf")

    def sums(self, name: Name) -> Row:
        """What is known of an account."""
        row, pending = self._rows.get(name, Row()), self._pending.get(name, Row())
        return Row(*(a + b for a, b in zip(row, pending, strict=True)))

    def count(self, name: Name, more: Row) -> None:
        """Add to an account."""
        self._pending[name] = Row(*(a + b for a, b in zip(self._pending.get(name, Row()), more, strict=True)))

    async def exchange(self, writer: Writer, most_saved: Mapping[str, int], now: float) -> None:
        """Add what was counted here to the database, and take over what all replicas counted.

        `most_saved` says by owner how much less than granted may have been spent: older savings lapse.

        Raises:
            StorageUnavailable: it is not known to be added; the next exchange makes sure of it.
        """
        if not self._sent:
            self._sent = {name: row for name, row in self._pending.items() if row != Row()}
            self._number += 1
        sent, number = self._sent, self._number
        if not sent and now - self._read_at < _READ_EVERY_S:
            return

        def work(connection: Connection) -> dict[Name, Row]:
            if sent and _is_new(connection, self._process, number, now):
                for name in sorted(sent):  # rows are locked in one order, so two replicas cannot block each other
                    _add(connection, name, sent[name], most_saved.get(name.owner, NO_LIMIT), now)
            return _read(connection, now)

        def take(rows: dict[Name, Row]) -> None:
            self._rows, self._read_at = rows, now
            if self._sent is not sent:
                return  # it was sent twice, and this is the second answer
            for name, row in sent.items():
                self.count(name, Row(*(-part for part in row)))
                if self._pending[name] == Row():
                    del self._pending[name]
            self._sent = {}

        await writer.call(work, take)


def _is_new(connection: Connection, process: str, number: int, at: float) -> bool:
    """Note that a process adds what has this number; false when that was added before."""
    kind = sqlite if connection.dialect.name == "sqlite" else postgresql
    statement = kind.insert(exchanges).values(process=process, number=number, at=at)
    new = statement.excluded
    noted = statement.on_conflict_do_update(
        index_elements=["process"],
        set_={"number": new.number, "at": new.at},
        where=exchanges.c.number < new.number,
    )
    return connection.execute(noted).rowcount > 0


def _add(connection: Connection, name: Name, row: Row, most_saved: int, at: float) -> None:
    kind = sqlite if connection.dialect.name == "sqlite" else postgresql
    statement = kind.insert(budgets).values(
        name=name.owner, day=name.day, requests=row.requests, granted=row.granted, spent=row.spent, updated_at=at
    )
    new = statement.excluded
    granted, spent = budgets.c.granted + new.granted, budgets.c.spent + new.spent
    statement = statement.on_conflict_do_update(
        index_elements=["name", "day"],
        set_={
            "requests": budgets.c.requests + new.requests,
            "granted": case((granted > spent + most_saved, spent + most_saved), else_=granted),
            "spent": spent,
            "updated_at": new.updated_at,
        },
    )
    connection.execute(statement)


def _read(connection: Connection, now: float) -> dict[Name, Row]:
    """The accounts without a day, and those of today and yesterday."""
    columns = (budgets.c.name, budgets.c.day, budgets.c.requests, budgets.c.granted, budgets.c.spent)
    recent = (budgets.c.day == 0) | (budgets.c.day >= today(now) - 1)
    found = connection.execute(select(*columns).where(recent))
    return {Name(owner, day): Row(requests, granted, spent) for owner, day, requests, granted, spent in found}


def prune_accounts(connection: Connection, before: float) -> int:
    """Drop the accounts of older days, and what is known of processes that went before then; returns how many."""
    days = connection.execute(delete(budgets).where(budgets.c.day > 0, budgets.c.day < today(before))).rowcount
    return days + connection.execute(delete(exchanges).where(exchanges.c.at < before)).rowcount
