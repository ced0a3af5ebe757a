"""Replay of `linear_thompson`, which believes something else of every prompt: its regressions, its draws."""

import time

import numpy as np

from bandit.linear import MOST_DIMS, PLAIN, moments, regress_best
from bandit.pooling import Pooled
from bandit.vocabulary import TASK_TYPES
from bandit.weighing import Exploration, chances
from benchmarks.replay import REFRESH_EVERY, Replayed
from benchmarks.streams import Array, Stream

LINEAR = {"linear_thompson": 0, "linear_thompson_32": MOST_DIMS}  # numbers of the classifier's vector
_INTERCEPT = 0.004  # variance of quality between models, as the policy has by default: a coin's, by 50 labels


def replay_linear(given: Stream, prior: Array, dims: int) -> Replayed:
    """Replay the policy; its regressions are made again when ratings came, every 200 requests at most.

    `prior` has shape (n_models, n_tasks, n_tiers). It neither keeps to a budget nor hears readings, and all models are
    there from the start.
    """
    outcomes = given.outcomes
    requests, models = len(given.rows), len(outcomes.models)
    x = seen(given, dims)
    expected = prior[:, outcomes.task, outcomes.tier]  # (n_models, n_prompts)
    arms = np.zeros(requests, dtype=np.int64)
    waiting = np.flatnonzero(given.rated)
    waiting = waiting[np.argsort(given.told_at[waiting], kind="stable")]
    told, fitted_on = 0, -1
    started = time.perf_counter()
    for first in range(0, requests, REFRESH_EVERY):
        stop = min(first + REFRESH_EVERY, requests)
        told = int(np.searchsorted(given.told_at[waiting], first, side="right"))
        if told > fitted_on:
            labels, fitted_on = waiting[:told], told
            rows, mine = given.rows[labels], arms[labels]
            residual = given.quality[labels, mine] - expected[mine, rows]
            known = moments(x[rows], residual, np.ones(told), mine, models)
            found = regress_best(known, _INTERCEPT, np.ones(models))
        here = x[given.rows[first:stop]]
        mean = expected[:, given.rows[first:stop]] + found.mean @ here.T
        variance = np.einsum("ni,kij,nj->kn", here, found.covariance, here, optimize=True)
        believed = Pooled(mean[:, :, None], np.sqrt(np.maximum(variance, 1e-12))[:, :, None], 0.0)
        table = chances(believed, Exploration())[:, 0].cumsum(axis=-1)
        above = given.uniforms[first:stop, None] >= table
        arms[first:stop] = np.minimum(above.sum(axis=1), models - 1)
    return Replayed(arms, time.perf_counter() - started)


def seen(given: Stream, dims: int) -> Array:
    """Features of every prompt, with the replay's tasks in place of the classifier's: shape (n_prompts, n_features)."""
    outcomes = given.outcomes
    tasks = np.eye(len(outcomes.tasks))[outcomes.task]
    said = outcomes.features
    rest = np.zeros((len(tasks), 0)) if said is None else said[:, 1 + len(TASK_TYPES) : PLAIN + dims]
    return np.column_stack([np.ones(len(tasks)), tasks, rest])
