"""The posteriors as an owner reads them: one Beta per task type and model."""

import math
from typing import Any

import numpy as np
from scipy.special import betaincinv

from bandit.linear import LinearThompson, typical_of
from bandit.pooled import PooledThompson
from bandit.posteriors import Beliefs, Beta, beta_of
from bandit.selection import probability_of_best
from bandit.thompson import Thompson
from bandit.vocabulary import PROMPT_TIERS, TASK_TYPES, PromptTier, TaskType
from service.errors import NotFound
from service.learning.knowledge import Knowledge
from service.mistakes import suggestion
from service.setup import Setup

INTERVAL = 0.95


Learner = Thompson | PooledThompson | LinearThompson


def learner_of(setup: Setup, name: str | None) -> Learner:
    """The learning policy whose posteriors are meant: the named one, else the default, else the first, else plain.

    Raises:
        NotFound: no learning policy has the name.
    """
    learners = {name: policy for name, policy in setup.policies.items() if isinstance(policy, Learner)}
    if name is not None:
        if name not in learners:
            raise NotFound(f"No policy `{name[:128]}` learns{suggestion(name, learners)}.", param="policy")
        return learners[name]
    if isinstance(setup.default_policy, Learner):
        return setup.default_policy
    return next(iter(learners.values()), Thompson(name="thompson"))


def _betas(
    learner: Learner, setup: Setup, knowledge: Knowledge, namespace: str, task: TaskType, tier: PromptTier | None
) -> list[Beta]:
    """One for each arm; without a tier each counts by what was measured there, and one label more.

    Of a linear policy: on the task type's typical prompt.
    """
    if isinstance(learner, Thompson):
        beliefs = knowledge.latest(namespace, task)
        return [learner.posterior(arm, beliefs, tier) for arm in setup.arms]
    fit, tiers = knowledge.fit(namespace, learner.name), PROMPT_TIERS if tier is None else (tier,)
    measured = knowledge.measured_by_tier(namespace, task)
    weights = [measured[one] + 1.0 for one in tiers]
    if isinstance(learner, LinearThompson):
        x = typical_of(knowledge.typical, task)
        known = [learner.estimates_at(x, task, one, setup.arms, fit.get((task, one), Beliefs())) for one in tiers]
        return [beta_of(of_arm, weights) for of_arm in zip(*known, strict=True)]
    return [
        beta_of([learner.estimate(arm, task, one, fit.get((task, one), Beliefs())) for one in tiers], weights)
        for arm in setup.arms
    ]


def posterior_cells(
    setup: Setup,
    knowledge: Knowledge,
    *,
    task_type: TaskType | None = None,
    tier: PromptTier | None = None,
    policy: str | None = None,
    namespace: str = "",
) -> list[dict[str, Any]]:
    """Each (task type, model) with its Beta posterior, interval, evidence and chance of being best.

    `tier` takes that tier of prompts alone; without one all count, by what was measured there, so that the figures are
    those of prompts as they come: what is held moves with them then, but not on a tier.
    """
    learner = learner_of(setup, policy)
    cells: list[dict[str, Any]] = []
    for task in TASK_TYPES if task_type is None else (task_type,):
        beliefs = knowledge.latest(namespace, task)
        betas = _betas(learner, setup, knowledge, namespace, task, tier)
        alpha = np.array([beta.alpha for beta in betas])
        beta = np.array([beta.beta for beta in betas])
        chances = probability_of_best(alpha, beta)
        low, high = betaincinv(alpha, beta, (1 - INTERVAL) / 2), betaincinv(alpha, beta, (1 + INTERVAL) / 2)
        for index, arm in enumerate(setup.arms):
            evidence = beliefs.of(arm.name)
            cells.append(
                {
                    "task_type": task,
                    "model": arm.name,
                    "alpha": finite(alpha[index]),
                    "beta": finite(beta[index]),
                    "mean": finite(betas[index].mean),
                    "interval": [finite(low[index]), finite(high[index])],
                    "n": evidence.explicit_n,
                    "n_heuristic": evidence.heuristic_n,
                    "p_best": finite(chances[index]),
                }
            )
    return cells


def finite(number: float) -> float | None:
    """A number as JSON can carry it."""
    return float(number) if math.isfinite(number) else None
