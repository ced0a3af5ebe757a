"""One reading in [0, 1] of every examined reply: all soft findings together, by weights that labels teach.

Before any label the weights follow from those in the settings. `service.learning.calibrations` keeps what labels say
of them.
"""

from collections.abc import Collection, Sequence

import msgspec

from bandit.channels import MonotoneWeights, monotone_weights
from service.quality import Finding
from service.quality.examine import HEURISTICS
from service.settings import Quality

SOFT: tuple[str, ...] = tuple(heuristic.name for heuristic in HEURISTICS if not heuristic.hard)  # of a reply itself

_PRIOR_INTERCEPT = 1.0  # log-odds of a reply without findings: a reading of .73
_LOG_ODDS_PER_WEIGHT = 5.0  # a finding of weight .4 lowers the log-odds by 2, to a reading of .27
_MOST_EFFECT = 10.0


class ReadingDetail(msgspec.Struct, frozen=True):
    """What a stored reading was made of."""

    weights: str = ""  # version
    findings: tuple[str, ...] = ()


class Weights(msgspec.Struct, frozen=True, kw_only=True):
    """How findings make a reading, and what that was learned from."""

    intercept: float
    effects: dict[str, float]  # log-odds by which each soft finding lowers the reading
    labelled: int = 0  # calls it was learned from; 0: from the settings alone
    fitted_at: float | None = None  # seconds since 1970-01-01 UTC

    @property
    def version(self) -> str:
        """Names the content: equal weights have an equal version, on every replica."""
        return self._monotone().version

    def reading(self, findings: Collection[str]) -> float:
        """The reading of a reply with these findings.

        >>> round(Weights(intercept=1.0, effects={"refusal": 2.0}).reading(["refusal"]), 3)
        0.269
        """
        return float(self._monotone().reading(vector_of(findings)))  # type: ignore[arg-type]

    def _monotone(self) -> MonotoneWeights:
        return MonotoneWeights(self.intercept, tuple(self.effects.get(name, 0.0) for name in SOFT))


def prior_weights(settings: Quality) -> Weights:
    """The weights before any label: log-odds in proportion to the weights in the settings."""
    effects = {}
    for heuristic in HEURISTICS:
        if not heuristic.hard:
            setting = settings.heuristics.get(heuristic.name, heuristic)
            weight = heuristic.weight if setting.weight is None else setting.weight
            effects[heuristic.name] = min(_LOG_ODDS_PER_WEIGHT * weight, _MOST_EFFECT)
    return Weights(intercept=_PRIOR_INTERCEPT, effects=effects)


def vector_of(findings: Collection[str]) -> list[float]:
    """Soft findings as zeros and ones in the order of `SOFT`; other names are left out."""
    return [float(name in findings) for name in SOFT]


def learned_weights(calls: Sequence[tuple[Collection[str], float]], prior: Weights, now: float) -> Weights:
    """Weights learned from the findings and labels of calls, near `prior` while they are few. Run it in a thread."""
    import numpy as np  # noqa: PLC0415 - only where weights are learned

    findings = np.array([vector_of(found) for found, _ in calls], dtype=float).reshape(-1, len(SOFT))
    labels = np.array([label for _, label in calls], dtype=float)
    start = np.array([prior.effects[name] for name in SOFT])
    found = monotone_weights(findings, labels, start, prior_intercept=prior.intercept)
    effects = dict(zip(SOFT, found.effects, strict=True))
    return Weights(intercept=found.intercept, effects=effects, labelled=len(calls), fitted_at=now)


class Reader:
    """Makes readings with the weights in force. One per process; changed only on the event loop."""

    def __init__(self) -> None:
        self.learned: Weights | None = None
        self._prior: tuple[Quality, Weights] | None = None
        self._known: dict[tuple[str, ...], tuple[float, str]] = {}  # of the weights in force: reading, detail
        self._known_of: Weights | None = None

    def weights(self, settings: Quality) -> Weights:
        """The weights in force: the newest learned ones, or before any those of the settings."""
        if self.learned is not None:
            return self.learned
        if self._prior is None or self._prior[0] is not settings:
            self._prior = (settings, prior_weights(settings))
        return self._prior[1]

    def read(self, findings: Collection[Finding], settings: Quality) -> tuple[float, str]:
        """The reading of a reply that has no hard finding, and its detail as JSON. Takes microseconds."""
        weights = self.weights(settings)
        if weights is not self._known_of:
            self._known, self._known_of = {}, weights
        names = tuple(sorted(finding.heuristic for finding in findings))
        known = self._known.get(names)
        if known is None:
            detail = msgspec.json.encode(ReadingDetail(weights.version, names)).decode()
            known = self._known[names] = (weights.reading(names), detail)
        return known
