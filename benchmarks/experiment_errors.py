"""How often experiments conclude what is not so, and find what is: the simulated table of docs/decisions/0018.

    python -m benchmarks.experiment_errors [--runs R] [--json OUT]

Units come one by one, each to one of two variants at random, and every unit is followed by a look. What is seen at all
looks is worked out at once, in columns; a test holds these columns against `bandit.experiments.report`.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from bandit.experiments import DAYS_WEIGHT, SAMPLE_RATIO_ALARM
from bandit.sequential import farthest, log_evidence, log_ratio, log_sample_ratio, tallied, weighted

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]
Random = np.random.Generator

PAIRS, ALPHA, GUARDRAIL_ALPHA, LEAST = 5_000, 0.05, 0.01, 50
ALARM = np.log(SAMPLE_RATIO_ALARM / (1.0 - DAYS_WEIGHT))  # of all units together; single days can only add to it


class Stream(NamedTuple):
    """Units in the order they came."""

    here: Flags  # (n,), in the variant; else in the control
    s: Array  # (n,), sum of ratings
    m: Array  # (n,), how many
    covariate: Array  # (n,)


class Looks(NamedTuple):
    """What is seen after each unit; NaN before there is an interval."""

    value: Array  # (n,)
    half: Array  # (n,)


def assigned(random: Random, n: int, share: float = 0.5) -> Flags:
    return random.random(n) < share


def coins(random: Random, mean: float, effect: float = 0.0) -> Stream:
    """One rating per unit, good with this chance."""
    here = assigned(random, 2 * PAIRS)
    s = (random.random(2 * PAIRS) < mean + effect * here).astype(np.float64)
    return Stream(here, s, np.ones(2 * PAIRS), np.zeros(2 * PAIRS))


def users(random: Random, effect: float = 0.0, *, drift: float = 0.0) -> Stream:
    """Users who differ by a standard deviation of .2 around .7, with ten ratings each in the mean.

    The covariate is what is known of them beforehand: half of how they differ. With `drift` both variants get better
    while the experiment runs, as policies that learn do.
    """
    n = 2 * PAIRS
    here, known, own = assigned(random, n), random.standard_normal(n), random.standard_normal(n)
    base = 0.7 + 0.2 * 0.5**0.5 * (known + own) + drift * np.linspace(-1.0, 0.0, n)
    m = random.geometric(0.1, n)
    s = random.binomial(m, np.clip(base + effect * here, 0.0, 1.0))
    return Stream(here, s.astype(np.float64), m.astype(np.float64), known)


class Differences(NamedTuple):
    """What the interval after each unit is made of; without a meaning where there is none."""

    value: Array  # (n,)
    n: Array  # (n,), pairs that say as much
    variance: Array  # (n,), of the difference of a pair
    known: Flags  # (n,), whether there is an interval


def differences(stream: Stream, *, cuped: bool = False) -> Differences:
    """The difference after each unit, and how well it is known."""
    s, m, p = stream.s, stream.m, stream.covariate
    columns = {"n": np.ones(len(s)), "s": s, "m": m, "ss": s * s, "sm": s * m, "mm": m * m}
    if cuped:
        columns |= {"mp": m * p, "smp": s * m * p, "mmp": m * m * p, "mmpp": m * m * p * p}
    every = {name: np.cumsum(each) for name, each in columns.items()}
    here = {name: np.cumsum(each * stream.here) for name, each in columns.items()}
    sides = here, {name: every[name] - here[name] for name in columns}
    with np.errstate(divide="ignore", invalid="ignore"):
        (r1, r0), (n1, n0) = (side["s"] / side["m"] for side in sides), (side["n"] for side in sides)
        value, left = r1 - r0, [_squares(side) for side in sides]
        if cuped:
            (x1, c1), (x0, c0) = (_products(side) for side in sides)
            theta = (x1 + x0) / (c1 + c0)
            value -= theta * (sides[0]["mp"] / sides[0]["m"] - sides[1]["mp"] / sides[1]["m"])
            left = [e - 2.0 * theta * x + theta**2 * c for e, x, c in zip(left, (x1, x0), (c1, c0), strict=True)]
        n = 2.0 / (1.0 / n1 + 1.0 / n0)
        variance = n * (left[0] / (n1 - 1.0) / n1 + left[1] / (n0 - 1.0) / n0)
        return Differences(value, n, variance, (np.minimum(n1, n0) >= LEAST) & (variance > 0.0))


def looks(stream: Stream, *, cuped: bool = False, horizon: int = PAIRS) -> Looks:
    """The interval of the report after each unit."""
    value, n, variance, known = differences(stream, cuped=cuped)
    with np.errstate(divide="ignore", invalid="ignore"):
        half = farthest(n / horizon, ALPHA) * np.sqrt(horizon * variance) / n
    return Looks(np.where(known, value, np.nan), np.where(known, half, np.nan))


def _squares(side: dict[str, Array]) -> Array:
    """The sum of squares of what units add to the ratio."""
    r = side["s"] / side["m"]
    found = (side["ss"] - 2.0 * r * side["sm"] + r * r * side["mm"]) * (side["n"] / side["m"]) ** 2
    return np.asarray(np.maximum(found, 0.0))


def _products(side: dict[str, Array]) -> tuple[Array, Array]:
    """The sum of products of what units add to the ratio and to the covariate's, and of squares of the latter."""
    r, p, size = side["s"] / side["m"], side["mp"] / side["m"], (side["n"] / side["m"]) ** 2
    both = side["smp"] - p * side["sm"] - r * side["mmp"] + r * p * side["mm"]
    own = side["mmpp"] - 2.0 * p * side["mmp"] + p * p * side["mm"]
    return both * size, own * size


