"""Tests that may be looked at after every observation: their errors hold for all looks together, not for each.

Three kinds. For means of anything: confidence sequences, asymptotic, and the same test told as evidence. For bounded
readings: bets, exact at every n, also when the mean moves or depends on what came before. For counts of an assignment
with known shares: evidence that it was not kept. None of them depends on the order of what it is given.

Evidence (an e-value) is what a bet against the null hypothesis has made of 1: at most 1 in the mean when the hypothesis
holds, so it ever reaches 1/alpha with a chance of at most alpha (Ville).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import gammaln

Vector = NDArray[np.float64]

BINS = 256  # that bounded readings are tallied in
_STAKES = np.r_[0.9, 0.7, 0.5 ** np.arange(1.0, 11.0)]  # shares of what is owned that are bet, all at once
_MIXTURE = ((0.85, 1.0, 0.2), (0.15, 3.0, 1.0))  # share, around which means, how widely; in the unit of `_mixed`
_NEWTON_STEPS = 8
_FARTHEST = 1e100  # its square is a number
_EDGE = 1e-9  # means are looked for between this and 1 less this
_CONCENTRATION = 1_000.0  # units that the guess of other shares counts like
_SLIGHTLY = 0.013  # a slight change of a share, in its standard deviations of one unit


def narrowest(n: float, alpha: float) -> float:
    """The rho squared, times the variance of one term, whose confidence sequence is narrowest after n terms.

    Source: Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, "Time-uniform central limit theory and asymptotic
    confidence sequences", Proposition 2.5.
    """
    scale = -2.0 * np.log(alpha)
    return float((scale + np.log(scale) + 1.0) / n)


def half_width(variance: Vector | float, n: Vector | NDArray[np.int64] | float, rho2: float, alpha: float) -> Vector:
    """How far the mean of n terms may lie from the truth, at every n at once with chance 1 - alpha, asymptotically.

    Args:
        variance: of the sum of the n terms.
        n: terms, above 0.
        rho2: above 0, chosen before one looks; `narrowest` divided by a term's variance, or tau^2 / (a term's
            variance)^2 where differences of about tau are expected.
        alpha: in (0, 1).
    """
    spread = np.asarray(variance) * rho2 + 1.0
    return np.asarray(np.sqrt(spread / rho2 * np.log(spread / alpha**2)) / n)


def log_ratio(distance: Vector | float, time: Vector | float, alpha: float) -> Vector:
    """Logarithm of the evidence that terms have another mean than 0, asymptotically: a mixture sequential test (mSPRT).

    The likelihood of the terms' sum, averaged over means of either sign, over that of the mean 0. Most is bet on means
    about as small as can be found by the planned end, the rest on ones about three times as large: those are found
    early.

    Args:
        distance: of the sum from 0, in standard deviations of the sum at the planned end.
        time: (broadcast) terms there are, as a share of those at the planned end; above 0.
        alpha: that the bet is sharpest for, in (0, 1). The evidence is sound whatever it is compared with.

    Source: Robbins, "Statistical methods related to the law of the iterated logarithm", 1970, and Johari, Koomen,
    Pekelis and Walsh, "Always valid inference", 2022, for the test by any mixture; Waudby-Smith and others (above) for
    why a normal limit is enough. The mixture is ours, chosen by simulation.
    """
    return _log_ratio(np.minimum(np.abs(distance), _FARTHEST), np.asarray(time, dtype=np.float64), alpha)[0]


def farthest(time: Vector | float, alpha: float) -> Vector:
    """The distance that the sum of terms with the mean 0 stays within at every time at once, with chance 1 - alpha.

    It is where the evidence of `log_ratio` is 1/alpha; arguments and unit as there.
    """
    time = np.asarray(time, dtype=np.float64)
    bounds = []
    for share, centre, rho2 in _mixed(alpha):  # each part alone gets so far, on one side
        spread = 1.0 + time * rho2
        room = time * centre**2 + spread * (2.0 * np.log(2.0 / (alpha * share)) + np.log(spread))
        bounds.append(room / (centre + np.sqrt(centre**2 + rho2 * room)))
    distance = np.minimum.reduce(bounds)
    for _ in range(_NEWTON_STEPS):  # from beyond, on a convex function: it never falls short
        evidence, slope = _log_ratio(distance, time, alpha)
        distance = distance - (evidence + np.log(alpha)) / slope
    return np.asarray(distance)


def _mixed(alpha: float) -> list[tuple[float, float, float]]:
    """Of each part of the mixture: its share, and the centre and variance of the means, per standard deviation there.

    The unit is the mean for which a straight boundary is nearest at the planned end: sqrt(2 log(2 / alpha)).
    """
    unit = float(np.sqrt(2.0 * np.log(2.0 / alpha)))
    return [(share, around * unit, (widely * unit) ** 2) for share, around, widely in _MIXTURE]


def _log_ratio(distance: Vector, time: Vector, alpha: float) -> tuple[Vector, Vector]:
    """`log_ratio`, and how fast it rises with the distance."""
    logs, slopes = [], []
    for share, centre, rho2 in _mixed(alpha):
        spread = 1.0 + time * rho2
        pull = centre * distance / spread
        even = np.logaddexp(pull, -pull) - np.log(2.0)  # either sign
        exponent = (rho2 * distance * distance - time * centre**2) / (2.0 * spread)
        logs.append(np.log(share) + exponent + even - 0.5 * np.log(spread))
        slopes.append((rho2 * distance + centre * np.tanh(pull)) / spread)
    total = np.logaddexp.reduce(logs)
    return total, np.sum([np.exp(each - total) * slope for each, slope in zip(logs, slopes, strict=True)], axis=0)


def tallied(values: Vector) -> Vector:
    """How many readings in [0, 1] lie at each of 257 points from 0 to 1, each split between its two neighbours.

    Bets on the tally win at most what bets on the readings win, since the logarithm is concave.
    """
    places = values * BINS
    left = np.minimum(places.astype(np.int64), BINS - 1)
    right_share = places - left
    size = BINS + 1
    return np.asarray(
        np.bincount(left, 1.0 - right_share, size) + np.bincount(left + 1, right_share, size), dtype=np.float64
    )


def log_evidence(values: Vector, counts: Vector, mean: float) -> Vector:
    """Logarithm of the evidence that readings in [0, 1] have a mean above `mean`, in (0, 1).

    The hypothesis it speaks against: each reading, given those before, has an expected value of at most `mean`. Each of
    several constant stakes is bet on every reading; what they own together counts. Falls when `mean` rises.

    Args:
        values: (k,), in [0, 1].
        counts: (..., k), how many readings there are of each.
        mean: of the hypothesis.

    Source: Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", 2024.
    """
    won = counts @ np.log1p(np.outer(values / mean - 1.0, _STAKES))
    return np.asarray(np.logaddexp.reduce(won, axis=-1) - np.log(len(_STAKES)))


def bounds_of_mean(values: Vector, counts: Vector, alpha: float) -> tuple[float, float]:
    """Lower and upper bound of the mean of readings in [0, 1]: each holds at every n with chance 1 - alpha.

    The means that `log_evidence`, from both sides, has less than 1/alpha against. Arguments as there.
    """
    return _lowest(values, counts, alpha), 1.0 - _lowest(1.0 - values, counts, alpha)


def _lowest(values: Vector, counts: Vector, alpha: float) -> float:
    def left(mean: float) -> float:
        return float(log_evidence(values, counts, mean) + np.log(alpha))

    if left(_EDGE) <= 0.0:
        return 0.0
    if left(1.0 - _EDGE) >= 0.0:
        return 1.0
    return float(brentq(left, _EDGE, 1.0 - _EDGE, xtol=1e-12))


class Weighted(NamedTuple):
    """What a variant does less what the control does, as the mean of readings in [0, 1] that can be bet on.

    A unit with the outcome x in [0, 1] reads (x - usual) / share in the variant and -(x - usual) / (1 - share) in the
    control: in the mean the difference, whichever units came when, and whatever they depend on, as long as they were
    assigned by the share. Then it is brought to [0, 1].
    """

    values: Vector  # (k,), in [0, 1]
    counts: Vector  # (k,)
    at_zero: float  # the difference that a reading of 0 stands for
    per_reading: float  # by how much the difference rises from a reading of 0 to 1

    def reading(self, difference: float) -> float:
        """The mean of the readings at this difference, kept inside (0, 1)."""
        return float(np.clip((difference - self.at_zero) / self.per_reading, _EDGE, 1.0 - _EDGE))

    def difference(self, reading: float) -> float:
        """The difference at this mean of the readings."""
        return self.at_zero + self.per_reading * reading


def weighted(variant: Vector, control: Vector, share: float, usual: float) -> Weighted:
    """Readings from two tallies of outcomes (`tallied`) and the variant's share of both, in (0, 1)."""
    outcome = np.linspace(0.0, 1.0, BINS + 1) - usual
    at_zero = -max(usual / share, (1.0 - usual) / (1.0 - share))
    per_reading = max((1.0 - usual) / share, usual / (1.0 - share)) - at_zero
    readings = (np.r_[outcome / share, -outcome / (1.0 - share)] - at_zero) / per_reading
    counts = np.r_[variant, control]
    return Weighted(np.clip(readings[counts > 0.0], 0.0, 1.0), counts[counts > 0.0], at_zero, per_reading)


