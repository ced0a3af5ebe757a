"""What stands in every table beside the policies: blind choices, and the best ones with hindsight."""

from typing import NamedTuple

import numpy as np

from bandit.budget import allocation
from benchmarks.outcomes import Outcomes
from benchmarks.streams import Array, Integers, Stream, World


class Hindsight(NamedTuple):
    """What would have been best, by the means of all judged prompts. Shares sum to 1 over models."""

    single: Array  # (n_phases, n_models): one model for everything; under a budget a mix of two
    per_task: Array  # (n_phases, n_tasks, n_models): one for each task; under a budget a mix for one of them
    within: int | None  # the best model that alone keeps to the budget
    cheapest: Array  # (n_phases, n_models)


class Means(NamedTuple):
    """The world in means, by phase, task and model: shape (n_phases, n_tasks, n_models)."""

    quality: Array  # NaN where the model is not there
    cost_usd: Array
    length: Array  # (n_phases,): share of the requests
    traffic: Array  # (n_tasks,): share of the requests


def means(outcomes: Outcomes, world: World, requests: int) -> Means:
    """What is to be expected of every model in every phase."""
    stops = [*(phase.start for phase in world.phases[1:]), requests]
    length = np.array([stop - phase.start for phase, stop in zip(world.phases, stops, strict=True)]) / requests
    traffic = np.bincount(outcomes.task, minlength=len(outcomes.tasks)) / len(outcomes.task)
    quality, cost = _by_task(outcomes.quality, outcomes), _by_task(outcomes.cost_usd, outcomes)
    return Means(
        np.array([np.where(one.present, quality * (1 - one.lost), np.nan) for one in world.phases]),
        np.array([cost * one.price for one in world.phases]),
        length,
        traffic,
    )


def _by_task(values: Array, outcomes: Outcomes) -> Array:
    """Means by task; a task without prompts has the overall mean."""
    masks = [outcomes.task == task for task in range(len(outcomes.tasks))]
    return np.array([values[mask].mean(axis=0) if mask.any() else values.mean(axis=0) for mask in masks])


def hindsight(world: Means, budget_usd: float | None = None) -> Hindsight:
    """The best choices in a world. Under a budget they keep to it over the whole replay, not in every phase."""
    overall, spent = (np.einsum("t,ptk->pk", world.traffic, part) for part in (world.quality, world.cost_usd))
    # Where no cost is known, the worst model stands for the cheapest.
    order = np.lexsort((overall, np.where(np.isnan(overall), np.inf, spent)), axis=-1)
    cheapest = _one(-np.argsort(order, axis=-1))
    if budget_usd is None:
        throughout = np.nan_to_num(world.length @ overall, nan=-1.0)
        single = np.broadcast_to(_one(throughout), overall.shape)
        return Hindsight(single, _one(np.nan_to_num(world.quality, nan=-1.0)), int(throughout.argmax()), cheapest)
    fits = world.length @ spent <= budget_usd
    values = np.where(fits, np.nan_to_num(world.length @ overall, nan=-1.0), -1.0)
    single = allocation(world.length, overall, spent, budget_usd).shares
    flat = (-1, world.quality.shape[-1])
    cells = np.outer(world.length, world.traffic).ravel()
    per_task = allocation(cells, world.quality.reshape(flat), world.cost_usd.reshape(flat), budget_usd).shares
    within = int(values.argmax()) if values.max() >= 0 else None
    return Hindsight(single, per_task.reshape(world.quality.shape), within, cheapest)


def most_missed(world: Means, budget_usd: float) -> int:
    """The model without which the best per task within the budget would be worst."""

    def without(model: int) -> float:
        others = world.quality.copy()
        others[..., model] = np.nan
        best = hindsight(world._replace(quality=others), budget_usd).per_task
        return float(np.einsum("p,t,ptk,ptk->", world.length, world.traffic, best, np.nan_to_num(others)))

    return min(range(world.quality.shape[-1]), key=without)


def _one(values: Array) -> Array:
    """All of the share to the highest of the last axis."""
    return np.asarray(np.eye(values.shape[-1])[values.argmax(axis=-1)])


def drawn(given: Stream, shares: Array) -> Integers:
    """Models drawn from shares by phase, or by phase and task: on the same uniform numbers as every policy's."""
    chance = shares[_phases(given)] if shares.ndim == 2 else shares[_phases(given), given.outcomes.task[given.rows]]
    above = given.uniforms[:, None] >= chance.cumsum(axis=1)
    last = chance.shape[1] - 1 - (chance[:, ::-1] > 0).argmax(axis=1)
    return np.asarray(np.minimum(above.sum(axis=1), last))


def _phases(given: Stream) -> Integers:
    """In which phase each request falls: shape (n,)."""
    starts = [phase.start for phase in given.world.phases]
    return np.asarray(np.searchsorted(starts, np.arange(len(given.rows)), side="right") - 1)


def baselines(given: Stream, free: Hindsight, paid: Hindsight | None) -> dict[str, Integers]:
    """The models that each baseline takes, by its name; `paid` is the hindsight under a budget.

    A model that is not there throughout has no row of its own.
    """
    present = np.array([phase.present for phase in given.world.phases])
    there = present[_phases(given)]
    seen = np.where(there, given.quality - 1e-9 * given.cost_usd, -1.0)  # of equally good answers the cheaper one
    n = len(given.rows)
    found = {
        "random": drawn(given, present / present.sum(axis=1, keepdims=True)),
        "cheapest": drawn(given, free.cheapest),
        **{
            f"always {model}": np.full(n, arm)
            for arm, model in enumerate(given.outcomes.models)
            if present[:, arm].all()
        },
        "best single": drawn(given, free.single),
        "best per task": drawn(given, free.per_task),
        "oracle": seen.argmax(axis=1),
    }
    if paid is None:
        return found
    if paid.within is not None:
        found["best single within budget"] = np.full(n, paid.within)
    return found | {
        "best mix within budget": drawn(given, paid.single),
        "best per task within budget": drawn(given, paid.per_task),
    }
