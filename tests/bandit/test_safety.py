"""Ceilings of exploration, the gate below a baseline and the credit of exploring: by hand, as properties, by draws."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from bandit.drift import Restart
from bandit.history import ArmRestart, Memory, faded, table_of
from bandit.policies import Random
from bandit.pooled import PooledThompson
from bandit.posteriors import MICRO, Beliefs, CellKey, Counts, Estimate
from bandit.safety import capped, fit_to_serve, within_credit
from bandit.selection import choose, seed_of
from bandit.vocabulary import PROMPT_TIERS, TASK_TYPES, Arm, PromptProfile, Terms

PROFILE = PromptProfile(task_type="Open QA", tier="medium")
ARMS = [Arm(name=name) for name in "abcd"]

distributions = st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=12).map(
    lambda raw: tuple(value / sum(raw) for value in raw)
)


@given(chances=distributions, ceiling=st.floats(0.0, 1.0))
def test_others_than_the_likeliest_get_the_ceiling_at_most(chances, ceiling):
    found = capped(chances, ceiling)
    best = max(range(len(chances)), key=chances.__getitem__)
    assert sum(found) == pytest.approx(1.0)
    assert min(found) >= 0.0
    assert sum(found) - found[best] <= max(ceiling, 0.0) + 1e-12
    assert found[best] >= chances[best] - 1e-12
    if sum(chances) - chances[best] <= ceiling - 1e-12:
        assert found == chances


@given(chances=distributions, ceiling=st.floats(0.01, 1.0))
def test_under_a_ceiling_the_others_keep_their_proportions(chances, ceiling):
    found = capped(chances, ceiling)
    best = max(range(len(chances)), key=chances.__getitem__)
    ratios = {round(found[k] / chances[k], 9) for k in range(len(chances)) if k != best}
    assert len(ratios) <= 1 or max(ratios) - min(ratios) < 1e-6


def test_a_choice_is_drawn_from_the_capped_probabilities_and_logs_them():
    drawn = [
        choose(Random(name="random"), PROFILE, ARMS, Beliefs(), seed_of(str(i)), max_explore=0.3) for i in range(2000)
    ]
    assert drawn[0].probabilities == pytest.approx((0.7, 0.1, 0.1, 0.1))
    assert all(one.propensity == one.probabilities[one.arms.index(one.arm)] for one in drawn)
    share = sum(one.arm == "a" for one in drawn) / len(drawn)
    assert abs(share - 0.7) < 0.05  # five standard errors: false once in a million


def test_a_ceiling_of_zero_is_deterministic_like_no_exploration():
    capped_choice = choose(Random(name="random"), PROFILE, ARMS, Beliefs(), 7, max_explore=0.0)
    assert capped_choice == choose(Random(name="random"), PROFILE, ARMS, Beliefs(), 7, explore=False)
    assert capped_choice.propensity == 1.0


def test_the_gate_by_hand():
    """The gap .10 less the gate .05 is 2.5 standard deviations of the difference for b, 0.5 for c."""
    mean, sd = np.array([0.8, 0.7, 0.7]), np.array([0.012, 0.016, 0.0992774])
    assert norm.cdf(2.5) > 0.95 > norm.cdf(0.5)
    assert fit_to_serve(mean, sd, 0, 0.05).tolist() == [True, False, True]
    assert fit_to_serve(mean, sd, 0, 0.2).tolist() == [True, True, True]


@given(mean=st.lists(st.floats(0.0, 1.0), min_size=2, max_size=8), sd=st.floats(0.0, 0.3), gate=st.floats(0.0, 0.5))
def test_better_arms_than_the_baseline_are_never_gated(mean, sd, gate):
    mean = np.array(mean)
    fit = fit_to_serve(mean, np.full(len(mean), sd), 0, gate)
    assert fit[0]
    assert fit[mean >= mean[0]].all()


def test_gated_arms_keep_the_floor_alone():
    learner = PooledThompson(name="p", baseline="a", gate=0.05, floor=0.04, boldness=1.0)
    known = {name: Estimate(mean, 0.02) for name, mean in zip("abcd", (0.8, 0.79, 0.6, 0.5), strict=True)}
    found = learner.probabilities(PROFILE, ARMS, Beliefs("", {}, known))
    assert found[2:] == pytest.approx([0.04 / 2 / 4] * 2)
    assert found.sum() == pytest.approx(1.0)
    assert found[1] > 0.2


def test_the_gate_is_of_quality_not_of_price():
    """A dear baseline does not make cheap arms better: one that is far worse is gated though its utility is highest."""
    arms = [Arm(name="good", price_out=1000.0), Arm(name="poor", price_out=0.0)]
    known = {"good": Estimate(0.9, 0.01), "poor": Estimate(0.3, 0.01)}
    profile = PromptProfile(task_type="Open QA", tier="medium", max_output_tokens=1000)
    terms = Terms(usd_price=10.0)
    gated = PooledThompson(name="p", baseline="good", floor=0.0)
    free = PooledThompson(name="p", floor=0.0)
    assert free.probabilities(profile, arms, Beliefs("", {}, known), terms)[1] == pytest.approx(1.0)
    assert gated.probabilities(profile, arms, Beliefs("", {}, known), terms)[0] == pytest.approx(1.0)


def test_without_its_baseline_among_the_arms_a_policy_is_as_without_one():
    known = Beliefs("", {}, {name: Estimate(0.5 + 0.1 * k, 0.05) for k, name in enumerate("abcd")})
    named = PooledThompson(name="p", baseline="gone", credit=0.0)
    assert named.probabilities(PROFILE, ARMS, known).tolist() == (
        PooledThompson(name="p").probabilities(PROFILE, ARMS, known).tolist()
    )


def test_credit_by_hand():
    """Costs 0 and 0.8 - 0.5 = 0.3; expected 0.15, earned 0.02 * 0.8 = 0.016: the draw is mixed in by 0.016 / 0.15."""
    found = within_credit(np.array([0.5, 0.5]), np.array([0.8, 0.5]), np.zeros(2), 0, 0.02)
    assert found[1] == pytest.approx(0.5 * 0.016 / 0.15)
    assert found.sum() == pytest.approx(1.0)


@given(chances=distributions, credit=st.floats(0.0, 1.0), sd=st.floats(0.0, 0.4), seed=st.integers(0, 1000))
def test_exploring_never_costs_more_than_its_credit(chances, credit, sd, seed):
    mean = np.random.default_rng(seed).uniform(0, 1, len(chances))
    found = within_credit(np.array(chances), mean, np.full(len(chances), sd), 0, credit)
    assert found.sum() == pytest.approx(1.0)
    assert (found >= 0).all()
    assert found @ np.maximum(mean[0] - mean, 0.0) <= credit * mean[0] + 1e-9


def test_what_is_lost_against_the_baseline_stays_within_the_credit():
    """A prior that is sure of poor arms: 4,000 requests lose at most 2 % of the baseline, drawn as logged.

    The mean of 4,000 qualities is off by .008 at one standard error; .03 is more than three.
    """
    truth = {"a": 0.8, "b": 0.4, "c": 0.3, "d": 0.2}
    believed = Beliefs("", {}, {"a": Estimate(0.75, 0.01), **{name: Estimate(0.7, 0.2) for name in "bcd"}})
    rng = np.random.default_rng(3)
    mean = {}
    for credit in (0.02, 1.0):
        policy = PooledThompson(name="p", baseline="a", boldness=1.0, credit=credit)
        arms = [choose(policy, PROFILE, ARMS, believed, seed_of(str(i))).arm for i in range(4000)]
        mean[credit] = np.mean([rng.random() < truth[arm] for arm in arms])
    assert mean[0.02] > 0.8 * 0.98 - 0.05
    assert mean[1.0] < 0.6  # without it three arms that may be better are mostly drawn


def test_a_restart_of_one_task_type_forgets_only_its_counts():
    counts = Counts(10 * MICRO, 5 * MICRO, 5 * MICRO)
    cells = {CellKey("", "a", task, "simple", 100, "thumb"): counts for task in ("Open QA", "Rewrite")}
    reset = ArmRestart("a", 200, Restart(label_keep=0.0, heuristic_keep=0.0), "Open QA")
    history = faded(table_of(cells), ["a"], 100.0, Memory(), [reset])
    kept = history.labels.n[0].sum(axis=1)
    assert kept[TASK_TYPES.index("Open QA")] == 0.0
    assert kept[TASK_TYPES.index("Rewrite")] == pytest.approx(10.0)
    assert history.labels.n.shape == (1, len(TASK_TYPES), len(PROMPT_TIERS))


def test_restarts_of_all_and_of_one_task_type_multiply():
    cells = {CellKey("", "a", task, "simple", 100, "thumb"): Counts(MICRO, 0, 0) for task in ("Open QA", "Rewrite")}
    both = [
        ArmRestart("a", 200, Restart(label_keep=0.5, variance_factor=2.0)),
        ArmRestart("a", 300, Restart(label_keep=0.2, variance_factor=9.0), "Open QA"),
    ]
    history = faded(table_of(cells), ["a"], 100.0, Memory(), both)
    kept = history.labels.n[0].sum(axis=1)
    assert kept[TASK_TYPES.index("Open QA")] == pytest.approx(0.1)
    assert kept[TASK_TYPES.index("Rewrite")] == pytest.approx(0.5)
    assert history.variance_factor.tolist() == [2.0]  # the prior is the arm's, on all task types
