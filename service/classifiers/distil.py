"""The embedded classifier learns from a teacher's answers on an owner's prompts.

What is learned corrects the packaged weights, which a penalty holds on to: few prompts change little. How far it
answers like the teacher is told for prompts that it did not learn from, and nothing that resembles them either.
"""

import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec
import numpy as np
import numpy.typing as npt
from scipy.special import logsumexp

from bandit.vocabulary import Classification
from service.classifiers import Classifier, embedded
from service.classifiers.embedded_training import (
    N_TYPES,
    Array,
    Fitted,
    FittedScores,
    common_features,
    examples_of,
    fit,
    fit_scores,
    fitted_of,
    logits_of,
    temperature_of,
    threshold_of,
    write_weights,
)
from service.classifiers.rules import classification, unknown
from service.errors import NotBetter, UnusableData

FEWEST_PROMPTS = 300
FOLDS = 5
_INNER_FOLDS = 3
_TASK_PENALTIES = (3e-3, 1e-3, 3e-4, 1e-4)
_SCORE_PENALTIES = (0.1, 0.01, 1e-3, 1e-4)
_IN_CLUSTERS = 3  # a feature is learned when as many groups of like prompts hold it: none stands for one prompt
_ALIKE_TOKENS = 8  # prompts that begin or end with the same ones belong together
_RESAMPLES = 1_000
STEPS = (FOLDS + 1) * len(_TASK_PENALTIES) * _INNER_FOLDS

Rows = npt.NDArray[np.bool_]
Labels = npt.NDArray[np.int64]
Tick = Callable[[], object]


class Teacher(Protocol):
    """Who is learned from."""

    @property
    def name(self) -> str: ...

    @property
    def tiers(self) -> tuple[float, float]: ...


class Figure(msgspec.Struct, frozen=True):
    """A mean with its 95 % interval, over groups of like prompts."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


class Agreement(msgspec.Struct, frozen=True, kw_only=True):
    """How far a classifier answers like the teacher."""

    task_agreement: Figure  # share of prompts with the same task type
    complexity_error: Figure  # mean absolute difference of the complexities
    tier_agreement: Figure  # share of prompts in the same tier, each by the boundaries of who answers


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What was learned, judged on prompts that were not learned from. Holds no text."""

    teacher: str
    prompts: int
    groups: int  # of prompts that begin or end alike
    before: Agreement  # the packaged weights
    after: Agreement
    task_gain: Figure  # after less before, prompt by prompt
    classifier: str = ""  # the name of the classifier that was written
    file: str = ""


class Lesson(NamedTuple):
    """Different prompts, at least `FEWEST_PROMPTS`, and what the teacher said of them."""

    texts: Sequence[str]
    said: Sequence[Classification]
    teacher: Teacher


def different(texts: Sequence[str]) -> list[str]:
    """The texts without repeats and empty ones; case and spaces make no difference.

    Raises:
        UnusableData: too few are left to learn from.
    """
    found: dict[str, str] = {}
    for text in texts:
        found.setdefault(" ".join(text.casefold().split()), text)
    found.pop("", None)
    if len(found) < FEWEST_PROMPTS:
        raise UnusableData(
            f"{len(texts):,} prompts were found, {len(found):,} of them different; at least {FEWEST_PROMPTS} are "
            "needed to learn from and to judge by. Keep more of them with `prompts = true` under [retention], or give "
            "a file with --prompts."
        )
    return list(found.values())


def distil(lesson: Lesson, out: Path, tick: Tick = lambda: None) -> Report:
    """Learn, judge, and write the weights to `out`. `tick` is called `STEPS` times, or less when it raises.

    Raises:
        NotBetter: the packaged weights answer more like the teacher; `out` is not touched.
    """
    course = _Course(lesson)
    packaged = embedded.Embedded()
    before = [packaged.classify(text) for text in lesson.texts]
    after: list[Classification] = list(before)
    folds = fold_of(course.groups, FOLDS)
    with tempfile.TemporaryDirectory() as folder:
        for fold in range(FOLDS):
            unseen = folds == fold
            student = course.student(~unseen, Path(folder) / f"{fold}.safetensors", tick)
            for row in np.flatnonzero(unseen).tolist():
                after[row] = student.classify(lesson.texts[row])
    report = _judged(course, before, packaged.tiers, after)
    _refuse_worse(report)
    # Beside the file and renamed, so that a running service never reads half of it.
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(out.name + ".part")
    try:
        student = course.student(np.ones(len(lesson.texts), dtype=bool), part, tick)
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)
    return msgspec.structs.replace(report, classifier=student.name, file=str(out))


