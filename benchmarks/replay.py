"""Replay of real outcomes: a router sees prompts one by one, and a share of the qualities, later."""

import time
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import msgspec
import numpy as np

from bandit.budget import Pacer, PacerState, affordable, corrected, price, repriced, spent
from bandit.pooled import Exploration, chances
from bandit.pooling import Pooled
from benchmarks.learners import Learner
from benchmarks.memory import Alarm, Memory
from benchmarks.peers import Peer, Request
from benchmarks.streams import Array, Flags, Integers, Stream

REFRESH_EVERY = 200  # requests between two snapshots; staleness of 1,000 was measured to cost nothing
NURSERY_SHARE, NURSERY_LABELS = 0.02, 30  # traffic of a new model until it has so many labels


class Replayed(NamedTuple):
    """What a router did with a stream."""

    arms: Integers  # (n,): which model answered
    decision_s: float  # of all decisions and refreshes, or of the peer's own choosing
    alarms: list[Alarm] | None = None  # of a policy whose detectors watch


def replay(given: Stream, learner: Learner, pacer: Pacer | None = None, typical_usd: Array | None = None) -> Replayed:
    """Replay a policy, whose beliefs are computed again when ratings came, every 200 requests at most.

    With a pacer it keeps to a budget. `typical_usd` (n_models,) is what a call is expected to cost before there was
    any; the mean of the outcomes by default.
    """
    typical = given.outcomes.cost_usd.mean(axis=0) if typical_usd is None else typical_usd
    memory = Memory(given, typical, watches=learner.watches)
    started = time.perf_counter()
    believed = learner.believe(memory.known())
    purse = None if pacer is None else _Purse(pacer)
    for first, stop in _blocks(given):
        if first and first == given.phase(first).start:
            memory.quizzed()
            believed = learner.believe(memory.known())
        open_to, nursed = _there(given, memory, first)
        if purse is None:
            table = _chances(believed, learner.exploration, open_to, nursed).cumsum(axis=-1)
            chance = table[memory.task[first:stop], memory.tier[first:stop]]
            above = given.uniforms[first:stop, None] >= chance
            memory.arms[first:stop] = np.minimum(above.sum(axis=1), np.flatnonzero(open_to | nursed)[-1])
        else:
            purse.serve(memory, believed, learner.exploration, (first, stop), (open_to, nursed))
        if memory.served(first, stop, believed):
            believed = learner.believe(memory.known())
    return Replayed(memory.arms, time.perf_counter() - started, memory.alarms)


def _blocks(given: Stream) -> list[tuple[int, int]]:
    """Requests between two snapshots; a change that is known at once makes a new one."""
    n = len(given.rows)
    return list(pairwise(sorted({*range(0, n, REFRESH_EVERY), *(phase.start for phase in given.world.phases), n})))


def _there(given: Stream, memory: Memory, number: int) -> tuple[Flags, Flags]:
    """Which models are drawn freely, and which one is in the nursery: shape (n_models,) each."""
    present = given.phase(number).present
    nursed = np.zeros(len(present), dtype=bool)
    if given.world.shock == "new-model":
        model = given.world.changed
        nursed[model] = present[model] and memory.labels[model] < NURSERY_LABELS
    return present & ~nursed, nursed


def _chances(believed: Pooled, exploration: Exploration, open_to: Flags, nursed: Flags) -> Array:
    """Probability of every model in every cell, shape (n_tasks, n_tiers, n_models): 0 for those that are not there."""
    found = chances(Pooled(believed.mean[open_to], believed.sd[open_to], 0.0), exploration)
    table = np.zeros((*found.shape[:-1], len(open_to)))
    table[..., open_to] = found * (1 - NURSERY_SHARE * nursed.any())
    table[..., nursed] = NURSERY_SHARE
    return table


