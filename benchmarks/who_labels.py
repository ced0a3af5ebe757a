"""Who labels: what it costs that angry people rate more often, and whether weighing labels by how rare they are helps.

    python -m benchmarks.who_labels [--seeds S] [--processes P] [--world NAME] [--rate R] [--json OUT]

Simulated worlds of six models, four task types and three tiers, 20,000 requests, through the real fit and draw of
`pooled_thompson`. In each world replies are rated by another rule; each remedy gives the labels other weights before
they are added up. Remedies of one seed meet the same prompts, replies, readings and moods: differences are paired.
"""

import argparse
import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bandit.channels import Calibration, Pairs
from bandit.fusion import fuse
from bandit.pooling import Pooled, Spread, Sums, pool_best
from bandit.posteriors import MICRO
from bandit.weighing import Exploration, chances

Array = NDArray[np.float64]
Integers = NDArray[np.int64]

MODELS, TASKS, TIERS = 6, 4, 3
CELLS = TASKS * TIERS
REQUESTS, REFIT = 20_000, 1_000
EXPLORATION = Exploration(boldness=0.4, active=8, floor=0.01)
TASK_NAMES = tuple(f"task {number}" for number in range(TASKS))
RATES = (0.05, 0.01)  # of feedback
REMEDIES = (
    "none",
    "task, tier, reading",
    "model, reading",
    "model, task, reading",
    "regression",
    "asked",
    "asked too",
    "asked, others a fifth",
    "repeats",
)
ASKED = 0.01  # of all replies, at random; everybody who is asked answers
FIFTH = 0.2  # weight of a label that nobody asked for, beside those that were
AGAIN_GOOD, AGAIN_BAD = (
    0.015,
    0.075,
)  # of replies are asked for again: half of the users are named, 3 and 15 % of them do


class World(NamedTuple):
    """By which rule replies are rated."""

    name: str
    angry: tuple[float, ...] = (1.0,) * MODELS  # how many times as often a bad reply of a model is rated as a good one
    often: tuple[float, ...] = (
        1.0,
    ) * MODELS  # how many times as often a model is rated, whatever its replies are like
    seen: float = 1.0  # how many times as often a reply is rated of which the heuristics found something
    again: tuple[float, ...] = (1.0,) * MODELS  # how many times as often a model's users ask the same again


# Models stand from best to worst, so that in "the best ones" people are angry at those that should win.
WORLDS = (
    World("at random"),
    World("bad x 3", angry=(3.0,) * MODELS),
    World("bad x 3, the best two x 6", angry=(6.0, 6.0, 3.0, 3.0, 3.0, 3.0)),
    World("bad x 3, the best two x 1", angry=(1.0, 1.0, 3.0, 3.0, 3.0, 3.0)),
    World("found fault x 4", seen=4.0),
    World("the best two rated x 3", often=(3.0, 3.0, 1.0, 1.0, 1.0, 1.0)),
    World("the best two asked again x 3", again=(3.0, 3.0, 1.0, 1.0, 1.0, 1.0)),
)


class Signal(NamedTuple):
    """How well a heuristic tells good replies from bad ones: the chance that it reads one as good."""

    good: float
    bad: float


# "rare" fires on 1 and 5 % of the replies, as often as the heuristics do on published replies; J is .04, .3 and .6.
SIGNALS = {"rare": Signal(0.99, 0.95), "weak": Signal(0.85, 0.55), "strong": Signal(0.9, 0.3)}


class Result(NamedTuple):
    """What one remedy reached in one run."""

    regret: float  # mean quality below the best model of each cell
    error: float  # root mean square over models of the estimated mean quality, both relative to all models'


class Log(NamedTuple):
    """What is known after some requests, one entry each."""

    arm: Integers
    cell: Integers
    y: Array
    h: Array
    label: NDArray[np.bool_]
    asked: NDArray[np.bool_]  # whether the label is of somebody who was asked

    def first(self, n: int) -> "Log":
        """The first n of them."""
        return Log(self.arm[:n], self.cell[:n], self.y[:n], self.h[:n], self.label[:n], self.asked[:n])


def simulated(world: World, remedy: str, signal: Signal, rate: float, seed: int) -> Result:
    """What a remedy reaches where `rate` of all replies are rated."""
    log, truth, _ = run(world, remedy, signal, rate, seed)
    regret = float((truth.max(axis=0)[log.cell] - truth[log.arm, log.cell]).mean())
    _, truth, found = run(world, remedy, signal, rate, seed, even=True)
    off = found.mean.reshape(MODELS, CELLS).mean(axis=1) - truth.mean(axis=1)
    return Result(regret, float(np.sqrt(((off - off.mean()) ** 2).mean())))


