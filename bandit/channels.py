"""Weak signals that cannot lie: what a heuristic's readings say of quality, and how much at most.

Two measurements exist of a reply. A *label* y in [0, 1] is a person's word or a definite failure; it is taken as it is.
A *reading* h in [0, 1] is what the heuristics say; there is one for every reply, but it errs, and it errs differently
on each arm. Calls that have both calibrate the readings, and every arm's bias is an unknown of its own, so readings
inform as far as labels confirm them and never outvote people.
"""

import math
from collections.abc import Mapping, Sequence
from functools import reduce
from hashlib import blake2b
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betainc, expit

from bandit.posteriors import MICRO

Vector = NDArray[np.float64]

TYPICAL_READING = 0.76  # mean reading assumed where the caller knows none
BIAS_VARIANCE = 0.05  # of an arm's bias before any label: a standard deviation of .22 on the scale of quality
ENOUGH_PER_TASK = 200.0  # labelled calls from which a task type has a calibration of its own
ENOUGH_FOR_BIAS = 500.0  # labelled calls from which the bias variance is learned

_PRIOR_J, _PRIOR_QUALITY, _PRIOR_CALLS = 0.3, 0.7, 40.0  # the cautious prior and its weight in labelled calls
_POOLED_CALLS = 100.0  # weight of the pooled calibration in a task type's own
_LEAST_J = 0.05  # a heuristic below it cannot tell good from bad
_LEAST_VARIANCE = 0.05  # of one label or reading
_EXPECTED_READINGS = 4.0  # weight of the expected reading in a cell's variance, as one reading alone has none
_HIGHEST_PRECISION = 1e9
_FARTHEST = 1.0 / _LEAST_J  # a value further from 0 is poisoned
_TASK_SHARE = 0.25  # variance of an arm's bias per task type, relative to that of its common bias
_BIAS_GRID = np.array([0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.14, 0.18, 0.22, 0.3, 0.4, 0.55, 0.75, 1.0]) ** 2


class Pairs(NamedTuple):
    """Sums over calls with a label y and a reading h, in millionths: exact to add and take back, in any order."""

    n: int = 0
    y: int = 0
    h: int = 0
    yy: int = 0
    yh: int = 0

    def plus(self, other: "Pairs") -> "Pairs":
        """Both together."""
        return Pairs(*(a + b for a, b in zip(self, other, strict=True)))

    def minus(self, other: "Pairs") -> "Pairs":
        """This without the other: how a corrected rating is taken back."""
        return Pairs(*(a - b for a, b in zip(self, other, strict=True)))


def pairs_of(label: float, reading: float, weight: float = 1.0) -> Pairs:
    """What one call adds to the calibration; nothing when a number is not finite.

    >>> pairs_of(1.0, 0.5)
    Pairs(n=1000000, y=1000000, h=500000, yy=1000000, yh=500000)
    """
    if not all(map(math.isfinite, (label, reading, weight))):
        return Pairs()
    y, h, w = min(max(label, 0.0), 1.0), min(max(reading, 0.0), 1.0), min(max(weight, 0.0), 100.0) * MICRO
    return Pairs(round(w), round(w * y), round(w * h), round(w * y * y), round(w * y * h))


class Accuracy(NamedTuple):
    """How well a heuristic tells good replies from bad ones."""

    sensitivity: float  # expected reading of a good reply, P(h = 1 | y = 1)
    false_positive_rate: float  # expected reading of a bad one, P(h = 1 | y = 0)

    @property
    def j(self) -> float:
        """Youden's J, how much more a good reply's reading is: 1 perfect, 0 uninformative."""
        return self.sensitivity - self.false_positive_rate