def _refuse_worse(report: Report) -> None:
    before, after = report.before, report.after
    worse = []
    if after.task_agreement.value < before.task_agreement.value:
        worse.append(f"the task type of {after.task_agreement} of them, before {before.task_agreement}")
    if after.complexity_error.value > before.complexity_error.value:
        worse.append(f"complexities that are off by {after.complexity_error}, before {before.complexity_error}")
    if worse:
        raise NotBetter(
            f"Nothing was written: on {report.prompts:,} unseen prompts what was learned from {report.teacher} gives "
            f"{' and '.join(worse)}. More prompts, or more varied ones, may help."
        )


class _Course:
    """A lesson as numbers."""

    def __init__(self, lesson: Lesson) -> None:
        self.lesson = lesson
        self.examples = examples_of(lesson.texts)
        self.readable = self.examples.readable
        self.groups = groups_of([reading.tokens for reading in self.examples.readings])
        probabilities = np.array([said.task_probabilities for said in lesson.said])[:, :N_TYPES]
        self.known = probabilities.sum(axis=1)  # what the teacher gives to types that can be learned
        self.targets = probabilities / np.maximum(self.known, 1e-9)[:, None]
        self.scores = np.array([msgspec.structs.astuple(said.scores) for said in lesson.said], dtype=float)
        self.start = fitted_of(embedded.packaged_weights())

    def student(self, rows: Rows, path: Path, tick: Tick) -> Classifier:
        """A classifier that learned from some prompts, written to a file."""
        folds = np.where(rows, 0, -1)
        folds[rows] = fold_of(self.groups[rows], _INNER_FOLDS)
        penalty, logits = self._best_tasks(folds, tick)
        learned = rows & self.readable
        temperature = temperature_of(logits[learned], self.targets[learned], self._weights(learned)[learned])
        probabilities = embedded.softmax(logits / temperature)
        right = probabilities.argmax(axis=1) == self.targets.argmax(axis=1)
        threshold = threshold_of(probabilities[learned], right[learned])
        given = self._given(probabilities, threshold)
        score_penalty = self._best_scores(folds, given)
        write_weights(
            path,
            self._fit_tasks(rows, penalty),
            temperature=temperature,
            threshold=threshold,
            about={"learned_from": {"teacher": self.lesson.teacher.name, "prompts": int(rows.sum())}},
            scores=self._fit_scores(rows, given, score_penalty),
        )
        return embedded.Embedded(path)

    def _best_tasks(self, folds: Labels, tick: Tick) -> tuple[float, Array]:
        """The penalty under which held-out answers are told best, and the logits, shape (n, 11), that it gave them."""
        best: tuple[float, float, Array] = (np.inf, 0.0, np.zeros(0))
        judged = (folds >= 0) & self.readable
        weights = self._weights(judged)
        for penalty in _TASK_PENALTIES:
            logits = np.zeros((len(folds), N_TYPES))
            for fold in range(_INNER_FOLDS):
                held_out = folds == fold
                fitted = self._fit_tasks((folds >= 0) & ~held_out, penalty)
                logits[held_out] = logits_of(self.examples.chosen(held_out), fitted)
                tick()
            log_probabilities = logits - logsumexp(logits, axis=1, keepdims=True)
            loss = -float((weights[:, None] * self.targets * log_probabilities).sum())
            best = min(best, (loss, penalty, logits), key=lambda found: found[0])
        return best[1], best[2]

    def _best_scores(self, folds: Labels, given: Array) -> float:
        def error(penalty: float) -> float:
            off = 0.0
            for fold in range(_INNER_FOLDS):
                held_out = folds == fold
                fitted = self._fit_scores((folds >= 0) & ~held_out, given, penalty)
                found = given[held_out] @ fitted.mix + self.examples.features[held_out] @ fitted.table
                off += float(np.abs(np.clip(found, 0, embedded.HIGHEST_SCORES) - self.scores[held_out]).sum())
            return off

        return min(_SCORE_PENALTIES, key=error)

    def _fit_tasks(self, rows: Rows, penalty: float) -> Fitted:
        rows = rows & self.readable
        examples = self.examples.chosen(rows)
        used = common_features(examples, self.groups[rows], _IN_CLUSTERS)
        return fit(examples, self.targets[rows], self._weights(rows)[rows], used, start=self.start, penalty=penalty)

    def _fit_scores(self, rows: Rows, given: Array, penalty: float) -> FittedScores:
        examples = self.examples.chosen(rows)
        used = common_features(examples, self.groups[rows], _IN_CLUSTERS)
        tiers = self.lesson.teacher.tiers
        return fit_scores(examples, given[rows], self.scores[rows], used, tiers, penalty=penalty)

    def _weights(self, rows: Rows) -> Array:
        """Of the prompts: what the teacher is sure about counts; sums to 1 over `rows`."""
        weights: Array = np.where(rows, self.known, 0.0)
        weights /= weights.sum()
        return weights

    def _given(self, probabilities: Array, threshold: float) -> Array:
        """What is known of each prompt without learned scores: estimated scores and probabilities, shape (n, 18)."""
        rows: list[list[float]] = []
        for number, (text, reading) in enumerate(zip(self.lesson.texts, self.examples.readings, strict=True)):
            if reading.readable:
                shares = (*probabilities[number].tolist(), 0.0)
                said = classification(reading, text, shares, threshold, "")
            else:
                said = unknown(reading, text, "")
            rows.append([*msgspec.structs.astuple(said.scores), *said.task_probabilities])
        return np.array(rows)


