"""Policies and other routers on real outcomes: python -m benchmarks.compare_policies --data FILE... --policy NAME...

A bare name of a file is looked up in the folder ARMWISE_DATA; `simulated_paretobandit` and `simulated_zeroeval` need no
file. Prompts are split by a hash of their ids: 40 % are there to make a benchmark prior from, on the other 60 %
everything is judged. In every table stand random, the cheapest and each fixed model, the best single one and the best
per task with hindsight, the oracle, and the prior without learning.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import msgspec
import numpy as np

from bandit.budget import Pacer
from bandit.priors import Outcome, PriorTable, prior_table
from bandit.thompson import PriorMeans
from bandit.vocabulary import MODEL_TIERS, PROMPT_TIERS, Arm, TaskType
from benchmarks.baselines import Hindsight, baselines, hindsight, means, most_missed
from benchmarks.columns import row
from benchmarks.learners import POLICIES, Learner, Prior
from benchmarks.linear import LINEAR, replay_linear
from benchmarks.outcomes import Outcomes, arms_of, find, read, split
from benchmarks.peers import PEERS, NotInstalled, PeerArm
from benchmarks.published_means import from_means, is_published
from benchmarks.replay import Replayed, replay, replay_peer
from benchmarks.simulated_outcomes import is_simulated, simulated
from benchmarks.streams import Array, Stream, World, shaken, steady, stream

PRIOR_SHARE = 0.4
SENT = 2_000  # requests through the service
PRIOR_MASS = 300.0  # labels that a benchmark is worth (docs/decisions/0013)


def tier_prior(arms: Sequence[Arm], tasks: tuple[str, ...]) -> Prior:
    """Expected quality from the tiers alone."""
    tiers = PriorMeans()
    means = np.array([[tiers.of(arm.tier, tier) for tier in PROMPT_TIERS] for arm in arms])
    return Prior(tuple(arms), tasks, np.repeat(means[:, None, :], len(tasks), axis=1))


def benchmark_prior(arms: Sequence[Arm], tasks: tuple[str, ...], table: PriorTable) -> Prior:
    """Expected quality as a table of `armwise prior import` has it."""
    means = np.array([[table.of(arm.name, cast("TaskType", task)) for task in tasks] for arm in arms], dtype=float)
    return Prior(tuple(arms), tasks, np.repeat(means[:, :, None], len(PROMPT_TIERS), axis=2), table)


def imported(known: Outcomes) -> PriorTable:
    """What `armwise prior import` makes of the prompts set apart; tasks may have names of their own."""
    rows = (
        Outcome(prompt, model, cast("TaskType", known.tasks[known.task[row]]), float(known.quality[row, column]))
        for row, prompt in enumerate(known.prompt_ids)
        for column, model in enumerate(known.models)
    )
    return prior_table(rows, mass=PRIOR_MASS, source=known.name)


def reversed_tiers(arms: Sequence[Arm]) -> list[Arm]:
    """The tiers turned round: the best model has the worst one's."""
    order = sorted(range(len(arms)), key=lambda index: MODEL_TIERS.index(arms[index].tier))
    tiers = {index: arms[other].tier for index, other in zip(order, reversed(order), strict=True)}
    return [msgspec.structs.replace(arm, tier=tiers[index]) for index, arm in enumerate(arms)]


def prior_of(known: Outcomes, judged: Outcomes, kind: str) -> Prior:
    """The prior of a kind: tier, benchmark or reversed."""
    arms = arms_of(judged)
    if kind == "benchmark":
        return benchmark_prior(arms, judged.tasks, known.told or imported(known))
    return tier_prior(reversed_tiers(arms) if kind == "reversed" else arms, judged.tasks)


class Setting(NamedTuple):
    """One file under one set of arguments: what every row of its table shares."""

    judged: Outcomes
    prior: Prior
    typical_usd: Array  # (n_models,): mean cost of a call to the prompts set apart
    world: World
    streams: list[Stream]
    free: Hindsight
    paid: Hindsight | None  # under the budget, where there is one


def load(name: str, arguments: argparse.Namespace) -> Outcomes:
    """The outcomes of a name: simulated ones, or those of a file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is not of the format, or lacks a model that is asked for.
    """
    if is_simulated(name):
        return simulated(name, models=arguments.models)
    if is_published(name):
        return from_means(name, models=arguments.models)
    return read(find(name), classifier=arguments.classifier, models=arguments.models)


