"""What the detectors make of the news: from one memory to the next, and the alarms on the way. No I/O."""

from collections.abc import Iterable, Mapping

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from bandit.drift import HEURISTICS, LABELS, Alarm, Detector, Readings, Stream, Watch, alarms, fresh, observe, suspected
from bandit.posteriors import MICRO
from bandit.vocabulary import TASK_TYPES
from service.alarms import AlarmRow, row_of
from service.settings import Drift
from service.watches import ArmMemory, Change, Memory, News, stream_of

Array = NDArray[np.float64]

_CELLS = len(TASK_TYPES)
_SHRINKAGE = 25.0  # readings that draw a task type's difficulty to the common mean
_MOST = 1e9  # labels in one cell from here on are damage
_MOST_OWED = 100.0
_WATCHES: Mapping[Stream, Watch] = {"label": LABELS, "heuristic": HEURISTICS}


def advanced(news: News, drift: Drift, now: float) -> tuple[Memory, list[AlarmRow]]:
    """What is remembered after the news, and the alarms that they lead to: at most one for each arm."""
    memory = news.memory
    by_stream = {
        stream: Stacked(memory, stream, news, _watch(watch, drift, memory)) for stream, watch in _WATCHES.items()
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


def _watch(watch: Watch, drift: Drift, memory: Memory) -> Watch:
    # What was learned before the first look is nobody's news: it becomes the past untested.
    least = watch.least if memory.caught_up else np.inf
    return replace(watch, calls_per_false_alarm=drift.calls_per_false_alarm, least=least)


class Stacked:
    """The detectors of one stream as arrays, after the news: the first axis is the arms, the last the cells."""

    def __init__(self, memory: Memory, stream: Stream, news: News, watch: Watch) -> None:
        known = memory.streams.get(stream, {})
        changes = [change for change in news.changes if stream_of(change.key.channel) == stream]
        self.arms = sorted({*known, *(change.key.arm for change in changes)})
        self._watch = watch
        self._detector, owed = _stack([known.get(arm) for arm in self.arms], watch)
        new = _plus(owed, _readings(changes, self.arms, memory.restarted))
        n = np.maximum(new.n, 0.0)
        s = np.clip(new.s, 0.0, n)
        # A rating that was taken back is owed: it goes off the next readings of its kind.
        self._owed = Readings(*(np.clip(rest, -_MOST_OWED, _MOST_OWED) for rest in (new.n - n, new.s - s)))
        calls = np.array([float(news.calls.get(arm, 0)) for arm in self.arms])
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
        more_n, more_s = change.more_n / MICRO, change.more_s / MICRO
        if change.key.hour < since_hour.get(change.key.arm, 0) or max(abs(more_n), abs(more_s)) >= _MOST:
            continue
        where = rows[change.key.arm], TASK_TYPES.index(change.key.task_type)
        n[where] += more_n
        s[where] += more_s
    return Readings(n, s)


def _difficulty(past: Readings) -> Array:
    """The mean of each task type over all arms (cells,), drawn to the common mean where little is known."""
    n, s = past.n.sum(0), past.s.sum(0)
    mean = (s.sum() + 0.5) / (n.sum() + 1.0)
    found: Array = (s + _SHRINKAGE * mean) / (n + _SHRINKAGE)
    return found


def _plus(one: Readings, other: Readings) -> Readings:
    return Readings(one.n + other.n, one.s + other.s)
