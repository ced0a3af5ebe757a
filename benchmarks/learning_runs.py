"""Which replays the published table is made of."""

import os
from functools import cache
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from benchmarks.columns import WINDOW, moving_share
from benchmarks.compare_policies import checked, load, parser, played, rows_of, setting
from benchmarks.learners import POLICIES
from benchmarks.outcomes import Outcomes, find
from benchmarks.published_means import TABLES, is_published
from benchmarks.streams import Array

SETS = ("paretobandit", "routerbench11", "zeroeval", "routellm_mmlu", "routerdc7")
PUBLISHED = (f"{TABLES}:13", f"{TABLES}:20")
BUDGETS = ("2.3e-4", "6.6e-4", "1.9e-3", "5.3e-3")  # USD per request, as published for ParetoBandit
_THREE = ("google/gemini-2.5-pro", "mistralai/mistral-large-2512", "meta-llama/llama-3.1-8b-instruct")
_OURS = ("thompson", "thompson_global", "pooled_thompson")
_PEERS = ("litellm_quality", "litellm_default")
_MORE_PEERS = ("mabwiser", "bayesian_router")  # at 5 % alone
_SERVED = ("paretobandit", "zeroeval")  # also replayed through the service: few models, and many
_POINTS = 100  # of a curve


class Run(NamedTuple):
    """One command of `compare_policies`, under a heading of the page."""

    section: str
    arguments: tuple[str, ...]
    curve: str = ""  # what is drawn over the requests: "regret", or "share" of the model that drops


def available() -> tuple[str, ...]:
    """The sets that are there, simulated ones where none is; and the published means, where they are."""
    there = tuple(name for name in SETS if _found(name)) or ("simulated_paretobandit", "simulated_zeroeval")
    return there + (PUBLISHED if _found(f"{TABLES}.json") else ())


def _found(name: str) -> bool:
    try:
        return "ARMWISE_DATA" in os.environ and find(name).is_file()
    except FileNotFoundError:
        return False


def runs(sets: tuple[str, ...]) -> list[Run]:
    """Every replay of the table, the longest first."""
    published = [name for name in sets if is_published(name)]
    sets = tuple(name for name in sets if name not in published)
    priced = next((name for name in sets if name.endswith("paretobandit")), sets[0])
    many = next((name for name in sets if name.endswith("zeroeval")), sets[-1])
    longest_first = sorted(sets, key=lambda name: name not in {"routerbench11", "routellm_mmlu"})
    return [
        *(run for name in longest_first for run in _quality(name)),
        *_budgets(priced),
        *(run for name in dict.fromkeys((priced, many)) for run in _changes(name)),
        *(run for name in sets for run in _classified(name)),
        *(run for name in published for run in _means(name)),
    ]


def _quality(name: str) -> list[Run]:
    made = []
    for rate in ("0.05", "1"):
        common = ("--data", name, "--feedback-rate", rate, "--seeds", "3")
        curve = "regret" if rate == "0.05" else ""
        peers = _PEERS if rate == "1" else _PEERS + _MORE_PEERS
        made.append(Run("Quality", (*common, "--policy", *_OURS, *peers), curve))
        made.append(Run("Benchmark prior", (*common, "--prior", "benchmark", "--policy", *_OURS)))
    made.append(Run("Reversed prior", ("--data", name, "--seeds", "3", "--prior", "reversed", "--policy", *_OURS)))
    return made


def _budgets(name: str) -> list[Run]:
    three = ("--data", name, "--models", *_THREE)
    published = ("--requests", "1824", "--feedback-rate", "1", "--delay", "0", "--seeds")
    section = "Budget, 1,824 requests"
    # ParetoBandit embeds every prompt: fewer seeds. What both measure stands in the table from the later runs.
    made = [
        Run(section, (*three, *published, "2", "--budget", budget, "--policy", "paretobandit")) for budget in BUDGETS
    ]
    for budget, prior in product(BUDGETS, ("tier", "benchmark")):
        warm = ("10", "--prior", prior, "--budget", budget, "--policy", "pooled_thompson")
        made.append(Run(section, (*three, *published, *warm)))
    for budget, rate, shock in product(BUDGETS, ("0.05", "1"), ("none", "price")):
        words = (*three, "--requests", "8000", "--feedback-rate", rate, "--shock", shock, "--seeds", "3")
        made.append(Run("Budget, 8,000 requests", (*words, "--budget", budget, "--policy", "pooled_thompson")))
    for rate, quiz in product(("1", "0.05"), ("0", "50")):
        new = (*three, "--shock", "new-model", "--feedback-rate", rate, "--quiz", quiz, "--budget", "6.6e-4")
        made.append(Run("New model", (*new, "--seeds", "6", "--policy", "pooled_thompson")))
    return made


