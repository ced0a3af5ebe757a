"""What a policy is, and the small ones: Fixed, Random, StaticTier, Rules.

A policy turns a profile into one probability per arm. It holds settings and no state: what was learned arrives as
`beliefs`. Drawing, logging and replaying are written once for all of them, in `bandit.selection`.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from bandit.history import Cell, History
from bandit.posteriors import Beliefs, Estimate
from bandit.vocabulary import (
    FREE,
    MODEL_TIERS,
    Arm,
    DimensionScores,
    ModelTier,
    PromptProfile,
    PromptTier,
    TaskType,
    Terms,
    Trade,
)  # fmt: skip

Probabilities = NDArray[np.float64]


class Policy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """Settings of one way to choose. Its fields are what `[[policies]]` takes in the settings file."""

    fits: ClassVar[bool] = False  # its cells inform each other: `estimates` is worked out in the background

    name: str

    def probabilities(
        self, profile: PromptProfile, arms: Sequence[Arm], beliefs: Beliefs, terms: Terms = FREE
    ) -> Probabilities:
        """Return the chance of each arm: shape (n_arms,), in the order of `arms`, summing to 1.

        `arms` is never empty and holds eligible arms only.
        """
        raise NotImplementedError

    def estimates(self, arms: Sequence[Arm], history: History) -> Mapping[Cell, Mapping[str, Estimate]]:
        """Quality of every arm in every cell from all that was measured, for policies whose cells inform each other.

        Worked out in the background; a decision finds its cell's in `beliefs.estimates`. Empty for other policies.
        """
        return {}

    def trade(
        self, profile: PromptProfile, arms: Sequence[Arm], beliefs: Beliefs, terms: Terms = FREE
    ) -> tuple[Trade, ...]:
        """What each arm offers, quality for money, in the order of `arms`; empty for policies that do not weigh it."""
        return ()

    def reason(self, profile: PromptProfile) -> str:
        """Say in words why this policy leans the way it does for `profile`; empty when numbers say it all."""
        return ""

    def named_arms(self) -> tuple[str, ...]:
        """Names of arms that this policy's settings refer to; each must be configured."""
        return ()


def one_hot(index: int, size: int) -> Probabilities:
    """All probability on one arm: shape (size,)."""
    chances = np.zeros(size)
    chances[index] = 1.0
    return chances


def nearest_tier(arms: Sequence[Arm], wanted: ModelTier) -> int:
    """Index of the arm to take when a tier is wanted: that tier, else the next larger, else the next smaller one.

    Within a tier the cheaper arm wins, then the one configured first.
    """
    rank = MODEL_TIERS.index(wanted)

    def order(index: int) -> tuple[bool, int, float]:
        distance = MODEL_TIERS.index(arms[index].tier) - rank
        return distance < 0, abs(distance), arms[index].price_in + arms[index].price_out

    return min(range(len(arms)), key=order)


MODEL_TIER_FOR: dict[PromptTier, ModelTier] = {"simple": "small", "medium": "medium", "complex": "large"}


class Fixed(Policy, frozen=True, tag="fixed"):
    """Always the same arm; when it may not serve the request, the nearest one of its tier."""

    arm: str
    fallback_tier: ModelTier = "large"

    def probabilities(
        self, profile: PromptProfile, arms: Sequence[Arm], beliefs: Beliefs, terms: Terms = FREE
    ) -> Probabilities:
        for index, arm in enumerate(arms):
            if arm.name == self.arm:
                return one_hot(index, len(arms))
        return one_hot(nearest_tier(arms, self.fallback_tier), len(arms))

    def named_arms(self) -> tuple[str, ...]:
        return (self.arm,)


class Random(Policy, frozen=True, tag="random"):
    """Every eligible arm equally often: the baseline of every comparison."""

    def probabilities(
        self, profile: PromptProfile, arms: Sequence[Arm], beliefs: Beliefs, terms: Terms = FREE
    ) -> Probabilities:
        return np.full(len(arms), 1.0 / len(arms))


# Levels High, Medium, Low, No of a dimension, where NVIDIA's expected value puts them, and what LLM Compass gives them.
_LEVELS = (0.0, 1 / 3, 2 / 3, 1.0)
_DOMAIN_POINTS = (0.0, 0.3, 0.6, 1.0)
_CREATIVITY_LEVELS, _CREATIVITY_POINTS = (0.0, 0.5, 1.0), (0.0, 0.4, 1.0)

