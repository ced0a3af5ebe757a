"""The classifier that comes with the package: a linear model on words and word clusters of a prompt's ends.

What it learned corrects the votes of the keyword rules; a text in which nothing is known is left to them. How it was
trained and how good it is: docs/classifier.md and benchmarks/train_embedded.py.
"""

import hashlib
import json
from functools import cache
from math import sqrt
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from bandit.vocabulary import TASK_TYPES, Classification, DimensionScores
from service.classifiers.embedded_features import BUCKETS, DENSE_ROWS, dense_rows, features_digest, hashed_rows
from service.classifiers.reading import read
from service.classifiers.rules import TIERS, classification, complexity, unknown, votes
from service.errors import ConfigurationError

VERSION = 2
WEIGHTS = Path(__file__).parent / "weights" / "embedded.safetensors"
WEIGHTS_SHA256 = "114b61c164de6696dde35bbda22c5b8d4e9dc02154bce6e74f7866a35db2f3f4"

VECTOR_SIZE = 32
N_TYPES = len(TASK_TYPES)
N_SCORES = len(DimensionScores.__struct_fields__)
HIGHEST_SCORES = (1.0, 1.0, 1.0, 1.0, 1.0, 5.0)

Floats = npt.NDArray[np.float32]


class Weights(NamedTuple):
    """The trained tables. They hold no text: words are only met as numbers of hashed rows.

    A column for each of `TASK_TYPES`; where the scores were learned too, one more for each of them.
    """

    hashed: npt.NDArray[np.int8]  # (BUCKETS, 12 or 18), in units of `scale`
    scale: Floats  # (12 or 18,)
    dense: Floats  # (DENSE_ROWS, 12 or 18): word lists by zone, those met anywhere, signs
    bias: Floats  # (12 or 18,), minus infinity for `Unknown`
    projection: npt.NDArray[np.int8]  # (BUCKETS, 32), in units of `projection_scale`: to the vector
    projection_scale: Floats  # (32,)
    votes_factor: float  # logits per vote of a rule
    temperature: float  # logits are divided by it, so that probabilities are calibrated on unseen sources
    threshold: float  # a lower highest probability is `Unknown`
    mix: Floats | None = None  # (18, 6): what estimated scores and probabilities add to learned scores
    tiers: tuple[float, float] = TIERS  # boundaries of the complexity that these weights give


class Embedded:
    """Task type and complexity of English and Chinese prompts in about a tenth of a millisecond.

    `weights` names a file of the owner's own, learned from other answers; without it, the packaged ones are used.

    Raises:
        ConfigurationError: the weights were trained for other features, or are damaged.
    """

    def __init__(self, weights: Path | None = None) -> None:
        self._weights = load_weights(weights) if weights else packaged_weights()
        self.tiers = self._weights.tiers
        # Side by side, so that every row is looked up once.
        self._table = np.hstack([self._weights.hashed, self._weights.projection])
        self._scale = np.concatenate([self._weights.scale, self._weights.projection_scale])
        own = hashlib.sha256(weights.read_bytes()).hexdigest()[:8] if weights else ""
        self.name = f"embedded/{VERSION}" + (f"/{own}" if own else "")

    def classify(self, text: str) -> Classification:
        """Classify a text of any length and language; never raises on a str. Empty text is `Unknown`."""
        reading, weights = read(text), self._weights
        rows, sizes = hashed_rows(reading)
        shares = np.repeat([1 / sqrt(size) for size in sizes], sizes)
        learned = shares @ self._table.take(rows, axis=0).astype(np.float64) * self._scale
        sums, projected = learned[:-VECTOR_SIZE], learned[-VECTOR_SIZE:]
        sums += weights.bias + np.add.reduce(weights.dense.take(dense_rows(reading), axis=0))
        if reading.readable:
            logits = sums[:N_TYPES] + np.array(votes(reading)) * weights.votes_factor
            probabilities = tuple(softmax(logits / weights.temperature).tolist())
            said = classification(reading, text, probabilities, weights.threshold, self.name)
        else:
            said = unknown(reading, text, self.name)
        if weights.mix is not None:
            said = _with_learned_scores(said, sums[N_TYPES:], weights.mix)
        return msgspec.structs.replace(said, vector=_of_length_one(projected))


