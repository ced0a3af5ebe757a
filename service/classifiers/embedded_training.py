"""Fits the packaged classifier's model to prompts and what they should be called; what is kept of them is no text.

Used by benchmarks/train_embedded.py for the weights of the package, and by `armwise classifier distil` for those of an
owner, who starts from the packaged ones. Deterministic.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file
from scipy import sparse
from scipy.optimize import minimize, minimize_scalar
from scipy.sparse.linalg import lsmr, svds
from scipy.special import logsumexp

from bandit.vocabulary import TASK_TYPES
from service.classifiers import embedded, rules
from service.classifiers.embedded_features import BUCKETS, DENSE_ROWS, dense_rows, features_digest, hashed_rows
from service.classifiers.reading import Reading, read

N_TYPES = len(TASK_TYPES) - 1  # `Unknown` is not learned
VOTES_FACTOR = 0.5
_MIX_PENALTY = 1e-3
DENSE_VALUE = 0.3  # of a rule or sign in training, so that the penalty binds them less than hashed rows

Array = npt.NDArray[np.float64]


class Examples(NamedTuple):
    """Prompts as numbers."""

    readings: list[Reading]
    votes: Array  # (n, 11), what the rules say
    features: Any  # sparse (n, BUCKETS + DENSE_ROWS)

    @property
    def readable(self) -> npt.NDArray[np.bool_]:
        """Which are in a language that is read; shape (n,)."""
        return np.array([reading.readable for reading in self.readings], dtype=bool)

    def chosen(self, rows: npt.NDArray[np.bool_]) -> "Examples":
        """Those that `rows` marks; shape (n,)."""
        readings = [reading for reading, wanted in zip(self.readings, rows, strict=True) if wanted]
        return Examples(readings, self.votes[rows], self.features[rows])


class Fitted(NamedTuple):
    """What was learned, beside the rules."""

    table: Array  # (BUCKETS + DENSE_ROWS, 11)
    bias: Array  # (11,)


class FittedScores(NamedTuple):
    """What was learned of the six scores."""

    table: Array  # (BUCKETS + DENSE_ROWS, 6)
    mix: Array  # (18, 6)
    tiers: tuple[float, float]  # boundaries of the complexity that they come to


def examples_of(texts: Sequence[str]) -> Examples:
    """Read the prompts."""
    readings = [read(text) for text in texts]
    votes = np.array([rules.votes(reading)[:N_TYPES] for reading in readings], dtype=float).reshape(-1, N_TYPES)
    return Examples(readings, votes, _matrix(readings))


def _matrix(readings: Sequence[Reading]) -> Any:
    indices: list[npt.NDArray[Any]] = [np.zeros(0, dtype=np.int64)]
    values: list[npt.NDArray[Any]] = [np.zeros(0)]
    ends = [0]
    for reading in readings:
        hashed, sizes = hashed_rows(reading)
        dense = np.array(dense_rows(reading), dtype=np.int64) + BUCKETS
        indices += [hashed, dense]
        values += [np.full(size, 1 / np.sqrt(size)) for size in sizes]
        values.append(np.full(len(dense), DENSE_VALUE))
        ends.append(ends[-1] + len(hashed) + len(dense))
    shape = (len(readings), BUCKETS + DENSE_ROWS)
    matrix = sparse.csr_matrix((np.concatenate(values), np.concatenate(indices).astype(np.int64), ends), shape=shape)
    matrix.sum_duplicates()
    return matrix


def common_features(examples: Examples, groups: npt.NDArray[Any], least: int) -> npt.NDArray[np.int64]:
    """Columns that occur in at least `least` of the groups, one label a prompt."""
    _, group = np.unique(groups, return_inverse=True)
    members = sparse.csr_matrix((np.ones(len(group)), (group, np.arange(len(group)))))
    in_groups = ((members @ examples.features) > 0).astype(int).sum(axis=0)
    return np.flatnonzero(np.asarray(in_groups).ravel() >= least)


def fit(
    examples: Examples,
    targets: Array,
    weights: Array,
    used: npt.NDArray[np.int64],
    *,
    start: Fitted | None = None,
    penalty: float = 1e-3,
    iterations: int = 40,
) -> Fitted:
    """A multinomial logistic regression on top of the rules' votes.

    `targets` are probabilities of shape (n, 11), `weights` of shape (n,) sum to 1, `used` are the columns that may be
    learned. The penalty draws what is learned towards `start`, or towards nothing.
    """
    rows = BUCKETS + DENSE_ROWS
    start = start or Fitted(np.zeros((rows, N_TYPES)), np.zeros(N_TYPES))
    features = examples.features[:, used].tocsr()
    transposed = features.T.tocsr()
    offset = logits_of(examples, start)
    weighing = weights[:, None]

    def loss(flat: Array) -> tuple[float, Array]:
        change = flat.reshape(-1, N_TYPES)
        scores = offset + features @ change[:-1] + change[-1]
        log_probabilities = scores - logsumexp(scores, axis=1, keepdims=True)
        residual = weighing * (np.exp(log_probabilities) - targets)
        gradient = np.vstack([transposed @ residual, residual.sum(axis=0)]) + penalty * change
        value = -(weighing * targets * log_probabilities).sum() + penalty / 2 * (change**2).sum()
        return float(value), gradient.ravel()

    begin = np.zeros((len(used) + 1) * N_TYPES)
    change = minimize(loss, begin, jac=True, method="L-BFGS-B", options={"maxiter": iterations}).x.reshape(-1, N_TYPES)
    table = start.table.copy()
    table[used] += change[:-1]
    return Fitted(table, start.bias + change[-1])


def fit_scores(
    examples: Examples,
    given: Array,
    targets: Array,
    used: npt.NDArray[np.int64],
    tiers: tuple[float, float],
    *,
    penalty: float = 0.03,
) -> FittedScores:
    """A ridge regression of the scores on the features and on what is known of a prompt without having learned scores.

    `given`, shape (n, 18), holds the estimated scores and the probabilities of the types; `targets`, shape (n, 6), the
    true scores. `tiers` are the boundaries that go with those.
    """
    count = len(targets)
    known = sparse.csr_matrix(given / np.sqrt(_MIX_PENALTY * count))
    matrix = sparse.hstack([known, examples.features[:, used] / np.sqrt(penalty * count)]).tocsr()
    columns = [lsmr(matrix, target / np.sqrt(count), damp=1.0, maxiter=300)[0] for target in targets.T]
    found = np.stack(columns, axis=1)
    table = np.zeros((BUCKETS + DENSE_ROWS, targets.shape[1]))
    table[used] = found[given.shape[1] :] / np.sqrt(penalty)
    return FittedScores(table, found[: given.shape[1]] / np.sqrt(_MIX_PENALTY), tiers)


def logits_of(examples: Examples, fitted: Fitted) -> Array:
    """Scores of the eleven types, before the temperature; shape (n, 11)."""
    found: Array = examples.votes * VOTES_FACTOR + examples.features @ fitted.table + fitted.bias
    return found


def fitted_of(weights: embedded.Weights) -> Fitted:
    """What stored weights learned, to go on from there."""
    hashed = weights.hashed * weights.scale
    table = np.vstack([hashed, weights.dense / DENSE_VALUE])[:, :N_TYPES].astype(float)
    return Fitted(table, weights.bias[:N_TYPES].astype(float))


class Projection(NamedTuple):
    """From hashed rows to the vector."""

    table: npt.NDArray[np.int8]  # (BUCKETS, 32)
    scale: npt.NDArray[np.float32]  # (32,)


def projection_of(examples: Examples, used: npt.NDArray[np.int64], size: int = embedded.VECTOR_SIZE) -> Projection:
    """The directions in which the prompts differ most: a truncated singular value decomposition.

    Rare rows count for more, as in latent semantic analysis; a row that is in `used` only.
    """
    hashed = used[used < BUCKETS]
    features = examples.features[:, hashed].tocsr().astype(np.float64)
    met = np.asarray((features > 0).sum(axis=0)).ravel()
    rarity = np.log((1 + features.shape[0]) / (1 + met))
    weighed = features @ sparse.diags(rarity)
    weighed = sparse.diags(1 / np.maximum(1e-9, np.sqrt(weighed.multiply(weighed).sum(axis=1)).A1)) @ weighed
    start = np.ones(min(weighed.shape)) / np.sqrt(min(weighed.shape))
    _, _, directions = svds(weighed, k=size, v0=start, random_state=0)
    directions *= np.sign(directions.sum(axis=1, keepdims=True))
    table = np.zeros((BUCKETS, size))
    table[hashed] = (directions * rarity).T
    scale = np.maximum(np.abs(table).max(axis=0), 1e-9) / 127
    return Projection(np.round(table / scale).astype(np.int8), scale.astype(np.float32))


def temperature_of(logits: Array, targets: Array, weights: Array) -> float:
    """The temperature under which logits of prompts that were not learned from are told best."""

    def loss(log_temperature: float) -> float:
        scores = logits / np.exp(log_temperature)
        log_probabilities = scores - logsumexp(scores, axis=1, keepdims=True)
        return -float((weights[:, None] * targets * log_probabilities).sum())

    return float(np.exp(minimize_scalar(loss, bounds=(-2, 2), method="bounded").x))


def threshold_of(probabilities: Array, right: npt.NDArray[np.bool_], wrong_share: float = 0.8) -> float:
    """The highest threshold under which still `wrong_share` of the answers would be wrong, in steps of 0.01."""
    highest = probabilities.max(axis=1)
    best = 0.0
    for threshold in np.arange(0.1, 0.6, 0.01):
        under = highest < threshold
        if under.sum() >= 20 and 1 - right[under].mean() >= wrong_share:
            best = float(threshold)
    return round(best, 2)


def write_weights(
    path: Path,
    fitted: Fitted,
    *,
    temperature: float,
    threshold: float,
    about: Mapping[str, Any],
    projection: Projection | None = None,
    scores: FittedScores | None = None,
) -> str:
    """Write the file that `embedded.load_weights` reads: hashed rows as int8, the rest as float32; its digest.

    `about` says where the weights come from, such as their licence and sources. Without a `projection`, the packaged
    one is kept, so that vectors stay comparable.
    """
    if projection is None:
        packaged = embedded.packaged_weights()
        projection = Projection(packaged.projection, packaged.projection_scale)
    table = np.insert(fitted.table, N_TYPES, 0.0, axis=1)  # of `Unknown`
    bias = np.append(fitted.bias, -np.inf)
    if scores is not None:
        table = np.hstack([table, scores.table])
        bias = np.append(bias, np.zeros(scores.table.shape[1]))
    hashed, dense = table[:BUCKETS], table[BUCKETS:] * DENSE_VALUE
    scale = np.maximum(np.abs(hashed).max(axis=0), 1e-9) / 127
    tensors: dict[str, npt.NDArray[Any]] = {
        "hashed": np.round(hashed / scale).astype(np.int8),
        "scale": scale.astype(np.float32),
        "dense": dense.astype(np.float32),
        "bias": bias.astype(np.float32),
        "projection": projection.table,
        "projection_scale": projection.scale,
    }
    metadata = {
        "version": embedded.VERSION,
        "features": features_digest(),
        "votes_factor": VOTES_FACTOR,
        "temperature": round(temperature, 4),
        "threshold": threshold,
        **about,
    }
    if scores is not None:
        tensors["mix"] = scores.mix.astype(np.float32)
        metadata["tiers"] = scores.tiers
    path.parent.mkdir(parents=True, exist_ok=True)
    # One key: the order of several is not fixed, and the digest should be.
    save_file(tensors, path, {"armwise": json.dumps(metadata)})
    path.chmod(0o644)  # the service may run as another user
    return hashlib.sha256(path.read_bytes()).hexdigest()
