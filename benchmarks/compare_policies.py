"""Policies and other routers on real outcomes: python -m benchmarks.compare_policies --data FILE... --policy NAME...

A bare name of a file is looked up in the folder ARMWISE_DATA. Prompts are split by a hash of their ids: 40 % are there
to make a benchmark prior from, on the other 60 % everything is judged. In every table stand random, each fixed model,
the best single one and the best per task with hindsight, and the oracle.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from bandit.pooled import Exploration, chances
from bandit.pooling import Pooled, Spread, Sums, pool_best
from bandit.thompson import PriorMeans
from bandit.vocabulary import PROMPT_TIERS
from benchmarks.outcomes import Outcomes, arms_of, find, read, split
from benchmarks.peers import PEERS, NotInstalled, PeerArm
from benchmarks.replay import Array, Learner, Replayed, Stream, best_per_task, interval, replay, replay_peer, stream

PRIOR_SHARE = 0.4
FLAT_STRENGTH, FLAT_FLOOR = 50.0, 0.02  # of one Beta per task, as `thompson` has by default
_SHRUNK_BY = 20.0  # prompts' worth of belief that a model is on a task what it is everywhere


def tier_prior(outcomes: Outcomes) -> Array:
    """Expected quality from the tiers alone: shape (n_arms, n_tasks, n_tiers)."""
    table = PriorMeans()
    means = np.array([[table.of(arm.tier, tier) for tier in PROMPT_TIERS] for arm in arms_of(outcomes)])
    return np.repeat(means[:, None, :], len(outcomes.tasks), axis=1)


def benchmark_prior(outcomes: Outcomes, judged: Outcomes) -> Array:
    """Mean quality per task of the prompts set apart, shrunk to the model's overall mean."""
    overall = outcomes.quality.mean(axis=0)
    prior = np.zeros((len(overall), len(judged.tasks), len(PROMPT_TIERS)))
    for task in range(len(judged.tasks)):
        some = outcomes.quality[outcomes.task == task]
        gap = (some - some.mean(axis=1, keepdims=True)).sum(axis=0) if len(some) else np.zeros(len(overall))
        level = (some.mean(axis=1).sum() + 5 * overall.mean()) / (len(some) + 5) if len(some) else overall.mean()
        prior[:, task] = (level + (gap + _SHRUNK_BY * (overall - overall.mean())) / (len(some) + _SHRUNK_BY))[:, None]
    return np.clip(prior, 0.02, 0.98)


def flat_thompson(prior: Array) -> Learner:
    """One Beta per task and model, by its normal approximation."""

    def learn(sums: Sums) -> Array:
        n, s = (part.sum(axis=2, keepdims=True) for part in (sums.n, sums.s))
        return _of_betas(FLAT_STRENGTH * prior + s, FLAT_STRENGTH * (1 - prior) + n - s)

    return learn


def global_thompson(prior: Array) -> Learner:
    """One Beta per model for everything."""
    overall = prior.mean(axis=(1, 2), keepdims=True)

    def learn(sums: Sums) -> Array:
        n, s = (part.sum(axis=(1, 2), keepdims=True) for part in (sums.n, sums.s))
        alpha, beta = FLAT_STRENGTH * overall + s, FLAT_STRENGTH * (1 - overall) + n - s
        return _of_betas(*(np.broadcast_to(part, prior.shape) for part in (alpha, beta)))

    return learn


def _of_betas(alpha: Array, beta: Array) -> Array:
    total = alpha + beta
    moments = Pooled(alpha / total, np.sqrt(alpha * beta / (total + 1)) / total, 0.0)
    return chances(moments, Exploration(boldness=1.0, active=len(alpha), floor=FLAT_FLOOR))


def pooled_thompson(prior: Array) -> Learner:
    """Cells lend each other strength."""
    return lambda sums: chances(pool_best(sums, prior, Spread()), Exploration())


def static_prior(prior: Array) -> Learner:
    """The prior's favourite, without learning."""
    table = chances(Pooled(prior, np.full(prior.shape, 1e-9), 0.0), Exploration(boldness=0.0, floor=0.0))
    return lambda _: table


POLICIES: dict[str, Callable[[Array], Learner]] = {
    "static_prior": static_prior,
    "thompson": flat_thompson,
    "thompson_global": global_thompson,
    "pooled_thompson": pooled_thompson,
}