class Calibration(msgspec.Struct, frozen=True):
    """All calls that have both a label and a reading, per task type. Calibrations of replicas are added."""

    pairs: Mapping[str, Pairs] = msgspec.field(default_factory=dict)

    def plus(self, other: "Calibration") -> "Calibration":
        """Both together."""
        tasks = sorted({*self.pairs, *other.pairs})
        return Calibration({task: self.pairs.get(task, Pairs()).plus(other.pairs.get(task, Pairs())) for task in tasks})

    def pooled(self) -> Pairs:
        """The calls of all task types."""
        return reduce(Pairs.plus, self.pairs.values(), Pairs())

    def labelled(self) -> float:
        """How many calls have both."""
        return self.pooled().n / MICRO

    def accuracy(self, task_type: str, typical: float = TYPICAL_READING) -> Accuracy:
        """Accuracy of the readings on a task type: its own from 200 labelled calls on, before that everybody's.

        `typical` is the mean reading of all calls, labelled or not. It only matters while labels are few: the cautious
        prior has J = .3 and gives a reply of quality .7 that reading. For labels of 0 and 1 this is Beta smoothing of
        both rates; labels in between are fitted by the line h = fpr + J y, as plain ratios would make J too small.
        """
        height = min(max(typical, 0.0), 1.0) if math.isfinite(typical) else TYPICAL_READING
        bad = max(height - _PRIOR_J * _PRIOR_QUALITY, 0.0)
        prior = Accuracy(min(height + _PRIOR_J * (1.0 - _PRIOR_QUALITY), 1.0), bad)
        everybody = _fit(self.pooled(), prior, _PRIOR_CALLS)
        own = self.pairs.get(task_type, Pairs())
        return _fit(own, everybody, _POOLED_CALLS) if own.n >= ENOUGH_PER_TASK * MICRO else everybody


def _fit(pairs: Pairs, prior: Accuracy, calls: float) -> Accuracy:
    """Least-squares line through the calls and `calls` imagined ones, half of them good, that agree with `prior`."""
    half = calls / 2.0
    n, y, h, yy, yh = (value / MICRO for value in (pairs if pairs.n > 0 else Pairs()))
    n, y, h = n + calls, y + half, h + half * (prior.sensitivity + prior.false_positive_rate)
    yy, yh = yy + half, yh + half * prior.sensitivity
    slope = (yh / n - y / n * h / n) / max(yy / n - (y / n) ** 2, 1e-9)
    bad = h / n - slope * y / n
    return Accuracy(min(max(bad + slope, 0.0), 1.0), min(max(bad, 0.0), 1.0))


class Rows(NamedTuple):
    """Measurements of quality, each a value with its precision 1/variance; precision 0 is no measurement."""

    value: Vector  # deviation from the cell's base quality
    precision: Vector


def reading_rows(h_mean: Vector, h_n: Vector, accuracies: Sequence[Accuracy], base: Vector) -> Rows:
    """Turn an arm's readings into measurements of its quality, as deviations from the cells' base quality.

    All have shape (C,). Rogan and Gladen's estimate, 1978: value (h - fpr)/J - base, precision n J^2/(h(1 - h)), where
    h(1 - h) is at least .05 and starts at the expected reading's. Precision is 0 where J is below .05: a heuristic
    that is wrong more often than right is not turned round, because that would trust it.
    """
    rates = np.array([tuple(accuracy) for accuracy in accuracies], dtype=float).reshape(-1, 2)
    bad, j = rates[:, 1], rates[:, 0] - rates[:, 1]
    with np.errstate(all="ignore"):
        fine = np.isfinite(h_mean) & np.isfinite(base) & np.isfinite(j) & (h_n > 0.0) & (j >= _LEAST_J)
        n, slope = np.where(fine, np.minimum(h_n, 1e12), 0.0), np.where(fine, j, 1.0)
        h = np.where(fine, np.clip(h_mean, 0.0, 1.0), 0.5)
        expected = np.where(fine, np.clip(bad + slope * base, 0.0, 1.0), 0.5)
        value = np.where(fine, (h - bad) / slope - base, 0.0)
    smooth = (n * h + _EXPECTED_READINGS * expected) / (n + _EXPECTED_READINGS)
    return Rows(value, n * slope**2 / np.maximum(smooth * (1.0 - smooth), _LEAST_VARIANCE))


def bias_covariance(tasks: ArrayLike, variance: float | Vector = BIAS_VARIANCE) -> Vector:
    """Prior covariance (C, C) of an arm's bias: one common part, and one per task type of a quarter of its variance.

    `tasks` (C,) holds each cell's task type, by any labels; with a variance per arm (K,) the result is (K, C, C). It is
    a variance, not a standard deviation: the default .05 says that an arm's readings may mislead by .22, so before any
    label all of them together are worth about four labels: q(1 - q)/variance at quality q, however many calls there
    are. A heuristic with J = .47 that wrongly accuses every fifth reply of an arm misleads by about that much. Labels
    on the arm shrink its bias, and so its readings are worth more.
    """
    names = np.asarray(tasks)
    return np.asarray(np.asarray(variance)[..., None, None] * (1.0 + _TASK_SHARE * (names[:, None] == names[None, :])))


