"""Each eligibility rule with its boundary, and their order."""

import pytest

from bandit.eligibility import RULES, split
from bandit.vocabulary import Arm, Limits, PromptProfile

ARM = Arm(name="a", tier="medium", price_in=1.0, price_out=2.0, window=1_000)


def reason(limits=None, *, arm=ARM, prompt_tokens=0, max_output_tokens=None):
    """Why the arm is excluded; None when it is eligible."""
    profile = PromptProfile(
        task_type="Open QA", tier="medium", prompt_tokens=prompt_tokens, max_output_tokens=max_output_tokens
    )
    eligible, excluded = split([arm], profile, limits or Limits())
    assert [found.name for found in eligible] == ([] if excluded else [arm.name])
    return excluded.get(arm.name)


def test_without_limits_every_arm_is_eligible():
    assert reason() is None


def test_what_the_owner_switched_off_is_out_before_anything_else():
    assert reason(Limits(switched_off=frozenset({"b"}))) is None
    assert reason(Limits(switched_off=frozenset({"a"}))) == "switched off by the owner"
    assert reason(Limits(switched_off=frozenset({"a"}), deny=frozenset({"a"}))) == "switched off by the owner"


def test_an_open_breaker_is_the_last_reason():
    assert reason(Limits(open_breakers=frozenset({"b"}))) is None
    assert reason(Limits(open_breakers=frozenset({"a"}))) == "its circuit breaker is open"
    assert reason(Limits(open_breakers=frozenset({"a"}), deny=frozenset({"a"}))) == "denied by the request"


def test_only_allowed_arms():
    assert reason(Limits(allow=frozenset({"a", "b"}))) is None
    assert reason(Limits(allow=frozenset({"b"}))) == "not among the models this request allows"
    assert reason(Limits(allow=frozenset())) == "not among the models this request allows"


def test_denied_arms_are_out_even_when_allowed():
    assert reason(Limits(deny=frozenset({"a"}))) == "denied by the request"
    assert reason(Limits(allow=frozenset({"a"}), deny=frozenset({"a"}))) == "denied by the request"


def test_sensitive_prompts_stay_local():
    assert reason(Limits(sensitive=True)) == "the request is sensitive and this model is not local"
    assert reason(Limits(sensitive=True), arm=Arm(name="a", local=True)) is None


@pytest.mark.parametrize(
    ("needs", "abilities", "expected"),
    [
        ({"tools"}, {"tools"}, None),
        ({"tools"}, {"vision", "json"}, "cannot do tools"),
        ({"vision", "json", "tools"}, {"tools"}, "cannot do json, vision"),
        (set(), set(), None),
    ],
)
def test_abilities_that_are_needed(needs, abilities, expected):
    arm = Arm(name="a", abilities=frozenset(abilities))
    assert reason(Limits(needs=frozenset(needs)), arm=arm) == expected


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [("small", None), ("medium", None), ("large", "tier medium is below the wanted large")],
)
def test_at_least_a_tier(wanted, expected):
    assert reason(Limits(min_tier=wanted)) == expected


def test_prompt_and_reply_fit_in_the_window():
    assert reason(prompt_tokens=1_000) is None
    assert reason(prompt_tokens=1_001) == "needs about 1,001 tokens, its window holds 1,000"
    assert reason(prompt_tokens=600, max_output_tokens=400) is None
    assert reason(prompt_tokens=600, max_output_tokens=401) == "needs about 1,001 tokens, its window holds 1,000"


def test_a_call_within_the_limit_of_cost():
    """500 tokens at $1 and 100 at $2 per million are $0.0007."""
    assert reason(Limits(max_cost_usd=0.000701), prompt_tokens=500, max_output_tokens=100) is None
    found = reason(Limits(max_cost_usd=0.000699), prompt_tokens=500, max_output_tokens=100)
    assert found == "would cost about $0.000700, the limit is $0.000699"


def test_a_limit_of_nothing_leaves_free_models():
    assert reason(Limits(max_cost_usd=0.0), arm=Arm(name="a"), prompt_tokens=500) is None
    assert reason(Limits(max_cost_usd=0.0), prompt_tokens=500) is not None


def test_the_first_rule_that_excludes_gives_the_reason_and_the_order_of_arms_is_kept():
    arms = [Arm(name=name, tier=tier) for name, tier in [("z", "large"), ("y", "small"), ("x", "large")]]
    limits = Limits(deny=frozenset({"y"}), min_tier="large")
    eligible, excluded = split(arms, PromptProfile(task_type="Other", tier="simple"), limits)
    assert [arm.name for arm in eligible] == ["z", "x"]
    assert excluded == {"y": "denied by the request"}
    assert len(RULES) == 8  # each has its test above
