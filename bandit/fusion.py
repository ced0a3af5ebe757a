"""Labels and readings together: the pooled quality of every arm when the heuristics' readings may inform it too.

A reading misleads by a bias of its own on every arm. It is unknown, so it is one more normal variable, which labels on
the same arm narrow down; integrated out, readings are worth what `bandit.channels` says, and never outvote people.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bandit.channels import BIAS_VARIANCE, ENOUGH_FOR_BIAS, Calibration, Rows, bias_covariance, bias_variances
from bandit.channels import reading_rows as rows_of
from bandit.pooling import Pooled, Sums, covariance, difficulty_covariance, noise, usable
from bandit.vocabulary import TASK_TYPES

Array = NDArray[np.float64]


def fuse(
    labels: Sums,
    readings: Sums,
    calibration: Calibration,
    prior_mean: Array,
    pooled: Pooled,
    factor: Array,
    task_names: Sequence[str] = TASK_TYPES,
) -> Pooled:
    """What `pooled`, worked out from `labels` alone, becomes when readings are heard too.

    Sums and `prior_mean` have shape (n_arms, n_tasks, n_tiers), tasks in the order of `task_names`, by which
    `calibration` knows them; `factor` (n_arms,) as in `bandit.pooling.pool`. Without any reading `pooled` is returned
    as it is.

    The model of `pool` with a second measurement of each arm, whose covariance is bias + noise. In information form, as
    most cells were never read: where L is the information of all measurements of an arm, `pull` L times what they say,
    and S the arm's own covariance, the arm deviates by S (1 + L S)^-1 (pull - L difficulty).
    """
    readings = usable(readings)
    if pooled.spread is None or pooled.base is None or not readings.n.any():
        return pooled
    labels = usable(labels)
    n_arms, n_tasks, n_tiers = labels.n.shape
    flat = (n_arms, n_tasks * n_tiers)
    eye = np.eye(flat[1])
    prior, base = prior_mean.reshape(flat), pooled.base.reshape(flat)
    label, reading = _label_rows(labels, base), _reading_rows(readings, calibration, base, task_names)
    tasks = np.repeat(np.arange(n_tasks), n_tiers)
    heard = _information(label, reading, tasks, calibration.labelled())
    precise = label.precision[:, :, None] * eye
    said = (precise @ (label.value + base - prior)[:, :, None] + heard @ (reading.value + base - prior)[:, :, None])[
        ..., 0
    ]
    known = precise + heard

    own = factor[:, None, None] * covariance(pooled.spread, n_tasks, n_tiers)
    shared = difficulty_covariance(n_tasks, n_tiers)
    inner = np.linalg.inv(eye + known @ own)
    weight, pulled = inner @ known, (inner @ said[:, :, None])[..., 0]
    difficulty = np.linalg.solve(eye + shared @ weight.sum(axis=0), shared @ pulled.sum(axis=0))
    deviation = (own @ (pulled - weight @ difficulty)[:, :, None])[..., 0]
    variance = np.diagonal(own - own @ weight @ own, axis1=1, axis2=2)
    sd = np.sqrt(np.maximum(variance, 1e-9))
    shape = labels.n.shape
    return pooled._replace(
        mean=(prior + difficulty + deviation).reshape(shape), sd=sd.reshape(shape),
        base=(prior + difficulty).reshape(shape),
    )  # fmt: skip


def _label_rows(labels: Sums, base: Array) -> Rows:
    n = labels.n.reshape(base.shape)
    mean = labels.s.reshape(base.shape) / np.maximum(n, 1e-9)
    return Rows(np.where(n > 0, mean - base, 0.0), n / noise(labels))


def _reading_rows(readings: Sums, calibration: Calibration, base: Array, task_names: Sequence[str]) -> Rows:
    n, s = readings.n.reshape(base.shape), readings.s.reshape(base.shape)
    mean = s / np.maximum(n, 1e-9)
    n_tiers = readings.n.shape[2]
    typical = float(s.sum() / n.sum())
    accuracies = [calibration.accuracy(task, typical) for task in task_names for _ in range(n_tiers)]
    rows = [rows_of(mean[arm], n[arm], accuracies, base[arm]) for arm in range(len(base))]
    return Rows(np.array([row.value for row in rows]), np.array([row.precision for row in rows]))


def _information(label: Rows, reading: Rows, tasks: NDArray[np.int64], labelled: float) -> Array:
    """Information matrix of each arm's readings, their bias integrated out: shape (n_arms, n_cells, n_cells)."""
    variance = (
        bias_variances(label, reading, tasks, labelled)
        if labelled >= ENOUGH_FOR_BIAS
        else np.full(len(label.value), BIAS_VARIANCE)
    )
    root = np.sqrt(reading.precision)
    inner = np.eye(root.shape[1]) + root[:, :, None] * bias_covariance(tasks, variance) * root[:, None, :]
    return np.asarray(root[:, :, None] * np.linalg.inv(inner) * root[:, None, :])
