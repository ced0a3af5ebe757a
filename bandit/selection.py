"""From beliefs to a draw: the probability that each arm is best, the exploration floor, and `choose`.

The arm is drawn from exactly the numbers that are logged, so the propensity of every decision is exact by
construction, whatever the error of the quadrature.
"""

from collections.abc import Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc

from bandit.posteriors import Beliefs
from bandit.vocabulary import Arm, Choice, PromptProfile

if TYPE_CHECKING:
    from bandit.policies import Policy

Vector = NDArray[np.float64]

_GRID = np.linspace(0.0, 1.0, 33)
_AROUND_MEAN = np.linspace(-4.0, 4.0, 25)  # standard deviations
_CONTENDERS = 6  # arms around whose means the grid is made finer


class PolicyFailure(ValueError):
    """A policy returned something that is not a probability for each arm."""


def probability_of_best(alpha: Vector, beta: Vector, shift: Vector | None = None) -> Vector:
    """Chance that each arm has the highest `quality - shift`, for independent Beta(alpha, beta) qualities.

    All arrays have shape (n_arms,); `shift` is what an arm costs on the scale of quality, default 0. Integrates
    P(k) = integral of prod_{j != k} F_j dF_k over a shared grid of utilities, as a Stieltjes sum over the distribution
    functions: needs no density, so it holds for alpha or beta below 1 as well. Absolute error is below 0.002.

    Source: the definition of probability matching; Chapelle and Li, "An Empirical Evaluation of Thompson Sampling",
    2011.
    """
    n_arms = len(alpha)
    if n_arms == 1:
        return np.ones(1)
    cost = np.zeros(n_arms) if shift is None else shift
    total = alpha + beta
    mean = alpha / total
    sd = np.sqrt(alpha * beta / (total + 1.0)) / total
    mean = mean - cost
    low, high = float((-cost).max()), float((1.0 - cost).max())  # the best utility lies in here
    low = max(low, float((mean - 6.0 * sd).max()))
    high = min(high, float((mean + 8.0 * sd).max()))
    nodes = [low + (high - low) * _GRID]
    contenders = np.argsort(-(mean + 2.0 * sd), kind="stable")[:_CONTENDERS]
    nodes.extend(mean[k] + sd[k] * _AROUND_MEAN for k in contenders)
    grid = np.sort(np.clip(np.concatenate(nodes), low, high))  # (n_nodes,)
    quality = np.clip(grid + cost[:, None], 0.0, 1.0)  # (n_arms, n_nodes)
    below = betainc(alpha[:, None], beta[:, None], quality)  # F_k at each node
    below[:, -1] = 1.0
    mass = np.diff(below, axis=1, prepend=0.0)
    left = np.concatenate([np.zeros((n_arms, 1)), below[:, :-1]], axis=1)
    # prod_{j != k} without dividing by F_k, which may be 0: products of what stands before and after k.
    chance = (mass * (_product_of_others(below) + _product_of_others(left))).sum(axis=1) / 2.0
    return np.asarray(chance / chance.sum())


def _product_of_others(rows: Vector) -> Vector:
    """For each row the product of all other rows: shape (n, m) to (n, m)."""
    ones = np.ones((1, rows.shape[1]))
    before = np.cumprod(np.concatenate([ones, rows[:-1]]), axis=0)
    after = np.cumprod(np.concatenate([ones, rows[:0:-1]]), axis=0)[::-1]
    return np.asarray(before * after)


def with_floor(chances: Vector, floor: float) -> Vector:
    """Give `floor` of the traffic evenly to all arms, so that every arm can be evaluated later."""
    return (1.0 - floor) * chances + floor / len(chances)


def seed_of(decision_id: str) -> int:
    """The 64-bit seed of a decision's draw: a function of its id alone."""
    return int.from_bytes(blake2b(decision_id.encode(), digest_size=8).digest(), "big")


def uniform(seed: int) -> float:
    """The number in [0, 1) that a seed stands for: its upper 53 bits.

    >>> uniform(1 << 63)
    0.5
    """
    return (seed >> 11) * 2.0**-53


def draw(probabilities: Sequence[float], seed: int) -> int:
    """Index of the arm that the seed's uniform number falls on. Never an arm of probability 0.

    >>> draw((0.0, 0.25, 0.75), 1 << 61)
    1
    """
    u, cumulated, last = uniform(seed), 0.0, 0
    for index, chance in enumerate(probabilities):
        if chance > 0.0:
            cumulated += chance
            last = index
            if u < cumulated:
                return index
    return last  # rounding left the sum just below 1


def checked(chances: Vector, n_arms: int) -> tuple[float, ...]:
    """The policy's answer as plain numbers that sum to 1.

    Raises:
        PolicyFailure: wrong length, not finite, negative, or nothing positive.
    """
    if chances.shape != (n_arms,):
        raise PolicyFailure(f"found {chances.shape} probabilities, expected {(n_arms,)}")
    if not np.isfinite(chances).all() or (chances < 0.0).any():
        raise PolicyFailure(f"found probabilities {chances.tolist()}, expected finite numbers of at least 0")
    total = float(chances.sum())
    if not total > 0.0:
        raise PolicyFailure("found no positive probability")
    return tuple((chances / total).tolist())


def choose(
    policy: "Policy", profile: PromptProfile, arms: Sequence[Arm], beliefs: Beliefs, seed: int, *, explore: bool = True
) -> Choice:
    """Draw one arm and keep the exact probabilities it was drawn with.

    With `explore` false the arm most likely under the policy is taken with probability 1.

    Raises:
        ValueError: `arms` is empty.
        PolicyFailure: the policy's answer is not a distribution over `arms`.
    """
    if not arms:
        raise ValueError("found no arm, expected at least one eligible arm")
    chances = checked(policy.probabilities(profile, arms, beliefs), len(arms))
    if not explore:
        best = max(range(len(arms)), key=chances.__getitem__)
        chances = tuple(1.0 if index == best else 0.0 for index in range(len(arms)))
    drawn = draw(chances, seed)
    return Choice(
        arm=arms[drawn].name,
        propensity=chances[drawn],
        arms=tuple(arm.name for arm in arms),
        probabilities=chances,
        policy=policy.name,
        beliefs_version=beliefs.version,
        seed=seed,
        reason=policy.reason(profile),
    )
