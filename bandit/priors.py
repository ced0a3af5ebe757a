"""What is known of every arm before any feedback: from public outcomes, or from the ratings of one's own log.

Both ways fit `quality = level of the task type + gap of the arm there`. Gaps, not means: who answered the hard prompts
only would look bad by its mean. Little data says little: a gap on a task type is drawn to the arm's gap everywhere, as
if 20 prompts had shown that one, or 50 ratings: these differ by their prompts too. A level, like the gap everywhere, is
drawn to what holds for all, by 5.
"""

from array import array
from collections.abc import Iterable
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from bandit.vocabulary import TaskType

EVERYWHERE = ""  # the task type of prompts of which none is known, and the key of an arm's quality over all prompts
LARGEST_WEIGHT = 20.0  # of a rating, by the chance with which its arm was drawn
_GAP_SHRUNK_BY = 20.0  # prompts' worth of belief that an arm is on a task type what it is everywhere
_RATED_GAP_SHRUNK_BY = 50.0  # the same in ratings
_LEVEL_SHRUNK_BY = 5.0  # prompts' or ratings' worth of belief that a task type is like all, and an arm like the others
_LOWEST, _HIGHEST = 0.02, 0.98  # a prior is never certain
_DIGITS = 4

Floats = NDArray[np.float64]
Quality = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]


class PriorTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Expected quality of arms before any feedback."""

    quality: dict[str, dict[str, Quality]]  # arm -> task type -> quality; task type "" is everywhere
    mass: Annotated[float, msgspec.Meta(ge=0.0, le=1e9)] = (
        0.0  # labels that it is worth; 0: the policy's spread decides
    )
    source: str = ""  # what it was made from, in words

    def of(self, arm: str, task_type: TaskType) -> float | None:
        """Quality of `arm` on a task type, else everywhere; None where neither is known.

        >>> PriorTable({"a": {"": 0.5, "Open QA": 0.75}}).of("a", "Chatbot")
        0.5
        """
        known = self.quality.get(arm, {})
        return known.get(task_type, known.get(EVERYWHERE))


class Outcome(NamedTuple):
    """How good one arm's answer to one prompt was. The same again is averaged."""

    prompt: str  # its id
    arm: str
    task_type: TaskType | None  # None: not known
    value: float  # [0, 1]


class Rating(NamedTuple):
    """What somebody said of a reply of the arm that was drawn for it."""

    arm: str
    task_type: TaskType
    value: float  # [0, 1]
    weight: float  # (0, 1]: how much of one label this is worth
    propensity: float  # (0, 1]: the chance with which the arm was drawn


