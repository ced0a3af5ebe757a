"""Totals and distributions over the decision log: what GET /stats answers."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import msgspec
from sqlalchemy import Connection, Integer, case, func, select

from service import store
from service.decide import Decision
from service.tables import attempts, decisions

_DAY_S = 86_400.0
_SPREADS = ("model", "tier", "task_type", "policy", "method")


def statistics(connection: Connection, since: float, until: float, key_id: str | None = None) -> dict[str, Any]:
    """Calls, cost, mean latency, and how calls are spread, between two times."""
    rows = usage(connection, since, until, key_id)
    calls = total(rows, "decisions")
    attempts = total(rows, "attempts")
    return {
        "calls": calls,
        "cost_usd": total(rows, "cost_usd"),
        "mean_latency_ms": 1000 * total(rows, "latency_s") / attempts if attempts else None,
        "mean_routing_ms": 1000 * total(rows, "routing_s") / calls if calls else None,
        "attempts": attempts,
        "failed_attempts": total(rows, "failures"),
        "prompt_tokens": total(rows, "prompt_tokens"),
        "completion_tokens": total(rows, "completion_tokens"),
        "distribution": {name: spread(rows, name) for name in _SPREADS},
        "models": {model: costs_of(rows, model) for model in sorted({row["model"] for row in rows})},
        "days": [days_of(rows, day) for day in sorted({row["day"] for row in rows})],
    }


def total(rows: Iterable[dict[str, Any]], column: str) -> Any:
    """The sum of a column."""
    return sum(row[column] for row in rows)


def spread(rows: Iterable[dict[str, Any]], column: str) -> dict[str, int]:
    """Calls by the values of a column, most first."""
    counts: dict[str, int] = defaultdict(int)
    for row in rows:
        counts[row[column]] += row["decisions"]
    return dict(sorted(counts.items(), key=lambda pair: -pair[1]))


def costs_of(rows: list[dict[str, Any]], model: str) -> dict[str, Any]:
    """What one model was used for and what it cost."""
    own = [row for row in rows if row["model"] == model]
    attempts = total(own, "attempts")
    return {
        "calls": total(own, "decisions"),
        "cost_usd": total(own, "cost_usd"),
        "mean_latency_ms": 1000 * total(own, "latency_s") / attempts if attempts else None,
        "task_types": spread(own, "task_type"),
    }


def days_of(rows: list[dict[str, Any]], day: int) -> dict[str, Any]:
    """One day, in seconds since 1970 UTC at its start."""
    own = [row for row in rows if row["day"] == day]
    calls, cost = total(own, "decisions"), total(own, "cost_usd")
    return {"from": day * _DAY_S, "calls": calls, "cost_usd": cost, "model": spread(own, "model")}


def records(connection: Connection, limit: int, offset: int, key_id: str | None = None) -> list[dict[str, Any]]:
    """Decisions, newest first, each with its attempts."""
    rows: list[dict[str, Any]] = store.list_decisions(connection, limit=limit, offset=offset, key_id=key_id)
    attempts: dict[str, list[dict[str, Any]]] = defaultdict(list)
    calls: list[dict[str, Any]] = store.attempts_of(connection, [row["id"] for row in rows]) if rows else []
    for call in calls:
        attempts[call["decision_id"]].append(call)
    return [record(row, attempts[row["id"]]) for row in rows]


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


def usage(connection: Connection, since: float, until: float, key_id: str | None = None) -> list[dict[str, Any]]:
    """Decisions and what they cost, counted per day, model that served, tier, task type, policy and method.

    Beside those, each row has `day` in days since 1970-01-01 UTC, and decisions, routing_s, attempts, failures,
    cost_usd, latency_s (summed over all attempts), prompt_tokens and completion_tokens.
    """
    days = decisions.c.created_at / 86_400.0
    if connection.dialect.name == "postgresql":
        days = func.floor(days)  # its cast rounds where SQLite's truncates
    day = days.cast(Integer).label("day")
    model = func.coalesce(decisions.c.served_arm, decisions.c.arm).label("model")
    groups = (day, model, decisions.c.tier, decisions.c.task_type, decisions.c.policy, decisions.c.method)
    routing = case((func.coalesce(attempts.c.step, 0) == 0, decisions.c.routing_s), else_=0.0)  # once a decision
    statement = (
        select(
            *groups,
            func.count(decisions.c.id.distinct()).label("decisions"),
            func.sum(routing).label("routing_s"),
            func.count(attempts.c.step).label("attempts"),
            store.total(case((attempts.c.outcome != "ok", 1), else_=0)).label("failures"),
            func.coalesce(func.sum(attempts.c.cost_usd), 0.0).label("cost_usd"),
            func.coalesce(func.sum(attempts.c.latency_s), 0.0).label("latency_s"),
            store.total(attempts.c.prompt_tokens).label("prompt_tokens"),
            store.total(attempts.c.completion_tokens).label("completion_tokens"),
        )
        .select_from(decisions.outerjoin(attempts))
        .where(decisions.c.created_at >= since, decisions.c.created_at < until)
        .group_by(*groups)
        .order_by(*groups)
    )
    if key_id is not None:
        statement = statement.where(decisions.c.key_id == key_id)
    return [dict(row) for row in connection.execute(statement).mappings()]