class _Purse:
    """Keeps one policy to its budget."""

    def __init__(self, pacer: Pacer) -> None:
        self._pacer, self._state = pacer, PacerState()

    def serve(
        self,
        memory: Memory,
        believed: Pooled,
        exploration: Exploration,
        block: tuple[int, int],
        there: tuple[Flags, Flags],
    ) -> None:
        """Draw a model for every request of a block, each at the price of its moment."""
        given, (open_to, nursed) = memory.given, there
        expected = memory.typical_usd() * given.phase(block[0]).price[:, None]  # (n_models, n_tasks)
        self._reprice(memory, believed, expected, open_to)
        without_floor = msgspec.structs.replace(exploration, floor=0.0)
        for number in range(*block):
            task, tier = memory.task[number], memory.tier[number]
            cost = expected[:, task]
            usable = affordable(self._pacer, self._state, np.where(open_to, cost, np.inf)) & open_to
            shift = price(self._pacer, self._state) * cost[usable]
            cell = Pooled(
                (believed.mean[usable, task, tier] - shift)[:, None, None],
                believed.sd[usable, task, tier][:, None, None],
                0.0,
            )
            chance = np.zeros(len(cost))
            chance[usable] = chances(cell, without_floor)[0, 0] if usable.sum() > 1 else 1.0
            floor = usable * exploration.floor / usable.sum() * self._frugal(cost)
            floor += nursed * NURSERY_SHARE * self._frugal(cost)
            chance = (1.0 - floor.sum()) * chance + floor
            arm = int(np.minimum((given.uniforms[number] >= chance.cumsum()).sum(), np.flatnonzero(chance)[-1]))
            memory.arms[number] = arm
            self._state = spent(self._pacer, self._state, float(cost[arm]))
            self._state = corrected(self._state, float(given.cost_usd[number, arm] - cost[arm]))

    def _frugal(self, cost: Array) -> Array:
        """Part of the floor that a model gets, so that none spends more of the budget than of the traffic on it."""
        return np.minimum(1.0, self._pacer.target_usd / np.maximum(cost, 1e-12))

    def _reprice(self, memory: Memory, believed: Pooled, expected: Array, open_to: Flags) -> None:
        tiers = memory.shape[2]
        quality = np.where(open_to[:, None, None], believed.mean, np.nan).reshape(len(open_to), -1).T
        weights = memory.traffic.reshape(-1) + 1.0 / memory.traffic.size
        cost = np.repeat(expected, tiers, axis=1).T
        self._state = repriced(self._pacer, self._state, weights, quality, cost)


def replay_peer(given: Stream, peer: Peer) -> Replayed:
    """Replay another router, one request after another."""
    outcomes = given.outcomes
    typical = outcomes.cost_usd.mean(axis=0)
    costs = {phase.start: tuple((typical * phase.price).tolist()) for phase in given.world.phases}
    arms = np.zeros(len(given.rows), dtype=np.int64)
    waiting = np.flatnonzero(given.rated)
    waiting = waiting[np.argsort(given.told_at[waiting], kind="stable")].tolist()
    requests: dict[int, Request] = {}
    told = 0
    for number, row in enumerate(given.rows.tolist()):
        while told < len(waiting) and given.told_at[waiting[told]] <= number:
            earlier = waiting[told]
            quality = float(given.quality[earlier, arms[earlier]])
            peer.learn(earlier, requests.pop(earlier), int(arms[earlier]), quality)
            told += 1
        tier = ("simple", "medium", "complex")[outcomes.tier[row]]
        now = costs[given.phase(number).start]
        request = Request(number, outcomes.tasks[outcomes.task[row]], tier, outcomes.prompts[row], now)
        arms[number] = peer.choose(request)
        if given.rated[number]:
            requests[number] = request
    return Replayed(arms, peer.decision_s)


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean over seeds with a 95 % interval (normal); low and high are the mean where there is one seed."""
    mean = float(np.mean(values))
    half = 1.96 * float(np.std(values, ddof=1)) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return mean, mean - half, mean + half
