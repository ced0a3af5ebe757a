"""How long each model's replies are, and how often they come late: what prices are multiplied by."""

from collections import defaultdict

from sqlalchemy import ColumnElement, Connection, case, func, select

from bandit.vocabulary import TaskType
from service.storage.tables import attempts, decisions

_NEWEST = 20_000  # calls; a model that became more verbose, or slower, shows within as many
_OWN_CALLS = 10.0  # weight of a model's mean over all task types in that of one

ByModel = dict[tuple[str, TaskType], float]


def output_tokens(connection: Connection) -> ByModel:
    """Mean completion tokens by model and task type, over the newest calls that were answered."""
    return _means(connection, attempts.c.completion_tokens, attempts.c.completion_tokens > 0)


def late_share(connection: Connection, after_s: float) -> ByModel:
    """Share of calls that took longer to reply, or to begin a stream, by model and task type, over the newest calls."""
    waited = func.coalesce(attempts.c.first_token_s, attempts.c.latency_s)
    return _means(connection, case((waited > after_s, 1), else_=0), attempts.c.latency_s > 0)


def _means(connection: Connection, measure: ColumnElement[int], counts: ColumnElement[bool]) -> ByModel:
    """A task type of few calls is drawn to the model's own mean. Rounded: small changes are not to look like any."""
    newest = (
        select(attempts.c.decision_id, attempts.c.arm, measure.label("measure"))
        .where(attempts.c.outcome == "ok", counts)
        .order_by(attempts.c.started_at.desc())
        .limit(_NEWEST)
        .subquery()
    )
    grouped = (
        select(newest.c.arm, decisions.c.task_type, func.count(), func.sum(newest.c.measure))
        .join(decisions, decisions.c.id == newest.c.decision_id)
        .group_by(newest.c.arm, decisions.c.task_type)
    )
    rows = [(arm, task, float(n), float(total)) for arm, task, n, total in connection.execute(grouped)]
    calls: dict[str, float] = defaultdict(float)
    sums: dict[str, float] = defaultdict(float)
    for arm, _, n, total in rows:
        calls[arm] += n
        sums[arm] += total
    return {
        (arm, task): float(f"{(total + _OWN_CALLS * sums[arm] / calls[arm]) / (n + _OWN_CALLS):.2g}")
        for arm, task, n, total in rows
    }
