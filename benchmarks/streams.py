"""The requests of a replay, drawn beforehand, in a world that may change half way.

All routers of one seed meet the same prompts, the same ratings, delays and readings: differences between them are
paired.
"""

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.outcomes import Outcomes

Array = NDArray[np.float64]
Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]
Shock = Literal["none", "price", "drop", "new-model"]
Heuristic = Literal["none", "weak", "biased"]

PRICE_FACTOR = 4.0  # of every model, known at once
DROP = 0.25  # of the best model's mean quality, silently
SENSITIVITY, FALSE_POSITIVES = 0.85, 0.55  # of a reading, so that Youden's J is .3
FALSE_ALARMS = 0.2  # share of the best model's readings that a biased heuristic makes bad


class Phase(NamedTuple):
    """What holds from a request on. All arrays have shape (n_models,)."""

    start: int  # number of its first request
    price: Array  # multiplies what a call costs
    lost: Array  # chance that a model spoils its answer, whose quality is then 0
    present: Flags  # which models are there


class Quiz(NamedTuple):
    """Stored prompts that a new model answers before it serves, and a judge rates."""

    task: Integers  # (n,)
    tier: Integers  # (n,)
    quality: Array  # (n,), of the new model


class World(NamedTuple):
    """How a replay changes."""

    shock: Shock
    phases: tuple[Phase, ...]
    changed: int  # the model that drops or arrives, the best one otherwise
    quiz: Quiz | None


class Stream(NamedTuple):
    """The requests of one replay."""

    outcomes: Outcomes
    world: World
    rows: Integers  # (n,): which prompt
    uniforms: Array  # (n,): what the draw falls on
    rated: Flags  # (n,)
    told_at: Array  # (n,): number of the request before which the rating arrives
    quality: Array  # (n, n_models), as it would be met
    cost_usd: Array  # (n, n_models)
    readings: Array | None  # (n, n_models), what the heuristic says of the reply, 0 or 1

    def phase(self, number: int) -> Phase:
        """What holds for a request."""
        return [one for one in self.world.phases if one.start <= number][-1]


def steady(outcomes: Outcomes) -> World:
    """A world that does not change."""
    models = len(outcomes.models)
    phase = Phase(0, np.ones(models), np.zeros(models), np.ones(models, dtype=bool))
    return World("none", (phase,), int(outcomes.quality.mean(axis=0).argmax()), None)


def shaken(
    outcomes: Outcomes, shock: Shock, requests: int, newcomer: int | None = None, quiz: Outcomes | None = None
) -> World:
    """A world that changes at half time.

    `price`: every price times 4. `drop`: the best model's mean quality falls by .25, as right answers become wrong.
    `new-model`: one model, by default that of second-best quality, is only there from then on, and has answered the
    prompts of `quiz` before.
    """
    calm = steady(outcomes)
    before, half, favourite = calm.phases[0], requests // 2, calm.changed
    if shock == "none":
        return calm
    after = before._replace(start=half)
    if shock == "price":
        return World(shock, (before, after._replace(price=after.price * PRICE_FACTOR)), favourite, None)
    if shock == "drop":
        lost = after.lost.copy()
        lost[favourite] = min(1.0, DROP / float(outcomes.quality[:, favourite].mean()))
        return World(shock, (before, after._replace(lost=lost)), favourite, None)
    if newcomer is None:
        newcomer = int(np.argsort(-outcomes.quality.mean(axis=0), kind="stable")[1])
    present = before.present.copy()
    present[newcomer] = False
    answered = None if quiz is None else Quiz(quiz.task, quiz.tier, quiz.quality[:, newcomer])
    return World(shock, (before._replace(present=present), after), newcomer, answered)


def stream(
    outcomes: Outcomes,
    requests: int,
    feedback_rate: float,
    delay: float,
    seed: int,
    world: World | None = None,
    heuristic: Heuristic = "none",
) -> Stream:
    """Prompts with repetition; ratings of a random share, after a lognormal delay of that median, in requests."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(len(outcomes.prompt_ids), size=requests)
    uniforms, rated = rng.random(requests), rng.random(requests) < feedback_rate
    waits = rng.lognormal(np.log(delay), 1.0, requests) if delay > 0 else np.zeros(requests)
    spoils, reads, accuses = rng.random((3, requests, 1))
    world = steady(outcomes) if world is None else world
    quality, cost = outcomes.quality[rows], outcomes.cost_usd[rows]
    for phase in world.phases:
        quality[phase.start :] = np.where(
            spoils[phase.start :] < phase.lost, 0.0, outcomes.quality[rows[phase.start :]]
        )
        cost[phase.start :] = outcomes.cost_usd[rows[phase.start :]] * phase.price
    readings = None
    if heuristic != "none":
        readings = (reads < FALSE_POSITIVES + (SENSITIVITY - FALSE_POSITIVES) * quality).astype(float)
    if heuristic == "biased" and readings is not None:
        readings[accuses[:, 0] < FALSE_ALARMS, int(outcomes.quality.mean(axis=0).argmax())] = 0.0
    told_at = np.arange(requests) + 1 + waits
    return Stream(outcomes, world, rows, uniforms, rated, told_at, quality, cost, readings)