def bias_variances(label: Rows, reading: Rows, tasks: ArrayLike, labelled: float) -> Vector:
    """The bias variance (K,) of each arm, for `bias_covariance`, learned where labels and readings can be compared.

    Rows have shape (K, C), `tasks` (C,). The common variance is the likeliest one on a grid, or the default with fewer
    than 500 `labelled` calls. An arm whose own cells ask for more gets the largest variance within half a unit of its
    best log-likelihood: one arm with a great bias among honest ones is no draw of their distribution, and doubt is
    cheaper than trust. Reading minus label is bias plus both noises, which are taken as independent; that holds where
    few calls are labelled, with all of them the answer is too low.
    """
    label, reading = _sane(label), _sane(reading)
    both = label.precision * reading.precision
    root = np.sqrt(both / np.where(both > 0.0, label.precision + reading.precision, 1.0))  # 1 / sd of the noise
    gap = root * (reading.value - label.value)
    spread, axes = np.linalg.eigh(root[:, :, None] * bias_covariance(tasks, 1.0) * root[:, None, :])
    energy = (_transposed(axes) @ gap[:, :, None])[:, :, 0] ** 2
    scale = 1.0 + _BIAS_GRID[:, None, None] * np.maximum(spread, 0.0)
    fit = -0.5 * (np.log(scale) + energy / scale).sum(axis=2)  # (grid, K)
    common = float(_BIAS_GRID[np.argmax(fit.sum(axis=1))]) if labelled >= ENOUGH_FOR_BIAS else BIAS_VARIANCE
    doubted = np.where(fit >= fit.max(axis=0) - 0.5, _BIAS_GRID[:, None], 0.0).max(axis=0)
    return np.where(_BIAS_GRID[np.argmax(fit, axis=0)] > common, doubted, common)


def _transposed(matrices: Vector) -> Vector:
    """Each matrix of a stack transposed."""
    return np.swapaxes(matrices, -1, -2)


def _finite(values: Vector) -> Vector:
    """Numbers that are not finite replaced by 0."""
    return np.where(np.isfinite(values), values, 0.0)


def _sane(rows: Rows) -> Rows:
    """Rows with poisoned values ignored and precisions in [0, 1e9]."""
    fine = np.abs(rows.value) <= _FARTHEST  # false for NaN
    precision = np.clip(np.nan_to_num(rows.precision, nan=0.0), 0.0, _HIGHEST_PRECISION)
    return Rows(np.where(fine, rows.value, 0.0), np.where(fine, precision, 0.0))


class MonotoneWeights(msgspec.Struct, frozen=True):
    """How the heuristics' findings make one reading: h = sigmoid(intercept - effects . findings)."""

    intercept: float
    effects: tuple[float, ...]  # (F,), each at least 0: a finding never speaks for a reply

    @property
    def version(self) -> str:
        """Names the content: equal weights have an equal version, on every replica."""
        return blake2b(msgspec.json.encode((self.intercept, self.effects)), digest_size=8).hexdigest()

    def reading(self, findings: Vector) -> Vector:
        """The reading of each reply: `findings` (..., F) in [0, 1] -> (...)."""
        seen = np.clip(_finite(findings), 0.0, 1.0)
        return np.asarray(expit(self.intercept - seen @ np.array(self.effects)))


def monotone_weights(
    findings: Vector, y: Vector, prior_weights: Vector, *, strength: float = 20.0, prior_intercept: float = 1.0
) -> MonotoneWeights:
    """Learn how much each finding says against a reply, starting from weights set by hand.

    `findings` (n, F) and labels `y` (n,) in [0, 1], `prior_weights` (F,) on the scale of log-odds. Logistic regression
    with effects in [0, 10] and an L2 penalty of `strength`/2 times the squared distance from the prior; calls with a
    number that is not finite are left out. No call gives the prior. The same calls give the same weights.
    """
    prior = np.clip(_finite(np.asarray(prior_weights, dtype=float)), 0.0, 10.0)
    fine = np.isfinite(findings).all(axis=1) & np.isfinite(y)
    good = np.clip(y[fine], 0.0, 1.0)
    from scipy.optimize import minimize  # noqa: PLC0415 - takes most of a second, and start-up needs none of it

    design = np.hstack([np.ones((len(good), 1)), -np.clip(findings[fine], 0.0, 1.0)])
    centre = np.concatenate([[prior_intercept], prior])
    penalty = np.concatenate([[1.0], np.full(len(prior), strength)])

    def loss(weights: Vector) -> tuple[float, Vector]:
        logits, away = design @ weights, weights - centre
        value = (np.logaddexp(0.0, logits) - good * logits).sum() + 0.5 * (penalty * away**2).sum()
        return float(value), design.T @ (expit(logits) - good) + penalty * away

    bounds = [(-6.0, 6.0)] + [(0.0, 10.0)] * len(prior)
    found = minimize(loss, centre, jac=True, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-12, "gtol": 1e-8})
    rounded = [round(float(weight), 6) for weight in found.x]
    return MonotoneWeights(rounded[0], tuple(rounded[1:]))


