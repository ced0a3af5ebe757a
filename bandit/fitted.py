"""What the policies share that are fitted in the background: what is known beforehand, and what is weighed."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from bandit.policies import Policy
from bandit.priors import PriorTable
from bandit.thompson import PriorMeans
from bandit.vocabulary import PROMPT_TIERS, TASK_TYPES, Arm, PromptTier, TaskType
from bandit.weighing import Exploration, Guard, Objective, guard_of

Array = NDArray[np.float64]


class FittedPolicy(Policy, frozen=True):
    """Settings of a policy that is fitted in the background, and weighs money, time and risk when it decides."""

    fits: ClassVar[bool] = True

    boldness: float = 0.3  # the posterior's standard deviations are multiplied by it; 1 is Thompson sampling
    active: int = 8  # so many arms of highest mean + 1 sd are drawn by their chance of being best
    floor: float = 0.004  # share of traffic that is spread: half evenly over the active arms, half over all
    prior_means: PriorMeans = PriorMeans()
    prior_file: str = ""  # made by `armwise prior import`; read with the settings into `prior`
    prior: PriorTable | None = None
    cost_weight: float = 0.0  # quality points (0..1) that one US dollar of expected cost takes away
    objective: Objective = "quality"  # or "budget": the best quality for so much; "floor": the cheapest that is as good
    usd_per_request: float = 0.0  # with "budget": mean cost of a request
    usd_per_day: float = 0.0  # with "budget", instead: for all requests of a day (UTC)
    late_after_s: float = 0.0  # seconds to a reply, or to a stream's first token, that are too long; 0: none are
    late_share: float = 0.05  # of replies that may be late
    within: float = 0.02  # with "floor": how far below the best quality is good enough
    certainty: float = 0.9  # with "floor": how sure that must be
    nursery: float = 0.05  # share of traffic that goes to arms that came later, as long as little is known of them
    nursery_labels: float = 30.0  # labels, or calls that were read instead, from which an arm is no longer new
    baseline: str = ""  # name of the arm that the others are held against; empty: none
    gate: float = 0.05  # arms that are surely worse than the baseline by more than this get the floor alone
    credit: float = 1.0  # share of the baseline's quality that exploring may be expected to cost; 1: any

    def named_arms(self) -> tuple[str, ...]:
        return (self.baseline,) if self.baseline else ()

    @property
    def limited(self) -> bool:
        """Whether money or time has a price."""
        return self.objective == "budget" or self.late_after_s > 0.0

    @property
    def exploration(self) -> Exploration:
        """How much traffic goes to arms that are not known to be best."""
        return Exploration(self.boldness, self.active, self.floor)

    def prior_mean(self, arm: Arm, task_type: TaskType, tier: PromptTier) -> float:
        """Expected quality before any feedback: from the prior file, else from the tiers."""
        known = self.prior.of(arm.name, task_type) if self.prior is not None else None
        return self.prior_means.of(arm.tier, tier) if known is None else known

    def prior_means_of(self, arms: Sequence[Arm]) -> Array:
        """`prior_mean` of every cell: shape (n_arms, n_tasks, n_tiers)."""
        return np.array(
            [[[self.prior_mean(arm, task, tier) for tier in PROMPT_TIERS] for task in TASK_TYPES] for arm in arms]
        )

    def guard(self, arms: Sequence[Arm]) -> Guard | None:
        """What `arms` are held against; None without a baseline among them."""
        return guard_of(arms, self.baseline, self.gate, self.credit)


def late_limit(policy: Policy) -> float:
    """The seconds after which a reply is late for this policy; 0: none is."""
    return policy.late_after_s if isinstance(policy, FittedPolicy) else 0.0
