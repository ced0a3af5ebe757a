"""The classifier that comes with the package: a linear model on hashed words of the head and tail of a prompt.

What it learned corrects the votes of the keyword rules; a text in which nothing is known is left to them. How it was
trained and how good it is: docs/classifier.md and benchmarks/train_embedded.py.
"""

import hashlib
import json
from functools import cache
from math import sqrt
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import msgspec
import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from bandit.vocabulary import TASK_TYPES, Classification, DimensionScores
from service.classifiers.keywords import RULES
from service.classifiers.reading import HEAD_TOKENS, SIGNS, TAIL_TOKENS, ZONES, Reading, read
from service.classifiers.rules import TIERS, classification, complexity, unknown, votes
from service.errors import ConfigurationError

VERSION = 1
WEIGHTS = Path(__file__).parent / "weights" / "embedded.safetensors"
WEIGHTS_SHA256 = "5ac93af96305cf74cb62640bccac4dfafae3efe661aabe3795e5abf37a73996a"

BUCKETS = 1 << 16
OPENING_TOKENS = 3
DENSE_ROWS = len(RULES) * (len(ZONES) + 1) + len(SIGNS)
N_TYPES = len(TASK_TYPES)
N_SCORES = len(DimensionScores.__struct_fields__)
HIGHEST_SCORES = (1.0, 1.0, 1.0, 1.0, 1.0, 5.0)

Rows = npt.NDArray[np.uint32]
Floats = npt.NDArray[np.float32]


class Weights(NamedTuple):
    """The trained tables. They hold no text: words are only met as numbers of hashed rows.

    A column for each of `TASK_TYPES`; where the scores were learned too, one more for each of them.
    """

    hashed: npt.NDArray[np.int8]  # (BUCKETS, 12 or 18), in units of `scale`
    scale: Floats  # (12 or 18,)
    dense: Floats  # (DENSE_ROWS, 12 or 18): rules by zone, rules wherever they fired, signs
    bias: Floats  # (12 or 18,), minus infinity for `Unknown`
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
        own = hashlib.sha256(weights.read_bytes()).hexdigest()[:8] if weights else ""
        self.name = f"embedded/{VERSION}" + (f"/{own}" if own else "")

    def classify(self, text: str) -> Classification:
        """Classify a text of any length and language; never raises on a str. Empty text is `Unknown`."""
        reading, weights = read(text), self._weights
        if not reading.readable and weights.mix is None:
            return unknown(reading, text, self.name)
        sums = totals(reading, weights)
        if reading.readable:
            probabilities = tuple(map(float, softmax(sums[:N_TYPES] / weights.temperature)))
            said = classification(reading, text, probabilities, weights.threshold, self.name)
        else:
            said = unknown(reading, text, self.name)
        return said if weights.mix is None else _with_learned_scores(said, sums[N_TYPES:], weights.mix)


def _with_learned_scores(said: Classification, additions: npt.NDArray[np.float64], mix: Floats) -> Classification:
    estimated = msgspec.structs.astuple(said.scores)
    if not any(estimated):
        return said  # no words
    values = np.array([*estimated, *said.task_probabilities]) @ mix + additions
    shares = np.clip(values, 0.0, HIGHEST_SCORES).round(4).tolist()
    scores = DimensionScores(**dict(zip(DimensionScores.__struct_fields__, shares, strict=True)))
    return msgspec.structs.replace(said, scores=scores, complexity=complexity(scores))


def totals(reading: Reading, weights: Weights) -> npt.NDArray[np.float64]:
    """Logits of `TASK_TYPES`, before the temperature; where scores were learned, their sums too. Shape (12 or 18,)."""
    total = weights.bias.astype(np.float64)
    total[:N_TYPES] += np.array(votes(reading)) * weights.votes_factor
    total += weights.dense[dense_rows(reading)].sum(axis=0)
    for rows in hashed_rows(reading.tokens):
        total += weights.hashed[rows].sum(axis=0, dtype=np.int32) * weights.scale / sqrt(len(rows))
    return total


def softmax(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Probabilities of logits along the last axis."""
    odds = np.exp(values - values.max(axis=-1, keepdims=True))
    result: npt.NDArray[np.float64] = odds / odds.sum(axis=-1, keepdims=True)
    return result


def hashed_rows(tokens: list[str]) -> tuple[Rows, ...]:
    """Rows of the hashed table, in groups that weigh the same however many rows they hold.

    The first group: tokens and pairs of them at the head and the tail, where instructions stand. The second: the
    opening. A Chinese character is a token, so that pairs and triples are its character n-grams.
    """
    if not tokens:
        return ()
    tail = tokens[max(HEAD_TOKENS, len(tokens) - TAIL_TOKENS) :]
    edge = tokens[:HEAD_TOKENS] + tail
    hashes = np.array([crc32(token.encode("utf-8", "surrogatepass")) for token in edge], dtype=np.uint32)
    opening = hashes[:OPENING_TOKENS]
    return (
        _buckets([hashes * _A, hashes[:-1] * _B ^ hashes[1:] * _C]),
        _buckets(
            [
                opening * _D,
                opening[:-1] * _E ^ opening[1:] * _A,
                opening[:-2] * _B ^ opening[1:-1] * _D ^ opening[2:] * _C,
            ]
        ),
    )


# Odd multipliers, one for every use of a hash, so that the same word falls into different rows; their products wrap.
_A, _B, _C, _D, _E = (np.uint32(n) for n in (0x9E3779B1, 0x85EBCA6B, 0xC2B2AE35, 0x27D4EB2F, 0x165667B1))
_SHIFT = np.uint32(15)
_BUCKET_SHIFT = np.uint32(32 - (BUCKETS.bit_length() - 1))


def _buckets(hashes: list[Rows]) -> Rows:
    mixed = np.concatenate(hashes)
    return ((mixed ^ mixed >> _SHIFT) * _A) >> _BUCKET_SHIFT


def dense_rows(reading: Reading) -> list[int]:
    """Rows of the dense table, ascending."""
    zones = len(ZONES)
    by_zone = [rule * zones + zone for rule, zone in reading.fired]
    anywhere = {len(RULES) * zones + rule for rule, _ in reading.fired}
    signs = [len(RULES) * (zones + 1) + sign for sign in reading.signs]
    return sorted([*by_zone, *anywhere, *signs])


def features_digest() -> str:
    """Changes when rows would mean something else, so that weights trained for other features are refused."""
    described = repr((RULES, ZONES, SIGNS, BUCKETS, HEAD_TOKENS, TAIL_TOKENS, OPENING_TOKENS))
    return hashlib.sha256(described.encode()).hexdigest()


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
    shapes: list[tuple[int, ...]] = [getattr(weights, name).shape for name in ("hashed", "scale", "dense", "bias")]
    expected: list[tuple[int, ...]] = [(BUCKETS, columns), (columns,), (DENSE_ROWS, columns), (columns,)]
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
            votes_factor=metadata["votes_factor"],
            temperature=metadata["temperature"],
            threshold=metadata["threshold"],
            mix=file.get_tensor("mix") if "mix" in file.keys() else None,  # noqa: SIM118 - not a mapping
            tiers=tuple(metadata.get("tiers", TIERS)),
        )
    return weights, metadata["features"]
