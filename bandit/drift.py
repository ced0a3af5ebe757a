"""A world that moves: old counts fade, and a sudden change of an arm's quality is noticed.

Slow change: counts are halved every half-life when they are read (`bandit.history.faded`). Sudden change: a detector
per arm and stream (labels, heuristics, answers to canaries) bets on a change against the arm's own past; what it has
won is the evidence. An alarm, like any event that is known without detection, ends in the same value: a `Restart`.

The bet. Where p is expected and p' = p - size is looked for, a reading y in [0, 1] multiplies the stake by
(p'/p)^y ((1-p')/(1-p))^(1-y): the likelihood ratio of coin flips, and at most 1 in the mean for any y in [0, 1] with
mean p. Each call adds one new unit of stake (R = (R + calls) ratio). Without a change R is in the mean at most the
number of calls, also when R and calls are summed over arms. So an alarm at R = A comes at most once in A calls over all
arms together, whatever share of the calls is rated; what is learned of p instead of known is paid for by `margin`.

Source: Shiryaev, "On optimum methods in quickest detection problems", 1963; Roberts, "A comparison of some control
chart procedures", 1966; for bounded readings Shin, Ramdas and Rinaldo, "E-detectors", 2023.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from bandit.vocabulary import TaskType

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]
Direction = Literal["down", "up"]
Stream = Literal["label", "heuristic", "canary"]
Event = Literal["price", "version", "incident", "new"]

DIRECTIONS: tuple[Direction, ...] = ("down", "up")
_SIGN = np.array([-1.0, 1.0])[:, None, None]  # of the directions, before axes for sizes and cells
_POISON = 1e9  # counts from here on are ignored
_EDGE = 0.02  # expected values stay this far from 0 and 1, so that no single reading decides
_TINY = 1e-9  # stands for no readings where a division needs some


class Readings(NamedTuple):
    """Sums over readings of quality, per cell (task type, or task type and tier): the last axis."""

    n: Array  # (..., cells): how many
    s: Array  # (..., cells): sum of their values, each in [0, 1]


class Watch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the detectors of one stream. The defaults are for labels."""

    sizes: tuple[float, ...] = (0.1, 0.25)  # changes of quality that are looked for, in (0, 1)
    calls_per_false_alarm: float = 20_000.0  # at least, over all arms and both directions
    down_share: float = 0.8  # of the false alarms that are allowed
    suspicion: float = 0.05  # suspect at this share of the evidence that an alarm needs
    least: float = 20.0  # readings of an arm before it is tested
    shrinkage: float = 25.0  # readings that draw a cell's expected value to the arm's mean
    margin: float = 1.25  # standard errors of the arm's mean by which it may be worse, or better, for free
    memory: float = 2_000.0  # readings of the past that count at most, so that slow change is followed


LABELS = Watch()
HEURISTICS = Watch(sizes=(0.04, 0.1), least=100.0, memory=10_000.0)
CANARIES = Watch(sizes=(0.3, 0.6), least=10.0, memory=500.0)  # few readings, of known answers: large changes only


class Detector(NamedTuple):
    """What is remembered in one stream of one arm, or of many in leading axes: (arms,) or (arms, task types)."""

    past: Readings  # (..., cells): the arm's own, since it was last restarted
    lately: Readings  # (..., cells): since it has been suspected; joins the past when it is cleared
    log_stake: Array  # (..., 2, sizes): logarithm of R, down and up


def fresh(shape: tuple[int, ...], cells: int, watch: Watch = LABELS) -> Detector:
    """Detectors that have seen nothing, for arms in an array of `shape`."""
    nothing = np.zeros((*shape, cells))
    none = Readings(nothing, nothing)
    return Detector(none, none, np.full((*shape, 2, len(watch.sizes)), -np.inf))


