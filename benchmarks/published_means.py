"""Outcomes simulated from published tables of means: many models over many tasks, of which only accuracies are known.

`llmrouterbench_tables:13` and `:20` are read from the file llmrouterbench_tables.json in the folder ARMWISE_DATA: the
accuracies of 13 models on 10 sets and of 20 on 15 (LLMRouterBench, arXiv 2601.07206, tables 9 and 6). Tasks are equally
likely, and so are tiers; a prompt that is simple or complex is .8 of log-odds easier or harder, for weak models more,
and 15 % of the prompts are taken for the tier beside theirs. A benchmark's word on the models is wrong by a standard
deviation of .04 for a model everywhere and of .1 for a model on a task.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit, logit

from bandit.priors import EVERYWHERE, PriorTable
from bandit.vocabulary import PROMPT_TIERS
from benchmarks.outcomes import Outcomes, find
from benchmarks.streams import Array

TABLES = "llmrouterbench_tables"
_BY_SIZE = {"13": "flagship13", "20": "small20"}
_PROMPTS = 40_000
_EASIER = np.array([0.8, 0.0, -0.8])  # log-odds, by prompt tier
_STEEPER = 0.3  # by so much, as a share, for the worst model, and less for the best
_TIER_ERRORS = 0.15
_OFF_EVERYWHERE, _OFF_ON_A_TASK = 0.04, 0.10
_MASS = 300.0  # labels, as of every benchmark here


def is_published(name: str) -> bool:
    """Whether a name is one of `llmrouterbench_tables:13` and `:20`."""
    return name.startswith(f"{TABLES}:")


def from_means(name: str, seed: int = 0, models: Sequence[str] | None = None) -> Outcomes:
    """40,000 prompts and what the models of a table make of them. A seed gives the same again.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file has no such table, or the table no such model.
    """
    size = name.partition(":")[2]
    if size not in _BY_SIZE:
        raise ValueError(f"found no table {size!r} of {TABLES}; known are {', '.join(_BY_SIZE)}")
    accuracy = _accuracy(find(f"{TABLES}.json"), _BY_SIZE[size])
    names = tuple(f"model-{number:02d}" for number in range(1, len(accuracy) + 1))
    if absent := set(models or ()) - set(names):
        raise ValueError(f"found no model {', '.join(sorted(absent))} of {name}; known are {names[0]} to {names[-1]}")
    rng = np.random.default_rng(seed)
    off = rng.normal(0.0, _OFF_EVERYWHERE, (len(accuracy), 1)) + rng.normal(0.0, _OFF_ON_A_TASK, accuracy.shape)
    keep = [index for index, one in enumerate(names) if models is None or one in models]
    names, believed, accuracy = tuple(names[index] for index in keep), (accuracy + off)[keep], accuracy[keep]
    tasks = tuple(f"task-{number:02d}" for number in range(1, accuracy.shape[1] + 1))
    task, tier = rng.integers(len(tasks), size=_PROMPTS), rng.integers(len(PROMPT_TIERS), size=_PROMPTS)
    rank = np.argsort(np.argsort(accuracy.mean(axis=1), kind="stable")) / max(len(names) - 1, 1)
    slope = 1.0 + _STEEPER * (1.0 - 2.0 * rank)
    chance = expit(logit(accuracy.clip(0.01, 0.99))[:, task] + slope[:, None] * _EASIER[tier]).T
    beside = np.where(tier == 1, rng.choice([0, 2], size=_PROMPTS), 1)
    return Outcomes(
        name=name,
        models=names,
        prompt_ids=tuple(f"{TABLES}-{number}" for number in range(_PROMPTS)),
        prompts=("",) * _PROMPTS,
        quality=(rng.random(chance.shape) < chance).astype(float),
        cost_usd=np.zeros(chance.shape),
        tasks=tasks,
        task=task,
        tier=np.where(rng.random(_PROMPTS) < _TIER_ERRORS, beside, tier),
        left_out=0,
        told=_told(names, tasks, believed.clip(0.02, 0.98)),
    )


def _accuracy(path: Path, table: str) -> Array:
    """Shape (n_models, n_tasks).

    Raises:
        ValueError: the file is not as expected.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
        found = np.array(content[table]["accuracy"], dtype=np.float64)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path.name}: no accuracies under {table!r} ({error!r}); expected rows of numbers") from error
    if found.ndim != 2 or not ((found >= 0.0) & (found <= 1.0)).all():
        raise ValueError(f"{path.name}: {table!r} is no table of accuracies from 0 to 1, a row per model")
    return found


def _told(names: tuple[str, ...], tasks: tuple[str, ...], quality: Array) -> PriorTable:
    table = {
        name: {EVERYWHERE: float(row.mean()), **dict(zip(tasks, row.tolist(), strict=True))}
        for name, row in zip(names, quality, strict=True)
    }
    return PriorTable(table, _MASS, TABLES)