def log_sample_ratio(counts: Vector, shares: Vector) -> Vector:
    """Logarithm of the evidence that units were not assigned by `shares`.

    One half is bet on any other shares (Dirichlet-multinomial against multinomial), the other on one variant that gets
    a little more or less, so that 51 to 49 is found in 100,000 units.

    Args:
        counts: (..., k), units of each variant.
        shares: (k,), planned, above 0, with the sum 1.

    Source: Lindon and Malek, "Anytime-valid inference for multinomial count data", 2022.
    """
    guess = _CONCENTRATION * shares
    total = counts.sum(axis=-1)
    anything = (gammaln(guess + counts) - gammaln(guess)).sum(axis=-1) - counts @ np.log(shares)
    anything += gammaln(_CONCENTRATION) - gammaln(_CONCENTRATION + total)
    off = np.minimum(_SLIGHTLY * np.sqrt(shares * (1.0 - shares)), np.minimum(shares, 1.0 - shares) / 2.0)
    given = np.eye(len(shares)) - (1.0 - np.eye(len(shares))) * shares / (1.0 - shares)[:, None]  # by the others
    slight = np.vstack([shares + off[:, None] * given, shares - off[:, None] * given])
    slightly = np.logaddexp.reduce(counts @ np.log(slight / shares).T, axis=-1) - np.log(len(slight))
    return np.asarray(np.logaddexp(anything, slightly) - np.log(2.0))
