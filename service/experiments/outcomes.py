"""What one unit of an experiment did and met with in its time, added up from the log: decisions, calls and ratings."""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgspec
from sqlalchemy import Connection, Select, and_, bindparam, case, func, or_, select, text

from bandit.posteriors import MICRO
from service.experiments.lifecycle import Experiment
from service.learning.calibrations import MACHINES, PEOPLES
from service.storage.store import slices, total
from service.storage.tables import attempts, cells, decisions, exposures, rewards

_PAST_S = 28 * 86_400.0  # how far back a user's ratings say what is to be expected of them
_PRIOR_LABELS = 5.0  # what is expected before any rating counts like so many
_REFUSAL = '%"refusal":%'  # in the findings of the heuristics


# A report makes 100,000 of these. They hold no cycles; left to the garbage collector, they would make it stop the whole
# process for a tenth of a second.
class Rated(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What people said of one unit in one kind of feedback."""

    total: float | None
    number: int


class Outcome(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What became of one unit in its time."""

    requests: int
    rated: int  # requests that a person rated
    ended: int  # requests that came to an end while somebody waited: answered, or failed by every model tried
    failed: int
    late: int
    refused: int
    cost_usd: float | None  # this and every sum: None where the log holds what is no number
    expected: float | None  # quality to be expected of the unit by what was known before the experiment
    ratings: dict[str, Rated] = {}  # by kind of feedback


def outcomes(
    connection: Connection, one: Experiment, those: Sequence[str], expected: Mapping[tuple[str, str], float]
) -> dict[str, Outcome]:
    """What became of these units; a unit whose decisions are gone made no requests."""
    design = one.design
    found: dict[str, Outcome] = {}
    for units in slices(those):
        said = {"experiment": one.name, "units": units, "window_s": design.window_s}
        calls = {row[0]: row[1:] for row in connection.execute(_calls(), {**said, "late_after_s": design.late_after_s})}
        counted = {row[0]: row[1:] for row in connection.execute(_counted(), said)}
        ratings: dict[str, dict[str, Rated]] = {}
        for unit, metric, value, number in connection.execute(_ratings(), said):
            ratings.setdefault(unit, {})[metric] = Rated(_number(value), number)
        foreseen = _foreseen(connection, one, units, expected)
        for unit in set(units):
            requests, ended, failed, late, cost = calls.get(unit, (0, 0, 0, 0, 0.0))
            rated, refused = counted.get(unit, (0, 0))
            found[unit] = Outcome(
                requests=requests, rated=rated, ended=ended, failed=failed, late=late, refused=refused,
                cost_usd=_number(cost), expected=foreseen.get(unit), ratings=ratings.get(unit, {}),
            )  # fmt: skip
    return found


def _number(value: Any) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def _of_units(statement: Select[Any]) -> Select[Any]:
    """Restricted to what units of one experiment asked in their time."""
    return statement.where(
        exposures.c.experiment == bindparam("experiment"),
        exposures.c.unit.in_(bindparam("units", expanding=True)),
        decisions.c.experiment == bindparam("experiment"),
        decisions.c.created_at <= exposures.c.first_at + bindparam("window_s"),
    )


@lru_cache
def _calls() -> Select[Any]:
    """By unit: requests, how many came to an end, failed and were late, and what they cost."""
    waited = case((attempts.c.outcome == "ok", func.coalesce(attempts.c.first_token_s, attempts.c.latency_s)))
    each = _of_units(
        select(
            decisions.c.unit,
            func.count(attempts.c.step).label("tries"),
            func.max(case((attempts.c.outcome == "ok", 1), else_=0)).label("ok"),
            func.max(case((attempts.c.outcome == "cancelled", 1), else_=0)).label("left"),
            func.sum(func.coalesce(waited, attempts.c.latency_s)).label("waited_s"),
            func.coalesce(func.sum(attempts.c.cost_usd), 0.0).label("cost_usd"),
        ).select_from(exposures.join(decisions, decisions.c.unit == exposures.c.unit).outerjoin(attempts))
    ).group_by(decisions.c.unit, decisions.c.id)
    one = each.subquery()
    ended = and_(one.c.tries > 0, or_(one.c.ok == 1, one.c.left == 0))
    return select(
        one.c.unit,
        func.count(),
        _times(ended),
        _times(and_(ended, one.c.ok == 0)),
        _times(and_(ended, one.c.waited_s > bindparam("late_after_s"))),
        func.sum(one.c.cost_usd),
    ).group_by(one.c.unit)


def _times(condition: Any) -> Any:
    return total(case((condition, 1), else_=0))


_people = and_(rewards.c.channel.in_(PEOPLES), rewards.c.source.not_in(MACHINES))
_in_time = rewards.c.created_at <= exposures.c.first_at + bindparam("window_s")
_rewarded = exposures.join(decisions, decisions.c.unit == exposures.c.unit).join(
    rewards, rewards.c.decision_id == decisions.c.id
)


@lru_cache
def _ratings() -> Select[Any]:
    """By unit and kind of feedback: the sum of what people said, and how often they did. Each rating counts in full.

    What a rating weighs in learning depends on the model that it is about, and so on the variant.
    """
    wanted = select(decisions.c.unit, rewards.c.metric, func.sum(rewards.c.value), func.count())
    return (
        _of_units(wanted.select_from(_rewarded)).where(_people, _in_time).group_by(decisions.c.unit, rewards.c.metric)
    )


@lru_cache
def _counted() -> Select[Any]:
    """By unit: requests that people rated, and requests whose reply was a refusal by the heuristics."""
    refused = and_(rewards.c.source == "heuristics", rewards.c.detail.like(_REFUSAL))  # whenever the reply came
    wanted = select(
        decisions.c.unit,
        func.count(case((and_(_people, _in_time), decisions.c.id)).distinct()),
        func.count(case((refused, decisions.c.id)).distinct()),
    )
    return _of_units(wanted.select_from(_rewarded)).group_by(decisions.c.unit)


# What was to be expected


def expected_quality(connection: Connection, started_at: float) -> dict[tuple[str, str], float]:
    """The mean rating by task type and tier of all that was learned before the experiment; with ("", "") of all."""
    wanted = (
        select(cells.c.task_type, cells.c.tier, func.sum(cells.c.n), func.sum(cells.c.s))
        .where(cells.c.namespace == "", cells.c.channel.in_(PEOPLES), cells.c.hour < int(started_at // 3600))
        .group_by(cells.c.task_type, cells.c.tier)
    )
    found = {
        (task, tier): (float(n) / MICRO, float(s) / MICRO)
        for task, tier, n, s in connection.execute(wanted)
        if 0 <= s <= n  # else no counts that we wrote
    }
    n, s = (sum(each[index] for each in found.values()) for index in (0, 1))
    mean = (s + 0.5 * _PRIOR_LABELS) / (n + _PRIOR_LABELS)
    known = {key: (s + mean * _PRIOR_LABELS) / (n + _PRIOR_LABELS) for key, (n, s) in found.items()}
    return {**known, ("", ""): mean}


def _foreseen(
    connection: Connection, one: Experiment, units: Sequence[str], expected: Mapping[tuple[str, str], float]
) -> dict[str, float]:
    """What quality was to be expected of each unit, by its first prompt and its user's ratings before the experiment.

    Only the first prompt: what is asked later may depend on what was answered.
    """
    said = {"experiment": one.name, "units": units, "window_s": one.design.window_s}
    first = _of_units(
        select(decisions.c.unit, decisions.c.user, decisions.c.task_type, decisions.c.tier).select_from(
            exposures.join(decisions, decisions.c.unit == exposures.c.unit)
        )
    ).where(decisions.c.created_at == exposures.c.first_at)
    found = list(connection.execute(first, said))
    past = _past(connection, one, {user for _, user, _, _ in found if user}) if one.design.unit == "user" else {}
    foreseen = {}
    for unit, user, task_type, tier in found:
        prior = expected.get((task_type, tier), expected["", ""])
        value, number = past.get(user, (0.0, 0))
        mean = (value + prior * _PRIOR_LABELS) / (number + _PRIOR_LABELS)
        if math.isfinite(mean):
            foreseen[unit] = mean
    return foreseen


def _past(connection: Connection, one: Experiment, users: set[str]) -> dict[str, tuple[float, int]]:
    """Sum and number of what users said before the experiment."""
    started_at = one.started_at or 0.0
    wanted = (
        select(rewards.c.user, func.sum(rewards.c.value), func.count())
        .where(
            rewards.c.user.in_(bindparam("users", expanding=True)),
            text("\"user\" <> '' AND weight > 0"),  # in the words of the index
            rewards.c.created_at >= started_at - _PAST_S,
            rewards.c.created_at < started_at,
            _people,
        )
        .group_by(rewards.c.user)
    )
    found: dict[str, tuple[float, int]] = {}
    for some in slices(sorted(users)):
        found |= {user: (float(value), number) for user, value, number in connection.execute(wanted, {"users": some})}
    return found
