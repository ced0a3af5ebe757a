"""Totals and distributions, and the records behind them: what GET /stats and /stats/raw answer."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import groupby
from operator import itemgetter
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, select

from bandit.vocabulary import PROMPT_TIERS
from service.decide import Decision
from service.storage import store
from service.storage.tables import traffic
from service.traffic.series import counted
from service.traffic.sums import DAY_H, HOUR_S, NANO, hour_of

_DAY_S = 86_400.0
_FEW = 1_000  # decisions that are left out one by one


def statistics(connection: Connection, since: float, until: float) -> dict[str, Any]:
    """Calls, cost, mean latency, and how calls are spread, in the hours between two times.

    A decision counts for the model that answered it; cost and latency of a call count for the model that was called.
    """
    low, high = hour_of(max(since, 0.0)), hour_of(until) + 1
    kinds = counted(tuple(_KIND.values()), _TOTALS, low, high).c
    rows = _sums(connection, {name: kinds[n] for name, n in _KIND.items()}, {n: kinds[n] for n in _TOTALS})
    rows.sort(key=itemgetter("model"))  # Postgres sorts by the rules of some language
    hours = counted(("hour", "arm"), _OF_DAYS, low, high).c
    of_days = _sums(connection, {"day": hours.hour // DAY_H, "model": hours.arm}, {n: hours[n] for n in _OF_DAYS})
    calls, attempts = total(rows, "decisions"), total(rows, "calls")
    tiers: dict[str, int] = {tier: total(rows, tier) for tier in PROMPT_TIERS}
    models = groupby(rows, key=itemgetter("model"))
    return {
        "calls": calls,
        "cost_usd": total(rows, "cost_nano") / NANO,
        "mean_latency_ms": total(rows, "latency_us") / attempts / 1000 if attempts else None,
        "mean_routing_ms": total(rows, "routing_us") / calls / 1000 if calls else None,
        "attempts": attempts,
        "failed_attempts": total(rows, "failures"),
        "prompt_tokens": total(rows, "prompt_tokens"),
        "completion_tokens": total(rows, "completion_tokens"),
        "distribution": {
            "model": spread(rows, "model"),
            "tier": _most_first(tiers),
            **{name: spread(rows, name) for name in ("task_type", "policy", "method")},
        },
        "models": {model: costs_of(list(own)) for model, own in models},
        "days": [day_of(day, list(own)) for day, own in groupby(of_days, key=itemgetter("day"))],
    }


_KIND = {"model": "arm", "task_type": "task_type", "policy": "policy", "method": "method"}
_OF_DAYS = ("decisions", "cost_nano")
_TOTALS = (
    "decisions", *PROMPT_TIERS, "routing_us", "calls", "failures", "cost_nano", "latency_us", "prompt_tokens",
    "completion_tokens",
)  # fmt: skip


def _sums(
    connection: Connection, by: Mapping[str, ColumnElement[Any]], counts: Mapping[str, ColumnElement[int]]
) -> list[dict[str, Any]]:
    """The sums of some counts, one row for each combination of what they are told by, in its order."""
    groups = [column.label(f"by_{name}") for name, column in by.items()]
    wanted = select(*groups, *(store.total(column) for column in counts.values()))
    rows = connection.execute(wanted.group_by(*groups).order_by(*groups))
    return [dict(zip((*by, *counts), row, strict=True)) for row in rows]


def total(rows: Iterable[dict[str, Any]], column: str) -> Any:
    """The sum of a column."""
    return sum(row[column] for row in rows)


def spread(rows: Iterable[dict[str, Any]], column: str) -> dict[str, int]:
    """Calls by the values of a column, most first; values without any are left out."""
    counts: dict[str, int] = defaultdict(int)
    for row in rows:
        counts[row[column]] += row["decisions"]
    return _most_first(counts)


def _most_first(counts: Mapping[str, int]) -> dict[str, int]:
    return {name: count for name, count in sorted(counts.items(), key=lambda pair: -pair[1]) if count}


def costs_of(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What the rows of one model say that it was used for and what it cost."""
    attempts = total(rows, "calls")
    return {
        "calls": total(rows, "decisions"),
        "cost_usd": total(rows, "cost_nano") / NANO,
        "mean_latency_ms": total(rows, "latency_us") / attempts / 1000 if attempts else None,
        "task_types": spread(rows, "task_type"),
    }


def day_of(day: int, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """One day, in seconds since 1970 UTC at its start."""
    calls, cost = total(rows, "decisions"), total(rows, "cost_nano") / NANO
    return {"from": day * _DAY_S, "calls": calls, "cost_usd": cost, "model": spread(rows, "model")}


Stored = tuple[dict[str, Any], list[dict[str, Any]]]  # a decision and its attempts, as rows


def page(connection: Connection, limit: int, offset: int) -> list[Stored]:
    """Decisions, newest first, each with its attempts."""
    before, offset = page_start(connection, offset)
    rows: list[dict[str, Any]] = store.list_decisions(connection, limit=limit, offset=offset, before=before)
    attempts: dict[str, list[dict[str, Any]]] = defaultdict(list)
    calls: list[dict[str, Any]] = store.attempts_of(connection, [row["id"] for row in rows]) if rows else []
    for call in calls:
        attempts[call["decision_id"]].append(call)
    return [(row, attempts[row["id"]]) for row in rows]


def records(found: Iterable[Stored]) -> list[dict[str, Any]]:
    """What is told of decisions, as far as it can be read. A millisecond for twenty of them: not on the event loop."""
    told = []
    for row, attempts in found:
        try:
            told.append(record(row, attempts))
        except (msgspec.DecodeError, UnicodeDecodeError):
            told.append({"id": row["id"], "timestamp": row["created_at"], "unreadable": True})
    return told


def page_start(connection: Connection, offset: int) -> tuple[tuple[float, str] | None, int]:
    """Where a page begins: the end of an hour, and how many decisions to leave out from there.

    A database that leaves out a million rows reads them all.
    """
    if offset <= _FEW:
        return None, offset
    hours = select(traffic.c.hour, store.total(traffic.c.decisions)).group_by(traffic.c.hour)
    end = None
    for hour, count in connection.execute(hours.order_by(traffic.c.hour.desc())):
        if count > offset:
            return ((hour + 1) * HOUR_S, ""), offset
        offset -= count
        end = (hour * HOUR_S, "")
    return end, offset


def record(row: dict[str, Any], attempts: list[dict[str, Any]]) -> dict[str, Any]:
    """One decision on one level, with LLM Compass's names where it has some."""
    decision = msgspec.json.decode(row["detail"], type=Decision)
    profile = decision.profile
    return {
        "id": row["id"],
        "timestamp": row["created_at"],
        "model": row["served_arm"] or row["arm"],
        "method": row["method"],
        "policy": row["policy"],
        "tier": row["tier"],
        "task_type": row["task_type"],
        "complexity_score": profile.complexity,
        "domain_knowledge": profile.scores.domain_knowledge,
        "reasoning": profile.scores.reasoning,
        "creativity": profile.scores.creativity,
        "propensity": row["propensity"],
        "routing_latency_ms": round((decision.classify_s + decision.decide_s) * 1000, 3),
        "latency_ms": round(sum(attempt["latency_s"] for attempt in attempts) * 1000, 3),
        "cost_usd": sum(attempt["cost_usd"] for attempt in attempts),
        "attempts": attempts,
    }
