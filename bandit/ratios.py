"""Ratio metrics of units, such as of users: sum over sum, its variance between units, and what a covariate explains.

Units are independent, requests of one unit are not: so variances are taken over units. A ratio is linearised (delta
method): the unit with numerator s and denominator m counts e = (s - R m) / mean(m), where R is its variant's ratio.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
Indices = NDArray[np.int64]

_LARGEST = 1e12  # numbers beyond make no sense
_SMALLEST = 1e-6  # denominators below likewise, but for 0


class Ratios(NamedTuple):
    """One metric, by variant: each of shape (n_variants,)."""

    units: Vector  # measured
    plain: Vector  # sum over sum; NaN without units
    value: Vector  # the same with what the covariate explains taken off
    variance: Vector  # of one unit's share in `value`; 0 below two units
    explained: float  # share of the variance that the covariate took off, over all variants


def sensible(numerators: Vector, denominators: Vector) -> NDArray[np.bool_]:
    """Which units have numbers that make sense, shape (n,); a denominator of 0 says that the unit was not measured."""
    size = (denominators == 0.0) | ((denominators >= _SMALLEST) & (denominators <= _LARGEST))
    return np.asarray(size & (np.abs(numerators) <= _LARGEST))


def ratios(variant: Indices, numerators: Vector, denominators: Vector, covariate: Vector | None, wide: int) -> Ratios:
    """The ratio of each of `wide` variants over units that were measured, each column of shape (n,).

    The covariate is the mean, over the unit's requests, of something that the variant could not change; unknown ones
    (not finite) count as the mean of the others. Its ratio is linearised like the metric's; theta = Cov / Var within
    variants, and R - theta (P - mean P) is the value. Source: Deng, Xu, Kohavi and Walker, "Improving the sensitivity
    of online controlled experiments by utilizing pre-experiment data" (CUPED), 2013, for ratio metrics.
    """

    def total(each: Vector) -> Vector:
        return np.asarray(np.bincount(variant, each, wide), dtype=np.float64)

    units, size = total(np.ones(len(variant))), total(denominators)
    seen = np.maximum(units, 1.0)
    plain = np.divide(total(numerators), size, out=np.full(wide, np.nan), where=size > 0.0)
    mean_size = np.divide(size, seen, out=np.ones(wide), where=size > 0.0)[variant]
    left = (numerators - plain[variant] * denominators) / mean_size
    squares = total(left * left)
    value, remaining = plain, squares
    known = _filled(covariate, denominators)
    if known is not None:
        mean = np.divide(total(denominators * known), size, out=np.zeros(wide), where=size > 0.0)
        beside = denominators * (known - mean[variant]) / mean_size
        products, own = total(left * beside), total(beside * beside)
        theta = products.sum() / own.sum() if own.sum() > 0.0 else 0.0
        value = plain - theta * mean
        remaining = np.maximum(squares - 2.0 * theta * products + theta * theta * own, 0.0)
    return Ratios(
        units=units,
        plain=plain,
        value=value,
        variance=remaining / np.maximum(units - 1.0, 1.0),
        explained=float(1.0 - remaining.sum() / squares.sum()) if squares.sum() > 0.0 else 0.0,
    )


def _filled(covariate: Vector | None, denominators: Vector) -> Vector | None:
    """The covariate less its mean, 0 where unknown; None when it tells units apart nowhere."""
    if covariate is None:
        return None
    known = np.abs(covariate) <= _LARGEST
    if not known.any():
        return None
    mean = np.average(covariate[known], weights=denominators[known])
    centred = np.zeros(len(covariate))
    centred[known] = covariate[known] - mean
    return centred if np.abs(centred).max() > 1e-9 * max(abs(mean), 1e-9) else None
