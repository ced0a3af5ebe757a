"""How long a decision takes, and how long the work before it: python -m benchmarks.decision_time.

Beside pooled Thompson sampling stand one Beta per task type, whose chance of being best is integrated when it is asked
for, and the usual way, 1,000 draws from every Beta. All in one process, one after another, in microseconds.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np

from bandit.channels import Calibration
from bandit.history import History
from bandit.policies import Policy
from bandit.pooled import PooledThompson
from bandit.pooling import Sums
from bandit.posteriors import Beliefs, Evidence
from bandit.selection import choose
from bandit.thompson import Thompson
from bandit.vocabulary import MODEL_TIERS, PROMPT_TIERS, TASK_TYPES, Arm, PromptProfile
from benchmarks.compare_policies import commit

DECISIONS = 20_000
FITS = 20
DRAWS = 1_000


def arms_of(count: int) -> list[Arm]:
    """So many models, of all tiers."""
    return [Arm(name=f"model-{index}", tier=MODEL_TIERS[index % 3], price_in=1.0 + index) for index in range(count)]


def history_of(arms: list[Arm], rng: np.random.Generator) -> History:
    """About 20 labels and 400 readings in every cell."""

    def sums(mean: float) -> Sums:
        n = rng.poisson(mean, (len(arms), len(TASK_TYPES), len(PROMPT_TIERS))).astype(np.float64)
        s = rng.binomial(n.astype(np.int64), 0.7).astype(np.float64)
        return Sums(n, s, s)

    nothing = np.zeros(len(arms))
    names = tuple(arm.name for arm in arms)
    return History(names, sums(20), sums(400), Calibration(), nothing + 1.0, nothing)


def profiles_of(rng: np.random.Generator) -> list[PromptProfile]:
    """Prompts of every cell, in random order."""
    return [
        PromptProfile(task_type=TASK_TYPES[task], tier=PROMPT_TIERS[tier], prompt_tokens=200)
        for task, tier in zip(
            rng.integers(len(TASK_TYPES), size=DECISIONS), rng.integers(3, size=DECISIONS), strict=True
        )
    ]


def timed(work: Callable[[PromptProfile], object], profiles: list[PromptProfile]) -> dict[str, float]:
    """p50 and p99 of some work, in microseconds."""
    taken = np.zeros(len(profiles))
    for number, profile in enumerate(profiles):
        started = time.perf_counter_ns()
        work(profile)
        taken[number] = (time.perf_counter_ns() - started) / 1_000.0
    return {"p50_us": float(np.percentile(taken, 50)), "p99_us": float(np.percentile(taken, 99))}


def measured(count: int) -> list[dict[str, object]]:
    """The rows of one number of models."""
    rng = np.random.default_rng(count)
    arms, profiles = arms_of(count), profiles_of(rng)
    history = history_of(arms, rng)
    pooled, flat = PooledThompson(name="pooled"), Thompson(name="flat")
    estimates = pooled.estimates(arms, history)
    fits = {cell: Beliefs("fit", {}, known) for cell, known in estimates.items()}
    n, s = history.labels.n.sum(axis=2), history.labels.s.sum(axis=2)
    cells = {
        task: Beliefs("cells", {arm.name: Evidence(n[k, t], s[k, t]) for k, arm in enumerate(arms)})
        for t, task in enumerate(TASK_TYPES)
    }

    def believed(policy: Policy, profile: PromptProfile) -> Beliefs:
        return fits[profile.task_type, profile.tier] if policy is pooled else cells[profile.task_type]

    def monte_carlo(profile: PromptProfile) -> object:
        betas = [flat.posterior(arm, cells[profile.task_type], profile.tier) for arm in arms]
        alpha, beta = np.array([one.alpha for one in betas]), np.array([one.beta for one in betas])
        best = rng.beta(alpha, beta, size=(DRAWS, count)).argmax(axis=1)
        return np.bincount(best, minlength=count) / DRAWS

    rows: list[dict[str, object]] = []
    for policy in (pooled, flat):
        for cell in fits:  # what the background work does beforehand, and the first decision of each cell else
            profile = PromptProfile(task_type=cell[0], tier=cell[1], prompt_tokens=200)
            policy.probabilities(profile, arms, believed(policy, profile))

        def looked_up(profile: PromptProfile, policy: Policy = policy) -> object:
            return policy.probabilities(profile, arms, believed(policy, profile))

        def drawn(profile: PromptProfile, policy: Policy = policy) -> object:
            return choose(policy, profile, arms, believed(policy, profile), 12345)

        name = str(policy.__struct_config__.tag)
        rows.append({"models": count, "what": f"{name}: probabilities", **timed(looked_up, profiles)})
        rows.append({"models": count, "what": f"{name}: probabilities, draw and log", **timed(drawn, profiles)})
    rows.append({"models": count, "what": f"{DRAWS:,} Monte Carlo draws", **timed(monte_carlo, profiles[:2_000])})
    fit_us = []
    for _ in range(FITS):
        started = time.perf_counter_ns()
        pooled.estimates(arms, history)
        fit_us.append((time.perf_counter_ns() - started) / 1_000.0)
    whole = {"p50_us": float(np.median(fit_us)), "p99_us": float(max(fit_us))}
    rows.append({"models": count, "what": "pooled_thompson: fit of all 36 cells, in the background", **whole})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file for the rows")
    arguments = parser.parse_args()
    rows = [row for count in (3, 10, 40) for row in measured(count)]
    print("| models | | p50 us | p99 us |\n| --- | --- | --- | --- |")
    for row in rows:
        print(f"| {row['models']} | {row['what']} | {row['p50_us']:,.1f} | {row['p99_us']:,.1f} |")
    if arguments.json is not None:
        content = {"commit": commit(), "decisions": DECISIONS, "rows": rows}
        arguments.json.write_bytes(msgspec.json.format(msgspec.json.encode(content), indent=1) + b"\n")


if __name__ == "__main__":
    main()