def _with_learned_scores(said: Classification, additions: npt.NDArray[np.float64], mix: Floats) -> Classification:
    estimated = msgspec.structs.astuple(said.scores)
    if not any(estimated):
        return said  # no words
    values = np.array([*estimated, *said.task_probabilities]) @ mix + additions
    shares = np.clip(values, 0.0, HIGHEST_SCORES).round(4).tolist()
    scores = DimensionScores(**dict(zip(DimensionScores.__struct_fields__, shares, strict=True)))
    return msgspec.structs.replace(said, scores=scores, complexity=complexity(scores))


def _of_length_one(projected: npt.NDArray[np.float64]) -> tuple[float, ...]:
    """The vector, rounded; all 0 where nothing is known of the text."""
    length = sqrt(float(projected @ projected))
    return tuple((projected / length).round(3).tolist()) if length else (0.0,) * VECTOR_SIZE


def softmax(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Probabilities of logits along the last axis."""
    odds = np.exp(values - values.max(axis=-1, keepdims=True))
    result: npt.NDArray[np.float64] = odds / odds.sum(axis=-1, keepdims=True)
    return result


@cache
def packaged_weights() -> Weights:
    """The weights of the package.

    Raises:
        ConfigurationError: they are not those that the package came with.
    """
    found = hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()
    if found != WEIGHTS_SHA256:
        message = (
            f"{WEIGHTS.name}: the digest of the classifier's weights is {found}, expected {WEIGHTS_SHA256}. "
            'Install Armwise again, or set kind = "rules" under [classifier].'
        )
        raise ConfigurationError([message])
    return load_weights(WEIGHTS)


def load_weights(path: Path) -> Weights:
    """Read weights and check that they fit.

    Raises:
        ConfigurationError: they are damaged, were trained for other features or have other shapes.
    """
    advice = "Train them again with `armwise classifier distil`; those of the package: benchmarks/train_embedded.py."
    try:
        weights, features = _read(path)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise ConfigurationError([f"{path.name} cannot be read as weights ({error}). {advice}"]) from error
    columns = N_TYPES if weights.mix is None else N_TYPES + N_SCORES
    names = ("hashed", "scale", "dense", "bias", "projection", "projection_scale")
    shapes: list[tuple[int, ...]] = [getattr(weights, name).shape for name in names]
    expected: list[tuple[int, ...]] = [(BUCKETS, columns), (columns,), (DENSE_ROWS, columns), (columns,)]
    expected += [(BUCKETS, VECTOR_SIZE), (VECTOR_SIZE,)]
    if weights.mix is not None:
        shapes.append(weights.mix.shape)
        expected.append((N_SCORES + N_TYPES, N_SCORES))
    if shapes != expected or features != features_digest():
        message = (
            f"{path.name}: weights of shapes {shapes} for features {features[:12]}, expected {expected} for "
            f"{features_digest()[:12]}. {advice}"
        )
        raise ConfigurationError([message])
    return weights


def _read(path: Path) -> tuple[Weights, str]:
    """The weights in a file, and the digest of the features that they were trained for."""
    with safe_open(path, framework="numpy") as file:
        metadata = json.loads(file.metadata()["armwise"])
        weights = Weights(
            hashed=file.get_tensor("hashed"),
            scale=file.get_tensor("scale"),
            dense=file.get_tensor("dense"),
            bias=file.get_tensor("bias"),
            projection=file.get_tensor("projection"),
            projection_scale=file.get_tensor("projection_scale"),
            votes_factor=metadata["votes_factor"],
            temperature=metadata["temperature"],
            threshold=metadata["threshold"],
            mix=file.get_tensor("mix") if "mix" in file.keys() else None,  # noqa: SIM118 - not a mapping
            tiers=tuple(metadata.get("tiers", TIERS)),
        )
    return weights, metadata["features"]
