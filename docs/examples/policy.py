"""A policy of your own: the cheapest model that is good enough, judged by the labels of the task type.

Run it: .venv/bin/python docs/examples/policy.py
"""

from collections.abc import Sequence

import numpy as np

from bandit.costs import expected_cost
from bandit.policies import Policy, Probabilities, one_hot
from bandit.posteriors import Beliefs, Evidence
from bandit.selection import choose, with_floor
from bandit.vocabulary import FREE, Arm, PromptProfile, Terms


class CheapEnough(Policy, frozen=True, tag="cheap_enough"):
    """The cheapest model whose mean quality reaches `wanted`; the best known one when none does."""

    wanted: float = 0.8  # mean quality, 0 to 1
    labels: float = 20.0  # a model with fewer counts as not good enough yet
    floor: float = 0.05  # share of traffic that is spread evenly: without it nothing is learned of the others

    def probabilities(
        self, profile: PromptProfile, arms: Sequence[Arm], beliefs: Beliefs, terms: Terms = FREE
    ) -> Probabilities:
        quality = np.array([self._quality(beliefs.of(arm.name)) for arm in arms])
        cost = np.array([expected_cost(arm, profile) for arm in arms])
        enough = np.flatnonzero(quality >= self.wanted)
        taken = enough[cost[enough].argmin()] if len(enough) else quality.argmax()
        return with_floor(one_hot(int(taken), len(arms)), self.floor)

    def reason(self, profile: PromptProfile) -> str:
        return f"the cheapest model of at least {self.wanted:g}"

    def _quality(self, known: Evidence) -> float:
        return known.explicit_sum / known.explicit_n if known.explicit_n >= self.labels else 0.0


ARMS = (Arm(name="small", price_out=0.5), Arm(name="large", tier="large", price_out=10.0))
ASKED = PromptProfile(task_type="Summarization", tier="simple", prompt_tokens=400)


def main() -> None:
    """Choose before and after feedback, with the exact probabilities that would be stored."""
    policy = CheapEnough(name="cheap_enough")
    nothing = Beliefs()
    taught = Beliefs("v1", {"small": Evidence(100.0, 60.0), "large": Evidence(100.0, 95.0)})
    for when, beliefs in (("before", nothing), ("after", taught)):
        choice = choose(policy, ASKED, ARMS, beliefs, seed=2)
        shown = ", ".join(
            f"{name} {chance:.3f}" for name, chance in zip(choice.arms, choice.probabilities, strict=True)
        )
        print(f"{when} feedback: {shown}; drawn {choice.arm} with {choice.propensity:.3f} ({choice.reason})")


if __name__ == "__main__":
    main()
