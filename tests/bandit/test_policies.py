"""One contract for every policy of the catalogue, and each policy's own promises."""

import math
from typing import get_args

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandit.catalogue import AnyPolicy
from bandit.linear import LinearThompson
from bandit.policies import Fixed, Policy, Random, Rules, StaticTier, compass_score, nearest_tier
from bandit.pooled import PooledThompson
from bandit.posteriors import Beliefs, Estimate, Evidence
from bandit.selection import choose
from bandit.thompson import PriorMeans, Thompson
from bandit.vocabulary import (
    MODEL_TIERS,
    PROMPT_TIERS,
    TASK_TYPES,
    Arm,
    DimensionScores,
    PromptProfile,
)

KINDS = get_args(AnyPolicy)
NAMED = {Fixed: {"arm": "arm-1"}}  # settings that have no default


def make(kind: type[Policy], **said) -> Policy:
    return kind(name=kind.__name__.lower(), **(NAMED.get(kind, {}) | said))


share = st.floats(0.0, 1.0)
scores = st.builds(
    DimensionScores, creativity=share, reasoning=share, contextual_knowledge=share, domain_knowledge=share,
    constraints=share, few_shots=st.floats(0.0, 5.0),
)  # fmt: skip
profiles = st.builds(
    PromptProfile,
    task_type=st.sampled_from(TASK_TYPES),
    tier=st.sampled_from(PROMPT_TIERS),
    complexity=st.floats(0.0, 1.2),
    scores=scores,
    classifier=st.sampled_from(["embedded/1", "length"]),
    prompt_tokens=st.integers(0, 200_000),
    max_output_tokens=st.none() | st.integers(0, 10_000),
    context_characters=st.integers(0, 50_000),
    prompt_characters=st.integers(0, 50_000),
    cues=st.frozensets(st.sampled_from(["hard_code", "reasoning", "simple"])),
)
# Prices differ between any two arms: among equals the first one wins, on purpose, so order would matter.
prices = st.lists(st.integers(0, 10**7), min_size=1, max_size=12, unique=True)


@st.composite
def arm_lists(draw):
    return [
        Arm(name=f"arm-{index}", tier=draw(st.sampled_from(MODEL_TIERS)), price_in=price / 1e6)
        for index, price in enumerate(draw(prices))
    ]


@st.composite
def evidence(draw):
    labels, weak = draw(st.floats(0.0, 1e4)), draw(st.floats(0.0, 1e4))
    return Evidence(labels, labels * draw(share), weak, weak * draw(share))


names = st.sampled_from([f"arm-{n}" for n in range(12)])
beliefs = st.builds(
    Beliefs,
    version=st.just("v"),
    evidence=st.dictionaries(names, evidence()),
    estimates=st.dictionaries(names, st.builds(Estimate, st.floats(-0.5, 1.5), st.floats(1e-5, 0.5))),
)


@pytest.mark.parametrize("kind", KINDS)
@given(profile=profiles, arms=arm_lists(), known=beliefs)
def test_a_policy_gives_each_arm_a_probability(kind, profile, arms, known):
    chances = make(kind).probabilities(profile, arms, known)
    assert chances.shape == (len(arms),)
    assert np.isfinite(chances).all()
    assert (chances >= 0.0).all()
    assert chances.sum() == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@given(profile=profiles, arms=arm_lists(), known=beliefs, data=st.data())
def test_a_policy_does_not_care_for_the_order_of_the_arms(kind, profile, arms, known, data):
    order = data.draw(st.permutations(range(len(arms))))
    chances = make(kind).probabilities(profile, arms, known)
    again = make(kind).probabilities(profile, [arms[index] for index in order], known)
    np.testing.assert_allclose(again, chances[list(order)], atol=0.004)  # quadrature: twice its error


@pytest.mark.parametrize("kind", KINDS)
@given(profile=profiles, arms=arm_lists(), known=beliefs)
def test_a_policy_is_a_function_of_what_it_is_given(kind, profile, arms, known):
    first, second = (make(kind).probabilities(profile, arms, known) for _ in range(2))
    assert first.tolist() == second.tolist()
    assert choose(make(kind), profile, arms, known, 12345) == choose(make(kind), profile, arms, known, 12345)


