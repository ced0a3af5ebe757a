"""What the cells lend each other: the quality of every arm in every cell, from few labels.

A cell is a task type and a prompt tier. An arm's quality in it is a prior mean, plus the cell's difficulty, which all
arms share, plus what this arm is better or worse: everywhere, on the task type, on the tier, in the cell. All of these
are normal with known variances, so their posterior has a closed form. Difficulty is estimated together with the arms,
so an arm that is used mostly on hard prompts does not look bad for it.

Source: a Gaussian linear mixed model; Henderson, "Best linear unbiased estimation and prediction under a selection
model", 1975; the posterior in Rasmussen and Williams, "Gaussian Processes for Machine Learning", 2006, section 2.2.
"""

from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_LEAST_NOISE = 0.25  # of a coin's variance: scores that vary less count as at most four labels each
_COIN_LABELS = 10.0  # labels' worth of belief that scores vary like coins
_LEAST_COIN = 0.05  # variance of a coin of quality near 0 or 1


_MOST_LABELS = 1e6  # in one cell; more change nothing, and would make matrices singular
_ARM_SCALES, _TASK_SCALES = (0.25, 1.0, 4.0, 16.0), (0.05, 0.25, 1.0, 4.0, 16.0)
_FEWEST_LABELS = 30.0  # with fewer, how much arms differ is not asked


