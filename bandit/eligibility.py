"""Which arms may serve a request, and for each other one the reason it may not.

A rule is one function; adding one means writing it and naming it in `RULES`.
"""

from collections.abc import Callable, Sequence

from bandit.costs import expected_cost
from bandit.vocabulary import MODEL_TIERS, Arm, Limits, PromptProfile

Rule = Callable[[Arm, PromptProfile, Limits], str | None]


SWITCHED_OFF = "switched off by the owner"
BREAKER_OPEN = "its circuit breaker is open"


def switched_off(arm: Arm, profile: PromptProfile, limits: Limits) -> str | None:
    """The owner took the model out of service."""
    return SWITCHED_OFF if arm.name in limits.switched_off else None


def not_allowed(arm: Arm, profile: PromptProfile, limits: Limits) -> str | None:
    """The request or its key names the models it allows."""
    if limits.allow is not None and arm.name not in limits.allow:
        return "not among the models this request allows"
    if arm.name in limits.deny:
        return "denied by the request"
    return None


def not_local(arm: Arm, profile: PromptProfile, limits: Limits) -> str | None:
    """Sensitive prompts stay on the owner's machines."""
    return "the request is sensitive and this model is not local" if limits.sensitive and not arm.local else None


def lacks_ability(arm: Arm, profile: PromptProfile, limits: Limits) -> str | None:
    """Tools, images and JSON need a model that can do them."""
    if limits.needs <= arm.abilities:
        return None
    return f"cannot do {', '.join(sorted(limits.needs - arm.abilities))}"


def below_tier(arm: Arm, profile: PromptProfile, limits: Limits) -> str | None:
    """The request asks for at least a tier."""
    if MODEL_TIERS.index(arm.tier) < MODEL_TIERS.index(limits.min_tier):
        return f"tier {arm.tier} is below the wanted {limits.min_tier}"
    return None


def window_too_small(arm: Arm, profile: PromptProfile, limits: Limits) -> str | None:
    """Prompt and reply must fit in the context window."""
    needed = profile.prompt_tokens + (profile.max_output_tokens or 0)
    return f"needs about {needed:,} tokens, its window holds {arm.window:,}" if needed > arm.window else None


def too_expensive(arm: Arm, profile: PromptProfile, limits: Limits) -> str | None:
    """The call would probably cost more than the request allows."""
    if limits.max_cost_usd is None:
        return None
    cost = expected_cost(arm, profile)
    return (
        f"would cost about ${cost:.6f}, the limit is ${limits.max_cost_usd:.6f}" if cost > limits.max_cost_usd else None
    )


def breaker_open(arm: Arm, profile: PromptProfile, limits: Limits) -> str | None:
    """Its provider fails at the moment."""
    return BREAKER_OPEN if arm.name in limits.open_breakers else None


RULES: tuple[Rule, ...] = (
    switched_off, not_allowed, not_local, lacks_ability, below_tier, window_too_small, too_expensive,
    breaker_open,  # the last: who is out for it alone may be let in where no other is left
)  # fmt: skip


def split(arms: Sequence[Arm], profile: PromptProfile, limits: Limits) -> tuple[list[Arm], dict[str, str]]:
    """The eligible arms in their configured order, and {arm name: reason} for the others."""
    eligible: list[Arm] = []
    excluded: dict[str, str] = {}
    for arm in arms:
        reason = next((found for rule in RULES if (found := rule(arm, profile, limits))), None)
        if reason is None:
            eligible.append(arm)
        else:
            excluded[arm.name] = reason
    return eligible, excluded
