"""The posteriors as an owner reads them: one Beta per task type and model."""

import math
from typing import Any

import numpy as np
from scipy.special import betaincinv

from bandit.selection import probability_of_best
from bandit.thompson import Thompson
from bandit.vocabulary import TASK_TYPES, PromptTier, TaskType
from service.knowledge import Knowledge
from service.setup import Setup

INTERVAL = 0.95


def thompson_of(setup: Setup, name: str | None) -> Thompson:
    """The Thompson policy whose prior is meant: the named one, else the default, else the first, else plain."""
    if name is not None and isinstance(found := setup.policies.get(name), Thompson):
        return found
    if isinstance(setup.default_policy, Thompson):
        return setup.default_policy
    configured = (policy for policy in setup.policies.values() if isinstance(policy, Thompson))
    return next(configured, Thompson(name="thompson"))


def posterior_cells(
    setup: Setup,
    knowledge: Knowledge,
    now: float,
    *,
    task_type: TaskType | None = None,
    tier: PromptTier | None = None,
    policy: str | None = None,
) -> list[dict[str, Any]]:
    """Each (task type, model) with its Beta posterior, interval, evidence and chance of being best.

    `tier` takes the prior of that prompt tier; without one the prior is the mean over the tiers.
    """
    thompson = thompson_of(setup, policy)
    cells: list[dict[str, Any]] = []
    for task in TASK_TYPES if task_type is None else (task_type,):
        beliefs = knowledge.beliefs("", task, now, fresh=True)
        betas = [thompson.posterior(arm, beliefs, tier) for arm in setup.arms]
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