def run(
    world: World, remedy: str, signal: Signal, rate: float, seed: int, *, even: bool = False
) -> tuple[Log, Array, Pooled]:
    """One run: what happened, the true qualities and what was believed at its end; `even` draws all models evenly."""
    rng = np.random.default_rng(seed)
    truth = _qualities(rng)
    cells = rng.integers(CELLS, size=REQUESTS)
    draws, moods, asks, replies, readings, agains = rng.random((6, REQUESTS))
    chance = _chance(world, signal, truth, rate)
    log = Log(*(np.zeros(REQUESTS, dtype=kind) for kind in (np.int64, np.int64, float, float, bool, bool)))
    probabilities = np.full((CELLS, MODELS), 1.0 / MODELS)
    for start in range(0, REQUESTS, REFIT):
        now = slice(start, start + REFIT)
        cell = cells[now]
        arm = (np.cumsum(probabilities[cell], axis=1) < draws[now, None]).sum(axis=1).clip(max=MODELS - 1)
        y = (replies[now] < truth[arm, cell]).astype(float)
        h = (readings[now] < np.where(y > 0, signal.good, signal.bad)).astype(float)
        rated = moods[now] < chance[arm, y.astype(int), h.astype(int)]
        asked = (asks[now] < ASKED) & remedy.startswith("asked")
        rated = asked if remedy == "asked" else rated | asked
        if remedy == "repeats":
            h *= agains[now] >= np.where(y > 0, AGAIN_GOOD, AGAIN_BAD) * np.array(world.again)[arm]
        log.arm[now], log.cell[now], log.y[now], log.h[now], log.label[now] = arm, cell, y, h, rated
        log.asked[now] = asked
        if not even:
            found = _fit(log.first(start + REFIT), remedy)
            probabilities = np.asarray(chances(found, EXPLORATION)).reshape(CELLS, MODELS)
    return log, truth, _fit(log, remedy)


def _qualities(rng: np.random.Generator) -> Array:
    """Quality of every model in every cell (MODELS, CELLS), best models first."""
    task, tier = np.divmod(np.arange(CELLS), TIERS)
    arm = rng.normal(0.0, 0.06, MODELS)
    own = rng.normal(0.0, 0.04, (MODELS, TASKS))[:, task]
    hard = rng.normal(0.0, 0.08, TASKS)[task] + np.array([0.08, 0.0, -0.08])[tier]
    quality = np.clip(0.7 + arm[:, None] + own + hard, 0.05, 0.98)
    return np.asarray(quality[np.argsort(-quality.mean(axis=1))])


def _chance(world: World, signal: Signal, truth: Array, rate: float) -> Array:
    """Chance of a rating (MODELS, 2, 2): by model, whether the reply is good, whether it reads so. `rate` in all."""
    good = truth.mean(axis=1)
    reads = np.array([signal.bad, signal.good])
    share = np.stack([1 - good, good], axis=1)[:, :, None] * np.stack([1 - reads, reads], axis=1)[None]
    factor = np.ones((MODELS, 2, 2)) * np.array(world.often)[:, None, None]
    factor[:, 0, :] *= np.array(world.angry)[:, None]
    factor[:, :, 0] *= world.seen
    return np.asarray(np.minimum(factor * rate / (share * factor).sum(axis=(1, 2)).mean(), 1.0))


def label_weights(labelled: NDArray[np.bool_], strata: Integers) -> Array:
    """Weight (n,) of each call's label, so that strata that answer more often do not speak for all.

    `labelled` (n,) says which calls were labelled, `strata` (n,) what the calls are told apart by. Inverse probability
    of a label in the stratum, its rate being smoothed by ten calls at the common rate, relative to the mean over
    labelled calls and clipped to [1/3, 3].
    """
    answered = labelled.astype(float)
    if not answered.any():
        return np.ones(len(answered))
    _, stratum = np.unique(strata, return_inverse=True)
    calls, labels = np.bincount(stratum), np.bincount(stratum, weights=answered)
    inverse = ((calls + 10.0) / (labels + 10.0 * answered.mean()))[stratum]
    return np.asarray(np.clip(inverse / inverse[answered > 0.0].mean(), 1.0 / 3.0, 3.0))