def first_found(stream: Stream, *, cuped: bool = False) -> float:
    """Units until the interval of `looks` excludes 0, told by its evidence, which is quicker; infinite when never."""
    value, n, variance, known = differences(stream, cuped=cuped)
    with np.errstate(divide="ignore", invalid="ignore"):
        evidence = log_ratio(value * n / np.sqrt(PAIRS * variance), n / PAIRS, ALPHA)
    outside = known & (evidence > -np.log(ALPHA))
    return float(outside.argmax() + 1) if outside.any() else np.inf


def peeked(stream: Stream) -> float:
    """Units until a t-test of the ratings as if they were independent says p < .05: what is done elsewhere."""
    seen, z = [], -float(ndtri(ALPHA / 2.0))
    for side in (stream.here, ~stream.here):
        s, m = np.cumsum(np.where(side, stream.s, 0.0)), np.cumsum(np.where(side, stream.m, 0.0))
        seen.append((s, m, np.cumsum(side)))
    (s1, m1, n1), (s0, m0, n0) = seen
    with np.errstate(divide="ignore", invalid="ignore"):
        r1, r0 = s1 / m1, s0 / m0
        error = np.sqrt(r1 * (1.0 - r1) / m1 + r0 * (1.0 - r0) / m0)
        outside = (np.minimum(n1, n0) >= LEAST) & (np.abs(r1 - r0) > z * error)
    return float(outside.argmax() + 1) if outside.any() else np.inf


