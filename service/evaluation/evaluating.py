"""What the log says of a policy's worth: as good as which, at which bill; or why it cannot say."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from sqlalchemy import Connection

from bandit.history import Memory
from bandit.linear import LinearThompson
from bandit.offline import Estimate, Logged, Method, NotEvaluable, difference, evaluate
from bandit.policies import Fixed, Policy, Random
from bandit.vocabulary import TASK_TYPES, Arm
from service.decide import Repeated
from service.errors import UnusableData
from service.evaluation.decision_log import Collector, Columns, Entry, Tick, Vector, entries, explored
from service.evaluation.past import NOTHING_KNOWN, Past, read_past
from service.evaluation.replaying import Hindsight, learns
from service.evaluation.stored import Stored, repriced
from service.learning.contexts import dated_labels
from service.learning.controls import list_controls
from service.settings import Settings

NOT_CONFIGURED = "no model of it is configured"
RANDOM = "random"
_NAMED = 20  # decisions that are named when they come out differently


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """Which decisions are looked at."""

    since: float  # seconds since 1970 UTC
    until: float
    metric: str = ""  # whose labels count; empty: none are read
    logged_by: frozenset[str] = frozenset()  # decisions of these policies only; empty: of all
    limit: int = 0  # at most so many, the oldest; 0: all
    controls: bool = True  # candidates follow what was frozen, reset and rolled back


def arms_of(settings: Settings) -> dict[str, Arm]:
    """The models that may be drawn today, by name."""
    return {model.name: model.arm() for model in settings.models if model.enabled}


def gather(
    connection: Connection, settings: Settings, policies: Sequence[Policy], span: Span, tick: Tick = lambda _: None
) -> tuple[Columns, Counter[str]]:
    """The decisions of a span with what `policies` would have drawn, and how many were left out, by reason.

    Raises:
        UnusableData: no decision is left, or a policy cannot be replayed.
    """
    past = NOTHING_KNOWN
    if any(learns(policy) for policy in policies):
        past = read_past(connection, span.since, settings.rewards.window_days * 86_400.0)
        if span.controls:
            past = past._replace(controls=list_controls(connection))
        if any(isinstance(policy, LinearThompson) for policy in policies):
            half_life_days = settings.learning.memory.label_half_life_days
            past = past._replace(prompts=dated_labels(connection, span.since, half_life_days))
    left_out: Counter[str] = Counter()
    found = entries(connection, span.since, span.until, metric=span.metric, tick=tick, left_out=left_out)
    columns = collected(found, arms_of(settings), policies, span, settings.learning.memory, past, left_out)
    return columns, left_out


def collected(
    found: Iterable[Entry], arms: Mapping[str, Arm], policies: Sequence[Policy], span: Span, memory: Memory,
    past: Past, left_out: Counter[str],
) -> Columns:  # fmt: skip
    """`gather` for decisions that are read, oldest first; those left out are counted in `left_out`."""
    hindsight, collector = Hindsight(policies, arms, memory, past), Collector(arms)
    for entry in explored(found, left_out, span.logged_by):
        targets = hindsight.draw(entry.decision)
        hindsight.hear(entry)
        if not targets and policies:
            left_out[NOT_CONFIGURED] += 1
            continue
        collector.add(entry, targets)
        if span.limit and len(collector) >= span.limit:
            break
    if not len(collector):
        raise UnusableData(_nothing(left_out))
    return collector.columns()


def _nothing(left_out: Counter[str]) -> str:
    why = ", ".join(f"{count:,} {reason}" for reason, count in left_out.most_common())
    return (
        f"The log has no decision that can be used{f' (left out: {why})' if why else ''}; expected decisions that a "
        "policy drew for callers who allow exploration. Take a longer --since."
    )


# Evaluation


def evaluation(columns: Columns, policies: Sequence[str], method: Method) -> dict[str, Any]:
    """What each policy would have been worth, beside the policies that made the log."""
    logged = columns.logged
    return {
        **labels(columns),
        "paid_usd": columns.paid_usd,
        "logged": {
            "value": _told(logged, logged.probabilities, method),
            "cost_usd": _bill(columns, logged.probabilities),
        },
        "policies": [_judged(columns, name, method) for name in policies],
    }


def labels(columns: Columns) -> dict[str, Any]:
    """How many decisions there are, and of how many something is known."""
    n, known = len(columns.logged.rewards), int((~np.isnan(columns.logged.rewards)).sum())
    return {
        "decisions": n,
        "labelled": known,
        "labelled_share": known / n,
        "failures": known - columns.people,
        "feedback_rate": columns.people / n,
    }


def _judged(columns: Columns, name: str, method: Method) -> dict[str, Any]:
    logged, target = columns.logged, columns.targets[name]
    tasks = {}
    for task in np.unique(columns.task):
        rows = columns.task == task
        tasks[TASK_TYPES[task]] = {
            "decisions": int(rows.sum()),
            "value": _told(part(logged, rows), target[rows], method),
            "difference": _compared(part(logged, rows), target[rows], logged.probabilities[rows], method),
        }
    return {
        "policy": name,
        "value": _told(logged, target, method),
        "difference": _compared(logged, target, logged.probabilities, method),
        "cost_usd": _bill(columns, target),
        "task_types": tasks,
    }


def part(logged: Logged, rows: Any) -> Logged:
    """Some decisions of a log; `rows` is whatever picks rows of an array."""

    def some(values: Any) -> Any:
        return None if values is None else values[rows]

    return Logged(
        arms=logged.arms,
        chosen=logged.chosen[rows],
        probabilities=logged.probabilities[rows],
        rewards=logged.rewards[rows],
        predicted=some(logged.predicted),
        label_chance=_refitted(logged, rows),
        clusters=some(logged.clusters),
    )


def _refitted(logged: Logged, rows: Any) -> Vector | None:
    """Label chances of a part, scaled so that they agree with the share that has a label there."""
    if logged.label_chance is None:
        return None
    chance, known = logged.label_chance[rows], ~np.isnan(logged.rewards[rows])
    sure = chance >= 1.0
    if not sure.all() and known[~sure].any():
        scaled = chance * known[~sure].sum() / chance[~sure].sum()
        chance = np.where(sure, 1.0, np.minimum(scaled, 1.0))
    return np.asarray(chance)


def _told(logged: Logged, target: Vector, method: Method) -> dict[str, Any]:
    return _shown(evaluate(logged, target, method), evaluate(logged, target, method, anytime=True))


def _compared(logged: Logged, target: Vector, baseline: Vector, method: Method) -> dict[str, Any]:
    found = difference(logged, target, baseline, method)
    return _shown(found, difference(logged, target, baseline, method, anytime=True))


def _shown(found: Estimate | NotEvaluable, anytime: Estimate | NotEvaluable) -> dict[str, Any]:
    """An estimate as JSON, or the reason why there is none."""
    if isinstance(found, NotEvaluable) or isinstance(anytime, NotEvaluable):
        return {"refused": found.reason if isinstance(found, NotEvaluable) else ""}
    return {
        "value": found.value,
        "low": found.low,
        "high": found.high,
        "anytime_low": anytime.low,
        "anytime_high": anytime.high,
        "se": found.se,
        "decisions": found.n,
        "labels": found.n_labels,
        "users": found.n_clusters,
        "ignored": found.n_ignored,
        "effective_n": found.effective_n,
        "max_weight": found.max_weight,
        "mean_weight": found.mean_weight,
    }


def _bill(columns: Columns, target: Vector) -> float:
    """USD that a policy is expected to cost on the tokens of the log, at the prices given."""
    return float((target * columns.cost_usd).sum())


# Replaying


def replayed(columns: Columns, names: Sequence[str]) -> dict[str, Any]:
    """Where policies would send the traffic of the log."""
    return {
        "decisions": len(columns.task),
        "paid_usd": columns.paid_usd,
        "logged": {
            "shares": _shares(columns, columns.logged.probabilities),
            "cost_usd": _bill(columns, columns.logged.probabilities),
        },
        "policies": [_moved(columns, name) for name in names],
    }


def _moved(columns: Columns, name: str) -> dict[str, Any]:
    logged, target = columns.logged.probabilities, columns.targets[name]
    tasks = {TASK_TYPES[task]: columns.task == task for task in np.unique(columns.task)}
    return {
        "policy": name,
        "shares": _shares(columns, target),
        "cost_usd": _bill(columns, target),
        "likeliest_differs": float((target.argmax(axis=1) != logged.argmax(axis=1)).mean()),
        "task_types": {
            task: {"decisions": int(rows.sum()), "shares": _shares(columns, target[rows])}
            for task, rows in tasks.items()
        },
    }


def _shares(columns: Columns, table: Vector) -> dict[str, float]:
    return dict(zip(columns.arms, table.mean(axis=0).tolist(), strict=True))


def at_prices(
    connection: Connection, settings: Settings, prices: Mapping[str, Mapping[str, float]], name: str, span: Span,
    tick: Tick = lambda _: None,
) -> tuple[Columns, Counter[str]]:  # fmt: skip
    """The decisions of a span, each taken by its own policy on what it then knew, at other prices.

    Raises:
        UnusableData: no decision is left.
    """
    left_out: Counter[str] = Counter()
    stored = Stored(connection, prices)
    collector = Collector({arm: repriced(found, prices) for arm, found in arms_of(settings).items()})
    found = entries(connection, span.since, span.until, tick=tick, left_out=left_out)
    for entry in explored(found, left_out, span.logged_by):
        target = stored.draw(entry.decision)
        if isinstance(target, str):
            left_out[target] += 1
            continue
        collector.add(entry, {name: target})
        if span.limit and len(collector) >= span.limit:
            break
    if not len(collector):
        raise UnusableData(_nothing(left_out))
    return collector.columns(), left_out


def derived_again(connection: Connection, span: Span, tick: Tick = lambda _: None) -> dict[str, Any]:
    """Every decision taken again from its stored settings and beliefs: how many come out the same to the last bit."""
    n = same = 0
    different: list[dict[str, str]] = []
    stored, left_out = Stored(connection), Counter[str]()
    for entry in entries(connection, span.since, span.until, tick=tick, left_out=left_out):
        again = stored.again(entry.decision)
        n += 1
        if isinstance(again, Repeated) and again.same:
            same += 1
        elif len(different) < _NAMED:
            why = again if isinstance(again, str) else "another choice comes out"
            different.append({"id": entry.decision.id, "why": why})
        if span.limit and n >= span.limit:
            break
    return {"decisions": n + left_out.total(), "same": same, "different": different}


# The report


def rivals(settings: Settings) -> list[Policy]:
    """Each model alone, and chance: what routing must be worth more than."""
    fixed: list[Policy] = [Fixed(name=name, arm=name) for name in arms_of(settings)]
    return [*fixed, Random(name=RANDOM)] if RANDOM not in arms_of(settings) else fixed


def report(columns: Columns, models: Sequence[str], method: Method) -> dict[str, Any]:
    """What the live routing was worth, over the best fixed model and over every rival, and what it saved."""
    logged = columns.logged
    live_usd = _bill(columns, logged.probabilities)
    bills = {name: _bill(columns, columns.targets[name]) for name in models}
    best = _best_fixed(columns, models, method)
    return {
        **labels(columns),
        "live": _told(logged, logged.probabilities, method),
        "best_fixed": best,
        "against": {
            name: _compared(logged, logged.probabilities, target, method) for name, target in columns.targets.items()
        },
        "paid_usd": columns.paid_usd,
        "live_usd": live_usd,
        "bills_usd": bills,
        "savings_usd": {name: bill - live_usd for name, bill in bills.items()},
    }


def _best_fixed(columns: Columns, models: Sequence[str], method: Method) -> dict[str, Any]:
    """The model that looked best on the first half, and what routing is worth over it on the second.

    Chosen and judged on the same decisions it would look better than it is: the winner was lucky, too.
    """
    logged, half = columns.logged, len(columns.task) // 2
    first, second = slice(0, half), slice(half, None)
    found = {name: evaluate(part(logged, first), columns.targets[name][first], method) for name in models}
    values = {name: one.value for name, one in found.items() if isinstance(one, Estimate)}
    if not values:
        reasons = "; ".join(f"{name}: {one.reason}" for name, one in found.items() if isinstance(one, NotEvaluable))
        return {"refused": f"no model can be judged on the first half of the log ({reasons})"}
    best = max(values, key=values.__getitem__)
    target, live = columns.targets[best][second], logged.probabilities[second]
    return {
        "model": best,
        "judged": sorted(values),
        "value": _told(part(logged, second), target, method),
        "difference": _compared(part(logged, second), live, target, method),
    }
