"""Dollars: what a call is expected to cost, and what it did cost. Prices are read at decision time, never learned."""

import math

from bandit.vocabulary import Arm, PromptProfile

PER_MILLION = 1e-6
DEFAULT_OUTPUT_TOKENS = 400  # assumed reply length until tokens are learned; the mean of paretobandit's replies is near


def call_cost(arm: Arm, prompt_tokens: int, completion_tokens: float, cached_tokens: int = 0) -> float:
    """USD for a call; `cached_tokens` of the prompt were read from the provider's cache.

    >>> call_cost(Arm(name="a", price_in=1.0, price_out=2.0), 1_000_000, 500_000)
    2.0
    """
    cached_price = arm.price_in if arm.price_cached_in is None else arm.price_cached_in
    fresh = max(prompt_tokens - cached_tokens, 0)
    return PER_MILLION * (fresh * arm.price_in + cached_tokens * cached_price + completion_tokens * arm.price_out)


def expected_cost(arm: Arm, profile: PromptProfile, output_tokens: float = 0.0) -> float:
    """USD this request would probably cost on `arm`, for a reply of usual length or the caller's limit, if lower.

    `output_tokens` is how long the arm's replies are; 0 where that is not known.
    """
    output = output_tokens or DEFAULT_OUTPUT_TOKENS
    if profile.max_output_tokens is not None:
        output = min(output, profile.max_output_tokens)
    return call_cost(arm, profile.prompt_tokens, output)


def rounded_tokens(tokens: int) -> int:
    """A number of tokens rounded to an eighth of a power of two, so that prices of like prompts are equal.

    >>> rounded_tokens(1000), rounded_tokens(1024)
    (1024, 1024)
    """
    return round(2.0 ** (round(8.0 * math.log2(tokens)) / 8.0)) if tokens > 0 else 0
