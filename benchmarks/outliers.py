"""Who is an outlier: how often honest users are taken for one, how soon a troll is found, and what a ring still moves.

`python -m benchmarks.outliers` prints the tables of docs/decisions/0017-outliers.md; --json keeps them. Honest users'
taste shifts the quality of all models by a normal number (clipped to [0, 1]), or shifts its logit so that quality .7
has about the same spread. Each is judged after every label, the qualities being known.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from bandit.posteriors import Evidence, posterior
from bandit.raters import FEWEST_LABELS, LIMIT, SPREAD, Opinion, is_outlier, standing

Array = NDArray[np.float64]
Taste = Literal["shift", "logit"]

LABELS = 200
WORLDS = {
    "good: .7 to .9": (0.7, 0.75, 0.8, 0.85, 0.9),
    "mixed: .55 to .85": (0.55, 0.65, 0.7, 0.75, 0.8, 0.85),
    "all .7": (0.7,),
    "all .85": (0.85,),
    "all .95": (0.95,),
}


class Rule(NamedTuple):
    """When somebody is an outlier."""

    fewest: int  # labels
    spread: float
    limit: float


RULES = (Rule(FEWEST_LABELS, SPREAD, LIMIT), Rule(10, 0.15, 4.0), Rule(15, 0.18, 3.7), Rule(20, 0.27, 2.45))


def deviations(ups: NDArray[np.bool_], quality: Array, rule: Rule) -> Array:
    """Standard deviations of users (U, n) from what is expected, after each label."""
    n = np.arange(1, ups.shape[1] + 1)
    noise = (quality * (1.0 - quality)).cumsum(axis=1)
    return np.asarray((ups - quality).cumsum(axis=1) / np.sqrt(noise + (rule.spread * n) ** 2))


def found_after(ups: NDArray[np.bool_], quality: Array, rule: Rule) -> NDArray[np.int64]:
    """After how many labels each user is an outlier; one more than there are: never."""
    most = ups.shape[1]
    beyond = np.abs(deviations(ups, quality, rule)) > rule.limit
    beyond[:, : rule.fewest - 1] = False
    return np.asarray(np.where(beyond.any(axis=1), beyond.argmax(axis=1) + 1, most + 1))


def entropy_weight(ups: NDArray[np.bool_]) -> Array:
    """The weight that was proposed: entropy of what a user says, in bits, Laplace smoothed; users (U, n) -> (U,)."""
    p = (ups.sum(axis=1) + 1.0) / (ups.shape[1] + 2.0)
    return np.asarray(-(p * np.log2(p) + (1.0 - p) * np.log2(1.0 - p)))


def users(
    rng: np.random.Generator, number: int, qualities: Sequence[float], spread: float, taste: Taste
) -> tuple[NDArray[np.bool_], Array]:
    """What honest users say, and how good the models were that they said it of: (U, 200) each."""
    quality = np.array(qualities)[rng.integers(len(qualities), size=(number, LABELS))]
    shift = rng.normal(0.0, spread, (number, 1))
    own = np.clip(quality + shift, 0.0, 1.0) if taste == "shift" else expit(logit(quality) + shift / 0.18)
    return rng.random((number, LABELS)) < own, quality


class Honest(NamedTuple):
    """Honest users in one world."""

    world: str
    taste: str
    spread: float
    flagged: tuple[float, ...]  # per thousand within 200 labels, by rule
    entropy: float  # their mean weight by entropy after 20 labels


class Down(NamedTuple):
    """Users who always vote down."""

    world: str
    median: tuple[float, ...]  # labels until found, by rule
    late: tuple[float, ...]  # the last of a hundred
    entropy: float


def honest(world: str, taste: Taste, spread: float, number: int, seed: int) -> Honest:
    """How many honest users are taken for outliers."""
    ups, quality = users(np.random.default_rng(seed), number, WORLDS[world], spread, taste)
    flagged = tuple(1000.0 * float((found_after(ups, quality, rule) <= LABELS).mean()) for rule in RULES)
    return Honest(world, taste, spread, flagged, float(entropy_weight(ups[:, :20]).mean()))


def down(world: str, number: int, seed: int) -> Down:
    """How soon users are found who always vote down."""
    ups, quality = users(np.random.default_rng(seed), number, WORLDS[world], 0.0, "shift")
    ups[:] = False
    after = [found_after(ups, quality, rule) for rule in RULES]
    late = tuple(float(np.quantile(one, 0.99)) for one in after)
    return Down(world, tuple(float(np.median(one)) for one in after), late, float(entropy_weight(ups[:, :20]).mean()))


# A ring

RING, DAYS, BEFORE = 30, 30, 30
COUNTED = 5  # labels of one user on one model a day
TARGET = 0.8


class Ring(NamedTuple):
    """Thirty accounts that vote one model down so many times a day each, for thirty days."""

    votes_a_day: int  # of each account; five of them count
    honest_a_day: int  # labels of others on that model, on each of the thirty days before as well
    before: float  # posterior mean of the model
    unweighed: float  # after it, when all labels count alike
    weighed: float  # when outliers' count a tenth
    found: int  # accounts
    mean_day: float  # on which those were found


def ring(votes_a_day: int, honest_a_day: int, weight: float, seed: int) -> tuple[float, float, list[int]]:
    """Posterior mean before and after, and the day on which each account was found. Honest users rate once."""
    rng = np.random.default_rng(seed)
    n = float(BEFORE * honest_a_day)
    s = float(rng.binomial(BEFORE * honest_a_day, TARGET))
    before = _mean(n, s)
    own = np.zeros(RING)  # weight of each account's labels
    labels = np.zeros(RING)
    flagged = np.zeros(RING, dtype=bool)
    days = []
    for day in range(DAYS):
        n += honest_a_day
        s += float(rng.binomial(honest_a_day, TARGET))
        for vote in range(votes_a_day):
            for account in rng.permutation(RING):
                people = n - own.sum() + RING
                one = Opinion(labels[account], 0.0, n - own[account], s, people)
                was, flagged[account] = flagged[account], is_outlier(standing([one]), before=bool(flagged[account]))
                if flagged[account] and not was:
                    days.append(day + 1)
                given = (weight if flagged[account] else 1.0) * (vote < COUNTED)
                n, own[account], labels[account] = n + given, own[account] + given, labels[account] + 1
    return before, _mean(n, s), days


def _mean(n: float, s: float) -> float:
    return posterior(0.7, 50.0, Evidence(explicit_n=n, explicit_sum=s), 0.0).mean


def rings(votes_a_day: int, honest_a_day: int, seed: int) -> Ring:
    """The ring with and without weights."""
    before, unweighed, _ = ring(votes_a_day, honest_a_day, 1.0, seed)
    _, weighed, days = ring(votes_a_day, honest_a_day, 0.1, seed)
    mean_day = float(np.mean(days)) if days else 0.0
    return Ring(votes_a_day, honest_a_day, before, unweighed, weighed, len(days), mean_day)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="How often outliers are found, and who is taken for one.")
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(argv)
    tastes: tuple[Taste, ...] = ("shift", "logit")
    good = [
        honest(world, taste, spread, given.users, given.seed)
        for world in WORLDS
        for taste in tastes
        for spread in (0.15, 0.2)
    ]  # fmt: skip
    bad = [down(world, 2_000, given.seed) for world in WORLDS]
    some = [rings(votes, a_day, given.seed) for votes in (5, 20) for a_day in (50, 100, 200, 400, 1_000)]
    rows: list[Honest | Down | Ring] = [*good, *bad, *some]
    for row in rows:
        print(" | ".join(f"{value}" for value in row))
    if given.json is not None:
        found = {"users": given.users, "rules": RULES, "honest": good, "down": bad, "ring": some}
        given.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
