"""What a router came to: one row of the table, over seeds."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks.baselines import Hindsight, drawn
from benchmarks.replay import Replayed, interval
from benchmarks.streams import Array, Integers, Stream

WINDOW = 200  # requests over which a model's share is taken
_PACED_FROM = 1_000  # requests before the running mean of costs is looked at
_SHARE_BEFORE = 2_000  # requests before a drop over which the model's share is taken
_LEAST_SHARE = 0.05  # a model that served less before its drop has no half worth waiting for
_LEAST_WANTED = 0.1  # a new model that hindsight would give less is not waited for


class Over(NamedTuple):
    """Spending above the budget, as shares of it."""

    end: float  # of the mean cost of all requests
    worst: float | None  # of the running mean from request 1,000 on


def overshoot(cost_usd: Array, budget_usd: float) -> Over:
    """How far above the budget the mean cost was. Savings are 0.

    >>> overshoot(np.array([1.0, 2.0, 3.3]), 2.0)
    Over(end=0.050000000000000044, worst=None)
    """
    running = cost_usd.cumsum() / np.arange(1, len(cost_usd) + 1)
    worst = max(0.0, float(running[_PACED_FROM - 1 :].max()) / budget_usd - 1) if len(running) >= _PACED_FROM else None
    return Over(max(0.0, float(running[-1]) / budget_usd - 1), worst)


def moving_share(arms: Integers, model: int) -> Array:
    """A model's share of every 200 requests on end: shape (n - 199,)."""
    served = np.concatenate([[0], (arms == model).cumsum()])
    return np.asarray((served[WINDOW:] - served[:-WINDOW]) / WINDOW)


def requests_until(arms: Integers, model: int, start: int, *, at_least: float = 0.0, at_most: float = 1.0) -> float:
    """Requests from `start` on to the middle of the first 200 in which the model's share lies there; else infinite."""
    if len(arms) < start + WINDOW:
        return np.inf
    share = moving_share(arms[start:], model)
    found = np.flatnonzero((share >= at_least) & (share <= at_most))
    return float(found[0] + WINDOW // 2) if len(found) else np.inf


def requests_to_halve(given: Stream, arms: Integers) -> float:
    """From a drop until the model's share is half of what it was; infinite when never, NaN when it hardly served."""
    start, model = given.world.phases[-1].start, given.world.changed
    before = float((arms[max(0, start - _SHARE_BEFORE) : start] == model).mean())
    return requests_until(arms, model, start, at_most=before / 2) if before >= _LEAST_SHARE else np.nan


def requests_to_adopt(given: Stream, arms: Integers, best: Hindsight) -> float:
    """From a model's arrival until it serves half of what hindsight gives it; NaN when that is less than a tenth."""
    start, model = given.world.phases[-1].start, given.world.changed
    task = given.outcomes.task[given.rows[start:]]
    wanted = float(best.per_task[-1, task, model].mean())
    return requests_until(arms, model, start, at_least=wanted / 2) if wanted >= _LEAST_WANTED else np.nan


def alarms_of(given: Stream, done: Replayed) -> tuple[float, float]:
    """Requests from a drop to the alarm for it, infinite when none rang; and how many false alarms rang.

    Every alarm is false but the downward ones for the model that dropped, afterwards.
    """
    if done.alarms is None:
        return np.nan, np.nan
    dropped = given.world.shock == "drop"
    start, model = given.world.phases[-1].start, given.world.changed
    right = [
        alarm.number - start
        for alarm in done.alarms
        if dropped and alarm.model == model and alarm.direction == "down" and alarm.number > start
    ]
    return (float(min(right, default=np.inf)) if dropped else np.nan), float(len(done.alarms) - len(right))


def row(
    name: str,
    runs: Sequence[tuple[Stream, Replayed]],
    best: Hindsight,
    budget_usd: float | None,
    about: dict[str, Any],
) -> dict[str, Any]:
    """One router's columns. Regret and the gap are against `best`: under a budget, what keeps to it with hindsight."""
    got, last, costs, micros, singles, per_tasks, over, worst = ([] for _ in range(8))
    for given, done in runs:
        at = np.arange(len(given.rows))
        quality, cost = given.quality[at, done.arms], given.cost_usd[at, done.arms]
        got.append(float(quality.mean()))
        last.append(float(quality[-max(1, len(quality) // 4) :].mean()))
        costs.append(float(cost.mean()))
        micros.append(1e6 * done.decision_s / len(quality))
        # On the prompts that were drawn, so that luck with them is not taken for skill.
        singles.append(float(given.quality[at, drawn(given, best.single)].mean()))
        per_tasks.append(float(given.quality[at, drawn(given, best.per_task)].mean()))
        if budget_usd is not None:
            found = overshoot(cost, budget_usd)
            over.append(found.end)
            worst.append(found.worst)
    single, ideal, (mean, low, high) = float(np.mean(singles)), float(np.mean(per_tasks)), interval(got)
    shock = runs[0][0].world.shock
    rang = [alarms_of(given, done) for given, done in runs]
    return {
        "data": runs[0][0].outcomes.name, "policy": name, **about, "seed_count": len(runs),
        "quality": mean, "quality_low": low, "quality_high": high, "quality_last_quarter": interval(last)[0],
        "cost_usd": interval(costs)[0], "regret": ideal - mean,
        "gap_closed": (mean - single) / (ideal - single) if ideal > single else None,
        "overshoot": float(np.mean(over)) if over else None,
        "overshoot_worst": max(worst) if over and None not in worst else None,
        "decision_us": interval(micros)[0],
        "requests_to_alarm": _median([first for first, _ in rang]),
        "requests_to_halve": _median([requests_to_halve(*_arms(one)) for one in runs] if shock == "drop" else []),
        "false_alarms": None if np.isnan(rang[0][1]) else float(np.mean([count for _, count in rang])),
        "requests_to_adopt": _median(
            [requests_to_adopt(*_arms(one), best) for one in runs] if shock == "new-model" else []
        ),
    }  # fmt: skip


def _arms(run: tuple[Stream, Replayed]) -> tuple[Stream, Integers]:
    return run[0], run[1].arms


def _median(values: Sequence[float]) -> float | None:
    """Over seeds; None where it means nothing, or where in half of the seeds it never came to it."""
    known = [value for value in values if not np.isnan(value)]
    middle = float(np.median(known)) if known else np.inf
    return middle if np.isfinite(middle) else None
