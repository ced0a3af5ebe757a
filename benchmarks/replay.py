"""Replay of real outcomes: a router sees prompts one by one, and a share of the qualities, later."""

import time
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import msgspec
import numpy as np

from bandit.budget import Pacer, PacerState, corrected, price, repriced, room_usd, spent
from bandit.pooled import PooledThompson
from bandit.vocabulary import FREE, PROMPT_TIERS, TASK_TYPES, Arm, PromptProfile, Terms
from benchmarks.learners import Believed, Learner
from benchmarks.memory import Alarm, Memory
from benchmarks.peers import Peer, Request
from benchmarks.streams import Array, Flags, Integers, Stream

REFRESH_EVERY = 200  # requests between two snapshots; staleness of 1,000 was measured to cost nothing
_ANY = PromptProfile(task_type=TASK_TYPES[0], tier=PROMPT_TIERS[0])  # beliefs are of one cell, whatever its name
_DOLLAR = 1e6  # USD per million tokens, where a token stands for a dollar


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
        if purse is None:
            _serve(memory, believed, learner.policy, (first, stop))
        else:
            purse.serve(memory, believed, learner.policy, (first, stop))
        if memory.served(first, stop, believed):
            believed = learner.believe(memory.known())
    return Replayed(memory.arms, time.perf_counter() - started, memory.alarms)


def _blocks(given: Stream) -> list[tuple[int, int]]:
    """Requests between two snapshots; a change that is known at once makes a new one."""
    n = len(given.rows)
    return list(pairwise(sorted({*range(0, n, REFRESH_EVERY), *(phase.start for phase in given.world.phases), n})))


class _There(NamedTuple):
    """The models that may serve a block."""

    arms: tuple[Arm, ...]
    places: Integers  # their columns in the outcomes


def _there(given: Stream, number: int) -> _There:
    phase, models = given.phase(number), given.outcomes.models
    places = np.flatnonzero(phase.present)
    arms = [Arm(name=models[place], price_out=_DOLLAR * float(phase.price[place])) for place in places]
    return _There(tuple(arms), places)


def _serve(memory: Memory, believed: Believed, policy: PooledThompson, block: tuple[int, int]) -> None:
    """Draw a model for every request of a block, where nothing but its cell matters."""
    there, (first, stop) = _there(memory.given, block[0]), block
    task, tier = memory.task[first:stop], memory.tier[first:stop]
    cells, of_cell = np.unique(task * memory.shape[2] + tier, return_inverse=True)
    table = [_chances(policy, there, believed, *divmod(int(cell), memory.shape[2])) for cell in cells]
    memory.arms[first:stop] = there.places[_drawn(np.array(table)[of_cell], memory.given.uniforms[first:stop])]


def _chances(
    policy: PooledThompson, there: _There, believed: Believed, task: int, tier: int, terms: Terms = FREE
) -> Array:
    return np.asarray(policy.probabilities(_ANY, there.arms, believed.cells[task][tier], terms))


def _drawn(chance: Array, uniforms: Array) -> Integers:
    """Where uniform numbers (n,) fall in rows of probabilities (n, n_arms)."""
    above = (uniforms[:, None] >= chance.cumsum(axis=1)).sum(axis=1)
    last = chance.shape[1] - 1 - (chance[:, ::-1] > 0).argmax(axis=1)
    return np.asarray(np.minimum(above, last))


class _Purse:
    """Keeps one policy to its budget."""

    def __init__(self, pacer: Pacer) -> None:
        self._pacer, self._state = pacer, PacerState()

    def serve(self, memory: Memory, believed: Believed, policy: PooledThompson, block: tuple[int, int]) -> None:
        """Draw a model for every request of a block, each at the price of its moment."""
        given, there = memory.given, _there(memory.given, block[0])
        policy = msgspec.structs.replace(policy, objective="budget", usd_per_request=self._pacer.budget_usd)
        expected = memory.usd() * given.phase(block[0]).price[:, None]
        self._reprice(memory, believed, expected, given.phase(block[0]).present)
        for number in range(*block):
            task, tier = int(memory.task[number]), int(memory.tier[number])
            terms = Terms(
                usd_price=price(self._pacer, self._state),
                room_usd=room_usd(self._pacer, self._state),
                budget_usd=self._pacer.target_usd,
            )
            chance = _chances(policy, there, believed, task, tier, terms)
            arm = int(there.places[_drawn(chance[None], given.uniforms[number : number + 1])[0]])
            memory.arms[number] = arm
            cost = float(expected[arm, task])
            self._state = spent(self._pacer, self._state, cost)
            self._state = corrected(self._state, float(given.cost_usd[number, arm]) - cost)

    def _reprice(self, memory: Memory, believed: Believed, expected: Array, present: Flags) -> None:
        tiers = memory.shape[2]
        quality = np.where(present[:, None, None], believed.mean, np.nan).reshape(len(present), -1).T
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
