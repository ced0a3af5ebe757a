"""The packaged classifier with a sentence embedding beside it: slower, and better on English wordings nobody foresaw.

Two opinions, both calibrated on sources that neither had seen, are averaged and sharpened: that of the text classifier,
and that of learned attention over the tokens of a small encoder. How it was trained and how good it is:
docs/embedding.md and benchmarks/train_embedding.py.
"""

import hashlib
import json
import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
from safetensors import safe_open

from bandit.vocabulary import TASK_TYPES, Classification
from service.classifiers import Classifier, excerpt
from service.classifiers.embedded import Embedded, softmax
from service.classifiers.encoder import (
    HEAD_TOKENS,
    HIDDEN,
    LAYERS,
    MODEL,
    POSITIONS,
    TAIL_TOKENS,
    TOKENIZER,
    Encoder,
    Head,
    heads_of,
)
from service.classifiers.models import Answered
from service.errors import ConfigurationError

VERSION = 1
WEIGHTS = Path(__file__).parent / "weights" / "embedding.safetensors"
WEIGHTS_SHA256 = "aca2a9d8fdf922d1773858bae291024a39d4a267ca190645946c60135aafd5d2"

ENCODER = hashlib.sha256(repr((MODEL, TOKENIZER, HEAD_TOKENS, TAIL_TOKENS, POSITIONS)).encode()).hexdigest()
N_TYPES = len(TASK_TYPES) - 1  # `Unknown` is not learned
VECTOR = 32
_LEAST = 1e-12  # the logarithm of nothing is infinite
_SURE = 0.5
_READ_CHARACTERS = 4_000  # more than either opinion looks at
_NUMBERS = ("temperature", "share", "share_chinese", "sharpness", "threshold")

Floats = npt.NDArray[np.float32]


class Weights(NamedTuple):
    """What was learned. Some hundred thousand numbers; they hold no text."""

    layers: int  # of the encoder that are used
    heads: list[Head]  # their logits are averaged
    projection: Floats  # (384, 32), principal components of the mean token state
    centre: Floats  # (384,)
    temperature: float  # of the averaged logits
    share: float  # of the encoder's opinion; the rest is the text classifier's
    share_chinese: float  # likewise for Chinese prompts: the encoder knows English alone
    sharpness: float  # of the mean of both: two opinions are less sure together than either should be
    threshold: float  # a lower highest probability is `Unknown`


class Embedding:
    """Task type and complexity of English and Chinese prompts in a few milliseconds, better than the text classifier.

    Safe from several threads, which run side by side. `text` gives the second opinion; without it, the packaged text
    classifier does. Of a long text, head and tail are read.

    Raises:
        ConfigurationError: packages are missing (`pip install 'armwise[embedding]'`), or weights do not fit.
    """

    name = f"embedding/{VERSION}"
    precision = "int8"
    together = 1

    def __init__(self, text: Classifier | None = None) -> None:
        self._weights = packaged_weights()
        self._text = text or Embedded()
        self._encoder = Encoder(self._weights.layers, self._weights.heads)
        self._whole: Encoder | None = None
        self._lock = threading.Lock()

    @property
    def tiers(self) -> tuple[float, float]:
        """Those of the text classifier, whose complexity is kept."""
        return self._text.tiers

    def cut(self, text: str) -> str:
        """The head and the tail that are read of a long text."""
        return excerpt(text, _READ_CHARACTERS)

    def classify(self, text: str) -> Classification:
        """Classify a text of any length and language; never raises on a str. Empty text is `Unknown`."""
        return self.answer(text).classification

    def answer(self, text: str) -> Answered:
        """Classify, and say how much was read."""
        said, weights = self._text.classify(text), self._weights
        encoded = self._encoder.read(text)
        components = ((encoded.mean - weights.centre) @ weights.projection).tolist()
        vector = tuple(round(component, 3) for component in components)
        probabilities = said.task_probabilities
        task_type = said.task_type
        if probabilities[N_TYPES] < 1.0:  # a language that is read, and words
            share = weights.share_chinese if is_chinese(text) else weights.share
            probabilities = pooled(probabilities, encoded.logits, weights, share)
            likeliest = max(range(N_TYPES), key=probabilities.__getitem__)
            # Where the words tell nothing of the task, the embedding alone must be sure of it.
            needed = weights.threshold if said.task_type != "Unknown" else max(weights.threshold, _SURE)
            task_type = TASK_TYPES[likeliest] if probabilities[likeliest] >= needed else "Unknown"
        classification = msgspec.structs.replace(
            said, task_type=task_type, task_probabilities=probabilities, classifier=self.name, vector=vector
        )
        return Answered(classification, encoded.tokens, encoded.truncated)

    def answer_together(self, texts: Sequence[str]) -> Sequence[Answered]:
        """Classify several, one by one."""
        return [self.answer(text) for text in texts]

    def embed(self, text: str) -> Floats:
        """The whole encoder's embedding of head and tail of a text, shape (384,) and of length 1; for a semantic cache.

        The first call loads the layers that classification leaves out.
        """
        with self._lock:
            if self._whole is None:
                self._whole = Encoder(LAYERS, [])
        mean = self._whole.read(text).mean
        unit: Floats = mean / np.linalg.norm(mean)
        return unit


def pooled(text: tuple[float, ...], logits: Floats, weights: Weights, share: float) -> tuple[float, ...]:
    """Probabilities of `TASK_TYPES` from those of the text classifier and from logits of shape (heads, 11)."""
    said = softmax(logits.astype(np.float64).mean(axis=0) / weights.temperature)
    both = weights.sharpness * np.log(share * said + (1 - share) * np.array(text[:N_TYPES]) + _LEAST)
    return (*softmax(both).tolist(), 0.0)


def is_chinese(text: str) -> bool:
    """Whether a fifth or more of the letters at the head are Chinese characters: two of them are a word."""
    letters = [letter for letter in text[:1_000] if letter.isalpha()]
    return sum("\u3400" <= letter <= "\u9fff" for letter in letters) * 5 >= max(1, len(letters))


@cache
def packaged_weights() -> Weights:
    """The weights that come with the package, checked by their digest."""
    found = hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()
    if found != WEIGHTS_SHA256:
        message = (
            f"{WEIGHTS.name}: the digest of the classifier's weights is {found}, expected {WEIGHTS_SHA256}. "
            'Install Armwise again, or set embedded = "text" under [classifier].'
        )
        raise ConfigurationError([message])
    return load_weights(WEIGHTS)


def load_weights(path: Path) -> Weights:
    """Read weights and check that they fit.

    Raises:
        ConfigurationError: they have other shapes, or were trained for another encoder.
    """
    with safe_open(path, framework="numpy") as file:
        metadata = json.loads(file.metadata()["armwise"])
        tensors = {name: file.get_tensor(name).astype(np.float32) for name in file.keys()}  # noqa: SIM118 - not a mapping
    projection, centre = tensors.pop("projection"), tensors.pop("centre")
    heads = heads_of(tensors)
    shapes = (projection.shape, centre.shape, {head.types.shape[1] for head in heads})
    expected = ((HIDDEN, VECTOR), (HIDDEN,), {N_TYPES})
    if shapes != expected or metadata["encoder"] != ENCODER:
        message = (
            f"{path.name}: weights of shapes {shapes} for encoder {metadata['encoder'][:12]}, expected {expected} for "
            f"{ENCODER[:12]}. Train them again with benchmarks/train_embedding.py."
        )
        raise ConfigurationError([message])
    numbers = {field: metadata[field] for field in ("layers", *_NUMBERS)}
    return Weights(heads=heads, projection=projection, centre=centre, **numbers)
