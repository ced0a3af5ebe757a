"""From beliefs to a draw: the probability that each arm is best, the exploration floor, and `choose`.

The arm is drawn from exactly the numbers that are logged, so the propensity of every decision is exact by
construction, whatever the error of the quadrature.
"""

import math
from collections.abc import Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc, betaln, ndtr

from bandit.posteriors import Beliefs
from bandit.safety import capped
from bandit.vocabulary import FREE, Arm, Choice, PromptProfile, Terms

if TYPE_CHECKING:
    from bandit.policies import Policy

Vector = NDArray[np.float64]

_SPREAD = np.linspace(0.0, 1.0, 17)  # nodes over the whole range
_AROUND_MEAN = np.linspace(-4.0, 4.0, 9)  # nodes near an arm's mean, in standard deviations
_TAIL = np.linspace(0.0, 1.0, 9)[1:-1]  # nodes near the end of a Beta that is unbounded there, in probability
# Nodes of a refinement, in probability that the best utility lies below; closer where it begins, as logarithms jump.
_LEVELS = np.concatenate([[0.0001, 0.0005, 0.002, 0.005], (np.arange(40) + 0.5) / 40])
_COARSE = 0.04  # refine while the best utility lies between two neighbouring nodes with a higher probability
_REFINEMENTS = 4  # at most; one is usual
_BEATEN = 1e-7  # above a node, arms that lie there with a lower probability than this are not looked at
_SMALLEST = 1e-9  # alpha and beta of 0 are taken as this: all mass at one end
_LEGENDRE, _LEGENDRE_WEIGHTS = np.polynomial.legendre.leggauss(96)
_NOTHING = 1e-300  # stands for a probability of 0 where its logarithm is needed


class PolicyFailure(ValueError):
    """A policy returned something that is not a probability for each arm."""


def probability_of_best(alpha: Vector, beta: Vector, shift: Vector | None = None) -> Vector:
    """Chance that each arm has the highest `quality - shift`, for independent Beta(alpha, beta) qualities.

    All arrays have shape (n_arms,); `shift` is what an arm costs on the scale of quality, default 0. Absolute error is
    below 0.002 for alpha and beta of at least 0.1; smaller ones put so much mass nearer to 0 or 1 than floating point
    tells apart that the split between equal arms is conventional.

    P(k) is the integral of G dlog F_k, where F_k is the distribution of arm k's utility and G, the product of all, that
    of the best one. Between two nodes G's rise is shared in proportion to the rises of log F_k: exact where the F_k
    are powers of each other, and needs no density, which is unbounded for alpha or beta below 1. Nodes are added where
    G rises fast.

    Source: the definition of probability matching; Chapelle and Li, "An Empirical Evaluation of Thompson Sampling",
    2011.
    """
    n_arms = len(alpha)
    if n_arms == 1:
        return np.ones(1)
    alpha, beta = np.maximum(alpha, _SMALLEST), np.maximum(beta, _SMALLEST)
    cost = np.zeros(n_arms) if shift is None else shift
    grid = _first_nodes(alpha, beta, cost)
    logs = _log_cdf(alpha, beta, cost, grid)  # (n_arms, n_nodes)
    best = np.exp(logs.sum(axis=0))  # G
    for _ in range(_REFINEMENTS):
        if np.diff(best).max() < _COARSE:
            break
        more = np.interp(_LEVELS, best, grid)
        grid = np.concatenate([grid, more])
        order = np.argsort(grid, kind="stable")
        grid = grid[order]
        added = np.zeros((n_arms, len(more)))
        before = max(int(np.searchsorted(best, _LEVELS[0])) - 1, 0)  # the last node below all of `more`
        live = logs[:, before] < -_BEATEN
        added[live] = _log_cdf(alpha[live], beta[live], cost[live], more)
        logs = np.concatenate([logs, added], axis=1)[:, order]
        best = np.exp(logs.sum(axis=0))
    rises = np.diff(logs, axis=1)
    together = rises.sum(axis=0)
    together[together <= 0.0] = 1.0  # G does not rise there either
    chance = (rises * (np.diff(best) / together)).sum(axis=1)  # not `@`: equal rows must give equal bits
    return np.asarray(chance / chance.sum())


