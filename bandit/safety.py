"""What keeps exploration within bounds: ceilings, a gate below a baseline, and a limit to what exploring may cost."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

Array = NDArray[np.float64]

_SURE = 0.95  # that an arm is worse than the gate allows
_CAUTION = 1.2815515594600038  # standard errors below the mean: quality is lower with a chance of a tenth
_TINY = 1e-12


def capped(chances: Sequence[float], ceiling: float) -> tuple[float, ...]:
    """Probabilities of which at most `ceiling` goes to other arms than the likeliest, who keep their proportions.

    Of equals the first counts as the likeliest.

    >>> capped((0.5, 0.25, 0.25), 0.1)
    (0.9, 0.05, 0.05)
    """
    best = max(range(len(chances)), key=chances.__getitem__)
    others = sum(chance for index, chance in enumerate(chances) if index != best)
    if others <= ceiling:
        return tuple(chances)
    return tuple(
        1.0 - ceiling if index == best else chance * (ceiling / others) for index, chance in enumerate(chances)
    )


def fit_to_serve(mean: Array, sd: Array, baseline: int, gate: float) -> NDArray[np.bool_]:
    """Which arms are not surely worse than the arm `baseline` by more than `gate`: shape (..., n_arms).

    Surely: with a probability above 0.95, for independent normal qualities (..., n_arms).
    """
    gap = mean[..., baseline, None] - gate - mean
    spread = np.sqrt(sd**2 + sd[..., baseline, None] ** 2)
    fit = ndtr(gap / np.maximum(spread, _TINY)) <= _SURE
    fit[..., baseline] = True
    return np.asarray(fit)


def within_credit(chances: Array, mean: Array, sd: Array, baseline: int, credit: float) -> Array:
    """Probabilities (n_arms,) mixed with the baseline's until exploring is expected to cost at most its credit.

    An arm costs what its quality may lie below the baseline's mean, taken at its lower tenth; each request earns
    `credit` times the baseline's mean, and spends it at once. So after n requests at most n * credit * mean is lost,
    as far as the lower tenths hold, without anything to be remembered between requests.
    """
    cost = np.maximum(mean[baseline] - (mean - _CAUTION * sd), 0.0)
    cost[baseline] = 0.0
    expected, earned = float(chances @ cost), credit * max(float(mean[baseline]), 0.0)
    if expected <= earned:
        return chances
    share = earned / expected
    mixed = share * chances
    mixed[baseline] += 1.0 - share
    return np.asarray(mixed)
