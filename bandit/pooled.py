"""From pooled qualities to the chance of every arm in every cell: how boldly, among which arms, with which floor."""

import msgspec
import numpy as np
from numpy.typing import NDArray

from bandit.pooling import Pooled
from bandit.selection import probability_of_best_normal

Array = NDArray[np.float64]


class Exploration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much traffic goes to arms that are not known to be best.

    The defaults were chosen in replays of public outcomes at 5 % feedback: with so few labels, bolder draws cost more
    than they find.
    """

    boldness: float = 0.4  # the posterior's standard deviations are multiplied by it; 1 is Thompson sampling
    active: int = (
        5  # arms of highest mean + 1 sd are drawn by their chance of being best, the others by the floor alone
    )
    floor: float = 0.01  # share of traffic: half of it evenly over the active arms, half over all


def chances(pooled: Pooled, exploration: Exploration) -> Array:
    """Probability of every arm in every cell: shape (n_tasks, n_tiers, n_arms), summing to 1 over arms."""
    mean, sd = np.moveaxis(pooled.mean, 0, -1), np.moveaxis(pooled.sd, 0, -1)
    n_arms = mean.shape[-1]
    best = probability_of_best_normal(mean, np.maximum(exploration.boldness * sd, 1e-9))
    order = np.argsort(-(mean + sd), axis=-1, kind="stable")
    active = np.zeros(mean.shape, dtype=bool)
    np.put_along_axis(active, order[..., : max(exploration.active, 1)], values=True, axis=-1)
    drawn = np.where(active, best, 0.0)
    total = drawn.sum(axis=-1, keepdims=True)
    evenly = active / active.sum(axis=-1, keepdims=True)
    drawn = np.where(total > 0, drawn / np.where(total > 0, total, 1.0), evenly)
    floor = exploration.floor
    return np.asarray((1 - floor) * drawn + floor * (evenly + 1 / n_arms) / 2)