def setting(outcomes: Outcomes, arguments: argparse.Namespace) -> Setting:
    """Split, prior, world and streams."""
    known, judged = split(outcomes, PRIOR_SHARE)
    prior = prior_of(known, judged, arguments.prior)
    requests, budget = arguments.requests, arguments.budget
    calm = means(judged, steady(judged), requests)
    newcomer = None if budget is None else most_missed(calm, budget)
    quiz = known.rows(np.arange(len(known.prompt_ids)) < arguments.quiz) if arguments.quiz else None
    world = shaken(judged, arguments.shock, requests, newcomer, quiz)
    streams = [
        stream(judged, requests, arguments.feedback_rate, arguments.delay, seed, world, arguments.heuristic)
        for seed in range(arguments.seeds)
    ]
    expected = means(judged, world, requests)
    paid = None if budget is None else hindsight(expected, budget)
    return Setting(judged, prior, known.cost_usd.mean(axis=0), world, streams, hindsight(expected), paid)


def compare(outcomes: Outcomes, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """All rows of one file."""
    here = setting(outcomes, arguments)
    return rows_of(here, played(here, arguments), arguments)


def played(here: Setting, arguments: argparse.Namespace) -> dict[str, list[Replayed] | str]:
    """What everybody did with each stream, by name; of a peer that is not installed, how its package is got."""
    chosen = [baselines(given, here.free, here.paid) for given in here.streams]
    done: dict[str, list[Replayed] | str] = {name: [Replayed(arms[name], 0.0) for arms in chosen] for name in chosen[0]}
    for name in ("static_prior", *arguments.policy):
        if name in LINEAR:
            done[name] = [replay_linear(given, here.prior.mean, LINEAR[name]) for given in here.streams]
        elif name in PEERS:
            done[name] = play_peer(here, name, arguments.budget)
        elif name not in done:
            done[name] = [play(here, given, POLICIES[name](here.prior), arguments.budget) for given in here.streams]
    if arguments.through_service:
        from benchmarks.through_service import NAME, replay_through_service  # noqa: PLC0415 - few replays start it

        done[NAME] = [replay_through_service(given, here.prior, arguments.budget) for given in here.streams]
    return done


def rows_of(
    here: Setting, done: dict[str, list[Replayed] | str], arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    """The rows of the table."""
    told, best = about(arguments), here.paid or here.free
    return [
        {"data": here.judged.name, "policy": name, **told, "not_installed": replays}
        if isinstance(replays, str)
        else row(name, list(zip(here.streams, replays, strict=True)), best, arguments.budget, told)
        for name, replays in done.items()
    ]


def play(here: Setting, given: Stream, learner: Learner, budget_usd: float | None) -> Replayed:
    """Replay a policy of ours, which keeps to the budget where there is one."""
    pacer = None if budget_usd is None else Pacer(budget_usd=budget_usd)
    return replay(given, learner, pacer, here.typical_usd)


def play_peer(here: Setting, name: str, budget_usd: float | None) -> list[Replayed] | str:
    """Replay another router, or say how its package is got."""
    judged = here.judged
    order = np.argsort(np.argsort(-judged.quality.mean(axis=0), kind="stable"))
    arms = [
        PeerArm(arm.name, arm.tier, int(rank), float(cost))
        for arm, rank, cost in zip(arms_of(judged), order, judged.cost_usd.mean(axis=0), strict=True)
    ]
    try:
        return [replay_peer(given, PEERS[name](arms, seed, budget_usd)) for seed, given in enumerate(here.streams)]
    except NotInstalled as error:
        return str(error)


def about(arguments: argparse.Namespace) -> dict[str, Any]:
    """The arguments that a row was measured under."""
    return {
        "requests": arguments.requests, "feedback_rate": arguments.feedback_rate, "prior": arguments.prior,
        "classifier": arguments.classifier, "heuristic": arguments.heuristic, "budget_usd": arguments.budget,
        "shock": arguments.shock,
    }  # fmt: skip


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown, without the fixed models. Columns that no row fills are left out."""
    columns: list[tuple[str, Callable[[dict[str, Any]], str]]] = [
        ("quality", lambda one: f"{one['quality']:.4f} ± {(one['quality_high'] - one['quality_low']) / 2:.4f}"),
        ("last quarter", _number("quality_last_quarter", ".4f")),
        ("gap closed", _number("gap_closed", ".0%")),
        ("USD", _number("cost_usd", ".2g")),
        ("overshoot", _number("overshoot", ".2%")),
        ("worst", _number("overshoot_worst", ".2%")),
        ("to alarm", _number("requests_to_alarm", ",.0f")),
        ("to halve", _number("requests_to_halve", ",.0f")),
        ("false alarms", _number("false_alarms", ".2f")),
        ("to adopt", _number("requests_to_adopt", ",.0f")),
        ("us", _number("decision_us", ".1f")),
    ]
    shown = [one for one in rows if not one["policy"].startswith("always ")]
    measured = [one for one in shown if "not_installed" not in one]
    used = [(title, of) for title, of in columns if any(of(one) for one in measured)]
    lines = [f"| data | policy | {' | '.join(title for title, _ in used)} |", "| --- |" + " --- |" * (1 + len(used))]
    for one in shown:
        cells = [one["not_installed"]] if "not_installed" in one else [of(one) for _, of in used]
        lines.append(f"| {one['data']} | {one['policy']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _number(key: str, form: str) -> Callable[[dict[str, Any]], str]:
    return lambda one: "" if one[key] is None else format(one[key], form)


def commit() -> str:
    """The commit that was measured, marked when what was measured differs from it."""
    folder = Path(__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=False).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", "../bandit")
    return git("describe", "--always") + ("-dirty" if changed else "")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--data", nargs="+", required=True, help="outcome files, or names in ARMWISE_DATA")
    made.add_argument("--models", nargs="+", metavar="NAME", help="only these of a file (default: all)")
    made.add_argument(
        "--policy", nargs="+", default=list(POLICIES), choices=[*POLICIES, *LINEAR, *PEERS], metavar="NAME"
    )
    made.add_argument("--requests", type=int, default=20_000, help="in one replay (default: %(default)s)")
    made.add_argument("--feedback-rate", type=float, default=0.05, help="share that is rated (default: %(default)s)")
    made.add_argument("--delay", type=float, default=200.0, help="median of it, in requests (default: %(default)s)")
    made.add_argument("--prior", default="tier", choices=["tier", "benchmark", "reversed"])
    made.add_argument("--classifier", default="label", choices=["label", "embedded"], help="who names the task")
    made.add_argument("--heuristic", default="none", choices=["none", "weak", "biased"], help="readings of all replies")
    made.add_argument("--budget", type=float, metavar="USD", help="mean cost of a request (default: no budget)")
    made.add_argument("--shock", default="none", choices=["none", "price", "drop", "new-model"], help="at half time")
    made.add_argument("--quiz", type=int, default=0, help="prompts that a new model answers beforehand")
    made.add_argument(
        "--through-service", type=int, nargs="?", const=SENT, metavar="N",
        help="only so many requests, and these also through the running service (default: %(const)s)",
    )  # fmt: skip
    made.add_argument("--seeds", type=int, default=5)
    made.add_argument("--json", type=Path, help="file for the rows")
    return made


def checked(arguments: argparse.Namespace, made: argparse.ArgumentParser) -> argparse.Namespace:
    """Arguments that fit together; else says what does not, and exits."""
    if arguments.budget is not None and not 0.0 < arguments.budget < np.inf:
        made.error(f"found --budget {arguments.budget}, expected dollars above 0")
    if (arguments.shock == "new-model" or arguments.budget is not None) and (
        linear := LINEAR.keys() & set(arguments.policy)
    ):
        made.error(f"{', '.join(sorted(linear))} is replayed without budgets and new models; leave it out")
    if arguments.shock == "new-model" and (peers := [name for name in arguments.policy if name in PEERS]):
        made.error(f"{', '.join(peers)} cannot be told of a new model while running; leave them out")
    if arguments.through_service is not None:
        if arguments.through_service < 1:
            made.error(f"found --through-service {arguments.through_service}, expected a number of requests")
        if arguments.classifier != "embedded" or (arguments.shock, arguments.heuristic) != ("none", "none"):
            made.error(
                "--through-service takes no --shock and no --heuristic, and needs --classifier embedded: the service "
                "names the task itself"
            )
        arguments.requests = arguments.through_service
    return arguments


def main() -> None:
    made = parser()
    arguments = checked(made.parse_args(), made)
    rows = [found for name in arguments.data for found in compare(load(name, arguments), arguments)]
    print(table(rows))
    if arguments.json is not None:
        content = {"commit": commit(), "arguments": sys.argv[1:], "rows": rows}
        arguments.json.write_bytes(msgspec.json.format(msgspec.json.encode(content), indent=1) + b"\n")


if __name__ == "__main__":
    main()
