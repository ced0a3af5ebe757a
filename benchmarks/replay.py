"""Replay of real outcomes: a router sees prompts one by one, and a share of the qualities, later.

Everything a request needs is drawn beforehand from the seed, so that all routers of one seed meet the same prompts, the
same ratings and the same delays: differences between them are paired.
"""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bandit.pooling import Sums
from bandit.vocabulary import PROMPT_TIERS
from benchmarks.outcomes import Outcomes
from benchmarks.peers import Peer, Request

Array = NDArray[np.float64]
Integers = NDArray[np.int64]
Learner = Callable[[Sums], Array]  # what was learned -> chances, shape (n_tasks, n_tiers, n_arms)

REFRESH_EVERY = 200  # requests between two snapshots; staleness of 1,000 was measured to cost nothing


class Stream(NamedTuple):
    """The requests of one replay."""

    outcomes: Outcomes
    rows: Integers  # (n,): which prompt
    uniforms: Array  # (n,): what the draw falls on
    rated: NDArray[np.bool_]  # (n,)
    told_at: Array  # (n,): number of the request before which the rating arrives


class Replayed(NamedTuple):
    """What a router did with a stream."""

    arms: Integers  # (n,): which model answered
    decision_s: float  # of all decisions and refreshes, or of the peer's own choosing


def stream(outcomes: Outcomes, requests: int, feedback_rate: float, delay: float, seed: int) -> Stream:
    """Prompts with repetition; ratings of a random share, after a lognormal delay of that median, in requests."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(len(outcomes.prompt_ids), size=requests)
    uniforms, rated = rng.random(requests), rng.random(requests) < feedback_rate
    waits = rng.lognormal(np.log(delay), 1.0, requests) if delay > 0 else np.zeros(requests)
    return Stream(outcomes, rows, uniforms, rated, np.arange(requests) + 1 + waits)


def replay(given: Stream, learner: Learner) -> Replayed:
    """Replay a learner, whose chances are computed again when ratings came, every 200 requests at most."""
    outcomes, rows = given.outcomes, given.rows
    task, tier = outcomes.task[rows], outcomes.tier[rows]
    quality = outcomes.quality[rows]
    shape = (len(outcomes.models), len(outcomes.tasks), len(PROMPT_TIERS))
    sums = Sums(np.zeros(shape), np.zeros(shape), np.zeros(shape))
    arms = np.zeros(len(rows), dtype=np.int64)
    waiting = np.flatnonzero(given.rated)
    waiting = waiting[np.argsort(given.told_at[waiting], kind="stable")]
    started = time.perf_counter()
    cumulated = learner(sums).cumsum(axis=-1)
    told = 0
    for begin in range(0, len(rows), REFRESH_EVERY):
        part = slice(begin, min(begin + REFRESH_EVERY, len(rows)))
        bounds = cumulated[task[part], tier[part]]
        arms[part] = np.minimum((given.uniforms[part, None] * bounds[:, -1:] >= bounds).sum(axis=1), shape[0] - 1)
        upto = int(np.searchsorted(given.told_at[waiting], part.stop, side="right"))
        if upto > told:
            new = waiting[told:upto]
            cells, said = (arms[new], task[new], tier[new]), quality[new, arms[new]]
            for total, value in zip(sums, (np.ones(len(new)), said, said * said), strict=True):
                np.add.at(total, cells, value)
            told = upto
            cumulated = learner(sums).cumsum(axis=-1)
    return Replayed(arms, time.perf_counter() - started)


def replay_peer(given: Stream, peer: Peer) -> Replayed:
    """Replay another router, one request after another."""
    outcomes = given.outcomes
    costs = tuple(outcomes.cost_usd.mean(axis=0).tolist())
    arms = np.zeros(len(given.rows), dtype=np.int64)
    waiting = np.flatnonzero(given.rated)
    waiting = waiting[np.argsort(given.told_at[waiting], kind="stable")].tolist()
    requests: dict[int, Request] = {}
    told = 0
    for number, row in enumerate(given.rows.tolist()):
        while told < len(waiting) and given.told_at[waiting[told]] <= number:
            earlier = waiting[told]
            quality = float(outcomes.quality[given.rows[earlier], arms[earlier]])
            peer.learn(earlier, requests.pop(earlier), int(arms[earlier]), quality)
            told += 1
        tier = ("simple", "medium", "complex")[outcomes.tier[row]]
        request = Request(number, outcomes.tasks[outcomes.task[row]], tier, outcomes.prompts[row], costs)
        arms[number] = peer.choose(request)
        if given.rated[number]:
            requests[number] = request
    return Replayed(arms, peer.decision_s)


def best_per_task(outcomes: Outcomes) -> Integers:
    """The model of highest mean for each task, with hindsight: shape (n_tasks,)."""
    found = np.zeros(len(outcomes.tasks), dtype=np.int64)
    for task in np.unique(outcomes.task):
        found[task] = outcomes.quality[outcomes.task == task].mean(axis=0).argmax()
    return found


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean over seeds with a 95 % interval (normal); low and high are the mean where there is one seed."""
    mean = float(np.mean(values))
    half = 1.96 * float(np.std(values, ddof=1)) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return mean, mean - half, mean + half
