"""Posteriors by hand, and counts that add up the same in every order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandit.posteriors import (
    MICRO,
    NO_EVIDENCE,
    Beliefs,
    Beta,
    CellKey,
    Counts,
    Evidence,
    counts_of,
    evidence_from,
    fold,
    posterior,
)
from bandit.vocabulary import CHANNELS, EXPLICIT_CHANNELS, Reward

rewards = st.builds(
    Reward, value=st.floats(0.0, 1.0), weight=st.floats(0.01, 1.0), channel=st.sampled_from(CHANNELS)
)  # fmt: skip
keys = st.builds(
    CellKey,
    namespace=st.just(""),
    arm=st.sampled_from(["a", "b"]),
    task_type=st.just("Open QA"),
    tier=st.sampled_from(["simple", "complex"]),
    hour=st.integers(0, 2),
    channel=st.sampled_from(CHANNELS),
)
logs = st.lists(st.tuples(keys, rewards), max_size=30)


def test_a_reward_in_counts_by_hand():
    assert counts_of(Reward(value=1.0)) == Counts(1_000_000, 1_000_000, 1_000_000)
    assert counts_of(Reward(value=0.0)) == Counts(1_000_000, 0, 0)
    assert counts_of(Reward(value=0.4, weight=0.3)) == Counts(300_000, 120_000, 48_000)


def test_a_posterior_by_hand():
    """A prior of 10 labels at 0.6, then three labels worth 2.5 in all, then 4 weak readings worth 1."""
    evidence = Evidence(explicit_n=3.0, explicit_sum=2.5, heuristic_n=4.0, heuristic_sum=1.0)
    found = posterior(0.6, 10.0, evidence, heuristic_cap=100.0)
    assert (found.alpha, found.beta) == (pytest.approx(6 + 2.5 + 1.0), pytest.approx(4 + 0.5 + 3.0))
    assert found.mean == pytest.approx(9.5 / 17)
    assert found.sd == pytest.approx((9.5 * 7.5 / (17**2 * 18)) ** 0.5)


def test_without_evidence_the_posterior_is_the_prior():
    assert posterior(0.25, 8.0, NO_EVIDENCE, 30.0) == Beta(2.0, 6.0)


def test_weak_readings_count_no_more_than_their_cap():
    """A million readings of 0.1 count as 30 labels of which 3 are good."""
    found = posterior(0.5, 2.0, Evidence(heuristic_n=1e6, heuristic_sum=1e5), heuristic_cap=30.0)
    assert (found.alpha, found.beta) == (pytest.approx(1 + 3), pytest.approx(1 + 27))


def test_below_their_cap_weak_readings_count_in_full():
    found = posterior(0.5, 2.0, Evidence(heuristic_n=30.0, heuristic_sum=12.0), heuristic_cap=30.0)
    assert (found.alpha, found.beta) == (13.0, 19.0)


def test_a_cap_of_zero_silences_weak_readings():
    assert posterior(0.5, 2.0, Evidence(0.0, 0.0, 50.0, 10.0), heuristic_cap=0.0) == Beta(1.0, 1.0)


@given(
    mean=st.floats(0.01, 0.99),
    strength=st.floats(0.1, 100.0),
    good=st.floats(0.0, 1e4),
    bad=st.floats(0.0, 1e4),
    cap=st.floats(0.0, 100.0),
)
def test_people_always_outvote_heuristics_in_the_end(mean, strength, good, bad, cap):
    """However many weak readings there are, they move alpha + beta by at most the cap."""
    evidence = Evidence(5.0, 3.0, good + bad, good)
    found = posterior(mean, strength, evidence, cap)
    assert found.alpha > 0.0
    assert found.beta > 0.0
    assert found.alpha + found.beta <= strength + 5.0 + cap + 1e-6


@given(logs, st.data())
def test_the_order_of_rewards_does_not_matter(log, data):
    assert fold(data.draw(st.permutations(log))) == fold(log)


@given(logs, logs)
def test_replicas_add_up_to_one_writer(here, there):
    first, second = fold(here), fold(there)
    together = {
        key: first.get(key, Counts()).plus(second.get(key, Counts())) for key in first.keys() | second.keys()
    }  # fmt: skip
    assert together == fold(here + there)


@given(st.lists(rewards, max_size=20), rewards)
def test_taking_back_is_exact(log, mistaken):
    total = Counts()
    for reward in log:
        total = total.plus(counts_of(reward))
    assert total.plus(counts_of(mistaken)).minus(counts_of(mistaken)) == total


@given(rewards)
def test_counts_stay_in_their_bounds(reward):
    n, s, s2 = counts_of(reward)
    assert 0 <= s2 <= s <= n <= MICRO


@given(st.dictionaries(st.sampled_from(CHANNELS), rewards.map(counts_of)))
def test_evidence_keeps_people_and_heuristics_apart(counts):
    found = evidence_from(counts)
    people = [count for channel, count in counts.items() if channel in EXPLICIT_CHANNELS]
    assert found.explicit_n == pytest.approx(sum(count.n for count in people) / MICRO)
    assert found.explicit_sum == pytest.approx(sum(count.s for count in people) / MICRO)
    heuristic = counts.get("heuristic", Counts())
    assert (found.heuristic_n, found.heuristic_sum) == (heuristic.n / MICRO, heuristic.s / MICRO)


def test_an_arm_never_measured_has_no_evidence():
    beliefs = Beliefs(evidence={"a": Evidence(1.0, 1.0)})
    assert beliefs.of("a").explicit_n == 1.0
    assert beliefs.of("b") == NO_EVIDENCE