def groups_of(token_lists: Sequence[Sequence[str]]) -> Labels:
    """The same number for prompts that begin or end with the same tokens, numerals aside, also through others."""
    parents = list(range(len(token_lists)))

    def root(number: int) -> int:
        while parents[number] != number:
            parents[number] = parents[parents[number]]
            number = parents[number]
        return number

    first: dict[tuple[Any, ...], int] = {}
    for number, tokens in enumerate(token_lists):
        plain = ["0" if token.isdigit() else token for token in tokens]
        for key in (("head", *plain[:_ALIKE_TOKENS]), ("tail", *plain[-_ALIKE_TOKENS:])):
            parents[root(number)] = root(first.setdefault(key, number))
    return np.array([root(number) for number in range(len(token_lists))], dtype=np.int64)


def fold_of(groups: Labels, folds: int) -> Labels:
    """A fold for each prompt, whole groups together, the larger groups first and each to the smallest fold."""
    found = np.zeros(len(groups), dtype=np.int64)
    sizes = [0] * folds
    members: dict[int, list[int]] = defaultdict(list)
    for row, group in enumerate(groups.tolist()):
        members[group].append(row)
    for rows in sorted(members.values(), key=lambda rows: (-len(rows), rows[0])):
        smallest = sizes.index(min(sizes))
        found[rows] = smallest
        sizes[smallest] += len(rows)
    return found


def _judged(
    course: _Course, before: Sequence[Classification], tiers: tuple[float, float], after: Sequence[Classification]
) -> Report:
    teacher = course.lesson.teacher
    figure = _Resampling(course.groups).figure

    def compared(said: Sequence[Classification], boundaries: tuple[float, float]) -> tuple[Array, Array, Array]:
        pairs = list(zip(said, course.lesson.said, strict=True))
        return (
            np.array([one.task_type == other.task_type for one, other in pairs], dtype=float),
            np.array([abs(one.complexity - other.complexity) for one, other in pairs]),
            np.array(
                [tier(one.complexity, boundaries) == tier(other.complexity, teacher.tiers) for one, other in pairs],
                dtype=float,
            ),
        )

    was, now = compared(before, tiers), compared(after, teacher.tiers)

    def agreement(found: tuple[Array, Array, Array]) -> Agreement:
        tasks, errors, same_tier = map(figure, found)
        return Agreement(task_agreement=tasks, complexity_error=errors, tier_agreement=same_tier)

    return Report(
        teacher=teacher.name,
        prompts=len(before),
        groups=len(np.unique(course.groups)),
        before=agreement(was),
        after=agreement(now),
        task_gain=figure(now[0] - was[0]),
    )


def tier(complexity: float, boundaries: tuple[float, float]) -> int:
    """0, 1 or 2: simple, medium or complex."""
    return sum(complexity >= boundary for boundary in boundaries)


class _Resampling:
    """Means with intervals: groups of like prompts are drawn again and again, for their prompts are not independent."""

    def __init__(self, groups: Labels) -> None:
        _, self._group = np.unique(groups, return_inverse=True)
        self._sizes = np.bincount(self._group)
        count = len(self._sizes)
        self._draws = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=_RESAMPLES)

    def figure(self, values: Array) -> Figure:
        """The mean of the prompts' values, shape (n,)."""
        sums = np.bincount(self._group, weights=values)
        low, high = np.percentile(self._draws @ sums / (self._draws @ self._sizes), [2.5, 97.5])
        return Figure(*(round(float(number), 4) for number in (values.mean(), low, high)))