_TASK_POINTS: dict[TaskType, float] = {
    "Code Generation": 0.8,
    "Text Generation": 0.7,
    "Summarization": 0.6,
    "Brainstorming": 0.6,
    "Rewrite": 0.5,
    "Open QA": 0.5,
    "Other": 0.5,
    "Unknown": 0.5,
    "Closed QA": 0.4,
    "Classification": 0.3,
    "Extraction": 0.3,
    "Chatbot": 0.2,
}


def compass_score(task_type: TaskType, scores: DimensionScores) -> float:
    """LLM Compass's tier score in [0, 1]: 0.4 domain + 0.3 reasoning + 0.2 creativity + 0.1 task.

    Its table gives points to levels (High, Medium, Low, No); our scores are expected values between those levels, so
    the points are interpolated.
    """
    domain = float(np.interp(scores.domain_knowledge, _LEVELS, _DOMAIN_POINTS))
    creativity = float(np.interp(scores.creativity, _CREATIVITY_LEVELS, _CREATIVITY_POINTS))
    return 0.4 * domain + 0.3 * scores.reasoning + 0.2 * creativity + 0.1 * _TASK_POINTS[task_type]


class StaticTier(Policy, frozen=True, tag="static_tier"):
    """The tier that LLM Compass's score asks for, without learning. Also what serves when learning cannot.

    When the classifier failed (profile.classifier is "length"), the profile's own tier is taken as it is.
    """

    simple_below: float = 0.35
    medium_below: float = 0.65

    def tier(self, profile: PromptProfile) -> PromptTier:
        """The prompt's tier by the thresholds."""
        if profile.classifier == "length":
            return profile.tier
        score = compass_score(profile.task_type, profile.scores)
        return "simple" if score < self.simple_below else "medium" if score < self.medium_below else "complex"

    def probabilities(
        self, profile: PromptProfile, arms: Sequence[Arm], beliefs: Beliefs, terms: Terms = FREE
    ) -> Probabilities:
        return one_hot(nearest_tier(arms, MODEL_TIER_FOR[self.tier(profile)]), len(arms))

    def reason(self, profile: PromptProfile) -> str:
        score = compass_score(profile.task_type, profile.scores)
        return f"tier score {score:.2f} asks for the {self.tier(profile)} tier"


class Rules(Policy, frozen=True, tag="rules"):
    """Length, wish for output and cue words, in a fixed order; no learning.

    The cue words themselves are keyword lists of the classifier's settings (`[classifier.cues]`), per language.
    """

    large_over_characters: int = 20_000
    medium_over_characters: int = 5_000
    medium_over_output_tokens: int = 2_048
    short_characters: int = 500
    hard_cue: str = "hard_code"
    reasoning_cue: str = "reasoning"
    simple_cue: str = "simple"

    def ruling(self, profile: PromptProfile) -> tuple[ModelTier, str]:  # noqa: PLR0911 - one return per rule, in order
        """The tier wanted, and the rule that wants it, in words."""
        if profile.context_characters > self.large_over_characters:
            return "large", f"context over {self.large_over_characters:,} characters"
        if profile.context_characters > self.medium_over_characters:
            return "medium", f"context over {self.medium_over_characters:,} characters"
        if self.hard_cue in profile.cues:
            return "medium", "words of hard code"
        if self.reasoning_cue in profile.cues and profile.prompt_characters > self.short_characters:
            return "medium", f"words of reasoning in over {self.short_characters:,} characters"
        if (profile.max_output_tokens or 0) > self.medium_over_output_tokens:
            return "medium", f"more than {self.medium_over_output_tokens:,} output tokens asked for"
        if self.simple_cue in profile.cues and profile.prompt_characters < self.short_characters:
            return "small", f"simple words in under {self.short_characters:,} characters"
        return "medium", "no rule matched"

    def probabilities(
        self, profile: PromptProfile, arms: Sequence[Arm], beliefs: Beliefs, terms: Terms = FREE
    ) -> Probabilities:
        return one_hot(nearest_tier(arms, self.ruling(profile)[0]), len(arms))

    def reason(self, profile: PromptProfile) -> str:
        tier, rule = self.ruling(profile)
        return f"{rule}: {tier} tier"