def expected(past: Readings, base: Array, shrinkage: float) -> tuple[Array, Array]:
    """What an arm's past leads to expect in each cell, and the standard error of its mean: (..., cells) and (...).

    `base` (..., cells) is the cells' difficulty. An arm's distance to it is learned as a whole, and per cell as far as
    the cell has readings, so another mix of prompts is not taken for another quality of the arm.
    """
    seen = np.maximum(past.n.sum(-1), _TINY)
    distance = past.s - past.n * base
    mean = distance.sum(-1) / seen
    per_cell = (distance + shrinkage * mean[..., None]) / np.maximum(past.n + shrinkage, _TINY)
    value = np.clip(base + per_cell, _EDGE, 1.0 - _EDGE)
    variance = (past.n * value * (1.0 - value)).sum(-1) / seen
    return value, np.sqrt(variance / seen)


def observe(detector: Detector, new: Readings, calls: Array, base: Array, watch: Watch = LABELS) -> Detector:
    """The detectors after a batch of readings; one reading is a batch too.

    `new` has shape (..., cells), `base` broadcasts to it, and `calls` (...) are the arms' calls since the last batch,
    rated or not. Only sums over the batch count, so neither the order of arrival within it matters nor which process
    saw which reading; the order of batches does, because before and after are the question. Poisoned counts are
    ignored.
    """
    new = _sane(new)
    calls = np.where(np.isfinite(calls), np.clip(calls, 0.0, _POISON), 0.0)
    base = np.where(np.isfinite(base), np.clip(base, 0.0, 1.0), 0.5)
    value, error = expected(detector.past, base, watch.shrinkage)
    allowed = _SIGN * watch.margin * error[..., None, None, None]
    before = np.clip(value[..., None, None, :] + allowed, _EDGE, 1.0 - _EDGE)
    # No further than what may be expected: else a stream of nothing but ones would look like a rise from there.
    after = np.clip(before + _SIGN * np.array(watch.sizes)[:, None], _EDGE, 1.0 - _EDGE)
    good, bad = new.s[..., None, None, :], (new.n - new.s)[..., None, None, :]
    won = (good * np.log(after / before) + bad * np.log((1.0 - after) / (1.0 - before))).sum(-1)
    tested = detector.past.n.sum(-1) >= watch.least
    stake = np.log(np.where(tested, np.maximum(calls, _TINY), _TINY))[..., None, None]
    log_stake = np.where(tested[..., None, None], np.logaddexp(detector.log_stake, stake) + won, -np.inf)
    return _sorted(detector.past, _plus(detector.lately, new), log_stake, watch)


def evidence(detector: Detector, watch: Watch = LABELS) -> Array:
    """Evidence of a change down and up, as a share of what an alarm needs: (..., 2), at least 0; from 1 it alarms."""
    shares = np.array([watch.down_share, 1.0 - watch.down_share])
    stake = np.exp(np.clip(detector.log_stake, -700.0, 600.0)).mean(-1)
    found: Array = stake * shares / watch.calls_per_false_alarm
    return found


def suspected(detector: Detector, watch: Watch = LABELS) -> Flags:
    """Arms that may have changed: (...). Ask for more labels on these until they are cleared."""
    flags: Flags = evidence(detector, watch).max(-1) >= watch.suspicion
    return flags


def restarted(detector: Detector, arms: Flags) -> Detector:
    """The detectors with `arms` (...) fresh: these learn their past anew, from decisions made after the restart."""
    forget = arms[..., None]
    log_stake = np.where(forget[..., None], -np.inf, detector.log_stake)
    return Detector(_without(detector.past, forget), _without(detector.lately, forget), log_stake)


class Alarm(msgspec.Struct, frozen=True, kw_only=True):
    """An arm changed, as a detector sees it: to be stored, shown and sent."""

    arm: str
    task_type: TaskType | None  # None: on all of its traffic
    direction: Direction
    stream: Stream
    evidence: float  # as a share of what an alarm needs: at least 1
    readings: float  # since it has been suspected
    mean: float  # of these readings
    past_readings: float  # before, as far as they are remembered
    past_mean: float  # of these
    when: float  # seconds since 1970-01-01 UTC


