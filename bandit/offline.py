"""What another policy would have been worth, told from decisions already made: off-policy evaluation.

Every estimator here is the mean of one term per decision. So standard errors, users who come back, differences of two
policies and the sequence that may be watched are each written once, on terms. A log that cannot answer gets
`NotEvaluable` and the reason.
"""

from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from bandit.sequential import half_width, narrowest

Vector = NDArray[np.float64]
Indices = NDArray[np.int64]
Method = Literal["ips", "snips", "dr"]

MIN_EFFECTIVE = 200.0  # decisions that the weighted log must count like
MAX_WEIGHT = 100.0  # decisions that one decision may stand for
MAX_STARVED = 0.01  # share of a policy's traffic that may be where a decision would count for more than that
MEAN_WEIGHT_SE = 3.0  # standard errors that the mean weight may lie from 1
MIN_CLUSTERS = 20  # below this the spread between users is not known
MAX_IGNORED = 0.01  # share of decisions that may be unreadable
NO_SUPPORT = 1e-6  # share of a policy's traffic that may be where the log never went
_SMALLEST = 1e-300  # divisors below make infinities
_SUM_TOLERANCE = 1e-3  # probabilities stored in half precision sum to 1 within this


class Logged(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """Decisions in the order they were made, with the probabilities they were drawn from.

    `predicted` may use nothing of its own row or later ones (`predicted_before` sees to it). Then any numbers keep the
    doubly robust estimate unbiased, and good ones make it narrow; None stands for 0.5. `label_chance` is how likely a
    decision was to get a label, given what was known of it; None: all alike, and the observed share is taken.
    `clusters` says which decisions hang together, such as those of one user.
    """

    arms: tuple[str, ...]
    chosen: Indices  # (n,), index of the arm that was drawn
    probabilities: Vector  # (n, n_arms), what it was drawn from; 0 where an arm was not eligible
    rewards: Vector  # (n,), of the arm drawn, in [0, 1]; NaN where unknown
    predicted: Vector | None = None  # (n, n_arms), expected quality in [0, 1], for "dr" alone
    label_chance: Vector | None = None  # (n,), in (0, 1]
    clusters: NDArray[Any] | None = None  # (n,), ids


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """A policy's mean quality, or the difference of two, with its 95 % interval and what it rests on."""

    method: Method
    value: float
    se: float  # by clusters where there are any, else plain
    se_plain: float  # as if all decisions were independent
    low: float
    high: float
    anytime: bool  # the interval holds however often one looks
    n: int  # decisions used
    n_labels: int  # of them with a known reward
    n_clusters: int
    n_ignored: int  # decisions left out because their numbers make no sense
    effective_n: float  # labels that the weighted ones count like
    max_weight: float
    mean_weight: float  # 1 when the logged probabilities are right


class NotEvaluable(msgspec.Struct, frozen=True):
    """The log cannot tell, and why, in words for the owner."""

    reason: str


class _Rows(NamedTuple):
    """The readable decisions of a log, and what the policies would have done on them."""

    arms: tuple[str, ...]
    chosen: Indices
    probabilities: Vector
    targets: tuple[Vector, ...]
    rewards: Vector  # 0 where unknown
    labelled: NDArray[np.bool_]
    label_weight: Vector  # labelled / chance of a label: mean 1
    predicted: Vector
    clusters: Indices  # 0, 1, ...
    clustered: bool  # the log said so; else every decision is a cluster of its own
    n_ignored: int


class _Weighing(NamedTuple):
    """How much the decisions count for one policy."""

    effective_n: float
    max_weight: float
    mean_weight: float


def evaluate(
    logged: Logged, target: Vector, method: Method = "dr", *, anytime: bool = False
) -> Estimate | NotEvaluable:
    """The mean quality that a policy would have reached on the logged requests.

    Args:
        logged: the decisions.
        target: the policy's probabilities, shape (n, n_arms).
        method: inverse propensity scores, the same self-normalised, or doubly robust.
        anytime: take the interval from `confidence_sequence`: wider, and valid when one looks every day.

    Raises:
        ValueError: shapes do not fit, or an arm is out of range.
    """
    return _estimate(logged, (target,), method, anytime=anytime)


def difference(
    logged: Logged, candidate: Vector, baseline: Vector, method: Method = "dr", *, anytime: bool = False
) -> Estimate | NotEvaluable:
    """How much better `candidate` would have been than `baseline` on the same requests.

    Paired: where both would do the same, nothing is uncertain. Weights are those of the policy that is harder to judge.
    Arguments and errors are those of `evaluate`.
    """
    return _estimate(logged, (candidate, baseline), method, anytime=anytime)


def predicted_before(
    logged: Logged, cells: Indices, batches: Indices, prior: float = 0.5, strength: float = 5.0
) -> Vector:
    """Mean reward per cell and arm in all earlier batches, shape (n, n_arms): a `predicted` that never looks ahead.

    Args:
        logged: the decisions; unknown rewards count for nothing.
        cells: (n,), whole numbers from 0, such as the index of the task type.
        batches: (n,), whole numbers from 0 that never fall, such as the refresh the decision was taken on.
        prior: the mean before any reward, as good as `strength` rewards.
        strength: above 0.
    """
    known = np.flatnonzero(np.isfinite(logged.rewards))
    where = (batches[known] + 1, cells[known], logged.chosen[known])
    shape = (int(batches.max(initial=0)) + 2, int(cells.max(initial=0)) + 1, len(logged.arms))
    n, total = np.zeros(shape), np.zeros(shape)
    np.add.at(n, where, 1.0)
    np.add.at(total, where, np.clip(logged.rewards[known], 0.0, 1.0))
    mean = (total.cumsum(axis=0) + strength * prior) / (n.cumsum(axis=0) + strength)
    return np.asarray(mean[batches, cells])


def confidence_sequence(
    terms: Vector, clusters: Indices | None = None, *, alpha: float = 0.05, start: int = 200, narrowest_at: int = 5000
) -> tuple[Vector, Vector]:
    """Lower and upper bound of the mean of the first 1, 2, ..., n terms: all hold together with chance 1 - alpha.

    Before `start` terms the bounds are infinite, since the guarantee is asymptotic (`sequential.half_width`).
    `narrowest_at` must be chosen before one looks; the variance of the first `start` terms stands for that of all.
    """
    n = np.arange(1, len(terms) + 1)
    mean, half = np.cumsum(terms) / n, np.full(len(terms), np.inf)
    if len(terms) >= start:
        variance = _variance_of_sums(terms, n if clusters is None else clusters)  # V_n
        typical = max(float(variance[start - 1]) / start, 1e-12)
        rho2 = narrowest(narrowest_at, alpha) / typical
        half[start - 1 :] = half_width(variance[start - 1 :], n[start - 1 :], rho2, alpha)
    return mean - half, mean + half


def terms(logged: Logged, target: Vector, method: Method = "dr") -> Vector:
    """One number per readable decision, in order; their mean is the estimate. Not gated; errors as in `evaluate`."""
    rows = _readable(logged, (target,))
    return _terms(rows, rows.targets[0], method)


def _estimate(logged: Logged, targets: tuple[Vector, ...], method: Method, *, anytime: bool) -> Estimate | NotEvaluable:
    """The mean of the first target's terms, less those of the second where there is one."""
    rows = _readable(logged, targets)
    weighings = [_weigh(rows, target) for target in rows.targets]
    refusal = _unreadable(rows) or next(
        (
            found
            for each, target in zip(weighings, rows.targets, strict=True)
            if (found := _refusal(rows, target, each))
        ),
        None,
    )
    if refusal is not None:
        return NotEvaluable(refusal)
    each_term = _terms(rows, rows.targets[0], method)
    for baseline in rows.targets[1:]:
        each_term = each_term - _terms(rows, baseline, method)
    n, n_clusters, value = len(each_term), int(rows.clusters.max()) + 1, float(each_term.mean())
    se_plain = float(each_term.std(ddof=1)) / n**0.5
    se, df = _standard_error(each_term, rows.clusters)
    low, high = value - se * float(stdtrit(df, 0.975)), value + se * float(stdtrit(df, 0.975))
    if anytime:
        low, high = (float(bound[-1]) for bound in confidence_sequence(each_term, rows.clusters))
    hardest = min(weighings, key=lambda each: each.effective_n)
    return Estimate(
        method=method,
        value=value,
        se=se,
        se_plain=se_plain,
        low=low,
        high=high,
        anytime=anytime,
        n=n,
        n_labels=int(rows.labelled.sum()),
        n_clusters=n_clusters,
        n_ignored=rows.n_ignored,
        effective_n=hardest.effective_n,
        max_weight=max(each.max_weight for each in weighings),
        mean_weight=hardest.mean_weight,
    )


def _readable(logged: Logged, targets: tuple[Vector, ...]) -> _Rows:
    """The decisions whose numbers make sense, with what the estimators need of them."""
    n, wide = len(logged.chosen), (len(logged.chosen), len(logged.arms))
    for name, found, expected in [
        ("rewards", logged.rewards, (n,)),
        ("probabilities", logged.probabilities, wide),
        *((f"target {index}", target, wide) for index, target in enumerate(targets)),
        ("predicted", logged.predicted, wide),
        ("label_chance", logged.label_chance, (n,)),
        ("clusters", logged.clusters, (n,)),
    ]:
        if found is not None and found.shape != expected:
            raise ValueError(f"found {name} of shape {found.shape}, expected {expected}")
    if n and not 0 <= logged.chosen.min() <= logged.chosen.max() < len(logged.arms):
        raise ValueError(f"found a chosen arm outside 0..{len(logged.arms) - 1}")
    unknown = np.isnan(logged.rewards)
    keep = unknown | ((logged.rewards >= 0.0) & (logged.rewards <= 1.0))
    for table in (logged.probabilities, *targets):
        keep &= _distributions(table)
    keep &= _taken(logged.probabilities, logged.chosen) > 0.0
    if logged.label_chance is not None:
        keep &= (logged.label_chance > 0.0) & (logged.label_chance <= 1.0)
    labelled = ~unknown[keep]
    chance = np.full(len(labelled), labelled.sum() / max(len(labelled), 1))
    if logged.label_chance is not None:
        chance = logged.label_chance[keep]
    clusters = np.arange(int(keep.sum()))
    if logged.clusters is not None:
        clusters = np.unique(logged.clusters[keep], return_inverse=True)[1]
    predicted = np.full(wide, 0.5) if logged.predicted is None else logged.predicted
    return _Rows(
        arms=logged.arms,
        chosen=logged.chosen[keep],
        probabilities=logged.probabilities[keep],
        targets=tuple(target[keep] for target in targets),
        rewards=np.where(labelled, logged.rewards[keep], 0.0),
        labelled=labelled,
        label_weight=labelled / np.maximum(chance, _SMALLEST),
        predicted=np.clip(np.nan_to_num(predicted[keep], nan=0.5), 0.0, 1.0),
        clusters=clusters,
        clustered=logged.clusters is not None,
        n_ignored=n - int(keep.sum()),
    )


def _distributions(table: Vector) -> NDArray[np.bool_]:
    """Which rows are probabilities that sum to 1: shape (n,)."""
    inside = ((table >= 0.0) & (table <= 1.0)).all(axis=1)
    return np.asarray(inside & (np.abs(table.clip(0.0, 1.0).sum(axis=1) - 1.0) <= _SUM_TOLERANCE))


def _taken(table: Vector, chosen: Indices) -> Vector:
    """The entry of the arm that was drawn: shape (n,)."""
    return np.asarray(table[np.arange(len(chosen)), chosen])


def _weights(rows: _Rows, target: Vector) -> Vector:
    """How many decisions of the policy each logged one stands for."""
    return _taken(target, rows.chosen) / np.maximum(_taken(rows.probabilities, rows.chosen), _SMALLEST)


def _terms(rows: _Rows, target: Vector, method: Method) -> Vector:
    """The estimator's terms: shape (n,). Those of "snips" are linearised, so that their variance is the right one."""
    weights = _weights(rows, target) * rows.label_weight
    if method == "ips":
        return weights * rows.rewards
    if method == "snips":
        total = max(float(weights.sum()), _SMALLEST)
        value = float(weights @ rows.rewards) / total
        return value + weights * (rows.rewards - value) * (len(weights) / total)
    direct = (target * rows.predicted).sum(axis=1)
    return np.asarray(direct + weights * (rows.rewards - _taken(rows.predicted, rows.chosen)))


def _standard_error(each: Vector, clusters: Indices) -> tuple[float, float]:
    """Standard error of the mean of terms, summed by cluster, and the degrees of freedom that it has.

    A few huge terms make a variance unsure of itself. As with Satterthwaite, 2 / df is its relative variance: with
    kurtosis k over C clusters df = 2 C / (k - 1), C - 1 at most.
    """
    sums = np.bincount(clusters, each - each.mean())
    n_clusters, squares, fourths = len(sums), float((sums**2).sum()), float((sums**4).sum())
    excess = n_clusters * fourths - squares**2  # (k - 1) squares^2
    df = min(n_clusters - 1.0, 2.0 * n_clusters * squares**2 / excess) if excess > 0.0 else n_clusters - 1.0
    return (squares * n_clusters / (n_clusters - 1)) ** 0.5 / len(each), max(df, 1.0)


def _variance_of_sums(each: Vector, clusters: NDArray[Any]) -> Vector:
    """Variance of the sum of the first 1, 2, ..., n terms, when terms of one cluster hang together: shape (n,).

    C / (C - 1) times the sum over C clusters of (S_c - n_c m)^2, m being the mean so far. With every term a cluster of
    its own it is n times the sample variance.
    """
    order = np.argsort(clusters, kind="stable")
    first = np.r_[True, np.diff(clusters[order]) != 0] if len(order) else np.zeros(0, dtype=bool)
    starts = np.flatnonzero(first)[np.cumsum(first) - 1]
    before = np.cumsum(each[order]) - each[order]  # sums of the terms that come earlier in `order`
    earlier_sum, earlier_n = np.empty(len(each)), np.empty(len(each))  # of the same cluster
    earlier_sum[order] = before - before[starts]
    earlier_n[order] = np.arange(len(each)) - starts
    n = np.arange(1, len(each) + 1)
    mean = np.cumsum(each) / n
    squares = np.cumsum(each * (2.0 * earlier_sum + each))  # sum of S_c^2
    products = np.cumsum(earlier_sum + each * (earlier_n + 1.0))  # sum of S_c n_c
    sizes = np.cumsum(2.0 * earlier_n + 1.0)  # sum of n_c^2
    seen = np.cumsum(earlier_n == 0.0)
    scatter = np.maximum(squares - 2.0 * mean * products + mean * mean * sizes, 0.0)
    return np.asarray(scatter * seen / np.maximum(seen - 1, 1))


def _weigh(rows: _Rows, target: Vector) -> _Weighing:
    """Diagnostics of the weights, of labelled decisions in units in which they have a mean of 1."""
    with np.errstate(over="ignore"):
        weights = _weights(rows, target)
        known = (weights * rows.label_weight)[rows.labelled] * (rows.labelled.sum() / max(len(weights), 1))
        mean = float(weights.mean()) if len(weights) else 0.0
    largest = float(known.max(initial=0.0))
    relative = known / largest if 0.0 < largest < np.inf else np.zeros(1)
    squares = float(relative @ relative)
    return _Weighing(
        effective_n=float(relative.sum()) ** 2 / squares if squares else 0.0,
        max_weight=largest,
        mean_weight=mean,
    )


def _unreadable(rows: _Rows) -> str | None:
    """Why the log itself cannot be used, whatever the policy."""
    n, n_clusters = len(rows.chosen), len(np.unique(rows.clusters))
    n_labels = int(rows.labelled.sum())
    if n_labels < MIN_EFFECTIVE:
        return f"the log has {n_labels} known rewards that can be used, at least {MIN_EFFECTIVE:.0f} are needed"
    if rows.n_ignored > MAX_IGNORED * (n + rows.n_ignored):
        return (
            f"{rows.n_ignored:,} of {n + rows.n_ignored:,} decisions have rewards or probabilities that make no sense; "
            f"at most {MAX_IGNORED:.0%} may be left out"
        )
    if rows.clustered and n_clusters < MIN_CLUSTERS:
        return f"the log comes from {n_clusters} users; how users differ shows from {MIN_CLUSTERS} on"
    return _off_one(rows.label_weight, "the chances of a label do not fit the log: labels")


def _refusal(rows: _Rows, target: Vector, weighing: _Weighing) -> str | None:
    """Why the log cannot tell about this policy."""
    lost = np.where(rows.probabilities > 0.0, 0.0, target).mean(axis=0)  # share of traffic, per arm
    if lost.sum() > NO_SUPPORT:
        names = ", ".join(name for name, share in zip(rows.arms, lost, strict=True) if share > 0.0)
        return (
            f"the policy sends {lost.sum():.2%} of the traffic to models that the log could not have drawn there "
            f"({names}): nothing is known of them"
        )
    if weighing.max_weight > MAX_WEIGHT:
        return (
            f"one decision would stand for {weighing.max_weight:,.0f}, at most {MAX_WEIGHT:.0f} are allowed: "
            "the log hardly ever took what this policy prefers; explore more, then ask again"
        )
    # The check above sees what was drawn. A log that only by luck drew nothing rare would pass it, and mislead.
    starved = float(np.where(target > MAX_WEIGHT * rows.probabilities, target, 0.0).sum(axis=1).mean())
    if starved > MAX_STARVED:
        return (
            f"the policy sends {starved:.1%} of the traffic to models that it would take more than {MAX_WEIGHT:.0f} "
            "times as often as the log did; explore more, then ask again"
        )
    if weighing.effective_n < MIN_EFFECTIVE:
        return (
            f"the log's {int(rows.labelled.sum()):,} known rewards tell as much about this policy as "
            f"{weighing.effective_n:,.0f} of its own would, at least {MIN_EFFECTIVE:.0f} are needed: "
            "collect more feedback, or explore more"
        )
    return _off_one(_weights(rows, target), "the logged probabilities do not fit the decisions: decisions")


def _off_one(weights: Vector, what: str) -> str | None:
    """Why a mean weight that is not 1 gives the numbers away as wrong."""
    with np.errstate(over="ignore"):  # an infinite margin accuses nobody; such a weight is refused for its size
        mean, margin = float(weights.mean()), MEAN_WEIGHT_SE * float(weights.std(ddof=1)) / len(weights) ** 0.5
    if abs(mean - 1.0) <= margin + _SUM_TOLERANCE:
        return None
    return f"{what} weigh {mean:.3f} in the mean, 1 within {margin:.3f} is expected"
