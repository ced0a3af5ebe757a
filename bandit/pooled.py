"""Thompson sampling over cells that lend each other strength: how boldly, among which arms, with which floor."""

from collections.abc import Mapping, Sequence
from functools import lru_cache

import msgspec
import numpy as np
from numpy.typing import NDArray

from bandit.budget import affordable_within
from bandit.costs import expected_cost, rounded_tokens
from bandit.fitted import FittedPolicy
from bandit.fusion import fuse
from bandit.history import Cell, History
from bandit.policies import Probabilities
from bandit.pooling import Pooled, Spread, pool, pool_best
from bandit.posteriors import Beliefs, Estimate
from bandit.vocabulary import FREE, PROMPT_TIERS, TASK_TYPES, Arm, PromptProfile, PromptTier, TaskType, Terms, Trade
from bandit.weighing import Exploration, Guard, cheapest, newcomers, thrift_of, trades, weigh

Array = NDArray[np.float64]

_TYPICAL_COIN = 0.2  # variance of one label
_DIGITS = 6  # of an estimate: equal to the eye is equal in content


class PooledThompson(FittedPolicy, frozen=True, tag="pooled_thompson"):
    """Choose an arm as often as it is likely to be the best one in the prompt's cell: its task type and tier.

    Every label informs all cells, the nearer ones more, so that few labels are enough; how near they are to each other
    is learned. What the heuristics say counts as far as labels confirm it. The posteriors are worked out in the
    background; a decision looks its cell's up.
    """

    spread: Spread = Spread()
    readings: bool = True  # hear the heuristics, as far as labels confirm them

    def prior_spread(self) -> Spread:
        """`spread`, or one as narrow as the labels say that a prior file claims to be worth."""
        if self.prior is None or not self.prior.mass:
            return self.spread
        spread = self.spread
        total = spread.arm + spread.task + spread.tier + spread.cell
        times = _TYPICAL_COIN / (self.prior.mass + 1.0) / total
        return spread.scaled(times, times)

    def pooled(self, arms: Sequence[Arm], history: History) -> Pooled:
        """Posterior quality of every arm in every cell. `history` is of these arms, in their order."""
        prior = self.prior_means_of(arms) + history.mean_shift[:, None, None]
        found = pool_best(history.labels, prior, self.prior_spread(), history.variance_factor)
        if not self.readings:
            return found
        return fuse(history.labels, history.readings, history.calibration, prior, found, history.variance_factor)

    def prior_conflict(self, arms: Sequence[Arm], history: History) -> float:
        """How much the labels speak against the prior means, as a logarithm of likelihoods; from 4 on, strongly.

        The likelihood of the labels when models differ from the prior as much as fits them best, against what `spread`
        says; 0 where that is enough. The fit believes the labels by itself; the owner should know.
        """
        prior = self.prior_means_of(arms) + history.mean_shift[:, None, None]
        spread = self.prior_spread()
        best = pool_best(history.labels, prior, spread, history.variance_factor)
        if best.spread is None or (best.spread.arm <= spread.arm and best.spread.task <= spread.task):
            return 0.0
        return max(0.0, best.evidence - pool(history.labels, prior, spread, history.variance_factor).evidence)

    def estimates(self, arms: Sequence[Arm], history: History) -> Mapping[Cell, Mapping[str, Estimate]]:
        found = self.pooled(arms, history)
        mean, sd = np.round(found.mean, _DIGITS).tolist(), np.round(found.sd, _DIGITS).tolist()
        tokens, late = history.output_tokens, history.late
        new = newcomers(history, self.nursery_labels)
        return {
            (task, tier): {
                arm.name: Estimate(
                    mean[k][t][z],
                    sd[k][t][z],
                    tokens.get((arm.name, task), 0.0),
                    late.get((arm.name, task), 0.0),
                    new[k],
                )
                for k, arm in enumerate(arms)
            }
            for t, task in enumerate(TASK_TYPES)
            for z, tier in enumerate(PROMPT_TIERS)
        }

    def estimate(self, arm: Arm, task_type: TaskType, tier: PromptTier, beliefs: Beliefs) -> Estimate:
        """What is known of an arm's quality in a cell; of one never worked out, the prior."""
        known = beliefs.estimates.get(arm.name)
        if known is not None:
            return known
        spread = self.prior_spread()
        variance = spread.arm + spread.task + spread.tier + spread.cell
        return Estimate(self.prior_mean(arm, task_type, tier), variance**0.5)

    def probabilities(
        self, profile: PromptProfile, arms: Sequence[Arm], beliefs: Beliefs, terms: Terms = FREE
    ) -> Probabilities:
        cell = self._cell(profile, arms, beliefs)
        price = self.cost_weight + terms.usd_price
        if not price and not terms.late_price and terms.room_usd is None and self.objective != "floor":
            return _chances(cell, (), (), (), self.exploration, self.nursery, self.guard(arms))
        costs = _costs(profile, arms, cell)
        if self.objective == "floor":
            return _cheapest(cell, costs, self.within, 1.0 - self.certainty, self.floor, self.nursery)
        shift = tuple([price * cost + terms.late_price * one.late for cost, one in zip(costs, cell, strict=True)])
        room = () if terms.room_usd is None else tuple(affordable_within(terms.room_usd, np.array(costs)).tolist())
        thrift = thrift_of(costs, terms)
        return _chances(cell, shift, room, thrift, self.exploration, self.nursery, self.guard(arms))

    def _cell(self, profile: PromptProfile, arms: Sequence[Arm], beliefs: Beliefs) -> tuple[Estimate, ...]:
        """What is known of `arms` in the cell of the prompt."""
        known = beliefs.estimates
        try:
            return tuple([known[arm.name] for arm in arms])
        except KeyError:
            return tuple(self.estimate(arm, profile.task_type, profile.tier, beliefs) for arm in arms)

    def trade(
        self, profile: PromptProfile, arms: Sequence[Arm], beliefs: Beliefs, terms: Terms = FREE
    ) -> tuple[Trade, ...]:
        cell = self._cell(profile, arms, beliefs)
        return trades(arms, cell, _costs(profile, arms, cell), self.cost_weight, terms)


