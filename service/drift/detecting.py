"""What the detectors make of the news: from one memory to the next, and the alarms on the way. No I/O."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from bandit.drift import (
    CANARIES,
    HEURISTICS,
    LABELS,
    Alarm,
    Detector,
    Readings,
    Stream,
    Watch,
    alarms,
    fresh,
    observe,
    suspected,
)
from bandit.posteriors import MICRO
from bandit.vocabulary import TASK_TYPES, TaskType
from service.drift.alarms import AlarmRow, row_of
from service.drift.watches import ArmMemory, Memory, News, stream_of
from service.probes.canaries import version_of
from service.settings import Drift

Array = NDArray[np.float64]

_CELLS = len(TASK_TYPES)
_SHRINKAGE = 25.0  # readings that draw a task type's difficulty to the common mean
_MOST = 1e9  # labels in one cell from here on are damage
_MOST_OWED = 100.0
_WATCHES: Mapping[Stream, Watch] = {"label": LABELS, "heuristic": HEURISTICS, "canary": CANARIES}


def advanced(news: News, drift: Drift, now: float) -> tuple[Memory, list[AlarmRow]]:
    """What is remembered after the news, and the alarms that they lead to: at most one for each arm."""
    memory = _of_these_canaries(news.memory, drift)
    changes, calls = _changes(news, memory.canaries), _calls(news)
    by_stream = {
        stream: Stacked(memory, stream, changes[stream], calls[stream], _watch(watch, drift, memory))
        for stream, watch in _WATCHES.items()
    }
    strongest: dict[str, Alarm] = {}
    for stream, stacked in by_stream.items():
        for alarm in stacked.alarms(stream, now):
            if alarm.arm not in strongest or alarm.evidence > strongest[alarm.arm].evidence:
                strongest[alarm.arm] = alarm
    since = {arm: at for stacked in by_stream.values() for arm, at in stacked.suspected(memory.suspected, now).items()}
    after = replace(
        memory,
        looked_at=now,
        since=news.since,
        counted_until=news.counted_until,
        caught_up=memory.caught_up or news.complete,
        streams={stream: stacked.memory() for stream, stacked in by_stream.items()},
        suspected=since,
    )
    for arm in strongest:
        after = forgotten(after, arm, now)
    return after, [row_of(alarm, since.get(arm, now)) for arm, alarm in strongest.items()]


def forgotten(memory: Memory, arm: str, at: float) -> Memory:
    """The memory with an arm's past forgotten: its detectors learn anew, from decisions of this hour and later."""
    return replace(
        memory,
        streams={
            stream: {name: of for name, of in arms.items() if name != arm} for stream, arms in memory.streams.items()
        },
        suspected={name: since for name, since in memory.suspected.items() if name != arm},
        restarted={**memory.restarted, arm: int(at // 3600)},
    )


def _of_these_canaries(memory: Memory, drift: Drift) -> Memory:
    """The memory without answers to other questions than those that are asked now."""
    versions = tuple(sorted(version_of(canary) for canary in drift.canaries))
    if versions == memory.canaries:
        return memory
    streams = {stream: arms for stream, arms in memory.streams.items() if stream != "canary"}
    return replace(memory, streams=streams, canaries=versions)


class Change(NamedTuple):
    """What is new of one arm in one stream, or taken back."""

    arm: str
    task_type: TaskType
    hour: int  # of the decisions: since 1970-01-01 UTC
    n: float  # readings
    s: float  # sum of their values


def _changes(news: News, canaries: Collection[str]) -> dict[Stream, list[Change]]:
    """The news by stream. All canaries are one kind of task; answers to others than these are passed over."""
    changes: dict[Stream, list[Change]] = {stream: [] for stream in _WATCHES}
    for change in news.changes:
        key = change.key
        more = Change(key.arm, key.task_type, key.hour, change.more_n / MICRO, change.more_s / MICRO)
        changes[stream_of(key.channel)].append(more)
    for probe in news.probes:
        if probe.version in canaries:
            changes["canary"].append(Change(probe.arm, "Unknown", int(probe.at // 3600), 1.0, float(probe.right)))
    return changes


def _calls(news: News) -> dict[Stream, Mapping[str, int]]:
    """How often each arm was called since the last look: in the stream of canaries, by them."""
    return {"label": news.calls, "heuristic": news.calls, "canary": Counter(probe.arm for probe in news.probes)}


def _watch(watch: Watch, drift: Drift, memory: Memory) -> Watch:
    # What was learned before the first look is nobody's news: it becomes the past untested.
    least = watch.least if memory.caught_up else np.inf
    return replace(watch, calls_per_false_alarm=drift.calls_per_false_alarm, least=least)


class Stacked:
    """The detectors of one stream as arrays, after the news: the first axis is the arms, the last the cells."""

    def __init__(
        self, memory: Memory, stream: Stream, changes: Sequence[Change], called: Mapping[str, int], watch: Watch
    ) -> None:
        known = memory.streams.get(stream, {})
        self.arms = sorted({*known, *(change.arm for change in changes)})
        self._watch = watch
        self._detector, owed = _stack([known.get(arm) for arm in self.arms], watch)
        new = _plus(owed, _readings(changes, self.arms, memory.restarted))
        n = np.maximum(new.n, 0.0)
        s = np.clip(new.s, 0.0, n)
        # A rating that was taken back is owed: it goes off the next readings of its kind.
        self._owed = Readings(*(np.clip(rest, -_MOST_OWED, _MOST_OWED) for rest in (new.n - n, new.s - s)))
        calls = np.array([float(called.get(arm, 0)) for arm in self.arms])
        self._detector = observe(self._detector, Readings(n, s), calls, _difficulty(self._detector.past), watch)

    def alarms(self, stream: Stream, now: float) -> list[Alarm]:
        """The detectors' alarms."""
        return alarms(self._detector, [(arm, None) for arm in self.arms], stream, now, self._watch)

    def suspected(self, before: Mapping[str, float], now: float) -> dict[str, float]:
        """The suspected arms, and since when."""
        flags = suspected(self._detector, self._watch)
        return {arm: before.get(arm, now) for arm, flag in zip(self.arms, flags, strict=True) if flag}

    def memory(self) -> dict[str, ArmMemory]:
        """Each arm's detector, to be stored."""
        past, lately, log_stake = self._detector
        lists = [part.tolist() for pair in (past, lately, self._owed) for part in pair]
        stakes = [
            [[value if np.isfinite(value) else None for value in row] for row in rows] for rows in log_stake.tolist()
        ]
        return {
            arm: ArmMemory(
                past_n=past_n, past_s=past_s, lately_n=lately_n, lately_s=lately_s, owed_n=owed_n, owed_s=owed_s,
                log_stake=stake,
            )
            for arm, past_n, past_s, lately_n, lately_s, owed_n, owed_s, stake in zip(
                self.arms, *lists, stakes, strict=True
            )
        }  # fmt: skip


def _stack(arms: list[ArmMemory | None], watch: Watch) -> tuple[Detector, Readings]:
    detector = fresh((len(arms),), _CELLS, watch)
    owed = Readings(np.zeros((len(arms), _CELLS)), np.zeros((len(arms), _CELLS)))
    past, lately = (Readings(pair.n.copy(), pair.s.copy()) for pair in (detector.past, detector.lately))
    log_stake = detector.log_stake.copy()
    for index, arm in enumerate(arms):
        if arm is None:
            continue
        stake = np.array([[-np.inf if value is None else value for value in row] for row in arm.log_stake])
        lists = (arm.past_n, arm.past_s, arm.lately_n, arm.lately_s, arm.owed_n, arm.owed_s)
        if stake.shape != log_stake.shape[1:] or any(len(values) != _CELLS for values in lists):
            continue  # another version of Armwise looked at other sizes or task types: this one begins anew
        past.n[index], past.s[index], lately.n[index], lately.s[index], owed.n[index], owed.s[index] = lists
        log_stake[index] = stake
    return Detector(past, lately, log_stake), owed


def _readings(changes: Iterable[Change], arms: list[str], since_hour: Mapping[str, int]) -> Readings:
    """Changes as sums over readings, (arms, cells). Passed over: decisions from before an arm's restart, and damage."""
    n, s = np.zeros((len(arms), _CELLS)), np.zeros((len(arms), _CELLS))
    rows = {arm: index for index, arm in enumerate(arms)}
    for change in changes:
        if change.hour < since_hour.get(change.arm, 0) or max(abs(change.n), abs(change.s)) >= _MOST:
            continue
        where = rows[change.arm], TASK_TYPES.index(change.task_type)
        n[where] += change.n
        s[where] += change.s
    return Readings(n, s)


def _difficulty(past: Readings) -> Array:
    """The mean of each task type over all arms (cells,), drawn to the common mean where little is known."""
    n, s = past.n.sum(0), past.s.sum(0)
    mean = (s.sum() + 0.5) / (n.sum() + 1.0)
    found: Array = (s + _SHRINKAGE * mean) / (n + _SHRINKAGE)
    return found


def _plus(one: Readings, other: Readings) -> Readings:
    return Readings(one.n + other.n, one.s + other.s)
