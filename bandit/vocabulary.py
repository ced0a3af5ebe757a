"""The words used everywhere: what a prompt is, what may answer it, what was chosen and what came back.

Only frozen values live here. One idea has one name: an *arm* is a model we may route to, a *profile* is what a policy
sees of a prompt, *limits* are the wishes and rights of one request, a *choice* is the outcome of one draw, a *reward*
is one measurement of quality.
"""

from typing import Literal, get_args

import msgspec

TaskType = Literal[
    "Brainstorming",
    "Chatbot",
    "Classification",
    "Closed QA",
    "Code Generation",
    "Extraction",
    "Open QA",
    "Other",
    "Rewrite",
    "Summarization",
    "Text Generation",
    "Unknown",
]
PromptTier = Literal["simple", "medium", "complex"]
ModelTier = Literal["small", "medium", "large"]
Ability = Literal["tools", "vision", "json"]
Channel = Literal["thumb", "score", "failure", "heuristic", "reading"]

TASK_TYPES: tuple[TaskType, ...] = get_args(TaskType)  # in the index order of NVIDIA's task_type head
PROMPT_TIERS: tuple[PromptTier, ...] = get_args(PromptTier)
MODEL_TIERS: tuple[ModelTier, ...] = get_args(ModelTier)
CHANNELS: tuple[Channel, ...] = get_args(Channel)
EXPLICIT_CHANNELS: frozenset[Channel] = frozenset({"thumb", "score", "failure"})


class Arm(msgspec.Struct, frozen=True, kw_only=True):
    """A model we may route to, as far as choosing is concerned."""

    name: str
    tier: ModelTier = "medium"
    price_in: float = 0.0  # USD per million prompt tokens
    price_out: float = 0.0  # USD per million completion tokens
    price_cached_in: float | None = None  # USD per million prompt tokens read from the provider's cache; None: price_in
    window: int = 128_000  # tokens, prompt and completion together
    local: bool = False  # runs on the owner's own machines
    abilities: frozenset[Ability] = frozenset({"tools", "vision", "json"})


class DimensionScores(msgspec.Struct, frozen=True, kw_only=True):
    """The six scores of NVIDIA's classifier; every one in [0, 1] but `few_shots`, which is a count in [0, 5]."""

    creativity: float = 0.0
    reasoning: float = 0.0
    contextual_knowledge: float = 0.0
    domain_knowledge: float = 0.0
    constraints: float = 0.0
    few_shots: float = 0.0


class Classification(msgspec.Struct, frozen=True, kw_only=True):
    """What a classifier says of one text.

    `task_probabilities` has shape (12,) in the order of `TASK_TYPES` and sums to 1. `complexity` is NVIDIA's weighted
    score: at least 0, at most 1.2 (few-shot examples can push it over 1).
    """

    task_type: TaskType
    task_probabilities: tuple[float, ...]
    scores: DimensionScores
    complexity: float
    classifier: str  # which classifier said so, with its version: "embedded/1"
    vector: tuple[float, ...] = ()  # features for contextual policies; empty when the classifier has none


class PromptProfile(msgspec.Struct, frozen=True, kw_only=True):
    """All that a policy sees of a request. Holds no text, so it may be stored with the decision."""

    task_type: TaskType
    tier: PromptTier
    complexity: float = 0.0
    scores: DimensionScores = DimensionScores()
    task_probabilities: tuple[float, ...] = ()
    classifier: str = ""
    prompt_tokens: int = 0  # estimate for the whole request
    max_output_tokens: int | None = None  # what the caller allows the reply to use
    context_characters: int = 0  # all messages together
    prompt_characters: int = 0  # the last user message
    cues: frozenset[str] = frozenset()  # names of the configured keyword lists that matched the last user message
    vector: tuple[float, ...] = ()


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one request allows and needs."""

    allow: frozenset[str] | None = None  # names of arms; None: all
    deny: frozenset[str] = frozenset()
    needs: frozenset[Ability] = frozenset()
    min_tier: ModelTier = "small"
    max_cost_usd: float | None = None  # for this one call
    sensitive: bool = False  # only local arms
    explore: bool = True  # False: no exploration, the arm most likely to be best
    switched_off: frozenset[str] = frozenset()  # names of arms that the owner took out of service
    open_breakers: frozenset[str] = frozenset()  # names of arms whose breaker lets no call through at this moment


class Terms(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What money and lateness cost at the moment of a decision. Set by the budgets, logged with the choice."""

    usd_price: float = 0.0  # quality points (0..1) that one US dollar of expected cost takes away
    room_usd: float | None = None  # what the next call may cost; None: no budget
    budget_usd: float | None = None  # what a call may cost in the mean
    late_price: float = 0.0  # quality points that a surely late reply takes away


FREE = Terms()


class Trade(msgspec.Struct, frozen=True, kw_only=True):
    """What one arm offered in a decision: quality for money."""

    arm: str
    quality: float  # expected
    sd: float
    cost_usd: float  # expected
    late: float  # chance of a late reply
    worth: float  # quality less what cost and lateness take away at their prices


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """One draw, with the exact probabilities it was drawn from. Made only by `bandit.selection.choose`."""

    arm: str
    propensity: float  # the probability `arm` had
    arms: tuple[str, ...]  # the eligible arms
    probabilities: tuple[float, ...]  # (n_arms,), in the order of `arms`, sums to 1
    policy: str
    beliefs_version: str
    seed: int  # of the draw; a function of the decision's id
    reason: str = ""  # in words, where the policy has some
    terms: Terms = FREE


class Reward(msgspec.Struct, frozen=True, kw_only=True):
    """One measurement of the quality of one reply."""

    value: float  # [0, 1]
    weight: float = 1.0  # (0, 1]: how much of one label this is worth
    channel: Channel = "thumb"
