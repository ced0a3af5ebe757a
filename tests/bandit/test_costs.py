"""Dollars by hand."""

import pytest

from bandit.costs import DEFAULT_OUTPUT_TOKENS, call_cost, expected_cost
from bandit.vocabulary import Arm, PromptProfile

LARGE = Arm(name="large", price_in=1.25, price_out=10.0, price_cached_in=0.125)


def profile(prompt_tokens, max_output_tokens=None):
    return PromptProfile(
        task_type="Open QA", tier="medium", prompt_tokens=prompt_tokens, max_output_tokens=max_output_tokens
    )  # fmt: skip


def test_a_call_by_hand():
    """1,200 tokens in at $1.25 and 350 out at $10 per million."""
    assert call_cost(LARGE, 1_200, 350) == pytest.approx(0.0015 + 0.0035)


def test_cached_tokens_cost_their_own_price():
    """Of 1,200 tokens 1,000 were cached at $0.125 per million."""
    assert call_cost(LARGE, 1_200, 0, cached_tokens=1_000) == pytest.approx(200 * 1.25e-6 + 1_000 * 0.125e-6)


def test_without_a_price_of_their_own_cached_tokens_cost_like_fresh_ones():
    arm = Arm(name="a", price_in=2.0)
    assert call_cost(arm, 1_000, 0, cached_tokens=400) == pytest.approx(call_cost(arm, 1_000, 0))


def test_more_cached_tokens_than_prompt_tokens_never_give_money_back():
    assert call_cost(LARGE, 10, 0, cached_tokens=50) == pytest.approx(50 * 0.125e-6)


def test_free_models_cost_nothing():
    assert call_cost(Arm(name="local"), 10**9, 10**9) == 0.0


def test_the_expected_reply_has_the_usual_length():
    assert expected_cost(LARGE, profile(1_000)) == pytest.approx(1_000 * 1.25e-6 + DEFAULT_OUTPUT_TOKENS * 10e-6)


def test_the_expected_reply_is_no_longer_than_the_caller_allows():
    assert expected_cost(LARGE, profile(1_000, 50)) == pytest.approx(1_000 * 1.25e-6 + 50 * 10e-6)
    assert expected_cost(LARGE, profile(1_000, 10**6)) == expected_cost(LARGE, profile(1_000))
    assert expected_cost(LARGE, profile(1_000, 0)) == pytest.approx(1_000 * 1.25e-6)
