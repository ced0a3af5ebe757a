"""Is a tuned model better than the one it began with? Judged on texts that neither learned from, with intervals."""

from collections.abc import Callable

import msgspec
import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from bandit.vocabulary import TASK_TYPES
from service.classifiers.nvidia import TIERS
from service.classifiers.nvidia.heads import SLICES, answer_of, probabilities_of
from service.classifiers.nvidia.tuning.examples import LABELS, NO_LABEL, Integers

Floats = npt.NDArray[np.float64]
Measure = Callable[[Integers, Floats], float]  # of true labels, (n,), and what a model gave: (n, 12) or (n,)

RESAMPLES = 1000
_BINS = 10


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """One measure of both models on the same texts."""

    measure: str
    before: float
    after: float
    low: float  # of the change after - before: the interval that holds it with 95 %, by a paired bootstrap
    high: float
    decides: bool = False  # whether the model is kept


class TypeFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One task type or tier: how often it occurs, and the F1 of both models."""

    name: str
    texts: int
    before: float
    after: float


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """Both models, judged by one kind of label."""

    label: str  # "task_type" or "tier"
    texts: int
    comparisons: tuple[Comparison, ...]
    by_name: tuple[TypeFigures, ...]

    @property
    def better(self) -> bool:
        """The change of what decides is above 0 beyond chance."""
        return any(row.low > 0 for row in self.comparisons if row.decides)

    @property
    def worse(self) -> bool:
        """The change of what decides is below 0 beyond chance."""
        return any(row.high < 0 for row in self.comparisons if row.decides)


def compare(kind: str, labels: Integers, before: npt.ArrayLike, after: npt.ArrayLike, *, seed: int) -> Figures:
    """Judge both models' logits, (n, 32), of texts by their labels, (n,); those without a label are left out."""
    labelled = labels != NO_LABEL
    labels, models = labels[labelled], [np.asarray(logits, dtype=np.float64)[labelled] for logits in (before, after)]
    measures: dict[str, Measure]
    given: list[Floats]
    if kind == "task_type":
        tasks = SLICES["task_type"]
        given = [probabilities_of(logits)[:, tasks] for logits in models]
        named = [probabilities.argmax(axis=1) for probabilities in given]
        measures = {
            "accuracy": _task_accuracy,
            "macro_f1": _task_macro_f1,
            "log_loss": _log_loss,
            "calibration_error": _calibration_error,
        }
    else:
        given = [complexities(logits) for logits in models]
        named = [tiers_of(found) for found in given]
        measures = {"accuracy": _tier_accuracy, "rank_correlation": _rank_correlation}
    per_class = [_f1(labels, found, len(LABELS[kind])) for found in named]
    return Figures(
        label=kind,
        texts=len(labels),
        comparisons=tuple(
            _comparison(name, measure, labels, given[0], given[1], seed=seed) for name, measure in measures.items()
        ),
        by_name=tuple(
            TypeFigures(
                name=name,
                texts=int((labels == number).sum()),
                before=float(per_class[0][number]),
                after=float(per_class[1][number]),
            )
            for number, name in enumerate(LABELS[kind])
            if (labels == number).any()
        ),
    )


def complexities(logits: npt.ArrayLike) -> Floats:
    """NVIDIA's complexity, rounded as it is served, shape (n,), of logits, (n, 32)."""
    return np.array([answer_of(row).prompt_complexity_score for row in np.asarray(logits)])


def tiers_of(complexity: Floats) -> Integers:
    """Indices into PROMPT_TIERS."""
    return np.searchsorted(np.array(TIERS), complexity, side="right").astype(np.int64)


def _comparison(
    name: str, measure: Measure, labels: Integers, before: Floats, after: Floats, *, seed: int
) -> Comparison:
    rng = np.random.default_rng(seed)
    changes = []
    for _ in range(RESAMPLES):
        rows = rng.integers(len(labels), size=len(labels))
        changes.append(measure(labels[rows], after[rows]) - measure(labels[rows], before[rows]))
    low, high = np.quantile(changes, [0.025, 0.975])
    return Comparison(
        measure=name,
        before=measure(labels, before),
        after=measure(labels, after),
        low=float(low),
        high=float(high),
        decides=name == "accuracy",
    )


def _task_accuracy(labels: Integers, probabilities: Floats) -> float:
    return float((probabilities.argmax(axis=1) == labels).mean())


def _task_macro_f1(labels: Integers, probabilities: Floats) -> float:
    """Over the types that occur."""
    return float(_f1(labels, probabilities.argmax(axis=1), len(TASK_TYPES))[np.unique(labels)].mean())


def _f1(labels: Integers, found: Integers, classes: int) -> Floats:
    hits = np.bincount(labels[labels == found], minlength=classes)
    either = np.bincount(labels, minlength=classes) + np.bincount(found, minlength=classes)
    return np.asarray(2 * hits / np.maximum(either, 1), dtype=np.float64)


def _log_loss(labels: Integers, probabilities: Floats) -> float:
    """Nats; a probability counts as at least 1e-7, what float32 still tells from 0."""
    return float(-np.log(np.maximum(probabilities[np.arange(len(labels)), labels], 1e-7)).mean())


def _calibration_error(labels: Integers, probabilities: Floats) -> float:
    """How far the highest probability is from the share of right answers, in ten bins of the probability."""
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    gaps = np.bincount(bins, weights=confidence - right, minlength=_BINS)
    return float(np.abs(gaps).sum() / len(labels))


def _tier_accuracy(labels: Integers, complexity: Floats) -> float:
    return float((tiers_of(complexity) == labels).mean())


def _rank_correlation(labels: Integers, complexity: Floats) -> float:
    """Spearman's; 0 when all labels or all complexities are equal."""
    ranks = [rankdata(values) - (len(labels) + 1) / 2 for values in (labels, complexity)]
    size = float(np.sqrt((ranks[0] ** 2).sum() * (ranks[1] ** 2).sum()))
    return float((ranks[0] * ranks[1]).sum() / size) if size else 0.0