def _costs(profile: PromptProfile, arms: Sequence[Arm], cell: Sequence[Estimate]) -> tuple[float, ...]:
    """Expected USD on each arm; prompts of about the same length are the same, so that answers are remembered."""
    like = msgspec.structs.replace(profile, prompt_tokens=rounded_tokens(profile.prompt_tokens))
    return tuple([expected_cost(arm, like, one.output_tokens) for arm, one in zip(arms, cell, strict=True)])


@lru_cache(maxsize=8192)
def _chances(
    cell: tuple[Estimate, ...],
    shift: tuple[float, ...],
    room: tuple[bool, ...],
    thrift: tuple[float, ...],
    exploration: Exploration,
    nursery: float,
    guard: Guard | None,
) -> Probabilities:
    """`weigh` of one cell, remembered: between two fits a cell's answer is a look-up. It cannot be written to.

    `shift` is what cost takes away from each arm's quality; empty: nothing.
    """
    mean, sd = np.array([one.mean for one in cell]), np.array([one.sd for one in cell])
    utility = mean - np.array(shift) if shift else mean
    new = np.array([one.new for one in cell])
    found = weigh(
        mean, sd, utility, new, room=room, thrift=thrift, exploration=exploration, nursery=nursery, guard=guard
    )
    found.setflags(write=False)
    return found


@lru_cache(maxsize=8192)
def _cheapest(
    cell: tuple[Estimate, ...],
    costs: tuple[float, ...],
    within: float,
    doubt: float,
    floor: float,
    nursery: float,
) -> Probabilities:
    """The cheapest arm that is good enough, and the floor for the others; remembered, and cannot be written to."""
    mean, sd = np.array([one.mean for one in cell]), np.array([one.sd for one in cell])
    new = np.array([one.new for one in cell])
    found = cheapest(mean, sd, np.array(costs), new, within=within, doubt=doubt, floor=floor, nursery=nursery)
    found.setflags(write=False)
    return found