def prior_table(outcomes: Iterable[Outcome], *, mass: float = 0.0, source: str = "") -> PriorTable:
    """Prior from prompts that several arms answered; not every arm needs to have answered every prompt.

    Least squares for one effect of each prompt and one of each arm, the latter with a ridge towards the arm's gap
    everywhere. Where all arms answered all prompts this is the arm's mean distance to the prompts' means, times
    n / (n + 20), plus its distance everywhere, times 20 / (n + 20). An arm of which no other answered a prompt has no
    gap: nothing tells it from its prompts.

    Raises:
        ValueError: there is no outcome, or a value is outside [0, 1]; names arm and prompt.
    """
    arms: dict[str, int] = {}
    tasks: dict[str, int] = {EVERYWHERE: 0}
    prompts: dict[tuple[int, str], int] = {}
    prompt_of, arm_of, values = array("q"), array("q"), array("d")
    for prompt, arm, task_type, value in outcomes:
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"arm {arm!r} has {value} on prompt {prompt!r}; expected a quality from 0 to 1")
        task = tasks.setdefault(task_type or EVERYWHERE, len(tasks))
        prompt_of.append(prompts.setdefault((task, prompt), len(prompts)))
        arm_of.append(arms.setdefault(arm, len(arms)))
        values.append(value)
    if not values:
        raise ValueError("there is no outcome to make a prior from; expected at least one")

    from scipy.sparse import csr_array  # noqa: PLC0415 - start-up needs none of it

    pair, inverse = np.unique(np.array(prompt_of) * len(arms) + np.array(arm_of), return_inverse=True)
    quality = np.bincount(inverse, np.array(values)) / np.bincount(inverse)
    answers = csr_array((quality, (pair // len(arms), pair % len(arms))), shape=(len(prompts), len(arms)))
    answered = csr_array((np.ones(len(pair)), (pair // len(arms), pair % len(arms))), shape=answers.shape)
    task_of = np.array([task for task, _ in prompts])
    sums = [_sums(answers[task_of == task], answered[task_of == task]) for task in range(len(tasks))]

    nowhere = np.zeros(len(arms))
    everywhere = _Sums(*(sum(parts) for parts in zip(*sums, strict=True)))
    gap = everywhere.gaps(nowhere, _LEVEL_SHRUNK_BY)
    level = everywhere.level(gap) / everywhere.prompts
    found = {EVERYWHERE: level + gap}
    for name, number in list(tasks.items())[1:]:
        here = sums[number]
        own = here.gaps(gap, _GAP_SHRUNK_BY)
        found[name] = (here.level(own) + _LEVEL_SHRUNK_BY * level) / (here.prompts + _LEVEL_SHRUNK_BY) + own
    quality_of = {arm: {task: _usable(found[task][arms[arm]]) for task in sorted(found)} for arm in sorted(arms)}
    return PriorTable(quality_of, mass, source)


class _Sums(NamedTuple):
    """Sums over the prompts of a task type."""

    prompts: float
    means: float  # of the answers to each prompt
    distances: Floats  # (n_arms,) of its answers from these means
    answers: Floats  # (n_arms,)
    together: Floats  # (n_arms, n_arms): prompts that both answered, each divided by how many arms answered it

    def gaps(self, towards: Floats, prompts: float) -> Floats:
        """Distance of every arm from the mean over all arms; adds to 0 when `towards` does."""
        left = np.diag(self.answers + prompts) - self.together
        return np.asarray(np.linalg.solve(left, self.distances + prompts * towards), dtype=np.float64)

    def level(self, gaps: Floats) -> float:
        """Sum over prompts of what the mean of all arms would have been there, had all answered."""
        return float(self.means - self.together.diagonal() @ gaps)


def _sums(answers: Any, answered: Any) -> _Sums:
    """Of sparse (n_prompts, n_arms): the qualities, and 1 where there is one."""
    counts = answered.sum(axis=1)
    means = answers.sum(axis=1) / counts
    shared = answered.multiply(1.0 / np.maximum(counts, 1.0)[:, None]).tocsr()
    return _Sums(
        prompts=float(len(means)),
        means=float(means.sum()),
        distances=answers.sum(axis=0) - answered.T @ means,
        answers=answered.sum(axis=0),
        together=(answered.T @ shared).toarray(),
    )


def prior_from_ratings(ratings: Iterable[Rating], *, mass: float = 0.0, source: str = "") -> PriorTable:
    """Prior from the ratings of a log in which one arm was drawn for each prompt.

    A rating is weighted with 1 / propensity, at most 20, so that every arm's mean is the one it would have over all
    prompts of the task type. It counts as many labels as Kish's effective number, (sum w)^2 / (sum w^2), and as the
    ratings are worth, whichever is less.

    Raises:
        ValueError: there is no rating, or one is not usable; names the arm and the number.
    """
    tallies: dict[tuple[str, str], _Tally] = {}
    for rating in ratings:
        _check(rating)
        for task in (rating.task_type, EVERYWHERE):
            key = rating.arm, task
            tallies[key] = tallies.get(key, _NOTHING).plus(rating)
    if not tallies:
        raise ValueError("there is no rating to make a prior from; expected at least one")

    arms = sorted({arm for arm, _ in tallies})
    overall = {arm: tallies[arm, EVERYWHERE] for arm in arms}
    level = _mean([(one.labels, one.mean) for one in overall.values()])
    gap = {arm: _drawn(one, level, 0.0, _LEVEL_SHRUNK_BY) for arm, one in overall.items()}
    found: dict[str, dict[str, float]] = {arm: {EVERYWHERE: _usable(level + gap[arm])} for arm in arms}
    for task in sorted({task for _, task in tallies} - {EVERYWHERE}):
        here = {arm: tallies.get((arm, task), _NOTHING) for arm in arms}
        without_gaps = [(one.labels, one.mean - gap[arm]) for arm, one in here.items() if one.labels]
        own_level = _mean([*without_gaps, (_LEVEL_SHRUNK_BY, level)])
        for arm, one in here.items():
            found[arm][task] = _usable(own_level + _drawn(one, own_level, gap[arm], _RATED_GAP_SHRUNK_BY))
    return PriorTable(found, mass, source)


class _Tally(NamedTuple):
    """Sums over the ratings of one arm on one task type."""

    value: float = 0.0  # weighted
    weight: float = 0.0
    squares: float = 0.0  # of weights
    worth: float = 0.0  # labels, before weighting with propensities

    def plus(self, rating: Rating) -> "_Tally":
        weight = rating.weight * min(1.0 / rating.propensity, LARGEST_WEIGHT)
        return _Tally(
            self.value + weight * rating.value,
            self.weight + weight,
            self.squares + weight * weight,
            self.worth + rating.weight,
        )

    @property
    def mean(self) -> float:
        return self.value / self.weight if self.weight else 0.0

    @property
    def labels(self) -> float:
        return min(self.weight * self.weight / self.squares, self.worth) if self.squares else 0.0


_NOTHING = _Tally()


def _check(rating: Rating) -> None:
    usable = 0.0 <= rating.value <= 1.0 and 0.0 < rating.propensity <= 1.0 and 0.0 < rating.weight <= 1.0
    if not usable:
        raise ValueError(
            f"a rating of arm {rating.arm!r} has value {rating.value}, weight {rating.weight} and propensity "
            f"{rating.propensity}; expected a value from 0 to 1, the others above 0 and at most 1"
        )


def _mean(weighted: list[tuple[float, float]]) -> float:
    return sum(weight * value for weight, value in weighted) / sum(weight for weight, _ in weighted)


def _drawn(tally: _Tally, level: float, towards: float, labels: float) -> float:
    """The gap of a mean to a level, drawn to another gap as if so many labels had shown that one."""
    return (tally.labels * (tally.mean - level) + labels * towards) / (tally.labels + labels)


def _usable(quality: float) -> float:
    return round(float(min(max(quality, _LOWEST), _HIGHEST)), _DIGITS)