def _changes(name: str) -> list[Run]:
    made = []
    for rate in ("1", "0.2", "0.05"):
        words = ("--data", name, "--shock", "drop", "--feedback-rate", rate, "--seeds", "6", "--policy")
        made.append(Run("Silent drop", (*words, "pooled_thompson", "pooled_unwatched", "thompson"), "share"))
    for heuristic in ("none", "weak", "biased"):
        read = ("--data", name, "--heuristic", heuristic, "--seeds", "5", "--policy", "pooled_thompson")
        made.append(Run("Readings", read))
    return made


def _classified(name: str) -> list[Run]:
    embedded = ("--data", name, "--classifier", "embedded")
    made = [
        Run("Tasks named by the classifier", (*embedded, "--prior", prior, "--seeds", "3", "--policy", *_OURS))
        for prior in ("tier", "benchmark")
    ]
    if name in _SERVED:
        sent = (*embedded, "--through-service", "--feedback-rate", "1", "--seeds", "1", "--policy", "pooled_thompson")
        made.append(Run("Through the service", sent))
    return made


def _means(name: str) -> list[Run]:
    made = []
    for rate, prior in (("0.05", "benchmark"), ("1", "benchmark"), ("0.05", "tier"), ("0.05", "reversed")):
        words = ("--data", name, "--feedback-rate", rate, "--prior", prior, "--seeds", "5", "--policy", *_OURS)
        made.append(Run("Published means", words))
    return made


@cache
def _loaded(name: str, classifier: str, models: tuple[str, ...]) -> Outcomes:
    words = ["--data", name, "--classifier", classifier, *(["--models", *models] if models else [])]
    return load(name, parser().parse_args(words))


def done(run: Run) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows and the curves of one run. The rows of fixed models stand in the first section alone."""
    made = parser()
    arguments = checked(made.parse_args(run.arguments), made)
    outcomes = _loaded(arguments.data[0], arguments.classifier, tuple(arguments.models or ()))
    here = setting(outcomes, arguments)
    replays = played(here, arguments)
    rows = [
        {"section": run.section, "quiz": arguments.quiz, "models": len(outcomes.models), **one}
        for one in rows_of(here, replays, arguments)
        if run.section == "Quality" or not one["policy"].startswith("always ")
    ]
    curves = []
    for name, mine in replays.items():
        if not run.curve or isinstance(mine, str) or name not in POLICIES or name not in arguments.policy:
            continue
        each = []
        for given, one in zip(here.streams, mine, strict=True):
            if run.curve == "share":
                each.append(moving_share(one.arms, here.world.changed)[:: len(one.arms) // _POINTS])
            else:
                each.append(_regret(given.quality, one.arms, here.free.per_task[0][given.outcomes.task[given.rows]]))
        at = np.arange(len(each[0])) * (arguments.requests // _POINTS) + (WINDOW // 2 if run.curve == "share" else 0)
        curves.append({
            "curve": run.curve, "data": outcomes.name, "policy": name, "feedback_rate": arguments.feedback_rate,
            "at": at.tolist(), "value": np.mean(each, axis=0).round(4).tolist(),
        })  # fmt: skip
    return rows, curves


def _regret(quality: Array, arms: np.ndarray[Any, Any], best: Array) -> Array:
    """Quality lost so far against the best per task, at a hundred places."""
    lost = (quality * best).sum(axis=1) - quality[np.arange(len(arms)), arms]
    return np.asarray(np.concatenate([[0.0], lost.cumsum()])[:: len(arms) // _POINTS])
