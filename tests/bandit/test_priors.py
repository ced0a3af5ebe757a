"""A prior says what the outcomes say, in whatever order and whoever answered what."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandit.priors import Outcome, PriorTable, Rating, prior_from_ratings, prior_table
from bandit.vocabulary import TASK_TYPES

ARMS = ("a", "b", "c")
values = st.floats(0, 1)
tasks = st.sampled_from([*TASK_TYPES[:3], None])
outcomes = st.lists(
    st.builds(Outcome, st.sampled_from("123456"), st.sampled_from(ARMS), tasks, values), min_size=1, max_size=40
)
ratings = st.lists(
    st.builds(
        Rating, st.sampled_from(ARMS), st.sampled_from(TASK_TYPES[:3]), values, st.floats(0.01, 1), st.floats(1e-6, 1)
    ),
    min_size=1,
    max_size=40,
)


def answered(task, count, qualities, first=0):
    """`count` prompts of a task type to which every arm had the same quality each time."""
    return [
        Outcome(f"{task}-{first + number}", arm, task, quality)
        for number in range(count)
        for arm, quality in qualities.items()
    ]


def same(one, other):
    """Equal but for the rounding of the last digit."""
    assert one.quality.keys() == other.quality.keys()
    for arm, row in one.quality.items():
        assert row == pytest.approx(other.quality[arm], abs=1.1e-4)


def test_by_hand():
    """Means .6 of everything, .7 of code, .5 of chats; b is better by .2 at code, worse by .1 at chats."""
    table = prior_table(
        answered("Code Generation", 20, {"a": 0.6, "b": 0.8}) + answered("Chatbot", 20, {"a": 0.55, "b": 0.45})
    )
    gap = (20 * 0.1 - 20 * 0.05) / (40 + 5)  # of b everywhere
    at_code, at_chats = (20 * 0.1 + 20 * gap) / 40, (20 * -0.05 + 20 * gap) / 40
    code, chats = (20 * 0.7 + 5 * 0.6) / 25, (20 * 0.5 + 5 * 0.6) / 25
    assert table.quality["b"] == pytest.approx(
        {"": 0.6 + gap, "Code Generation": code + at_code, "Chatbot": chats + at_chats}, abs=1e-4
    )
    assert table.quality["a"] == pytest.approx(
        {"": 0.6 - gap, "Code Generation": code - at_code, "Chatbot": chats - at_chats}, abs=1e-4
    )


def test_of_falls_back_to_everywhere_then_to_nothing():
    table = PriorTable({"a": {"": 0.5, "Chatbot": 0.7}, "b": {"Chatbot": 0.6}})
    assert table.of("a", "Chatbot") == 0.7
    assert table.of("a", "Rewrite") == 0.5
    assert table.of("b", "Rewrite") is None
    assert table.of("c", "Chatbot") is None


def test_who_answered_only_the_hard_prompts_does_not_look_bad():
    """b is better by .1 on every prompt, but answered the hard half only; its mean is lower than a's."""
    easy = [Outcome(f"e{number}", arm, "Open QA", 0.9) for number in range(400) for arm in ("a", "c")]
    hard = [
        Outcome(f"h{number}", arm, "Open QA", quality)
        for number in range(400)
        for arm, quality in {"a": 0.3, "b": 0.4, "c": 0.3}.items()
    ]
    row = {arm: found["Open QA"] for arm, found in prior_table(easy + hard).quality.items()}
    assert row["b"] - row["a"] == pytest.approx(0.1, abs=0.01)
    assert row["a"] == pytest.approx(0.6, abs=0.01)


def test_gaps_pass_through_an_arm_that_both_met():
    """a and c never met; each met b."""
    pairs = [("a", 0.7, "b", 0.6), ("b", 0.4, "c", 0.2)]
    some = [
        Outcome(f"{one}{other}{number}", arm, "Open QA", value)
        for one, high, other, low in pairs
        for number in range(2_000)
        for arm, value in ((one, high), (other, low))
    ]
    row = {arm: found["Open QA"] for arm, found in prior_table(some).quality.items()}
    assert row["a"] - row["b"] == pytest.approx(0.1, abs=0.01)
    assert row["b"] - row["c"] == pytest.approx(0.2, abs=0.01)


def test_little_data_on_a_task_type_says_what_holds_everywhere():
    much = answered("Open QA", 500, {"a": 0.5, "b": 0.7})
    row = prior_table([*much, Outcome("x", "a", "Rewrite", 1.0), Outcome("x", "b", "Rewrite", 0.0)]).quality
    assert row["b"]["Rewrite"] - row["a"]["Rewrite"] == pytest.approx(0.2 * 20 / 21 - 1 / 21, abs=0.01)


def test_prompts_of_no_known_task_type_count_everywhere_only():
    table = prior_table(answered(None, 100, {"a": 0.4, "b": 0.6}))
    assert table.quality == {"a": {"": pytest.approx(0.405, abs=0.001)}, "b": {"": pytest.approx(0.595, abs=0.001)}}


def test_the_same_answer_twice_is_averaged():
    once = answered("Open QA", 30, {"a": 0.5, "b": 0.7})
    again = [outcome._replace(value=outcome.value + 0.1) for outcome in once]
    same(prior_table(once + again), prior_table(answered("Open QA", 30, {"a": 0.55, "b": 0.75})))


