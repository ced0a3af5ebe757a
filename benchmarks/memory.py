"""What a policy remembers in a replay: labels when they arrive, readings at once, costs, and its detectors' alarms."""

from typing import NamedTuple

import numpy as np

from bandit import history
from bandit.channels import Calibration, Pairs, pairs_of
from bandit.drift import ON_ALARM, Detector, Direction, Readings, alarms, fresh, kept, observe, restarted
from bandit.pooling import Sums
from bandit.vocabulary import PROMPT_TIERS
from benchmarks.learners import Believed, Known
from benchmarks.streams import Array, Integers, Stream

_MOST_LABELS = history.Memory().most_labels  # of a model on a task; no time passes here that would halve them
_TYPICAL_CALLS = 20.0  # calls' worth of belief that a model's calls cost on a task what they cost everywhere


class Alarm(NamedTuple):
    """A detector says that a model changed."""

    number: int  # of the request before which it rang
    model: int
    direction: Direction


class Memory:
    """Everything that one policy was told in one replay."""

    def __init__(self, given: Stream, typical_usd: Array, *, watches: bool) -> None:
        outcomes = given.outcomes
        self.given = given
        self.task, self.tier = outcomes.task[given.rows], outcomes.tier[given.rows]
        self.arms: Integers = np.zeros(len(given.rows), dtype=np.int64)
        self.shape = (len(outcomes.models), len(outcomes.tasks), len(PROMPT_TIERS))
        self.sums = Sums(*np.zeros((3, *self.shape)))
        self.shift, self.factor = np.zeros(self.shape[0]), np.ones(self.shape[0])
        self.readings = np.zeros((2, *self.shape))
        self.pairs = dict.fromkeys(outcomes.tasks, Pairs())
        self.traffic = np.zeros(self.shape[1:])
        self._costs = np.repeat(typical_usd[:, None], self.shape[1], axis=1) * _TYPICAL_CALLS
        self._calls = np.full(self.shape[:2], _TYPICAL_CALLS)
        self._detector: Detector | None = fresh(self.shape[:1], self.shape[1]) if watches else None
        self.alarms: list[Alarm] | None = [] if watches else None
        self._restarts: dict[int, list[tuple[float, float]]] = {}
        waiting = np.flatnonzero(given.rated)
        self._waiting = waiting[np.argsort(given.told_at[waiting], kind="stable")]
        self._told = 0

    def known(self) -> Known:
        """All of it, as a policy wants it."""
        scale = np.minimum(1.0, _MOST_LABELS / np.maximum(self.sums.n.sum(axis=2, keepdims=True), 1e-9))
        readings = Sums(*self.readings, self.readings[1])
        return Known(
            Sums(*(part * scale for part in self.sums)), readings, Calibration(self.pairs), self.shift, self.factor,
            self.usd(), ~self.given.world.phases[0].present,
        )  # fmt: skip

    def usd(self) -> Array:
        """Expected cost of a call at a price factor of 1, shape (n_models, n_tasks)."""
        return np.asarray(self._costs / self._calls)

    def quizzed(self) -> None:
        """The new model's answers to stored prompts have been rated."""
        quiz, model = self.given.world.quiz, self.given.world.changed
        if quiz is not None:
            self._add(np.full(len(quiz.task), model), quiz.task, quiz.tier, quiz.quality, np.ones(len(quiz.task)))

    def served(self, first: int, stop: int, believed: Believed) -> bool:
        """Requests have been answered, and ratings have come meanwhile. True when a policy has something to learn."""
        block = slice(first, stop)
        arms, task, tier = self.arms[block], self.task[block], self.tier[block]
        np.add.at(self.traffic, (task, tier), 1.0)
        self._pay(block)
        if self.given.readings is not None:
            read = self.given.readings[np.arange(first, stop), arms]
            np.add.at(self.readings[0], (arms, task, tier), 1.0)
            np.add.at(self.readings[1], (arms, task, tier), read)
        waiting = self.given.told_at[self._waiting]
        upto = int(np.searchsorted(waiting, stop, side="right"))
        new, self._told = self._waiting[self._told : upto], upto
        self._label(new)
        rang = self._watch(new, np.bincount(arms, minlength=self.shape[0]), stop, believed)
        return bool(len(new)) or rang or self.given.readings is not None

    def _pay(self, block: slice) -> None:
        """Costs are known at once; what is learned of them is tokens, so that a changed price acts at once."""
        arms, task = self.arms[block], self.task[block]
        factor = self.given.phase(block.start).price[arms]
        np.add.at(self._costs, (arms, task), self.given.cost_usd[np.arange(block.start, block.stop), arms] / factor)
        np.add.at(self._calls, (arms, task), 1.0)

    def _label(self, new: Integers) -> None:
        arms, task = self.arms[new], self.task[new]
        said = self.given.quality[new, arms]
        weight = np.ones(len(new))
        for model, restarts in self._restarts.items():
            mine = arms == model
            weight[mine] = kept(new[mine], restarts)  # of decisions that were made before the restart
        self._add(arms, task, self.tier[new], said, weight)
        if self.given.readings is not None:
            for where, label, reading in zip(task, said, self.given.readings[new, arms], strict=True):
                name = self.given.outcomes.tasks[where]
                self.pairs[name] = self.pairs[name].plus(pairs_of(float(label), float(reading)))

    def _add(self, arms: Integers, task: Integers, tier: Integers, said: Array, weight: Array) -> None:
        for total, value in zip(self.sums, (weight, weight * said, weight * said * said), strict=True):
            np.add.at(total, (arms, task, tier), value)

    def _watch(self, new: Integers, calls: Integers, now: int, believed: Believed) -> bool:
        """Show the labels to the detectors and restart the models that they find changed. True when there are any."""
        if self._detector is None or self.alarms is None:
            return False
        since = np.array([self._restarts.get(model, [(0.0, 1.0)])[-1][0] for model in range(self.shape[0])])
        new = new[new >= since[self.arms[new]]]  # a restarted detector learns from decisions made after
        arms, task = self.arms[new], self.task[new]
        n, s = np.zeros((2, *self.shape[:2]))
        np.add.at(n, (arms, task), 1.0)
        np.add.at(s, (arms, task), self.given.quality[new, arms])
        base = believed.mean.mean(axis=(0, 2))
        self._detector = observe(self._detector, Readings(n, s), calls.astype(float), base)
        rang = alarms(self._detector, [(str(model), None) for model in range(self.shape[0])], "label", float(now))
        for alarm in rang:
            model, change = int(alarm.arm), ON_ALARM[alarm.direction]
            self.alarms.append(Alarm(now, model, alarm.direction))
            self._restarts.setdefault(model, []).append((float(now), change.label_keep))
            self.shift[model], self.factor[model] = change.mean_shift, change.variance_factor  # the newest one's
            for total in self.sums:
                total[model] *= change.label_keep
            self.readings[:, model] *= change.heuristic_keep
        changed = np.isin(np.arange(self.shape[0]), [int(alarm.arm) for alarm in rang])
        self._detector = restarted(self._detector, changed)
        return bool(rang)