def rate_alarms(labels: Vector, calls: Vector, *, margin: float = 0.2, chance: float = 0.001) -> NDArray[np.bool_]:
    """Arms (K,) whose calls are labelled more often or more rarely than the others', by surely more than 20 %.

    People's labels of such an arm cannot be compared with the others'. The test is the conditional one of two Poisson
    rates (Przyborowski and Wilenski, 1940): given the labels of an arm and of all others together, its own are binomial
    with its share of the calls. It is taken at the edges of the margin and for K arms together, so when all rates are
    within the margin at most `chance` of the looks rings any alarm.
    """
    n = np.clip(np.nan_to_num(calls, nan=0.0), 0.0, 1e12)
    x = np.floor(np.minimum(np.clip(np.nan_to_num(labels, nan=0.0), 0.0, 1e12), n))
    rest, others = n.sum() - n, x.sum() - x
    known = (n > 0.0) & (rest > 0.0)
    high, low = (1.0 + margin) * n, (1.0 - margin) * n
    bottom = np.where(known, rest, 1.0)
    more = betainc(np.maximum(x, 1.0), others + 1.0, high / (high + bottom))  # P(at least x)
    fewer = betainc(np.maximum(others, 1.0), x + 1.0, bottom / (low + bottom))  # P(at most x)
    rare = np.minimum(np.where(x > 0.0, more, 1.0), np.where(others > 0.0, fewer, 1.0))
    return np.asarray(known & (rare < chance / (2.0 * max(int(known.sum()), 1))))


class Estimate(NamedTuple):
    """A mean and the variance of its error."""

    mean: float
    variance: float


class Rated(NamedTuple):
    """Sums over calls with a label y and a reading h."""

    n: float = 0.0
    y: float = 0.0
    h: float = 0.0
    yy: float = 0.0
    yh: float = 0.0
    hh: float = 0.0


class Unrated(NamedTuple):
    """Sums over calls with a reading h and no label."""

    n: float = 0.0
    h: float = 0.0
    hh: float = 0.0


def ppi(rated: Rated, others: Unrated) -> Estimate:
    """Mean quality of all calls, from labelled ones with their readings and the readings of the N others.

    Unbiased for any heuristic when labels are missing at random; no worse than the labels' mean when n is large. With
    fewer than two labels the variance is infinite. Sums that are not finite count as nothing.

    Source: Angelopoulos, Duchi and Zrnic, "PPI++: Efficient Prediction-Powered Inference", 2023, with the weight
    w = Cov(y, h)/Var(h)/(1 + n/N).
    """
    n, y, h, yy, yh, hh = rated if all(map(math.isfinite, rated)) else Rated()
    if n < 2.0:
        return Estimate(y / n if n > 0.0 else 0.5, math.inf)
    mean_y, mean_h = y / n, h / n
    var_y, cov, var_h = (_moment(*part, n) for part in ((yy, y, y), (yh, y, h), (hh, h, h)))
    if not all(map(math.isfinite, others)) or others.n < 2.0 or var_h < 1e-12:
        return Estimate(mean_y, max(var_y, 0.0) / n)
    weight = cov / var_h / (1.0 + n / others.n)
    left = max(var_y - 2.0 * weight * cov + weight**2 * var_h, 0.0)
    unseen = max(_moment(others.hh, others.h, others.h, others.n), 0.0)
    mean = mean_y + weight * (others.h / others.n - mean_h)
    return Estimate(mean, left / n + weight**2 * unseen / others.n)


def _moment(product: float, one: float, other: float, n: float) -> float:
    """Sample covariance from sums."""
    return (product - one * other / n) / (n - 1.0)


def influence(said: float, limit: float = 5.0) -> float:
    """Weight in [0, 1] of a user's next label for an arm, who has given `said` for it today: `limit` in all, no more.

    >>> influence(4), influence(5)
    (1.0, 0.0)
    """
    return min(1.0, max(0.0, limit - said))
