"""What names the task type and complexity of a prompt: the contract, and the one place that knows them all."""

from pathlib import Path
from typing import Protocol

from bandit.vocabulary import Classification
from service.settings import ClassifierSettings


class Classifier(Protocol):
    """Reads one text. Synchronous, without state between calls, safe from several threads."""

    @property
    def name(self) -> str:
        """Which classifier, with its version, such as "embedded/1"; stored with every decision."""
        ...

    @property
    def tiers(self) -> tuple[float, float]:
        """Its own tier boundaries: complexities under the first are simple, under the second medium."""
        ...

    def classify(self, text: str) -> Classification:
        """Classify a text of any length and language; never raises on a str. Empty text is `Unknown`."""
        ...


def create_classifier(settings: ClassifierSettings) -> Classifier:
    """The small classifier of these settings: alone, or beside a model that is too slow for the event loop.

    Raises:
        ConfigurationError: its weights are damaged, or were trained for another version.
    """
    if settings.kind == "rules":
        from service.classifiers.rules import KeywordRules  # noqa: PLC0415 - only when used

        return KeywordRules()
    from service.classifiers.embedded import Embedded  # noqa: PLC0415 - reads its weights

    return Embedded(Path(settings.embedded_weights) if settings.embedded_weights else None)


def excerpt(text: str, max_characters: int) -> str:
    r"""What is read of a long text: its head and its tail, where instructions stand.

    >>> excerpt("abcdefgh", 4)
    'ab\ngh'
    """
    if len(text) <= max_characters:
        return text
    head = (max_characters + 1) // 2
    return text[:head] + "\n" + text[len(text) - (max_characters - head) :]