@pytest.mark.parametrize(
    ("kind", "floor"), [(Thompson, 0.02), (PooledThompson, 0.002), (LinearThompson, 0.002), (Random, 1.0)]
)
@given(profile=profiles, arms=arm_lists(), known=beliefs)
def test_a_policy_that_explores_gives_every_arm_a_chance(kind, floor, profile, arms, known):
    assert (make(kind).probabilities(profile, arms, known) >= floor / len(arms) - 1e-12).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_policy_is_settings_that_survive_being_written_down(kind):
    policy = make(kind)
    written = msgspec.json.encode(policy)
    assert msgspec.json.decode(written, type=AnyPolicy) == policy
    assert set(policy.named_arms()) == set(NAMED.get(kind, {}).values())
    assert isinstance(policy.reason(PromptProfile(task_type="Other", tier="simple")), str)


def test_every_policy_is_tried_here():
    assert set(KINDS) == {Fixed, Random, StaticTier, Rules, Thompson, PooledThompson, LinearThompson}


ARMS = [
    Arm(name="small", tier="small", price_in=0.1),
    Arm(name="medium", tier="medium", price_in=0.5),
    Arm(name="dear", tier="large", price_in=5.0),
    Arm(name="large", tier="large", price_in=1.0),
]


def taken(policy, profile, arms=ARMS):
    """The arm that a policy without chance takes."""
    chances = policy.probabilities(profile, arms, Beliefs())
    assert sorted(chances) == [0.0] * (len(arms) - 1) + [1.0]
    return arms[int(np.argmax(chances))].name


def profile(task_type="Open QA", tier="medium", **said):
    return PromptProfile(task_type=task_type, tier=tier, **said)


# Fixed


def test_fixed_takes_its_arm_and_without_it_the_nearest_of_the_fallback_tier():
    assert taken(make(Fixed, arm="medium"), profile()) == "medium"
    assert taken(make(Fixed, arm="gone"), profile()) == "large"
    assert taken(make(Fixed, arm="gone", fallback_tier="small"), profile()) == "small"


@pytest.mark.parametrize(
    ("tiers", "wanted", "expected"),
    [
        (["small", "medium", "large"], "medium", "medium"),
        (["small", "large"], "medium", "large"),
        (["small"], "medium", "small"),
        (["medium", "large"], "small", "medium"),
        (["small", "medium"], "large", "medium"),
        (["large"], "small", "large"),
    ],
)
def test_the_nearest_tier_is_the_tier_then_the_next_larger_then_the_next_smaller(tiers, wanted, expected):
    assert tiers[nearest_tier([Arm(name=tier, tier=tier) for tier in tiers], wanted)] == expected


def test_within_a_tier_the_cheaper_arm_wins_then_the_first():
    assert nearest_tier(ARMS, "large") == 3
    assert nearest_tier([Arm(name="b"), Arm(name="a")], "medium") == 0


# StaticTier


@pytest.mark.parametrize(
    ("levels", "points"),
    [
        ({}, 0.0),
        ({"domain_knowledge": 1 / 3}, 0.4 * 0.3),  # Low
        ({"domain_knowledge": 2 / 3}, 0.4 * 0.6),  # Medium
        ({"domain_knowledge": 1.0}, 0.4),  # High
        ({"reasoning": 1.0}, 0.3),  # yes
        ({"creativity": 0.5}, 0.2 * 0.4),  # Low
        ({"creativity": 1.0}, 0.2),  # High
        ({"contextual_knowledge": 1.0, "constraints": 1.0, "few_shots": 5.0}, 0.0),  # not in the formula
        ({"domain_knowledge": 5 / 6, "creativity": 0.25}, 0.4 * 0.8 + 0.2 * 0.2),  # half-way between two levels
    ],
)
def test_compass_gives_each_level_its_points(levels, points):
    assert compass_score("Other", DimensionScores(**levels)) == pytest.approx(points + 0.1 * 0.5)


