"""Thompson sampling over one Beta posterior per task type and arm, started by the tiers."""

from collections.abc import Sequence
from functools import lru_cache

import msgspec
import numpy as np

from bandit.costs import expected_cost
from bandit.policies import Policy, Probabilities
from bandit.posteriors import Beliefs, Beta, posterior
from bandit.selection import probability_of_best, with_floor
from bandit.vocabulary import FREE, PROMPT_TIERS, Arm, ModelTier, PromptProfile, PromptTier, Terms


class PriorMeans(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Expected quality before any feedback: rows are model tiers, columns simple, medium and complex prompts."""

    small: tuple[float, float, float] = (0.75, 0.60, 0.40)
    medium: tuple[float, float, float] = (0.80, 0.72, 0.58)
    large: tuple[float, float, float] = (0.83, 0.79, 0.72)

    def of(self, model_tier: ModelTier, prompt_tier: PromptTier | None) -> float:
        """Prior mean of one cell; the mean over prompt tiers when no prompt tier is given."""
        row: tuple[float, float, float] = getattr(self, model_tier)
        return sum(row) / 3 if prompt_tier is None else row[PROMPT_TIERS.index(prompt_tier)]


class Thompson(Policy, frozen=True, tag="thompson"):
    """Choose an arm as often as it is likely to be the best one, plus a small floor for every arm.

    The chance of being best is integrated, not sampled, so it is a number we can log and draw from. Keyed per task
    type: with much traffic the counts outweigh the tier prior, and the posterior becomes the mix over complexities.
    """

    floor: float = 0.02  # share of traffic spread evenly, so every arm can be evaluated
    prior_strength: float = 50.0  # the prior counts as many labels
    prior_means: PriorMeans = PriorMeans()
    heuristic_cap: float = 30.0  # all weak readings of an arm together count at most as many labels
    cost_weight: float = 0.0  # quality points (0..1) that one US dollar of expected cost takes away

    def posterior(self, arm: Arm, beliefs: Beliefs, tier: PromptTier | None) -> Beta:
        """Beta posterior of an arm's quality; `tier` None averages the prior over prompt tiers."""
        mean = self.prior_means.of(arm.tier, tier)
        return posterior(mean, self.prior_strength, beliefs.of(arm.name), self.heuristic_cap)

    def probabilities(
        self, profile: PromptProfile, arms: Sequence[Arm], beliefs: Beliefs, terms: Terms = FREE
    ) -> Probabilities:
        cells = [self.posterior(arm, beliefs, profile.tier) for arm in arms]
        shift = tuple(self.cost_weight * expected_cost(arm, profile) for arm in arms) if self.cost_weight else ()
        best = _best(tuple(cell.alpha for cell in cells), tuple(cell.beta for cell in cells), shift)
        return with_floor(np.array(best), self.floor)


@lru_cache(maxsize=4096)
def _best(alpha: tuple[float, ...], beta: tuple[float, ...], shift: tuple[float, ...]) -> tuple[float, ...]:
    """`probability_of_best`, remembered: between two snapshots a cell's answer is a look-up."""
    chances = probability_of_best(np.array(alpha), np.array(beta), np.array(shift) if shift else None)
    return tuple(chances.tolist())
