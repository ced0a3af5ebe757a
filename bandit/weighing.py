"""From what is known of every arm on a prompt to its chance: boldness, floor, money, a baseline, new arms.

What policies do alike once they know quality, whether of a cell or of a single prompt.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from bandit.budget import cheapest_good_enough
from bandit.history import History
from bandit.pooling import Pooled
from bandit.posteriors import Estimate
from bandit.safety import fit_to_serve, within_credit
from bandit.selection import probability_of_best_normal
from bandit.vocabulary import Arm, Terms, Trade

Array = NDArray[np.float64]
Objective = Literal["quality", "budget", "floor"]

_LEAST_USD = 1e-12
_READINGS_PER_LABEL = 10.0  # calls that were only read end the nursery too, as most are never rated


class Exploration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much traffic goes to arms that are not known to be best.

    The defaults were chosen in replays of public outcomes at 5 % feedback: with so few labels, bolder draws cost more
    than they find.
    """

    boldness: float = 0.3  # the posterior's standard deviations are multiplied by it; 1 is Thompson sampling
    active: int = (
        8  # arms of highest mean + 1 sd are drawn by their chance of being best, the others by the floor alone
    )
    floor: float = 0.004  # share of traffic: half of it evenly over the active arms, half over all


class Guard(NamedTuple):
    """What arms are held against. See `bandit.safety`."""

    baseline: int  # index of an arm
    gate: float
    credit: float


def chances(pooled: Pooled, exploration: Exploration, fit: NDArray[np.bool_] | None = None) -> Array:
    """Probability of every arm in every cell: shape (n_tasks, n_tiers, n_arms), summing to 1 over arms.

    Of arms that are not `fit` (n_arms,) only the floor is left.
    """
    mean, sd = np.moveaxis(pooled.mean, 0, -1), np.moveaxis(pooled.sd, 0, -1)
    n_arms = mean.shape[-1]
    best = probability_of_best_normal(mean, np.maximum(exploration.boldness * sd, 1e-9))
    hopes = mean + sd if fit is None else np.where(fit, mean + sd, -np.inf)
    last = n_arms - min(max(exploration.active, 1), n_arms)
    active = hopes >= np.partition(hopes, last, axis=-1)[..., last, None]  # equals of the last one are in, too
    if fit is not None:
        active &= fit
    drawn = np.where(active, best, 0.0)
    total = drawn.sum(axis=-1, keepdims=True)
    evenly = active / active.sum(axis=-1, keepdims=True)
    drawn = np.where(total > 0, drawn / np.where(total > 0, total, 1.0), evenly)
    floor = exploration.floor
    return np.asarray((1 - floor) * drawn + floor * (evenly + 1 / n_arms) / 2)


def weigh(  # noqa: PLR0913 - what a decision weighs
    mean: Array,
    sd: Array,
    utility: Array,
    new: NDArray[np.bool_],
    *,
    room: Sequence[bool],
    thrift: Sequence[float],
    exploration: Exploration,
    nursery: float,
    guard: Guard | None,
) -> Array:
    """The chance of every arm, shape (n_arms,), from what is known of it on one prompt: arrays of the same shape.

    `utility` is the mean quality less what cost takes away, `room` says which arms there is money for, `thrift` which
    part of the floor each may have; empty: all, and all of it.
    """
    affordable = np.array(room) if room else np.ones(len(mean), dtype=bool)
    some = Pooled(utility[affordable][:, None, None], sd[affordable][:, None, None], 0.0)
    guarded = guard is not None and bool(affordable[guard.baseline])
    fit = fit_to_serve(mean, sd, guard.baseline, guard.gate)[affordable] if guard is not None and guarded else None
    freely = Exploration(exploration.boldness, exploration.active, 0.0) if thrift else exploration
    part = np.array(thrift) if thrift else np.ones(len(mean))
    found = np.zeros(len(mean))
    found[affordable] = chances(some, freely, fit)[0, 0]
    if thrift:
        found = _spread(found, affordable, exploration.floor, part)
    if guard is not None and guarded and guard.credit < 1.0:
        found = within_credit(found, mean, sd, guard.baseline, guard.credit)
    return _nursed(found, new & affordable, nursery, part)


def newcomers(history: History, nursery_labels: float) -> list[bool]:
    """Which arms came later than the others and are not known yet. All new is none new.

    An arm that was there from the beginning and has few labels is one that others beat: it is left to the draws.
    """
    known = history.labels.n.sum(axis=(1, 2)) + history.readings.n.sum(axis=(1, 2)) / _READINGS_PER_LABEL
    new = [
        arm in history.arrived and bool(labels < nursery_labels)
        for arm, labels in zip(history.arms, known, strict=True)
    ]
    return [one and not all(new) for one in new]


def trades(
    arms: Sequence[Arm], known: Sequence[Estimate], costs: Sequence[float], cost_weight: float, terms: Terms
) -> tuple[Trade, ...]:
    """What each arm offers, quality for money, from what is known of it on one prompt and its expected USD."""
    price = cost_weight + terms.usd_price
    return tuple(
        Trade(
            arm=arm.name,
            quality=one.mean,
            sd=one.sd,
            cost_usd=cost,
            late=one.late,
            worth=one.mean - price * cost - terms.late_price * one.late,
        )
        for arm, one, cost in zip(arms, known, costs, strict=True)
    )


def guard_of(arms: Sequence[Arm], baseline: str, gate: float, credit: float) -> Guard | None:
    """What `arms` are held against; None without the baseline among them."""
    if not baseline:
        return None
    found = (index for index, arm in enumerate(arms) if arm.name == baseline)
    return next((Guard(index, gate, credit) for index in found), None)


def thrift_of(costs: Sequence[float], terms: Terms) -> tuple[float, ...]:
    """Which part of the floor each arm may have: none spends more of the budget than of the traffic on it."""
    if not terms.budget_usd:
        return ()
    return tuple([min(1.0, terms.budget_usd / max(cost, _LEAST_USD)) for cost in costs])


def _nursed(drawn: Array, new: NDArray[np.bool_], nursery: float, part: Array) -> Array:
    """New arms get their share, so that they become known; all new is none new."""
    return _spread(drawn, new, nursery, part) if new.any() and not new.all() else drawn


def _spread(drawn: Array, among: NDArray[np.bool_], share: float, part: Array) -> Array:
    """Give `share` of the traffic evenly to some arms; each takes only its part of it."""
    given = among * share / among.sum() * part
    return np.asarray((1.0 - given.sum()) * drawn + given)


def cheapest(  # noqa: PLR0913 - what a decision weighs
    mean: Array,
    sd: Array,
    costs: Array,
    new: NDArray[np.bool_],
    *,
    within: float,
    doubt: float,
    floor: float,
    nursery: float,
) -> Array:
    """All but the floor on the cheapest arm that is good enough, new arms in the nursery: shape (n_arms,)."""
    found = np.full(len(mean), floor / len(mean))
    found[cheapest_good_enough(mean, sd, costs, within, doubt)] += 1.0 - floor
    return _nursed(found, new, nursery, np.ones(len(mean)))