def alarms(
    detector: Detector,
    arms: Sequence[tuple[str, TaskType | None]],
    stream: Stream,
    when: float,
    watch: Watch = LABELS,
) -> list[Alarm]:
    """The alarms of detectors of shape (len(arms),), in their order; at most one per arm, the stronger direction."""
    found = evidence(detector, watch)
    past, lately = (Readings(n.sum(-1), s.sum(-1)) for n, s in (detector.past, detector.lately))
    strongest = found.argmax(-1)
    return [
        Alarm(
            arm=arm,
            task_type=task_type,
            direction=DIRECTIONS[strongest[index]],
            stream=stream,
            evidence=float(found[index].max()),
            readings=float(lately.n[index]),
            mean=float(lately.s[index] / max(lately.n[index], _TINY)),
            past_readings=float(past.n[index]),
            past_mean=float(past.s[index] / max(past.n[index], _TINY)),
            when=when,
        )
        for index, (arm, task_type) in enumerate(arms)
        if found[index].max() >= 1.0
    ]


class Restart(msgspec.Struct, frozen=True, kw_only=True):
    """What is done with an arm's past when it changed, whether detected or known."""

    label_keep: float = 1.0  # what labels from before still count, in [0, 1]
    heuristic_keep: float = 1.0  # likewise weak readings
    variance_factor: float = 1.0  # multiplies the prior variance of the arm
    mean_shift: float = 0.0  # added to the arm's prior mean
    new: bool = False  # the arm came when others were known: it is given traffic until it is known, too


ON_ALARM: Mapping[Direction, Restart] = {
    "down": Restart(label_keep=0.01, heuristic_keep=0.02, variance_factor=1.5, mean_shift=-0.10),
    "up": Restart(label_keep=0.01, heuristic_keep=0.02, variance_factor=1.5, mean_shift=0.10),
}
# A new version is mostly as good as the old one, so some of the past stays. A changed price says nothing of quality but
# that the model behind the name may have changed too. Failures of an incident pass with it.
ON_EVENT: Mapping[Event, Restart] = {
    "price": Restart(variance_factor=1.5),
    "version": Restart(label_keep=0.3, heuristic_keep=0.1, variance_factor=1.5),
    "incident": Restart(label_keep=0.5, heuristic_keep=0.1, variance_factor=1.5),
    "new": Restart(new=True),
}


def kept(hours: Array, restarts: Sequence[tuple[float, float]]) -> Array:
    """What buckets of these hours still count after restarts, each given as (hour, share kept): same shape as `hours`.

    Stored counts stay as they are; a bucket counts less for each restart in a later hour.
    """
    hours = np.asarray(hours, dtype=np.float64)
    share = np.ones(hours.shape)
    for hour, keep in restarts:
        share = np.where(hours < hour, share * keep, share)
    return share


def _sane(readings: Readings) -> Readings:
    n, s = np.asarray(readings.n, dtype=np.float64), np.asarray(readings.s, dtype=np.float64)
    usable = np.isfinite(n) & np.isfinite(s) & (n > 0.0) & (n < _POISON)
    n = np.where(usable, n, 0.0)
    return Readings(n, np.clip(np.where(usable, s, 0.0), 0.0, n))


def _plus(one: Readings, other: Readings) -> Readings:
    return Readings(one.n + other.n, one.s + other.s)


def _without(readings: Readings, dropped: Flags) -> Readings:
    return Readings(np.where(dropped, 0.0, readings.n), np.where(dropped, 0.0, readings.s))


def _sorted(past: Readings, lately: Readings, log_stake: Array, watch: Watch) -> Detector:
    """Into the past goes what is not suspected of being another quality: a drop must not hide itself in it."""
    suspect = suspected(Detector(past, lately, log_stake), watch)[..., None]
    past = _plus(past, _without(lately, suspect))
    scale = np.minimum(1.0, watch.memory / np.maximum(past.n.sum(-1, keepdims=True), _TINY))
    return Detector(Readings(past.n * scale, past.s * scale), _without(lately, ~suspect), log_stake)
