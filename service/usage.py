"""How long each model's replies are on each task type: what its prices are multiplied by."""

from collections import defaultdict

from sqlalchemy import Connection, func, select

from bandit.vocabulary import TaskType
from service.tables import attempts, decisions

_NEWEST = 20_000  # calls; a model that became more verbose shows within as many
_OWN_CALLS = 10.0  # weight of a model's mean over all task types in that of one

Tokens = dict[tuple[str, TaskType], float]


def output_tokens(connection: Connection) -> Tokens:
    """Mean completion tokens by model and task type, over the newest calls that were answered.

    A task type of few calls is drawn to the model's own mean. Rounded, so that small changes do not look like any.
    """
    newest = (
        select(attempts.c.decision_id, attempts.c.arm, attempts.c.completion_tokens)
        .where(attempts.c.outcome == "ok", attempts.c.completion_tokens > 0)
        .order_by(attempts.c.started_at.desc())
        .limit(_NEWEST)
        .subquery()
    )
    grouped = (
        select(newest.c.arm, decisions.c.task_type, func.count(), func.sum(newest.c.completion_tokens))
        .join(decisions, decisions.c.id == newest.c.decision_id)
        .group_by(newest.c.arm, decisions.c.task_type)
    )
    rows = [(arm, task, float(n), float(total)) for arm, task, n, total in connection.execute(grouped)]
    calls: dict[str, float] = defaultdict(float)
    tokens: dict[str, float] = defaultdict(float)
    for arm, _, n, total in rows:
        calls[arm] += n
        tokens[arm] += total
    return {
        (arm, task): float(f"{(total + _OWN_CALLS * tokens[arm] / calls[arm]) / (n + _OWN_CALLS):.2g}")
        for arm, task, n, total in rows
    }
