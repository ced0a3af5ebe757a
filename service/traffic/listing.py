"""Decisions that are looked for, newest first: what GET /v1/decisions answers."""

from collections import defaultdict
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, Select, func, select, text, tuple_

from service.learning.calibrations import MACHINES, PEOPLES
from service.storage import store
from service.storage.tables import decisions, rewards, traffic
from service.traffic.sums import HOUR_S, hour_of

_SHOWN = (
    "id", "created_at", "method", "policy", "task_type", "tier", "arm", "served_arm", "propensity", "explored", "user",
    "session", "experiment", "variant",
)  # fmt: skip


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What a decision must be to be listed; None: anything."""

    model: str | None = None  # the one that answered
    task_type: str | None = None
    method: str | None = None
    rated: bool | None = None  # by people
    user: str | None = None
    key_id: str | None = None


def position(connection: Connection, decision_id: str) -> tuple[float, str] | None:
    """Where a decision stands in the list; None when it is not stored."""
    at = connection.scalar(select(decisions.c.created_at).where(decisions.c.id == decision_id))
    return None if at is None else (at, decision_id)


def newest(
    connection: Connection, wanted: Wanted, limit: int, before: tuple[float, str] | None = None
) -> list[dict[str, Any]]:
    """At most `limit` decisions, newest first, with their cost, latency and ratings; `before` is the last one seen.

    There is an index for users, keys, and methods other than `auto`. For everything else the sums by hour tell in which
    hours to look: of a kind that is rare, a million others would be read.
    """
    statement = _matching(wanted)
    if before is not None:
        statement = statement.where(tuple_(decisions.c.created_at, decisions.c.id) < before)
    indexed = (wanted.user, wanted.key_id) != (None, None) or wanted.method not in (None, "auto")
    counted = (wanted.model, wanted.task_type, wanted.method, wanted.rated) != (None, None, None, None)
    if indexed or not counted:
        rows = _read(connection, statement, limit)
    else:
        rows = []
        for hour in _hours(connection, wanted, limit, before):
            within = (decisions.c.created_at >= hour * HOUR_S, decisions.c.created_at < (hour + 1) * HOUR_S)
            rows += _read(connection, statement.where(*within), limit - len(rows))
            if len(rows) == limit:
                break
    return _told(connection, rows)


def _matching(wanted: Wanted) -> Select[Any]:
    statement = select(*(decisions.c[name] for name in _SHOWN))
    statement = statement.order_by(decisions.c.created_at.desc(), decisions.c.id.desc())
    if wanted.model is not None:
        statement = statement.where(func.coalesce(decisions.c.served_arm, decisions.c.arm) == wanted.model)
    for column, value in (
        (decisions.c.task_type, wanted.task_type), (decisions.c.method, wanted.method),
        (decisions.c.user, wanted.user), (decisions.c.key_id, wanted.key_id),
    ):  # fmt: skip
        if value is not None:
            statement = statement.where(column == value)
    if wanted.user:
        statement = statement.where(text("\"user\" <> ''"))  # in the words of the index; so below
    if wanted.method not in (None, "auto"):
        statement = statement.where(text("method <> 'auto'"))
    if wanted.key_id:
        statement = statement.where(text("key_id <> ''"))
    if wanted.rated is not None:
        rating = select(rewards.c.decision_id).where(rewards.c.decision_id == decisions.c.id, _peoples()).exists()
        statement = statement.where(rating if wanted.rated else ~rating)
    return statement


def _peoples() -> ColumnElement[bool]:
    return rewards.c.channel.in_(PEOPLES) & rewards.c.source.not_in(MACHINES)


def _hours(connection: Connection, wanted: Wanted, limit: int, before: tuple[float, str] | None) -> list[int]:
    """The newest hours in which there is something wanted, as many as can be needed."""
    count = store.total(traffic.c.ratings if wanted.rated else traffic.c.decisions)
    hours = select(traffic.c.hour).group_by(traffic.c.hour).having(count > 0).order_by(traffic.c.hour.desc())
    for column, value in (
        (traffic.c.arm, wanted.model), (traffic.c.task_type, wanted.task_type), (traffic.c.method, wanted.method)
    ):  # fmt: skip
        if value is not None:
            hours = hours.where(column == value)
    if before is not None:
        hours = hours.where(traffic.c.hour <= hour_of(before[0]))
    if wanted.rated is not False:  # else there may be hours in which everything is rated
        hours = hours.limit(limit + 1)  # of the first one, all may be newer than `before`
    return list(connection.scalars(hours))


def _read(connection: Connection, statement: Select[Any], limit: int) -> list[dict[str, Any]]:
    return [dict(row) for row in connection.execute(statement.limit(limit)).mappings()]


def _told(connection: Connection, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    ids = [row["id"] for row in rows]
    calls: dict[str, list[dict[str, Any]]] = defaultdict(list)
    found: list[dict[str, Any]] = store.attempts_of(connection, ids)
    for call in found:
        calls[call["decision_id"]].append(call)
    ratings: dict[str, list[float]] = defaultdict(list)
    said = select(rewards.c.decision_id, rewards.c.value).where(rewards.c.decision_id.in_(ids), _peoples())
    for decision_id, value in connection.execute(said) if ids else ():
        ratings[decision_id].append(value)
    return [_shown(row, calls[row["id"]], ratings[row["id"]]) for row in rows]


def _shown(row: dict[str, Any], calls: list[dict[str, Any]], ratings: list[float]) -> dict[str, Any]:
    shown = {name: row[name] for name in _SHOWN if name not in ("created_at", "arm", "served_arm")}
    return {
        **shown,
        "timestamp": row["created_at"],
        "model": row["served_arm"] or row["arm"],
        "drawn": row["arm"],
        "cost_usd": sum(call["cost_usd"] for call in calls),
        "latency_s": sum(call["latency_s"] for call in calls),
        "failures": sum(call["outcome"] != "ok" for call in calls),
        "ratings": len(ratings),
        "mean_rating": sum(ratings) / len(ratings) if ratings else None,
    }
