"""Models that are too slow for the event loop, behind one contract; and the plan by which the settings are served."""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from bandit.vocabulary import Classification
from service.classifiers import Classifier, create_classifier, excerpt
from service.classifiers.choice import Kind, nvidia_lacks, wanted_classifier, weights_folder
from service.errors import ConfigurationError
from service.settings import ClassifierSettings

if TYPE_CHECKING:
    from service.classifiers.nvidia import Nvidia

# What a model reads is cut before it is tokenized, so that a long text costs little. 512 tokens are some 2,000
# characters of prose; a text whose first 512 tokens take more than this is mostly spaces.
READ_CHARACTERS = 16_000

TOGETHER = 4  # texts: of similar length they take a fifth to a half less time than one by one


class Answered(NamedTuple):
    """What a model says of one text."""

    classification: Classification
    tokens: int  # that it read
    truncated: bool  # the text was longer


class Model(Protocol):
    """A loaded model. Safe from several threads."""

    @property
    def name(self) -> str:
        """Which model, with its version and precision, such as "nvidia/3f2a91c0/int8"."""
        ...

    @property
    def precision(self) -> str:
        """Of its numbers: "fp32", "int8", "bf16"."""
        ...

    @property
    def tiers(self) -> tuple[float, float]:
        """Its own tier boundaries: complexities under the first are simple, under the second medium."""
        ...

    def cut(self, text: str) -> str:
        """The part of a text that can matter to it. Takes microseconds."""
        ...

    @property
    def together(self) -> int:
        """How many texts it may read at once, without that changing an answer by more than float32 rounding."""
        ...

    def answer(self, text: str) -> Answered:
        """Classify what `cut` gave. Takes milliseconds, and leaves the interpreter to others meanwhile."""
        ...

    def answer_together(self, texts: Sequence[str]) -> Sequence[Answered]:
        """Classify several, at most `together`; quickest when they are of similar length."""
        ...


class Plan(NamedTuple):
    """How settings are served."""

    settings: ClassifierSettings
    kind: Kind
    why: str  # in words
    small: Classifier  # answers on the event loop: always, or until the model is loaded and when it cannot
    load: Callable[[], Model] | None = None  # takes seconds; None: the small classifier alone
    identity: Callable[[], object] = lambda: None  # what is loaded, files included; equal: the same model


def plan_of(settings: ClassifierSettings, environ: Mapping[str, str] = os.environ) -> Plan:
    """How `settings` are served on this machine.

    Raises:
        ConfigurationError: what is asked for by name is not there, or the small classifier's weights do not fit.
    """
    kind, why = wanted_classifier(settings, environ)
    small = create_classifier(settings)
    if kind == "nvidia":
        if lacking := nvidia_lacks(settings, environ):
            raise ConfigurationError([f'`classifier.kind` is "nvidia", but {lacking}'])
        folder = weights_folder(settings, environ)

        def identity() -> object:
            return (kind, settings.backend, settings.precision, settings.device, settings.token_budget, _files(folder))

        return Plan(settings, kind, why, small, partial(_load_nvidia, settings, folder), identity)
    if kind == "embedding":
        return Plan(settings, kind, why, small, partial(_load_embedding, small), lambda: (kind, small.name))
    return Plan(settings, kind, why, small)


def _files(folder: Path) -> frozenset[tuple[str, int, int]]:
    """Changes when a file in the folder does. Empty when it cannot be looked at."""
    try:
        with os.scandir(folder) as entries:
            found = [(entry.name, entry.stat()) for entry in entries if entry.is_file()]
    except OSError:
        return frozenset()
    return frozenset((name, status.st_mtime_ns, status.st_size) for name, status in found)


def _load_embedding(small: Classifier) -> Model:
    from service.classifiers.embedding import Embedding  # noqa: PLC0415 - only when used

    return Embedding(small)


def _load_nvidia(settings: ClassifierSettings, folder: Path) -> Model:
    from service.classifiers.nvidia import load_nvidia  # noqa: PLC0415 - only when used

    nvidia = load_nvidia(
        folder,
        backend=settings.backend,
        precision=settings.precision,
        device=settings.device,
        threads=1,
        token_budget=settings.token_budget,
    )
    return NvidiaModel(nvidia, keeps_tail=settings.token_budget > 0)


class NvidiaModel:
    """NVIDIA's model for the service."""

    def __init__(self, nvidia: "Nvidia", *, keeps_tail: bool) -> None:
        self.name = nvidia.name
        self.precision = nvidia.precision
        self.tiers = nvidia.tiers
        self._nvidia = nvidia
        self._keeps_tail = keeps_tail

    def cut(self, text: str) -> str:
        """The head: as NVIDIA does. With a token budget head and tail."""
        return excerpt(text, READ_CHARACTERS) if self._keeps_tail else text[:READ_CHARACTERS]

    @property
    def together(self) -> int:
        """Several, whose answers do not depend on each other: bf16 rounds by what else is in the batch."""
        return 1 if self.precision == "bf16" else TOGETHER

    def answer(self, text: str) -> Answered:
        """Classify one text."""
        return self.answer_together([text])[0]

    def answer_together(self, texts: Sequence[str]) -> Sequence[Answered]:
        """Classify several."""
        return [
            Answered(self._nvidia.classification(reading), reading.tokens, reading.truncated)
            for reading in self._nvidia.read(texts)
        ]
