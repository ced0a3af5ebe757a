"""The policies under comparison: what each believes of every model, from what it was told."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from bandit.channels import Calibration, Pairs, Rows, bias_covariance, bias_variances, joint_posterior, reading_rows
from bandit.pooled import Exploration
from bandit.pooling import Pooled, Spread, Sums, covariance, noise, pool, pool_best, usable
from benchmarks.streams import Array

FLAT_STRENGTH, FLAT_FLOOR = 50.0, 0.02  # of one Beta per task, as `thompson` has by default
_LOWEST, _HIGHEST = 0.02, 0.98  # of prior means
_NEWS = 1.25  # the spread is looked for again when there are so many times more labels, or fewer


class Seen(NamedTuple):
    """Readings, and the calls that have a label too."""

    n: Array  # (n_models, n_tasks, n_tiers): replies
    h: Array  # likewise: sums of their readings
    pairs: Mapping[str, Pairs]  # by task


class Known(NamedTuple):
    """All that a policy was told."""

    sums: Sums
    shift: Array  # (n_models,): is added to prior means, after a detector's alarm
    factor: Array  # (n_models,): multiplies prior variances, likewise
    seen: Seen | None = None  # without a heuristic there is none


class Learner(NamedTuple):
    """A policy: what it believes, how it explores, and whether its detectors watch for changes."""

    believe: Callable[[Known], Pooled]
    exploration: Exploration
    watches: bool = False


def flat_thompson(prior: Array) -> Learner:
    """One Beta per task and model, by its normal approximation."""

    def believe(known: Known) -> Pooled:
        n, s = (part.sum(axis=2, keepdims=True) for part in (known.sums.n, known.sums.s))
        return _of_betas(FLAT_STRENGTH * prior + s, FLAT_STRENGTH * (1 - prior) + n - s)

    return Learner(believe, Exploration(boldness=1.0, active=len(prior), floor=FLAT_FLOOR))


def global_thompson(prior: Array) -> Learner:
    """One Beta per model for everything."""
    overall = prior.mean(axis=(1, 2), keepdims=True)

    def believe(known: Known) -> Pooled:
        n, s = (part.sum(axis=(1, 2), keepdims=True) for part in (known.sums.n, known.sums.s))
        alpha, beta = FLAT_STRENGTH * overall + s, FLAT_STRENGTH * (1 - overall) + n - s
        return _of_betas(*(np.broadcast_to(part, prior.shape) for part in (alpha, beta)))

    return Learner(believe, Exploration(boldness=1.0, active=len(prior), floor=FLAT_FLOOR))


def _of_betas(alpha: Array, beta: Array) -> Pooled:
    total = alpha + beta
    return Pooled(alpha / total, np.sqrt(alpha * beta / (total + 1)) / total, 0.0)


def pooled_thompson(prior: Array) -> Learner:
    """Cells lend each other strength; detectors restart a model that changed."""
    return Learner(_pooled(prior), Exploration(), watches=True)


def pooled_unwatched(prior: Array) -> Learner:
    """The same without detectors, to show what these are worth."""
    return Learner(_pooled(prior), Exploration())


def _pooled(prior: Array) -> Callable[[Known], Pooled]:
    """What the cells lend each other, and what the readings add to it."""
    spread, looked_at = Spread(), 0.0

    def believe(known: Known) -> Pooled:
        nonlocal spread, looked_at
        mean = np.clip(prior + known.shift[:, None, None], _LOWEST, _HIGHEST)
        labels = float(known.sums.n.sum())
        if labels > _NEWS * looked_at or labels < looked_at / _NEWS:
            found = pool_best(known.sums, mean, Spread(), known.factor)
            spread, looked_at = found.spread or spread, labels
        else:
            found = pool(known.sums, mean, spread, known.factor)
        return found if known.seen is None else _with_readings(found, known, known.seen, spread)

    return believe


def _with_readings(found: Pooled, known: Known, seen: Seen, spread: Spread) -> Pooled:
    """Labels and readings together, around what the labels alone say of the cells' difficulty."""
    sums, shape = usable(known.sums), found.mean.shape
    n_models, n_tasks, n_tiers = shape
    base = (found.mean if found.base is None else found.base).reshape(n_models, -1)
    n = sums.n.reshape(n_models, -1)
    value = sums.s.reshape(n_models, -1) / np.maximum(n, 1e-9) - base
    label = Rows(np.where(n > 0, value, 0.0), n / noise(sums))
    calibration = Calibration(seen.pairs)
    typical = float(seen.h.sum() / max(seen.n.sum(), 1.0))
    accuracies = [calibration.accuracy(task, typical) for task in seen.pairs for _ in range(n_tiers)]
    calls, good = (part.reshape(n_models, -1) for part in (seen.n, seen.h))
    rows = [
        reading_rows(good[model] / np.maximum(calls[model], 1e-9), calls[model], accuracies, base[model])
        for model in range(n_models)
    ]
    reading = Rows(np.array([one.value for one in rows]), np.array([one.precision for one in rows]))
    cells = np.repeat(np.arange(n_tasks), n_tiers)
    doubt = bias_covariance(cells, bias_variances(label, reading, cells, calibration.labelled()))
    own = known.factor[:, None, None] * covariance(spread, n_tasks, n_tiers)
    mean, variance = joint_posterior(own, np.zeros(base.shape), label, reading, doubt)
    sd = np.sqrt(np.maximum(variance, 1e-9)).reshape(shape)
    return Pooled((base + mean).reshape(shape), sd, found.evidence)


def static_prior(prior: Array) -> Learner:
    """The prior's favourite, without learning."""
    belief = Pooled(prior, np.full(prior.shape, 1e-9), 0.0)
    return Learner(lambda _: belief, Exploration(boldness=0.0, floor=0.0))


POLICIES: dict[str, Callable[[Array], Learner]] = {
    "static_prior": static_prior,
    "thompson": flat_thompson,
    "thompson_global": global_thompson,
    "pooled_thompson": pooled_thompson,
    "pooled_unwatched": pooled_unwatched,
}