def row(
    judged: Outcomes, name: str, runs: Sequence[tuple[Stream, Replayed]], arguments: argparse.Namespace
) -> dict[str, Any]:
    """What one router came to, over seeds."""
    favourite, per_task = int(judged.quality.mean(axis=0).argmax()), best_per_task(judged)
    qualities, last, costs, micros, singles, per_tasks = [], [], [], [], [], []
    for given, done in runs:
        got = judged.quality[given.rows, done.arms]
        qualities.append(float(got.mean()))
        last.append(float(got[-max(1, len(got) // 4) :].mean()))
        costs.append(float(judged.cost_usd[given.rows, done.arms].mean()))
        micros.append(1e6 * done.decision_s / len(got))
        # On the prompts that were drawn, so that luck with them is not taken for skill.
        singles.append(float(judged.quality[given.rows, favourite].mean()))
        per_tasks.append(float(judged.quality[given.rows, per_task[judged.task[given.rows]]].mean()))
    single, ideal = float(np.mean(singles)), float(np.mean(per_tasks))
    mean, low, high = interval(qualities)
    return {
        "data": judged.name, "policy": name, "requests": arguments.requests, "feedback_rate": arguments.feedback_rate,
        "prior": arguments.prior, "classifier": arguments.classifier, "seed_count": len(runs),
        "quality": mean, "quality_low": low, "quality_high": high, "quality_last_quarter": interval(last)[0],
        "cost_usd": interval(costs)[0], "regret": ideal - mean,
        "gap_closed": (mean - single) / (ideal - single) if ideal > single else None,
        "decision_us": interval(micros)[0],
    }  # fmt: skip


def compare(path: Path, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """All rows of one file."""
    known, judged = split(read(path, classifier=arguments.classifier), PRIOR_SHARE)
    prior = benchmark_prior(known, judged) if arguments.prior == "benchmark" else tier_prior(judged)
    if arguments.prior == "reversed":
        order = np.argsort(prior.mean(axis=(1, 2)), kind="stable")
        prior[order] = prior[order[::-1]].copy()
    streams = [
        stream(judged, arguments.requests, arguments.feedback_rate, arguments.delay, seed)
        for seed in range(arguments.seeds)
    ]

    def made(name: str, choose: Callable[[Stream], Replayed]) -> dict[str, Any]:
        return row(judged, name, [(given, choose(given)) for given in streams], arguments)

    def always(arm: int) -> Callable[[Stream], Replayed]:
        return lambda given: Replayed(np.full(len(given.rows), arm), 0.0)

    def learning(learner: Learner) -> Callable[[Stream], Replayed]:
        return lambda given: replay(given, learner)

    n_arms, per_task = len(judged.models), best_per_task(judged)
    rows = [
        made("random", lambda given: Replayed((given.uniforms * n_arms).astype(np.int64), 0.0)),
        *(made(f"always {model}", always(arm)) for arm, model in enumerate(judged.models)),
        made("best single", always(int(judged.quality.mean(axis=0).argmax()))),
        made("best per task", lambda given: Replayed(per_task[judged.task[given.rows]], 0.0)),
        made("oracle", lambda given: Replayed(judged.quality[given.rows].argmax(axis=1), 0.0)),
    ]
    for name in arguments.policy:
        if name in POLICIES:
            rows.append(made(name, learning(POLICIES[name](prior))))
        else:
            rows.append(_peer_row(judged, name, streams, arguments))
        print(f"  {judged.name}: {name}", file=sys.stderr, flush=True)
    return rows


def _peer_row(judged: Outcomes, name: str, streams: Sequence[Stream], arguments: argparse.Namespace) -> dict[str, Any]:
    order = np.argsort(np.argsort(-judged.quality.mean(axis=0), kind="stable"))
    arms = [
        PeerArm(arm.name, arm.tier, int(rank), float(cost))
        for arm, rank, cost in zip(arms_of(judged), order, judged.cost_usd.mean(axis=0), strict=True)
    ]
    try:
        runs = [(given, replay_peer(given, PEERS[name](arms, seed, None))) for seed, given in enumerate(streams)]
    except NotInstalled as error:
        return {"data": judged.name, "policy": name, "not_installed": str(error)}
    return row(judged, name, runs, arguments)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown, without the fixed models."""
    lines = ["| data | policy | quality | last quarter | gap closed | USD | us |", "| --- |" + " --- |" * 6]
    for one in rows:
        if one["policy"].startswith("always "):
            continue
        if "not_installed" in one:
            lines.append(f"| {one['data']} | {one['policy']} | {one['not_installed']} | | | | |")
            continue
        closed = "" if one["gap_closed"] is None else f"{one['gap_closed']:.0%}"
        half = (one["quality_high"] - one["quality_low"]) / 2
        lines.append(
            f"| {one['data']} | {one['policy']} | {one['quality']:.4f} ± {half:.4f} "
            f"| {one['quality_last_quarter']:.4f} | {closed} | {one['cost_usd']:.2g} | {one['decision_us']:.1f} |"
        )
    return "\n".join(lines)


def commit() -> str:
    """The commit that was measured, marked when files differ from it."""
    command = ["git", "describe", "--always", "--dirty"]
    folder = Path(__file__).parent
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False).stdout.strip()


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--data", nargs="+", required=True, help="outcome files, or names in ARMWISE_DATA")
    made.add_argument("--policy", nargs="+", default=list(POLICIES), choices=[*POLICIES, *PEERS], metavar="NAME")
    made.add_argument("--requests", type=int, default=20_000, help="in one replay (default: %(default)s)")
    made.add_argument("--feedback-rate", type=float, default=0.05, help="share that is rated (default: %(default)s)")
    made.add_argument("--delay", type=float, default=200.0, help="median of it, in requests (default: %(default)s)")
    made.add_argument("--prior", default="tier", choices=["tier", "benchmark", "reversed"])
    made.add_argument("--classifier", default="label", choices=["label", "embedded"], help="who names the task")
    made.add_argument("--seeds", type=int, default=5)
    made.add_argument("--json", type=Path, help="file for the rows")
    return made


def main() -> None:
    arguments = parser().parse_args()
    rows = [found for name in arguments.data for found in compare(find(name), arguments)]
    print(table(rows))
    if arguments.json is not None:
        content = {"commit": commit(), "arguments": sys.argv[1:], "rows": rows}
        arguments.json.write_bytes(msgspec.json.format(msgspec.json.encode(content), indent=1) + b"\n")


if __name__ == "__main__":
    main()
