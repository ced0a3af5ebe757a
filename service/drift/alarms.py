"""What changed about models, in the database: found by a detector, told by the owner, or seen in the settings."""

import logging
import secrets
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Literal

import msgspec
from sqlalchemy import Connection, Table, select
from sqlalchemy.dialects import postgresql, sqlite

from bandit.drift import ON_ALARM, ON_EVENT, Alarm, Direction, Event, Restart, Stream
from bandit.history import ArmRestart
from bandit.vocabulary import TaskType
from service.storage.tables import alarms

log = logging.getLogger("armwise")

AlarmEvent = Literal["detected"] | Event

_HOUR_S = 3600
_READINGS: dict[Stream, str] = {"label": "labels", "heuristic": "heuristics", "canary": "answers to canaries"}
_WORDS = {"down": "got worse", "up": "got better"}
_TOLD = {"price": "has another price", "version": "has another version", "incident": "has an incident", "new": "is new"}


class AlarmRow(msgspec.Struct, frozen=True, kw_only=True):
    """A change of a model. What a detector measured is None unless `event` is "detected"."""

    id: str
    at: float  # seconds since 1970-01-01 UTC
    event: AlarmEvent
    arm: str
    hour: int  # hours since 1970-01-01 UTC: what was learned of decisions in earlier ones counts less
    task_type: TaskType | None = None  # None: on all of its traffic
    direction: Direction | None = None
    stream: Stream | None = None
    evidence: float | None = None  # as a share of what an alarm needs: at least 1
    readings: float | None = None  # labels, or weak readings in labels, since it has been suspected
    mean: float | None = None  # of these
    past_readings: float | None = None
    past_mean: float | None = None
    note: str = ""


def restart_hour(at: float) -> int:
    """The first hour that counts in full after a change at `at`.

    Cells hold whole hours, so what was measured in the hour of the change cannot be told apart: it counts as before.

    >>> restart_hour(3600.0), restart_hour(7199.0)
    (2, 2)
    """
    return int(at // _HOUR_S) + 1


def row_of(alarm: Alarm, suspected_since: float) -> AlarmRow:
    """A detector's alarm as its row; the change is dated back to when the arm was first suspected."""
    return AlarmRow(
        id=_new_id(),
        at=alarm.when,
        event="detected",
        arm=alarm.arm,
        hour=restart_hour(suspected_since),
        task_type=alarm.task_type,
        direction=alarm.direction,
        stream=alarm.stream,
        evidence=alarm.evidence,
        readings=alarm.readings,
        mean=alarm.mean,
        past_readings=alarm.past_readings,
        past_mean=alarm.past_mean,
    )


def told(arm: str, event: Event, at: float, note: str = "") -> AlarmRow:
    """An event that is known without detection."""
    return AlarmRow(id=_new_id(), at=at, event=event, arm=arm, hour=restart_hour(at), note=note)


def restart_of(row: AlarmRow) -> Restart:
    """What is done with the arm's past."""
    return ON_ALARM[row.direction or "down"] if row.event == "detected" else ON_EVENT[row.event]


def sentence(row: AlarmRow) -> str:
    """A change in words, for logs and for people who are called.

    >>> sentence(told("large", "incident", 0.0, "502 for an hour"))
    'large has an incident: 502 for an hour'
    """
    if row.event != "detected":
        return f"{row.arm} {_TOLD[row.event]}" + (f": {row.note}" if row.note else "")
    direction, readings = _WORDS[row.direction or "down"], _READINGS[row.stream or "label"]
    return (
        f"{row.arm} {direction}: {readings} are {row.mean:.2f} over the last "
        f"{row.readings:.1f} readings, {row.past_mean:.2f} over {row.past_readings:.1f} before "
        f"(evidence {row.evidence:.3g}, 1 is an alarm)"
    )


def public(row: AlarmRow) -> dict[str, Any]:
    """A change as the owner reads it: the arm is called model, as everywhere outside."""
    return {("model" if name == "arm" else name): value for name, value in msgspec.structs.asdict(row).items()}


def insert_alarm(connection: Connection, row: AlarmRow) -> None:
    """Store a change; one that is stored already is left as it is."""
    connection.execute(upsert_of(connection, alarms).on_conflict_do_nothing(), [msgspec.structs.asdict(row)])


def upsert_of(connection: Connection, table: Table) -> sqlite.Insert | postgresql.Insert:
    """An insert that can say what becomes of rows that are there already, in the words of this database."""
    return sqlite.insert(table) if connection.dialect.name == "sqlite" else postgresql.insert(table)


def list_alarms(connection: Connection, *, limit: int, arm: str | None = None) -> list[AlarmRow]:
    """Changes, newest first; with `arm` those of one model."""
    statement = select(alarms).order_by(alarms.c.at.desc(), alarms.c.id.desc()).limit(limit)
    if arm is not None:
        statement = statement.where(alarms.c.arm == arm)
    return _rows(connection.execute(statement).mappings())


def restarts(connection: Connection) -> tuple[ArmRestart, ...]:
    """What every stored change does to what was learned before it, oldest first.

    For `bandit.drift.kept`: the cells themselves are never changed.
    """
    found = connection.execute(select(alarms).order_by(alarms.c.hour, alarms.c.at, alarms.c.id)).mappings()
    return tuple(ArmRestart(row.arm, row.hour, restart_of(row)) for row in _rows(found))


def _rows(found: Iterable[Any]) -> list[AlarmRow]:
    """Rows as changes. One that this version cannot read, as a newer one wrote it, is passed over and told once."""
    rows = []
    for row in found:
        try:
            rows.append(msgspec.convert({str(name): value for name, value in row.items()}, AlarmRow))
        except msgspec.ValidationError as error:
            _tell_unreadable(str(row["id"]), str(error))
    return rows


@lru_cache(maxsize=1024)
def _tell_unreadable(alarm_id: str, error: str) -> None:
    log.error("the change %s of a model cannot be read and is passed over: %s", alarm_id, error)


def _new_id() -> str:
    return f"alarm-{secrets.token_hex(12)}"