def _fit(log: Log, remedy: str) -> Pooled:
    weight, shift = np.ones(len(log.arm)), np.zeros(MODELS)
    task = log.cell // TIERS
    if remedy == "regression":
        shift = _shift(log)
    elif remedy.endswith("reading"):
        place = log.arm * TASKS + task
        strata = {"task, tier, reading": log.cell, "model, reading": log.arm, "model, task, reading": place}
        weight = label_weights(log.label, strata[remedy] * 2 + log.h.astype(np.int64))
    elif remedy == "asked, others a fifth":
        weight = np.where(log.asked, 1.0, FIFTH)
    weight = np.where(log.label, weight, 0.0)
    place = log.arm * CELLS + log.cell
    n = _sum(place, weight)
    s = np.clip(_sum(place, weight * log.y) + n * shift[:, None], 0.0, n)
    labels = Sums(*(part.reshape(MODELS, TASKS, TIERS) for part in (n, s, s)))
    prior = np.full((MODELS, TASKS, TIERS), 0.7)
    found = pool_best(labels, prior, Spread())
    calls, high = _sum(place, np.ones(len(place))), _sum(place, log.h)
    readings = Sums(*(part.reshape(MODELS, TASKS, TIERS) for part in (calls, high, high)))
    return fuse(labels, readings, _calibration(log, weight, task), prior, found, np.ones(MODELS), TASK_NAMES)


def _sum(place: Integers, values: Array) -> Array:
    return np.asarray(np.bincount(place, values, MODELS * CELLS).reshape(MODELS, CELLS), dtype=np.float64)


def _shift(log: Log) -> Array:
    """By how much a model's labelled replies read better than all of its replies, in quality (MODELS,)."""
    y, h = log.y[log.label], log.h[log.label]
    if len(y) < 2 or h.var() == 0.0:
        return np.zeros(MODELS)
    slope = max(float(np.cov(y, h)[0, 1] / h.var(ddof=1)), 0.0)
    shift = np.zeros(MODELS)
    for arm in range(MODELS):
        all_of_it, labelled = log.arm == arm, (log.arm == arm) & log.label
        if labelled.any():
            shift[arm] = slope * (log.h[all_of_it].mean() - log.h[labelled].mean())
    return shift


def _calibration(log: Log, weight: Array, task: Integers) -> Calibration:
    pairs = {}
    for number, name in enumerate(TASK_NAMES):
        mine = task == number
        w, y, h = weight[mine], log.y[mine], log.h[mine]
        sums = (w.sum(), (w * y).sum(), (w * h).sum(), (w * y * y).sum(), (w * y * h).sum())
        pairs[name] = Pairs(*(round(float(value) * MICRO) for value in sums))
    return Calibration(pairs)


class Row(NamedTuple):
    """A remedy in a world, over all seeds; thousandths of quality."""

    world: str
    signal: str
    rate: float
    remedy: str
    regret: float
    regret_change: float  # against no remedy, same seeds
    regret_change_error: float  # standard error of it
    error: float
    error_change: float
    error_change_error: float


def rows_of(world: World, signal: str, rate: float, seeds: int) -> list[Row]:
    """Every remedy that means something in this world."""
    remedies = [one for one in REMEDIES if one != "repeats" or world.name == "at random" or "asked again" in world.name]
    found = {
        remedy: 1000.0 * np.array([simulated(world, remedy, SIGNALS[signal], rate, seed) for seed in range(seeds)])
        for remedy in remedies
    }
    rows = []
    for remedy, results in found.items():
        change = results - found["none"]
        error = change.std(axis=0, ddof=1) / seeds**0.5
        columns = zip(results.mean(axis=0), change.mean(axis=0), error, strict=True)
        rows.append(Row(world.name, signal, rate, remedy, *(round(float(x), 2) for part in columns for x in part)))
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="What weighing labels by how rare they are is worth.")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--world", action="append", choices=[world.name for world in WORLDS], help="default: all")
    parser.add_argument("--rate", action="append", type=float, help=f"of feedback; default: {RATES}")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(argv)
    worlds = [world for world in WORLDS if given.world is None or world.name in given.world]
    cases = [(world, signal, rate) for rate in given.rate or RATES for world in worlds for signal in SIGNALS]
    rows = []
    print("world | signal | rate | remedy | regret | change | error | change")
    with ProcessPoolExecutor(given.processes) as pool:
        for found in pool.map(rows_of, *zip(*cases, strict=True), [given.seeds] * len(cases)):
            for row in found:
                regret = f"{row.regret:.1f} | {row.regret_change:+.1f} +- {row.regret_change_error:.1f}"
                error = f"{row.error:.1f} | {row.error_change:+.1f} +- {row.error_change_error:.1f}"
                print(f"{row.world} | {row.signal} | {row.rate} | {row.remedy} | {regret} | {error}", flush=True)
            rows += found
    if given.json is not None:
        lines = ",\n".join("  " + json.dumps(row._asdict()) for row in rows)
        given.json.write_text(f'{{"seeds": {given.seeds}, "requests": {REQUESTS}, "rows": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
