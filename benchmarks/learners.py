"""The policies under comparison: what each believes of every model, from what it was told.

All of them draw with `PooledThompson.probabilities`. `pooled_thompson` is that class whole where tasks are the
vocabulary's task types; where they are the categories of a file, its parts work out what it believes.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from bandit.channels import Calibration
from bandit.fusion import fuse
from bandit.history import History
from bandit.pooled import PooledThompson
from bandit.pooling import Pooled, Sums, pool, pool_best
from bandit.posteriors import Beliefs, Estimate
from bandit.priors import PriorTable
from bandit.vocabulary import PROMPT_TIERS, TASK_TYPES, Arm
from benchmarks.streams import Array, Flags

FLAT_STRENGTH, FLAT_FLOOR = 50.0, 0.02  # of one Beta per task, as `thompson` has by default
_NEWS = 1.25  # the spread is looked for again when there are so many times more labels, or fewer
_READINGS_PER_LABEL = 10.0  # as the class has it
_LEAST_USD = 1e-12  # of a call: nothing would mean that its cost is not known
_DIGITS = 6  # of an estimate, as the class has it


class Prior(NamedTuple):
    """What is expected of the models before any rating."""

    arms: tuple[Arm, ...]
    tasks: tuple[str, ...]
    mean: Array  # (n_models, n_tasks, n_tiers)
    table: PriorTable | None = None  # of a benchmark; else the tiers say it


class Known(NamedTuple):
    """All that a policy was told."""

    labels: Sums
    readings: Sums
    calibration: Calibration
    shift: Array  # (n_models,): is added to prior means, after a detector's alarm
    factor: Array  # (n_models,): multiplies prior variances, likewise
    usd: Array  # (n_models, n_tasks): expected cost of a call, at the prices of the first day
    arrived: Flags  # (n_models,): came later than the others


class Believed(NamedTuple):
    """What a policy decides on, until it looks again."""

    mean: Array  # (n_models, n_tasks, n_tiers)
    cells: Sequence[Sequence[Beliefs]]  # by task and tier


class Learner(NamedTuple):
    """A policy: what it believes, how it draws, and whether its detectors watch for changes."""

    believe: Callable[[Known], Believed]
    policy: PooledThompson
    watches: bool = False


def flat_thompson(prior: Prior) -> Learner:
    """One Beta per task and model, by its normal approximation."""

    def believe(known: Known) -> Believed:
        n, s = (part.sum(axis=2, keepdims=True) for part in (known.labels.n, known.labels.s))
        alpha, beta = FLAT_STRENGTH * prior.mean + s, FLAT_STRENGTH * (1 - prior.mean) + n - s
        return _by_cells(prior, _of_betas(alpha, beta), known.usd)

    return Learner(believe, _flat(prior))


def global_thompson(prior: Prior) -> Learner:
    """One Beta per model for everything."""
    overall = prior.mean.mean(axis=(1, 2), keepdims=True)

    def believe(known: Known) -> Believed:
        n, s = (part.sum(axis=(1, 2), keepdims=True) for part in (known.labels.n, known.labels.s))
        alpha, beta = FLAT_STRENGTH * overall + s, FLAT_STRENGTH * (1 - overall) + n - s
        wide = (np.broadcast_to(part, prior.mean.shape) for part in (alpha, beta))
        return _by_cells(prior, _of_betas(*wide), known.usd)

    return Learner(believe, _flat(prior))


def _flat(prior: Prior) -> PooledThompson:
    return PooledThompson(name="flat", boldness=1.0, active=len(prior.arms), floor=FLAT_FLOOR)


def _of_betas(alpha: Array, beta: Array) -> Pooled:
    total = alpha + beta
    return Pooled(alpha / total, np.sqrt(alpha * beta / (total + 1)) / total, 0.0)


def pooled_thompson(prior: Prior) -> Learner:
    """Cells lend each other strength; detectors restart a model that changed."""
    return _pooled(prior)._replace(watches=True)


def pooled_unwatched(prior: Prior) -> Learner:
    """The same without detectors, to show what these are worth."""
    return _pooled(prior)


def _pooled(prior: Prior) -> Learner:
    """The class with its defaults, or its parts where the tasks are not those that it knows."""
    policy = PooledThompson(name="pooled_thompson", prior=prior.table)
    if prior.tasks != TASK_TYPES:
        return Learner(by_parts(prior, policy), policy)

    def believe(known: Known) -> Believed:
        estimates = policy.estimates(prior.arms, _history(prior, known))
        cells = [[estimates[task, tier] for tier in PROMPT_TIERS] for task in TASK_TYPES]
        mean = [[[cell[arm.name].mean for cell in of_task] for of_task in cells] for arm in prior.arms]
        return Believed(np.array(mean), [[Beliefs("", {}, cell) for cell in of_task] for of_task in cells])

    return Learner(believe, policy)


def _history(prior: Prior, known: Known) -> History:
    """What was told, as the service keeps it; a token of a reply stands for a dollar, as files know dollars alone."""
    tokens = {
        (arm.name, task): max(float(known.usd[model, number]), _LEAST_USD)
        for model, arm in enumerate(prior.arms)
        for number, task in enumerate(TASK_TYPES)
    }
    names = tuple(arm.name for arm in prior.arms)
    arrived = frozenset(name for name, later in zip(names, known.arrived, strict=True) if later)
    return History(
        names, known.labels, known.readings, known.calibration, known.factor, known.shift, tokens, arrived=arrived
    )


def by_parts(prior: Prior, policy: PooledThompson) -> Callable[[Known], Believed]:
    """What `policy` believes, for tasks of any name. The spread is not looked for again at every handful of labels."""
    spread, looked_at = policy.prior_spread(), 0.0

    def believe(known: Known) -> Believed:
        nonlocal spread, looked_at
        mean, labels = prior.mean + known.shift[:, None, None], float(known.labels.n.sum())
        if labels > _NEWS * looked_at or labels < looked_at / _NEWS:
            found = pool_best(known.labels, mean, policy.prior_spread(), known.factor)
            spread, looked_at = found.spread or spread, labels
        else:
            found = pool(known.labels, mean, spread, known.factor)
        found = fuse(known.labels, known.readings, known.calibration, mean, found, known.factor, prior.tasks)
        counted = known.labels.n.sum(axis=(1, 2)) + known.readings.n.sum(axis=(1, 2)) / _READINGS_PER_LABEL
        new = known.arrived & (counted < policy.nursery_labels)
        return _by_cells(prior, found, known.usd, new & ~new.all())

    return believe


def _by_cells(prior: Prior, found: Pooled, usd: Array, new: Flags | None = None) -> Believed:
    """Beliefs of every cell, as the class has them."""
    mean, sd = np.round(found.mean, _DIGITS), np.round(found.sd, _DIGITS)
    means, sds = mean.tolist(), sd.tolist()
    tokens = np.maximum(usd, _LEAST_USD).tolist()
    newly = [False] * len(prior.arms) if new is None else new.tolist()
    names = [arm.name for arm in prior.arms]
    cells = [
        [
            Beliefs(
                "",
                {},
                {
                    name: Estimate(means[k][task][tier], sds[k][task][tier], tokens[k][task], 0.0, newly[k])
                    for k, name in enumerate(names)
                },
            )
            for tier in range(mean.shape[2])
        ]
        for task in range(mean.shape[1])
    ]
    return Believed(mean, cells)


def static_prior(prior: Prior) -> Learner:
    """The prior's favourite, without learning."""
    never_doubted = Pooled(prior.mean, np.full(prior.mean.shape, 1e-9), 0.0)
    policy = PooledThompson(name="static_prior", boldness=0.0, floor=0.0)
    return Learner(lambda known: _by_cells(prior, never_doubted, known.usd), policy)


POLICIES: dict[str, Callable[[Prior], Learner]] = {
    "static_prior": static_prior,
    "thompson": flat_thompson,
    "thompson_global": global_thompson,
    "pooled_thompson": pooled_thompson,
    "pooled_unwatched": pooled_unwatched,
}
