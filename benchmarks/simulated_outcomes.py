"""Outcomes simulated from the committed table of facts, for replays where no outcome file is at hand.

A prompt is of one of the eleven task types and one of the three tiers, all equally likely. A model is right with the
chance that the table has for the task type, moved by half a point of log-odds for a simple prompt and back for a
complex one. Nothing else of real prompts is in it: which models fail together is not known, so an oracle looks better
here than it is.
"""

from collections.abc import Sequence

import numpy as np
from scipy.special import expit, logit

from bandit.vocabulary import PROMPT_TIERS, TASK_TYPES
from benchmarks.outcomes import Outcomes
from service.providers.facts import table

_PREFIX = "simulated_"
_EASIER = np.array([0.5, 0.0, -0.5])  # log-odds, by prompt tier
_PROMPT_TOKENS = 200  # of every prompt
_PROMPTS = 4_000
_SPREAD = 0.6  # of reply lengths, as the standard deviation of their logarithm


def is_simulated(name: str) -> bool:
    """Whether a name is one of `simulated_paretobandit`, `simulated_zeroeval`: the sources of the table of facts."""
    return name.startswith(_PREFIX)


def simulated(name: str, seed: int = 0, models: Sequence[str] | None = None) -> Outcomes:
    """4,000 prompts and what the models of one source (or only `models`) make of them. A seed gives the same again.

    Raises:
        ValueError: the table has no such source, or the source no such model; names those it has.
    """
    facts = table()
    source = name.removeprefix(_PREFIX)
    if source not in facts.sources:
        known = ", ".join(_PREFIX + one for one in sorted(facts.sources))
        raise ValueError(f"found no source {source!r} in the table of facts; known are {known}")
    rows = {model: row for model, row in facts.models.items() if row.source == source}
    if absent := set(models or ()) - set(rows):
        raise ValueError(f"found no model {', '.join(sorted(absent))} of {source}; known are {', '.join(rows)}")
    rows = {model: row for model, row in rows.items() if models is None or model in models}
    rng = np.random.default_rng(seed)
    task, tier = rng.integers(len(TASK_TYPES), size=_PROMPTS), rng.integers(len(PROMPT_TIERS), size=_PROMPTS)
    known_of = [[row.on(one) for one in TASK_TYPES] for row in rows.values()]
    mean = np.array([[fact.quality for fact in facts_of] for facts_of in known_of]).clip(0.01, 0.99)
    chance = expit(logit(mean[:, task]) + _EASIER[tier]).T  # (n_prompts, n_models)
    tokens = np.array([[fact.output_tokens for fact in facts_of] for facts_of in known_of])[:, task].T
    tokens = tokens * rng.lognormal(-(_SPREAD**2) / 2, _SPREAD, (_PROMPTS, 1))
    price_in, price_out = np.array([[row.price_in, row.price_out] for row in rows.values()]).T / 1e6
    return Outcomes(
        name=name,
        models=tuple(rows),
        prompt_ids=tuple(f"simulated-{number}" for number in range(_PROMPTS)),
        prompts=("",) * _PROMPTS,
        quality=(rng.random(chance.shape) < chance).astype(float),
        cost_usd=_PROMPT_TOKENS * price_in + tokens * price_out,
        tasks=TASK_TYPES,
        task=task,
        tier=tier,
        left_out=0,
    )