@pytest.mark.parametrize(
    ("task_type", "points"),
    [
        ("Code Generation", 0.8), ("Text Generation", 0.7), ("Summarization", 0.6), ("Brainstorming", 0.6),
        ("Rewrite", 0.5), ("Open QA", 0.5), ("Other", 0.5), ("Unknown", 0.5), ("Closed QA", 0.4),
        ("Classification", 0.3), ("Extraction", 0.3), ("Chatbot", 0.2),
    ],
)  # fmt: skip
def test_compass_gives_each_task_its_points(task_type, points):
    assert compass_score(task_type, DimensionScores()) == pytest.approx(0.1 * points)


# LLM Compass prints scores for examples, not the levels behind them; these levels give exactly what it prints.
@pytest.mark.parametrize(
    ("task_type", "levels", "printed", "tier", "arm"),
    [
        ("Other", {"domain_knowledge": 1 / 3}, 0.17, "simple", "small"),  # a greeting
        ("Open QA", {"domain_knowledge": 1.0}, 0.45, "medium", "medium"),  # "Write quicksort in Python"
        ("Text Generation", {"domain_knowledge": 1.0}, 0.47, "medium", "medium"),  # "Analyze 10-page paper"
        ("Code Generation", {"domain_knowledge": 1.0, "reasoning": 1.0}, 0.78, "complex", "large"),  # beyond the last
    ],
)
def test_the_scores_that_compass_prints(task_type, levels, printed, tier, arm):
    seen = profile(task_type, "medium", scores=DimensionScores(**levels))
    policy = StaticTier(name="s")
    assert compass_score(task_type, seen.scores) == pytest.approx(printed)
    assert policy.tier(seen) == tier
    assert taken(policy, seen) == arm
    assert policy.reason(seen) == f"tier score {printed:.2f} asks for the {tier} tier"


def test_a_score_at_a_threshold_belongs_to_the_tier_above():
    seen = profile("Other", scores=DimensionScores(reasoning=1.0))
    score = compass_score("Other", seen.scores)
    assert StaticTier(name="s", simple_below=score).tier(seen) == "medium"
    assert StaticTier(name="s", simple_below=math.nextafter(score, 1)).tier(seen) == "simple"
    assert StaticTier(name="s", simple_below=0.0, medium_below=score).tier(seen) == "complex"


def test_when_the_classifier_failed_the_length_decides():
    seen = profile("Unknown", "complex", classifier="length")
    assert StaticTier(name="s").tier(seen) == "complex"
    assert StaticTier(name="s").tier(msgspec.structs.replace(seen, classifier="embedded/1")) == "simple"


# Rules


@pytest.mark.parametrize(
    ("said", "tier", "rule"),
    [
        ({"context_characters": 20_001}, "large", "context over 20,000 characters"),
        ({"context_characters": 20_000}, "medium", "context over 5,000 characters"),
        ({"context_characters": 5_001}, "medium", "context over 5,000 characters"),
        ({"context_characters": 5_000}, "medium", "no rule matched"),
        ({"cues": {"hard_code"}}, "medium", "words of hard code"),
        ({"cues": {"reasoning"}, "prompt_characters": 501}, "medium", "words of reasoning in over 500 characters"),
        ({"cues": {"reasoning"}, "prompt_characters": 500}, "medium", "no rule matched"),
        ({"max_output_tokens": 2_049}, "medium", "more than 2,048 output tokens asked for"),
        ({"max_output_tokens": 2_048}, "medium", "no rule matched"),
        ({"cues": {"simple"}, "prompt_characters": 499}, "small", "simple words in under 500 characters"),
        ({"cues": {"simple"}, "prompt_characters": 500}, "medium", "no rule matched"),
        ({}, "medium", "no rule matched"),
    ],
)
def test_each_rule_at_its_boundary(said, tier, rule):
    seen = profile(**{**said, "cues": frozenset(said.get("cues", ()))})
    policy = Rules(name="r")
    assert policy.ruling(seen) == (tier, rule)
    assert policy.reason(seen) == f"{rule}: {tier} tier"
    assert taken(policy, seen) == tier