def probability_of_best_normal(mean: Vector, sd: Vector) -> Vector:
    """Chance that each arm is the highest, for independent normal values; over the last axis, shape (..., n_arms).

    `sd` is positive. By Gauss-Legendre quadrature where the highest value lies: error below 1e-4 while no sd is a
    hundred times another. P(k) is the integral of f_k times the product of the other F_j.
    """
    low, high = (mean - 6 * sd).max(axis=-1), (mean + 8 * sd).max(axis=-1)
    nodes = low[..., None] + (high - low)[..., None] * (_LEGENDRE + 1) / 2
    z = (nodes[..., None, :] - mean[..., None]) / sd[..., None]
    below = np.log(np.maximum(ndtr(z), _NOTHING))
    density = np.exp(below.sum(axis=-2, keepdims=True) - below - z * z / 2) / sd[..., None]
    chances = (density * _LEGENDRE_WEIGHTS).sum(axis=-1)
    return np.asarray(chances / chances.sum(axis=-1, keepdims=True))


def _first_nodes(alpha: Vector, beta: Vector, cost: Vector) -> Vector:
    """Utilities at which the distributions are looked at first, in order: where the best one may lie."""
    low, high = float((-cost).max()), float((1.0 - cost).max())  # the best utility lies in here
    total = alpha + beta
    mean = alpha / total - cost
    sd = np.sqrt(alpha * beta / (total + 1.0)) / total
    # Arms that may be far up, and arms that surely are: below the latter's distribution nothing else counts.
    hopeful, sure = np.argsort(-(mean + 2.0 * sd), kind="stable")[:3], np.argsort(-(mean - 2.0 * sd), kind="stable")[:4]
    near = np.unique(np.concatenate([hopeful, sure]))
    nodes = [low + (high - low) * _SPREAD, (mean[near, None] + sd[near, None] * _AROUND_MEAN).ravel()]
    by_cost = np.argsort(cost, kind="stable")
    if len(top := by_cost[beta[by_cost] < 1.0][:32]):
        nodes += [(1.0 - cost[top, None] - _tail(beta[top], alpha[top])).ravel(), 1.0 - cost[top]]
    if len(bottom := by_cost[alpha[by_cost] < 1.0][:4]):
        nodes.append((_tail(alpha[bottom], beta[bottom]) - cost[bottom, None]).ravel())
    return np.asarray(np.sort(np.clip(np.concatenate(nodes), low, high)))


def _tail(alpha: Vector, beta: Vector) -> Vector:
    """Qualities near 0 below which Beta(alpha, beta) has about the probabilities `_TAIL`: F(x) ~ x^a / (a B(a, b))."""
    logs = (np.log(_TAIL) + (np.log(alpha) + betaln(alpha, beta))[:, None]) / alpha[:, None]
    return np.asarray(np.exp(np.minimum(logs, 0.0)))


def _log_cdf(alpha: Vector, beta: Vector, cost: Vector, grid: Vector) -> Vector:
    """Logarithm of the chance that each arm's utility lies below each node: shape (n_arms, n_nodes)."""
    quality = np.clip(grid + cost[:, None], 0.0, 1.0)
    return np.asarray(np.log(np.maximum(betainc(alpha[:, None], beta[:, None], quality), _NOTHING)))


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
    found: list[float] = chances.tolist()
    if not all(0.0 <= chance < math.inf for chance in found):
        raise PolicyFailure(f"found probabilities {found}, expected finite numbers of at least 0")
    total = float(chances.sum())  # numpy's order of adding: a stored decision is derived again bit for bit
    if not total > 0.0:
        raise PolicyFailure("found no positive probability")
    return tuple(chance / total for chance in found)


def choose(  # noqa: PLR0913 - the inputs of a decision, each logged
    policy: "Policy",
    profile: PromptProfile,
    arms: Sequence[Arm],
    beliefs: Beliefs,
    seed: int,
    *,
    explore: bool = True,
    terms: Terms = FREE,
    max_explore: float = 1.0,
) -> Choice:
    """Draw one arm and keep the exact probabilities it was drawn with.

    With `explore` false the arm most likely under the policy is taken with probability 1. Otherwise the other arms get
    at most `max_explore` of the probability.

    Raises:
        ValueError: `arms` is empty.
        PolicyFailure: the policy's answer is not a distribution over `arms`.
    """
    if not arms:
        raise ValueError("found no arm, expected at least one eligible arm")
    chances = checked(policy.probabilities(profile, arms, beliefs, terms), len(arms))
    if not explore:
        best = max(range(len(arms)), key=chances.__getitem__)
        chances = tuple(1.0 if index == best else 0.0 for index in range(len(arms)))
    elif max_explore < 1.0:
        chances = capped(chances, max_explore)
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
        terms=terms,
    )
