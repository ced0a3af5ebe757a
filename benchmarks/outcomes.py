"""Outcome files: what every model answered to every prompt, how good it was and what it cost.

The format is one JSON object a line, gzip or plain, one line per prompt and model: `prompt_id`, `model`, `score` in
[0, 1], and where known `prompt`, `category`, `cost_usd`.
"""

import gzip
import json
import os
from collections import defaultdict
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bandit.linear import features
from bandit.priors import PriorTable
from bandit.vocabulary import MODEL_TIERS, PROMPT_TIERS, TASK_TYPES, Arm, Classification, PromptProfile
from service.classifiers.embedded import Embedded
from service.profiles import tier_of

_NO_CATEGORY = "none"


class Outcomes(NamedTuple):
    """Prompts in rows, models in columns."""

    name: str
    models: tuple[str, ...]
    prompt_ids: tuple[str, ...]
    prompts: tuple[str, ...]
    quality: NDArray[np.float64]  # (n_prompts, n_models)
    cost_usd: NDArray[np.float64]  # (n_prompts, n_models); 0 where the file knows none
    tasks: tuple[str, ...]  # names of task keys
    task: NDArray[np.int64]  # (n_prompts,): index in `tasks`
    tier: NDArray[np.int64]  # (n_prompts,): index in PROMPT_TIERS
    left_out: int  # prompts that some model did not answer
    features: NDArray[np.float64] | None = None  # (n_prompts, n_features), as `bandit.linear.features` has them
    told: PriorTable | None = None  # a benchmark's word on the models, where it is not made of prompts set apart

    def rows(self, mask: NDArray[np.bool_]) -> "Outcomes":
        """Only some prompts."""
        keep = np.flatnonzero(mask)
        return self._replace(
            prompt_ids=tuple(self.prompt_ids[row] for row in keep),
            prompts=tuple(self.prompts[row] for row in keep),
            quality=self.quality[keep],
            cost_usd=self.cost_usd[keep],
            task=self.task[keep],
            tier=self.tier[keep],
            features=None if self.features is None else self.features[keep],
        )


def find(name: str) -> Path:
    """A file as named, else in the folder ARMWISE_DATA, with or without its ending.

    Raises:
        FileNotFoundError: neither; says where it was looked for.
    """
    folder = os.environ.get("ARMWISE_DATA")
    places = [Path(name)] + [Path(folder) / f"{name}{end}" for end in ("", ".train.jsonl.gz", ".jsonl.gz") if folder]
    for place in places:
        if place.is_file():
            return place
    raise FileNotFoundError(f"No outcome file {name!r}; looked for {', '.join(map(str, places))}. Set ARMWISE_DATA.")


def read(path: Path, *, classifier: str = "label", models: Sequence[str] | None = None) -> Outcomes:
    """Read a file. Tasks are its categories (`label`) or what the embedded classifier says (`embedded`); so are tiers.

    With `models` the others are not looked at. Prompts that some model did not answer are left out. Without prompts,
    all are of the medium tier.

    Raises:
        ValueError: a line is not an outcome, a model is not in the file, or no prompt was answered by all models;
            names file and line.
    """
    scores: dict[str, dict[str, float]] = defaultdict(dict)
    costs: dict[str, dict[str, float]] = defaultdict(dict)
    about: dict[str, dict[str, Any]] = {}
    open_text: Any = gzip.open if path.suffix == ".gz" else open
    with open_text(path, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                key, model, score = str(row["prompt_id"]), str(row["model"]), row.get("score")
                if score is None or (models is not None and model not in models):
                    continue
                scores[key][model] = float(score)
                costs[key][model] = float(row.get("cost_usd") or 0.0)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(f"{path.name}, line {number}: not an outcome ({error!r})") from error
            about.setdefault(key, row)
    answered = tuple(sorted({model for found in scores.values() for model in found}))
    if absent := set(models or ()) - set(answered):
        raise ValueError(f"{path.name}: no outcome of {', '.join(sorted(absent))}; look how the file spells its models")
    complete = [key for key, found in scores.items() if len(found) == len(answered)]
    if not complete:
        raise ValueError(f"{path.name}: no prompt was answered by all of {len(answered)} models")
    prompts = tuple(str(about[key].get("prompt") or "") for key in complete)
    read_by = Embedded()
    said = [read_by.classify(prompt) for prompt in prompts]
    names = (
        [one.task_type for one in said]
        if classifier == "embedded"
        else [str(about[key].get("category") or _NO_CATEGORY) for key in complete]
    )
    tasks = TASK_TYPES if classifier == "embedded" else tuple(sorted(set(names)))
    tiers = [
        PROMPT_TIERS.index(tier_of(one.complexity, read_by.tiers)) if prompt else 1
        for one, prompt in zip(said, prompts, strict=True)
    ]
    return Outcomes(
        name=path.name.split(".")[0],
        models=answered,
        prompt_ids=tuple(complete),
        prompts=prompts,
        quality=np.array([[scores[key][model] for model in answered] for key in complete]),
        cost_usd=np.array([[costs[key][model] for model in answered] for key in complete]),
        tasks=tasks,
        task=np.array([tasks.index(name) for name in names]),
        tier=np.array(tiers),
        left_out=len(scores) - len(complete),
        features=np.array([_features(one) for one in said]),
    )


def _features(said: Classification) -> list[float]:
    profile = PromptProfile(
        task_type=said.task_type,
        tier="medium",
        complexity=said.complexity,
        scores=said.scores,
        vector=said.vector,
    )
    return features(profile)


def split(outcomes: Outcomes, share: float) -> tuple[Outcomes, Outcomes]:
    """A share of the prompts to make priors from, and the others to be judged on; by a hash of the prompt's id."""
    digests = [blake2b(key.encode(), digest_size=8, person=b"split").digest() for key in outcomes.prompt_ids]
    first = np.array([int.from_bytes(digest, "big") / 2**64 for digest in digests]) < share
    return outcomes.rows(first), outcomes.rows(~first)


def arms_of(outcomes: Outcomes) -> tuple[Arm, ...]:
    """The models as arms, in tiers of their true order: the best third is large."""
    rank = np.argsort(np.argsort(outcomes.quality.mean(axis=0), kind="stable"))
    tiers = (MODEL_TIERS[position * len(MODEL_TIERS) // len(rank)] for position in rank)
    return tuple(Arm(name=name, tier=tier) for name, tier in zip(outcomes.models, tiers, strict=True))