@given(outcomes, st.randoms(use_true_random=False))
def test_order_does_not_matter_and_qualities_are_usable(some, random):
    table = prior_table(some, mass=3.0, source="here")
    assert (table.mass, table.source) == (3.0, "here")
    assert all(0.02 <= quality <= 0.98 for row in table.quality.values() for quality in row.values())
    shuffled = list(some)
    random.shuffle(shuffled)
    same(prior_table(shuffled), table)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.1, 1.1, 1e12])
def test_a_poisoned_value_is_named(value):
    good = answered("Open QA", 3, {"a": 0.5, "b": 0.7})
    with pytest.raises(ValueError, match=r"arm 'b' has .* on prompt 'p7'; expected a quality from 0 to 1"):
        prior_table([*good, Outcome("p7", "b", "Open QA", value)])


def test_nothing_is_no_prior():
    with pytest.raises(ValueError, match="no outcome"):
        prior_table([])
    with pytest.raises(ValueError, match="no rating"):
        prior_from_ratings([])


def test_ratings_by_hand():
    """Two arms, one task type, every weight 1: means .4 and .8 of 10 and 30 labels."""
    some = [Rating("a", "Open QA", 0.4, 1.0, 1.0)] * 10 + [Rating("b", "Open QA", 0.8, 1.0, 1.0)] * 30
    level, (a, b) = 0.7, (10 * -0.3 / 15, 30 * 0.1 / 35)
    here = (10 * (0.4 - a) + 30 * (0.8 - b) + 5 * level) / 45
    row = prior_from_ratings(some).quality
    assert row["a"] == pytest.approx({"": level + a, "Open QA": here + (10 * (0.4 - here) + 50 * a) / 60}, abs=1e-4)
    assert row["b"] == pytest.approx({"": level + b, "Open QA": here + (30 * (0.8 - here) + 50 * b) / 80}, abs=1e-4)


def test_ratings_are_unbiased_for_an_arm_drawn_mostly_where_it_shines():
    """Each kind of prompt is half of the traffic; a is .9 and .5 on them and drawn with .9 and .1. 8,000 ratings: the
    weighted mean has a standard error below .02, the test allows six.
    """
    rng = np.random.default_rng(3)
    some = []
    for kind in rng.integers(0, 2, 8_000):
        chance = 0.9 if kind else 0.1
        if rng.random() < chance:
            some.append(Rating("a", "Open QA", float(rng.random() < (0.9 if kind else 0.5)), 1.0, chance))
        else:
            some.append(Rating("b", "Open QA", float(rng.random() < 0.7), 1.0, 1 - chance))
    row = prior_from_ratings(some).quality
    assert row["a"]["Open QA"] == pytest.approx(0.7, abs=0.06)
    assert row["b"]["Open QA"] == pytest.approx(0.7, abs=0.06)
    assert np.mean([one.value for one in some if one.arm == "a"]) > 0.83


def test_a_tiny_propensity_is_clipped_and_a_tiny_weight_counts_little():
    honest = [Rating("a", "Open QA", 0.8, 1.0, 1.0)] * 1_000 + [Rating("b", "Open QA", 0.7, 1.0, 1.0)] * 1_000
    before = prior_from_ratings(honest)
    rare = prior_from_ratings([*honest, Rating("a", "Open QA", 0.0, 1.0, 1e-9)])
    assert rare.quality["a"]["Open QA"] == pytest.approx(0.8 * 1_000 / 1_020, abs=0.01)
    spam = prior_from_ratings([*honest, *[Rating("a", "Open QA", 0.0, 0.001, 1.0)] * 2_000])
    assert spam.quality["a"]["Open QA"] == pytest.approx(before.quality["a"]["Open QA"], abs=0.005)


@given(ratings, st.randoms(use_true_random=False))
def test_ratings_in_any_order_give_usable_qualities(some, random):
    table = prior_from_ratings(some)
    assert all(0.02 <= quality <= 0.98 for row in table.quality.values() for quality in row.values())
    shuffled = list(some)
    random.shuffle(shuffled)
    same(prior_from_ratings(shuffled), table)


@pytest.mark.parametrize(
    "changes", [{"value": float("nan")}, {"value": 1.5}, {"propensity": 0.0}, {"propensity": 2.0}, {"weight": -1.0}]
)
def test_a_poisoned_rating_is_named(changes):
    good = Rating("a", "Open QA", 0.5, 1.0, 0.5)
    with pytest.raises(ValueError, match=f"rating of arm 'a' has .*{next(iter(changes.values()))}"):
        prior_from_ratings([good, good._replace(**changes)])


def test_every_combination_of_who_answered_can_be_solved():
    """Also arms that nobody met, and prompts of one answer."""
    subsets = [part for size in (1, 2, 3) for part in itertools.combinations(ARMS, size)]
    for some in itertools.combinations(subsets, 2):
        found = prior_table(
            Outcome(str(number), arm, "Open QA", 0.5) for number, part in enumerate(some) for arm in part
        )
        assert all(row["Open QA"] == pytest.approx(0.5) for row in found.quality.values())