class Spread(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much arms differ from their prior means, as variances of quality: everywhere, by task, by tier, by cell.

    The defaults are where learning begins: on four of five public outcome sets, arms hardly differ by task beyond what
    they differ everywhere; on the fifth they do, and `pool_best` finds it.
    """

    arm: float = 0.004
    task: float = 0.001
    tier: float = 0.0003
    cell: float = 0.0003

    def scaled(self, arm: float, task: float) -> "Spread":
        """The same with its first variance multiplied by `arm`, and the others by `task`."""
        return Spread(self.arm * arm, self.task * task, self.tier * task, self.cell * task)


# Of cells, shared by all arms: everywhere, by task, between tiers, by cell. Small everywhere: where arms fall short of
# their prior means, those not yet tried are expected to keep theirs until they were. So a wrong order is found out.
DIFFICULTY = Spread(arm=0.0005, task=0.02, tier=0.02, cell=0.002)


class Sums(NamedTuple):
    """What was measured, shape (n_arms, n_tasks, n_tiers) each: labels, sums of their values in [0, 1], of squares."""

    n: Array
    s: Array
    s2: Array


class Pooled(NamedTuple):
    """Quality of every arm in every cell, shape (n_arms, n_tasks, n_tiers)."""

    mean: Array
    sd: Array  # of the arm beside the others: what is uncertain of a cell's difficulty is the same for all arms
    evidence: float  # logarithm of how likely the labels were under the prior means and this spread
    base: Array | None = None  # prior mean and the cell's difficulty: what is expected of an arm like its prior
    spread: Spread | None = None  # under which it was worked out


def covariance(spread: Spread, n_tasks: int, n_tiers: int) -> Array:
    """Of one arm's deviations between cells: shape (n_cells, n_cells), cells in the order of (task, tier)."""
    task, tier = np.divmod(np.arange(n_tasks * n_tiers), n_tiers)
    same_task, same_tier = task[:, None] == task, tier[:, None] == tier
    return np.asarray(
        spread.arm + spread.task * same_task + spread.tier * same_tier + spread.cell * (same_task & same_tier)
    )


def difficulty_covariance(n_tasks: int, n_tiers: int) -> Array:
    """Of the difficulty of cells: shape (n_cells, n_cells). Tiers differ from each other; together they are level."""
    return covariance(DIFFICULTY, n_tasks, n_tiers) - DIFFICULTY.tier / n_tiers


def pool_best(sums: Sums, prior_mean: Array, spread: Spread, factor: Array | None = None) -> Pooled:
    """`pool` with the spread that the labels speak for, among multiples of `spread`.

    A multiple of 4 costs a unit of log evidence, so that few labels change little. Where the prior means are
    wrong, a wide spread is found, and the labels are believed. Source: type II maximum likelihood, Rasmussen and
    Williams, section 5.4.1.
    """
    sums = usable(sums)
    if sums.n.sum() < _FEWEST_LABELS:
        return pool(sums, prior_mean, spread, factor)

    def score(arm: float, task: float) -> tuple[float, float, Pooled]:
        found = pool(sums, prior_mean, spread.scaled(arm, task), factor)
        return found.evidence - sum((np.log(scale) / np.log(4.0)) ** 2 for scale in (arm, task)), task, found

    # One after the other: 9 fits instead of 20, and in replays the same answer.
    _, task, _ = max((score(1.0, task) for task in _TASK_SCALES), key=lambda scored: scored[0])
    return max((score(arm, task) for arm in _ARM_SCALES), key=lambda scored: scored[0])[2]


def usable(sums: Sums) -> Sums:
    """The same without cells that hold what no labels add up to: they count as never measured."""
    with np.errstate(invalid="ignore"):
        sound = (sums.n > 0) & np.isfinite(sums.n) & (sums.s2 >= 0) & (sums.s2 <= sums.s) & (sums.s <= sums.n)
    n, s, s2 = (np.where(sound, part, 0.0) for part in sums)
    scale = _MOST_LABELS / np.maximum(n, _MOST_LABELS)
    return Sums(n * scale, s * scale, s2 * scale)


def pool(sums: Sums, prior_mean: Array, spread: Spread, factor: Array | None = None) -> Pooled:
    """Posterior of every arm in every cell. `prior_mean` has shape (n_arms, n_tasks, n_tiers).

    `factor` (n_arms,) multiplies an arm's prior variances, when less is known of it than of the others.
    """
    sums = usable(sums)
    n_arms, n_tasks, n_tiers = sums.n.shape
    n = sums.n.reshape(n_arms, -1)
    mean = sums.s.reshape(n_arms, -1) / np.maximum(n, 1e-9)
    prior = prior_mean.reshape(n_arms, -1)
    root = np.sqrt(n / noise(sums))  # of the precision: (n_arms, n_cells)
    residual = np.where(n > 0, mean - prior, 0.0)
    own, shared = covariance(spread, n_tasks, n_tiers), difficulty_covariance(n_tasks, n_tiers)
    eye = np.eye(len(own))
    times = np.ones((n_arms, 1)) if factor is None else factor[:, None]

    # (S + N^-1)^-1 of every arm, which needs no N^-1 where nothing was measured.
    inner = np.linalg.inv(eye + (times * root)[:, :, None] * own * root[:, None, :])
    weight = root[:, :, None] * inner * root[:, None, :]
    sharing = eye + shared @ weight.sum(axis=0)
    difficulty = np.linalg.solve(sharing, shared @ np.einsum("kij,kj->i", weight, residual))
    left = residual - difficulty
    explained = np.einsum("kij,kj->ki", weight, left)
    deviation = times * (explained @ own)
    variance = times * np.diag(own) - times**2 * np.einsum("ij,kjl,li->ki", own, weight, own, optimize=True)
    # The difficulty integrated out, not set to its likeliest value, which would favour narrow spreads.
    fit = (explained * residual).sum()
    evidence = 0.5 * (np.linalg.slogdet(inner)[1].sum() - np.linalg.slogdet(sharing)[1] - fit)
    shape = sums.n.shape
    base = prior + difficulty
    sd = np.sqrt(np.maximum(variance, 1e-9))
    return Pooled((base + deviation).reshape(shape), sd.reshape(shape), float(evidence), base.reshape(shape), spread)


def noise(sums: Sums) -> Array:
    """Variance of one label around its cell's quality: shape (n_arms, n_cells). A coin's, or less when scores agree.

    `sums` must be `usable`.
    """
    n, s, s2 = (part.reshape(len(part), -1) for part in sums)
    total = n.sum()
    rate = (s.sum(axis=0) + 0.7 * 4) / (n.sum(axis=0) + 4)
    coin = np.maximum(rate * (1 - rate), _LEAST_COIN)
    within = np.maximum(s2 - s * s / np.maximum(n, 1e-9), 0.0)
    # Every cell of every arm takes one label for its own mean.
    free = np.maximum(n - 1.0, 0.0)
    ratio = (_COIN_LABELS + (within / coin).sum()) / (_COIN_LABELS + free.sum()) if total else 1.0
    return np.asarray(np.broadcast_to(coin * np.clip(ratio, _LEAST_NOISE, 1.0), n.shape))