def guarded(random: Random, rates: tuple[float, float], limit: float, *, wild: bool = False) -> tuple[bool, bool]:
    """Whether failures are ever found beyond the limit, and within it, looked at each 10 units.

    `rates` are those of the variant and the control. With `wild` that of both grows fivefold in the second half.
    """
    n = 2 * PAIRS
    here = assigned(random, n)
    rate = np.where(here, *rates) + (wild * 4.0 * rates[1] * (np.arange(n) > n // 2))
    failed = random.random(n) < rate
    states = ~failed & here, failed & here, ~failed & ~here, failed & ~here
    counts = np.stack([np.cumsum(state)[9::10] for state in states], axis=1).astype(np.float64)
    bets = weighted(tallied(np.array([0.0, 1.0])), tallied(np.array([0.0, 1.0])), 0.5, 0.0)
    at_limit = bets.reading(limit)
    beyond = log_evidence(bets.values, counts, at_limit)
    within = log_evidence(1.0 - bets.values, counts, 1.0 - at_limit)
    enough = -np.log(GUARDRAIL_ALPHA)
    return bool(beyond.max() >= enough), bool(within.max() >= enough)


def imbalanced(random: Random, share: float, n: int = 100_000, step: int = 50) -> bool:
    """Whether a share that was planned to be a half ever raises the alarm, looked at each `step` units."""
    units = np.arange(float(step), n + 1.0, step)
    here = np.cumsum(random.binomial(step, share, len(units)))
    evidence = log_sample_ratio(np.stack([here, units - here], axis=1), np.array([0.5, 0.5]))
    return bool(evidence.max() > ALARM)


def share_of(runs: int, seed: int, happens: Callable[[Random], bool]) -> float:
    """In which share of runs it happens."""
    randoms = np.random.default_rng(seed).spawn(runs)
    return float(np.mean([happens(random) for random in randoms]))


def stops(runs: int, seed: int, made: Callable[[Random], Stream], found: Callable[[Stream], float]) -> Array:
    """Units until something is found, of each run: shape (runs,)."""
    return np.array([found(made(random)) for random in np.random.default_rng(seed).spawn(runs)])


STREAMS: dict[str, Callable[[Random], Stream]] = {
    "no difference, mean .5": lambda random: coins(random, 0.5),
    "no difference, mean .7": lambda random: coins(random, 0.7),
    "no difference, mean .95": lambda random: coins(random, 0.95),
    "no difference, mean .99": lambda random: coins(random, 0.99),
    "no difference, users": users,
    "no difference, users, both learn": lambda random: users(random, drift=0.2),
    "+.03, mean .5": lambda random: coins(random, 0.5, 0.03),
    "+.03, mean .7": lambda random: coins(random, 0.7, 0.03),
    "+.03, mean .95": lambda random: coins(random, 0.95, 0.03),
    "+.05, mean .7": lambda random: coins(random, 0.7, 0.05),
    "+.10, mean .7": lambda random: coins(random, 0.7, 0.10),
    "+.01, users": lambda random: users(random, 0.01),
    "+.03, users": lambda random: users(random, 0.03),
}
FOUND: dict[str, Callable[[Stream], float]] = {
    "t-test of ratings": peeked,
    "interval": first_found,
    "interval, covariate": lambda stream: first_found(stream, cuped=True),
}
GUARDRAILS: dict[str, tuple[tuple[float, float], bool]] = {  # rates of variant and control; wild
    "as the control, .02": ((0.02, 0.02), False),
    "at the limit, .03": ((0.03, 0.02), False),
    "at the limit, both wild": ((0.03, 0.02), True),
    "beyond, .05": ((0.05, 0.02), False),
}
LIMIT = 0.01
SHARES = (0.5, 0.505, 0.51, 0.52)


def rows_of(runs: int, seed: int = 18) -> list[dict[str, object]]:
    """Every simulation: what, how it was looked for, how often it was found, and after how many units."""
    rows: list[dict[str, object]] = []
    for name, made in STREAMS.items():
        for how, found in FOUND.items():
            if how == "interval, covariate" and "users" not in name:
                continue
            at = stops(runs, seed, made, found)
            when = float(np.median(at[np.isfinite(at)])) if np.isfinite(at).any() else None
            rows.append({"what": name, "how": how, "found": float(np.isfinite(at).mean()), "units": when})
    for name, (rates, wild) in GUARDRAILS.items():
        randoms = np.random.default_rng(seed).spawn(runs)
        found_of = np.array([guarded(random, rates, LIMIT, wild=wild) for random in randoms])
        for how, share in zip(("guardrail breached", "guardrail holds"), found_of.mean(axis=0), strict=True):
            rows.append({"what": name, "how": how, "found": float(share), "units": None})
    for planned in SHARES:
        found_it = share_of(10 * runs, seed, lambda random, planned=planned: imbalanced(random, planned))
        rows.append({"what": f"share {planned}", "how": "sample ratio", "found": found_it, "units": None})
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="How often experiments conclude what is not so, and find what is.")
    parser.add_argument("--runs", type=int, default=1_000, help="of each; ten times as many of the sample ratio")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(argv)
    rows = rows_of(given.runs)
    print("what | looked for by | found | median units")
    for row in rows:
        units = "" if row["units"] is None else f"{row['units']:,.0f}"
        print(f"{row['what']} | {row['how']} | {row['found']:.2%} | {units}")
    if given.json is not None:
        lines = ",\n".join("  " + json.dumps(row) for row in rows)
        given.json.write_text(f'{{"runs": {given.runs}, "pairs": {PAIRS}, "rows": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
