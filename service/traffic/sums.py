"""What the log adds up to by hour and day: counted in the transaction of what is counted, and made again from the log.

Pages read these sums instead of a million decisions. `service.traffic.sums_of_log` makes them again; amounts are whole
numbers, rounded there in SQL as they are here, so that both give the same to the last unit.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from sqlalchemy import Connection, and_, delete, func, select

from service.learning.calibrations import MACHINES, PEOPLES
from service.storage.driver import marks
from service.storage.store import Rateable, RowDict, decisions_to_rate, slices
from service.storage.tables import (
    TRAFFIC_CALLED,
    TRAFFIC_DECIDED,
    TRAFFIC_KEY,
    TRAFFIC_LATENCY,
    TRAFFIC_RATED,
    attempts,
    decisions,
    traffic,
    traffic_days,
)  # fmt: skip

COUNTS = (*TRAFFIC_DECIDED, *TRAFFIC_CALLED, *TRAFFIC_RATED, *TRAFFIC_LATENCY)
# Upper bounds of the classes of latency; the last one is 82 s, and beyond it is one class more.
BOUNDS_S: tuple[float, ...] = tuple(0.01 * 2.0 ** (number / 2) for number in range(27))
HOUR_S = 3600.0
DAY_H = 24

MICRO, NANO, MILLI = 1e6, 1e9, 1e3
MOST = 1e6  # seconds or dollars of one call: a damaged row must not outgrow the sums

_DECIDED = frozenset(TRAFFIC_DECIDED)


class Key(NamedTuple):
    """Where something is counted."""

    hour: int  # of the decision, since 1970-01-01 UTC
    arm: str
    task_type: str
    policy: str
    method: str


Sums = dict[Key, dict[str, int]]


def whole(amount: float, unit: float) -> int:
    """An amount as a whole number of 1/`unit`, halves rounded up; what is negative or no number is 0.

    >>> whole(0.0000025, 1e6)
    3
    """
    return int(min(amount, MOST) * unit + 0.5) if amount > 0.0 else 0


def hour_of(at: float) -> int:
    """The hour of a time, since 1970-01-01 UTC."""
    return int(at / HOUR_S)


def is_rating(row: Mapping[str, Any]) -> bool:
    """Whether a reward is what a person says of a reply."""
    return row["channel"] in PEOPLES and row["source"] not in MACHINES


class Rollup:
    """What one transaction adds to the sums. Write it last, so that nobody waits long for a row."""

    def __init__(self) -> None:
        self.sums: Sums = {}
        self._known: dict[str, Rateable] = {}

    def add(self, key: Key, counts: Mapping[str, int]) -> None:
        """Add to the sums of a key."""
        sums = self.sums.setdefault(key, {})
        for name, count in counts.items():
            sums[name] = sums.get(name, 0) + count

    def decisions(self, connection: Connection, ids: Iterable[str]) -> dict[str, Rateable]:
        """Decisions by id, each read once in a transaction; unknown ones are left out."""
        wanted = set(ids)
        self._known |= decisions_to_rate(connection, sorted(wanted - self._known.keys()))
        return {one: self._known[one] for one in wanted & self._known.keys()}

    def decided(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Count decisions that are stored for the first time."""
        for row in rows:
            arm = row["served_arm"] or row["arm"]
            self.add(
                Key(hour_of(row["created_at"]), arm, row["task_type"], row["policy"], row["method"]),
                {
                    "decisions": 1,
                    "explored": int(bool(row.get("explored"))),
                    "fallbacks": int(arm != row["arm"]),
                    row["tier"]: 1,
                    "routing_us": whole(row["routing_s"], MICRO),
                },
            )

    def served(self, connection: Connection, served: Iterable[tuple[str, str]]) -> None:
        """Count decisions under who answered: call it before that is stored. Pairs of decision id and arm."""
        answered = dict(served)
        wanted = select(decisions).where(decisions.c.id.in_(sorted(answered))).order_by(decisions.c.id)
        for row in map(dict, connection.execute(wanted.with_for_update()).mappings()):
            before = Rollup()
            before.decided([row])
            for key, counts in before.sums.items():
                self.add(key, {name: -count for name, count in counts.items()})
            self.decided([{**row, "served_arm": answered[row["id"]]}])
            self._known.pop(row["id"], None)

    def called(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        """Count calls to providers that are stored for the first time."""
        decided = self.decisions(connection, (row["decision_id"] for row in rows))
        for row in rows:
            decision, first = decided[row["decision_id"]], row["first_token_s"]
            counts = {
                "calls": 1,
                "failures": int(row["outcome"] != "ok"),
                "prompt_tokens": row["prompt_tokens"],
                "completion_tokens": row["completion_tokens"],
                "cost_nano": whole(row["cost_usd"], NANO),
                "latency_us": whole(row["latency_s"], MICRO),
                "first_tokens": int(first is not None),
                "first_token_us": whole(first or 0.0, MICRO),
            }
            if row["outcome"] == "ok":
                counts[TRAFFIC_LATENCY[bisect_right(BOUNDS_S, row["latency_s"])]] = 1
            self.add(_key_of(decision, row["arm"]), counts)

    def rated(self, decision: Rateable, old: RowDict | None, new: Mapping[str, Any]) -> None:
        """Count a reward that is stored, in place of `old` when there was one."""
        for sign, row in ((-1, old), (1, new)):
            if row is not None and is_rating(row):
                created_at: Any = row["created_at"]
                value: Any = row["value"]
                counts = {
                    "ratings": sign,
                    "rating_micro": sign * whole(value, MICRO),
                    "lag_ms": sign * whole(created_at - decision.created_at, MILLI),
                }
                self.add(_key_of(decision, str(row["arm"])), counts)

    def write(self, connection: Connection) -> None:
        """Add all of it to what is stored."""
        add(connection, self.sums)


def _key_of(decision: Rateable, arm: str) -> Key:
    return Key(hour_of(decision.created_at), arm, decision.task_type, decision.policy, decision.method)


def add(connection: Connection, sums: Sums) -> None:
    """Add to the stored sums. Sums commute, and keys come in order, so any number of processes may do so at once."""
    _add(connection, "traffic", sums)
    add_to_days(connection, by_day(sums))


def add_to_days(connection: Connection, sums: Sums) -> None:
    """Add to the stored sums of days alone."""
    _add(connection, "traffic_days", sums)


def by_day(sums: Sums) -> Sums:
    """Sums of hours as sums of days: a key's `hour` is then the day since 1970-01-01 UTC."""
    days = Rollup()
    for key, counts in sums.items():
        days.add(key._replace(hour=key.hour // DAY_H), counts)
    return days.sums


def _add(connection: Connection, table: str, sums: Sums) -> None:
    found = {key: counts for key, counts in sums.items() if any(counts.values())}
    if not found:
        return
    decided_only = all(name in _DECIDED for counts in found.values() for name in counts)
    names = TRAFFIC_DECIDED if decided_only else COUNTS
    rows = [(*key, *(found[key].get(name, 0) for name in names)) for key in sorted(found)]
    connection.exec_driver_sql(_add_or_insert(connection.dialect.name, table, names), rows)


@lru_cache
def _add_or_insert(dialect: str, table: str, names: tuple[str, ...]) -> str:
    key = TRAFFIC_KEY if table == "traffic" else ("day", *TRAFFIC_KEY[1:])
    sums = ", ".join(f"{name} = {table}.{name} + excluded.{name}" for name in names)
    places = marks(dialect, len(key) + len(names))
    values = f"VALUES ({places}) ON CONFLICT ({', '.join(key)}) DO UPDATE SET {sums}"
    return f"INSERT INTO {table} ({', '.join((*key, *names))}) {values}"


# What is stored already is not counted again


def new_decisions(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those of the decisions that are not stored."""
    stored = {
        found
        for ids in slices([row["id"] for row in rows])
        for found in connection.scalars(select(decisions.c.id).where(decisions.c.id.in_(ids)))
    }
    return [row for row in rows if row["id"] not in stored]


def new_attempts(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those of the calls to providers that are not stored."""
    wanted = select(attempts.c.decision_id, attempts.c.step)
    stored = {
        (decision_id, step)
        for ids in slices(sorted({row["decision_id"] for row in rows}))
        for decision_id, step in connection.execute(wanted.where(attempts.c.decision_id.in_(ids)))
    }
    return [row for row in rows if (row["decision_id"], row["step"]) not in stored]


def prune(connection: Connection, before: float) -> int:
    """Drop the sums of the oldest hour that ended before a time; returns how many rows. Call it until there are none.

    They go with their decisions, so that what is shown can always be looked up, and are taken from the sums of their
    day.
    """
    oldest = connection.scalar(select(func.min(traffic.c.hour)))
    if oldest is None or oldest >= hour_of(before):
        return 0
    dropped = (
        delete(traffic).where(traffic.c.hour == oldest).returning(*(traffic.c[n] for n in (*TRAFFIC_KEY, *COUNTS)))
    )
    sums = {
        Key(*row[:5]): {n: -count for n, count in zip(COUNTS, row[5:], strict=True)}
        for row in connection.execute(dropped)
    }
    add_to_days(connection, by_day(sums))
    days = traffic_days.c
    connection.execute(delete(traffic_days).where(days.day <= oldest // DAY_H, and_(*(days[n] == 0 for n in COUNTS))))
    return len(sums)