def test_the_rules_stand_in_their_order():
    """All of them match; taking away the first that speaks lets the next one speak."""
    everything = {
        "context_characters": 20_001,
        "cues": frozenset({"hard_code", "reasoning", "simple"}),
        "prompt_characters": 501,
        "max_output_tokens": 2_049,
    }
    steps = [
        ({}, "context over 20,000 characters"),
        ({"context_characters": 5_001}, "context over 5,000 characters"),
        ({"context_characters": 0}, "words of hard code"),
        ({"cues": frozenset({"reasoning", "simple"})}, "words of reasoning in over 500 characters"),
        ({"prompt_characters": 100}, "more than 2,048 output tokens asked for"),
        ({"max_output_tokens": None}, "simple words in under 500 characters"),
        ({"cues": frozenset()}, "no rule matched"),
    ]
    for change, rule in steps:
        everything |= change
        assert Rules(name="r").ruling(profile(**everything))[1] == rule


# Thompson


def chances_of(tier, known=None, policy=None, arms=None):
    arms = arms or [ARMS[0], ARMS[1], ARMS[3]]
    policy = policy or Thompson(name="t", floor=0.0)
    return policy.probabilities(profile(tier=tier), arms, known or Beliefs())


def test_the_prior_by_hand():
    """50 labels at the table's mean for the model's tier and the prompt's tier."""
    policy = Thompson(name="t")
    cell = policy.posterior(ARMS[0], Beliefs(), "complex")
    assert (cell.alpha, cell.beta) == (pytest.approx(50 * 0.40), pytest.approx(50 * 0.60))
    assert policy.posterior(ARMS[3], Beliefs(), None).mean == pytest.approx((0.83 + 0.79 + 0.72) / 3)
    assert PriorMeans().of("medium", "simple") == 0.80


def test_without_feedback_larger_models_are_preferred_the_more_the_harder_the_prompt():
    """The prior table's order; its gaps widen from simple to complex prompts."""
    simple, medium, complex_ = (chances_of(tier) for tier in PROMPT_TIERS)
    for chances in (simple, medium, complex_):
        assert chances[0] < chances[1] < chances[2]
    assert simple[0] > medium[0] > complex_[0]
    assert simple[2] < medium[2] < complex_[2]


def test_a_simple_prompt_goes_to_a_cheap_model_when_cost_counts():
    """400 tokens cost $0.0004 on the small and $0.004 on the large one: 0.04 and 0.4 points of quality."""
    arms = [Arm(name="small", tier="small", price_out=1.0), Arm(name="large", tier="large", price_out=10.0)]
    policy = Thompson(name="t", floor=0.0, cost_weight=100.0)
    assert chances_of("simple", arms=arms)[0] < 0.5
    assert chances_of("simple", policy=policy, arms=arms)[0] > 0.99


def test_feedback_moves_traffic_to_the_better_arm():
    """Labels for the small model that the prior thinks little of: each hundred of good ones moves more traffic."""
    shares = [
        chances_of("complex", Beliefs(evidence={"small": Evidence(n, 0.95 * n)}))[0] for n in (0.0, 100.0, 200.0, 400.0)
    ]
    assert shares == sorted(shares)
    assert shares[0] < 0.01
    assert shares[-1] > 0.95


def test_bad_feedback_moves_traffic_away_and_the_floor_stays():
    known = Beliefs(evidence={"large": Evidence(1_000.0, 100.0)})
    chances = chances_of("complex", known, Thompson(name="t", floor=0.03))
    assert chances[2] == pytest.approx(0.01, abs=1e-6)
    assert chances[1] > 0.9


def test_two_equal_arms_share_the_traffic():
    twins = [Arm(name="a"), Arm(name="b")]
    assert chances_of("medium", arms=twins).tolist() == [0.5, 0.5]


def test_feedback_for_one_arm_says_nothing_of_another():
    policy = Thompson(name="t")
    known = Beliefs(evidence={"small": Evidence(10.0, 9.0)})
    assert policy.posterior(ARMS[1], known, "simple") == policy.posterior(ARMS[1], Beliefs(), "simple")


def test_a_higher_price_takes_traffic_away():
    policy = Thompson(name="t", floor=0.0, cost_weight=50.0)
    cheap, dear = [Arm(name="a"), Arm(name="b", price_out=1.0)], [Arm(name="a"), Arm(name="b", price_out=10.0)]
    assert chances_of("medium", policy=policy, arms=cheap)[1] < 0.5
    assert chances_of("medium", policy=policy, arms=dear)[1] < chances_of("medium", policy=policy, arms=cheap)[1]
