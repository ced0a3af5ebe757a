"""Chances of arms from pooled qualities, and the policy that draws by them."""

import math
from collections import Counter

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare, norm

from bandit.channels import Calibration
from bandit.drift import ON_ALARM
from bandit.history import ArmRestart, History, Memory, faded, table_of
from bandit.pooled import PooledThompson
from bandit.pooling import Pooled, Sums
from bandit.posteriors import MICRO, Beliefs, CellKey, Counts
from bandit.priors import PriorTable
from bandit.selection import choose, probability_of_best_normal, seed_of
from bandit.vocabulary import PROMPT_TIERS, TASK_TYPES, Arm, PromptProfile
from bandit.weighing import Exploration, chances


def pooled(mean, sd):
    """One cell."""
    return Pooled(np.array(mean)[:, None, None], np.array(sd)[:, None, None], 0.0)


def test_two_arms_have_a_closed_form():
    mean, sd = np.array([0.7, 0.6]), np.array([0.05, 0.12])
    best = norm.cdf(0.1 / np.hypot(0.05, 0.12))
    assert probability_of_best_normal(mean, sd) == pytest.approx([best, 1 - best], abs=1e-6)


@pytest.mark.parametrize("arms", [3, 13, 40])
def test_many_arms_agree_with_drawing(arms):
    """400,000 draws: a share is off by .004 with a chance below 1e-6."""
    rng = np.random.default_rng(arms)
    mean, sd = rng.uniform(0.5, 0.8, arms), rng.uniform(0.01, 0.2, arms)
    drawn = np.bincount((mean + sd * rng.standard_normal((400_000, arms))).argmax(axis=1), minlength=arms) / 400_000
    assert probability_of_best_normal(mean, sd) == pytest.approx(drawn, abs=0.004)


def test_cells_are_answered_side_by_side():
    rng = np.random.default_rng(1)
    mean, sd = rng.uniform(0.2, 0.9, (4, 3, 6)), rng.uniform(0.01, 0.2, (4, 3, 6))
    together = probability_of_best_normal(mean, sd)
    assert together[2, 1] == pytest.approx(probability_of_best_normal(mean[2, 1], sd[2, 1]), abs=1e-12)


def test_the_floor_is_half_for_active_arms_and_half_for_all():
    found = chances(pooled([0.9, 0.8, 0.1, 0.1], [1e-3] * 4), Exploration(active=2, floor=0.2))[0, 0]
    assert found == pytest.approx([0.8 + 0.05 + 0.025, 0.05 + 0.025, 0.025, 0.025])


def test_a_boldness_of_one_is_thompson_sampling():
    mean, sd = [0.7, 0.6, 0.65], [0.05, 0.12, 0.08]
    found = chances(pooled(mean, sd), Exploration(boldness=1.0, active=3, floor=0.0))[0, 0]
    assert found == pytest.approx(probability_of_best_normal(np.array(mean), np.array(sd)))


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-0.5, 1.5), st.floats(1e-5, 1.0)), min_size=1, max_size=12),
    st.floats(0.0, 1.0), st.integers(1, 12), st.floats(0.0, 0.3),
)  # fmt: skip
def test_chances_are_real(cells, boldness, active, floor):
    mean, sd = zip(*cells, strict=True)
    found = chances(pooled(mean, sd), Exploration(boldness=boldness, active=active, floor=floor))[0, 0]
    assert found.sum() == pytest.approx(1.0)
    assert (found >= floor / 2 / len(cells) - 1e-12).all()


TASK, TIER = TASK_TYPES[2], PROMPT_TIERS[1]
ARMS = [Arm(name="a", tier="small"), Arm(name="b", tier="medium"), Arm(name="c", tier="large")]
POLICY = PooledThompson(name="pooled", nursery=0.0)
NOW = 500_000.0


def history(said=(), arms=ARMS, readings=()):
    """What some labels, each (arm, task type, tier, how many, their mean), count; readings likewise."""
    cells = {}
    for channel, all_of_it in (("score", said), ("reading", readings)):
        for arm, task, tier, n, mean in all_of_it:
            counts = Counts(*(round(part * MICRO) for part in (n, n * mean, n * mean)))
            cells[CellKey("", arm, task, tier, int(NOW), channel)] = counts
    return faded(table_of(cells), [arm.name for arm in arms], NOW, Memory())


def beliefs_of(policy, found, arms=ARMS):
    """What is believed in each cell."""
    return {cell: Beliefs("v", {}, estimates) for cell, estimates in policy.estimates(arms, found).items()}


def test_before_any_label_the_prior_is_believed():
    beliefs = beliefs_of(POLICY, history())
    spread = POLICY.spread
    sd = (spread.arm + spread.task + spread.tier + spread.cell) ** 0.5
    for (task, tier), known in beliefs.items():
        for arm in ARMS:
            estimate = POLICY.estimate(arm, task, tier, known)
            assert estimate.mean == pytest.approx(POLICY.prior_means.of(arm.tier, tier), abs=1e-6)
            assert estimate.sd == pytest.approx(sd, abs=1e-6)
            unknown = POLICY.estimate(arm, task, tier, Beliefs())
            assert (unknown.mean, unknown.sd) == pytest.approx((estimate.mean, estimate.sd), abs=1e-6)
    assert len(beliefs) == len(TASK_TYPES) * len(PROMPT_TIERS)


def test_labels_teach_their_own_cell_most_and_the_far_ones_least():
    """Of arm a beside arm c, which has no labels: how hard the prompts are is the same for both."""
    far = (TASK_TYPES[7], PROMPT_TIERS[0])
    before = POLICY.estimates(ARMS, history())
    after = POLICY.estimates(ARMS, history([("a", TASK, TIER, 14, 0.1), ("b", TASK, TIER, 14, 0.75)]))

    def moved(cell):
        return (after[cell]["c"].mean - after[cell]["a"].mean) - (before[cell]["c"].mean - before[cell]["a"].mean)

    moves = [moved(cell) for cell in ((TASK, TIER), (TASK, PROMPT_TIERS[0]), (TASK_TYPES[7], TIER), far)]
    assert moves[0] > moves[1] > moves[3] > 0.01
    assert moves[0] > moves[2] > moves[3]
    sds = [after[cell]["a"].sd for cell in ((TASK, TIER), (TASK, PROMPT_TIERS[0]), far)]
    assert sds == sorted(sds)
    assert sds[-1] < before[far]["a"].sd
    assert after[far]["c"].sd == before[far]["c"].sd


def test_a_prior_file_takes_the_place_of_the_tiers():
    table = PriorTable({"a": {"": 0.9, TASK: 0.4}, "b": {TASK: 0.8}})
    found = msgspec.structs.replace(POLICY, prior=table).estimates(ARMS, history())
    assert found[TASK, TIER]["a"].mean == pytest.approx(0.4)
    assert found[TASK_TYPES[0], TIER]["a"].mean == pytest.approx(0.9)
    assert found[TASK, TIER]["b"].mean == pytest.approx(0.8)
    of_tiers = [POLICY.prior_means.of("medium", tier) for tier in PROMPT_TIERS]
    assert [found[TASK_TYPES[0], tier]["b"].mean for tier in PROMPT_TIERS] == pytest.approx(of_tiers)


def test_a_prior_is_held_to_as_firmly_as_its_mass_says():
    table = PriorTable({arm.name: {"": 0.6} for arm in ARMS}, mass=99.0)
    firm = msgspec.structs.replace(POLICY, prior=table)
    sd = firm.estimates(ARMS, history())[TASK, TIER]["a"].sd
    assert sd == pytest.approx((0.2 / 100) ** 0.5, rel=1e-3)  # a label varies by .2
    said = [("a", TASK, TIER, 20, 0.2), ("b", TASK, TIER, 5, 0.6)]
    loose = msgspec.structs.replace(POLICY, prior=msgspec.structs.replace(table, mass=0.0))
    gaps = [
        found["b"].mean - found["a"].mean
        for found in (policy.estimates(ARMS, history(said))[TASK, TIER] for policy in (firm, loose))
    ]
    assert 0 < gaps[0] < gaps[1]


def test_a_decision_looks_up_the_chances_of_the_fit():
    found = history([("a", TASK, TIER, 40, 0.8), ("b", TASK_TYPES[0], TIER, 30, 0.5), ("c", TASK, TIER, 9, 0.9)])
    all_chances = chances(POLICY.pooled(ARMS, found), POLICY.exploration)
    for (task, tier), beliefs in beliefs_of(POLICY, found).items():
        probabilities = POLICY.probabilities(PromptProfile(task_type=task, tier=tier), ARMS, beliefs)
        expected = all_chances[TASK_TYPES.index(task), PROMPT_TIERS.index(tier)]
        assert probabilities == pytest.approx(expected, abs=1e-4)  # estimates are rounded
        assert sum(probabilities) == pytest.approx(1.0)


def test_only_eligible_arms_are_compared():
    beliefs = beliefs_of(POLICY, history([("a", TASK, TIER, 40, 0.8)]))[TASK, TIER]
    probabilities = POLICY.probabilities(PromptProfile(task_type=TASK, tier=TIER), ARMS[:2], beliefs)
    assert len(probabilities) == 2
    assert sum(probabilities) == pytest.approx(1.0)


def test_an_arm_that_was_never_fitted_has_its_prior():
    beliefs = beliefs_of(POLICY, history([("a", TASK, TIER, 40, 0.8)]))[TASK, TIER]
    new = Arm(name="new", tier="large")
    expected = POLICY.prior_means.of("large", TIER)
    assert POLICY.estimate(new, TASK, TIER, beliefs).mean == expected
    probabilities = POLICY.probabilities(PromptProfile(task_type=TASK, tier=TIER), [*ARMS, new], beliefs)
    assert probabilities[3] > POLICY.floor / 4


def test_what_a_dollar_is_worth_turns_to_the_cheaper_arm():
    arms = [Arm(name="cheap", tier="large", price_out=1.0), Arm(name="dear", tier="large", price_out=100.0)]
    profile = PromptProfile(task_type=TASK, tier=TIER, prompt_tokens=100)
    shares = [
        msgspec.structs.replace(POLICY, cost_weight=weight).probabilities(profile, arms, Beliefs())[0]
        for weight in (0.0, 1.0, 1e3)
    ]
    assert shares[0] == pytest.approx(0.5)
    assert shares[0] < shares[1] < shares[2]


def test_readings_are_heard_only_when_they_may_be():
    said = [(arm.name, TASK, TIER, 20, 0.7) for arm in ARMS]
    found = history(
        said, readings=[("a", TASK, TIER, 500, 0.2), ("b", TASK, TIER, 500, 0.9), ("c", TASK, TIER, 500, 0.9)]
    )
    deaf = msgspec.structs.replace(POLICY, readings=False)
    assert deaf.estimates(ARMS, found) == POLICY.estimates(ARMS, history(said))
    heard = POLICY.estimates(ARMS, found)[TASK, TIER]
    assert heard["a"].mean < heard["b"].mean


def test_logged_probabilities_are_real():
    """Chi-square of 60,000 draws against what was logged: false once in a thousand seeds; the ids are fixed."""
    beliefs = beliefs_of(POLICY, history([("a", TASK, TIER, 30, 0.8), ("b", TASK, TIER, 12, 0.75)]))[TASK, TIER]
    profile = PromptProfile(task_type=TASK, tier=TIER)
    choices = [choose(POLICY, profile, ARMS, beliefs, seed_of(f"decision-{n}")) for n in range(60_000)]
    logged = choices[0].probabilities
    assert sum(logged) == pytest.approx(1.0, abs=1e-12)
    assert min(logged) >= POLICY.floor / 2 / len(ARMS) - 1e-12
    assert {choice.probabilities for choice in choices} == {logged}
    assert all(choice.propensity == logged[choice.arms.index(choice.arm)] for choice in choices)
    counts = Counter(choice.arm for choice in choices)
    assert chisquare([counts[arm.name] for arm in ARMS], [60_000 * p for p in logged]).pvalue > 0.001


amounts = st.sampled_from([0, 1, -1, MICRO, -5 * MICRO, 10**18, -(10**18), 2**62])


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(
        st.builds(
            CellKey, namespace=st.just(""), arm=st.sampled_from("abc"), task_type=st.sampled_from(TASK_TYPES),
            tier=st.sampled_from(PROMPT_TIERS), hour=st.integers(-(10**9), 10**9),
            channel=st.sampled_from(["thumb", "failure", "reading"]),
        ),
        st.builds(Counts, amounts, amounts, amounts), max_size=12,
    )
)  # fmt: skip
def test_whatever_is_in_a_cell_there_are_estimates_and_chances(cells):
    restarts = [ArmRestart("b", int(NOW), ON_ALARM["down"])]
    found = faded(table_of(cells), [arm.name for arm in ARMS], NOW, Memory(), restarts)
    for (task, tier), beliefs in beliefs_of(POLICY, found).items():
        assert all(math.isfinite(one.mean) and one.sd > 0 for one in beliefs.estimates.values())
        probabilities = POLICY.probabilities(PromptProfile(task_type=task, tier=tier), ARMS, beliefs)
        assert sum(probabilities) == pytest.approx(1.0)
        assert min(probabilities) > 0


def test_a_new_arm_has_its_share_until_it_is_known():
    """By hand: a nursery of .1 takes a tenth of all other chances; 30 labels, or 300 readings, end it.

    Arms that were there from the beginning are never new, however few labels they have.
    """
    policy, plain = PooledThompson(name="p", nursery=0.1), PooledThompson(name="p", nursery=0.0)
    known = [100.0, 100.0, 0.0]

    def chances_of(policy, labels, readings, arrived):
        nothing = np.zeros((3, len(TASK_TYPES), len(PROMPT_TIERS)))
        parts = [nothing.copy(), nothing.copy()]
        for part, counts in zip(parts, (labels, readings), strict=True):
            part[:, 0, 0] = counts
        sums = [Sums(n, 0.7 * n, 0.7 * n) for n in parts]
        names = tuple(arm.name for arm in NURSERY_ARMS)
        history = History(names, *sums, Calibration(), np.ones(3), np.zeros(3), arrived=frozenset(arrived))
        profile = PromptProfile(task_type=TASK_TYPES[0], tier="simple")
        cell = policy.estimates(NURSERY_ARMS, history)[TASK_TYPES[0], "simple"]
        return policy.probabilities(profile, NURSERY_ARMS, Beliefs("", {}, cell))

    for labels, readings, arrived, share in (
        (known, [0, 0, 0], "c", 0.1), ([100, 100, 29], [0, 0, 0], "c", 0.1), ([100, 100, 30], [0, 0, 0], "c", 0.0),
        (known, [0, 0, 300], "c", 0.0), (known, [0, 0, 0], "", 0.0), ([0, 0, 0], [0, 0, 0], "abc", 0.0),
        ([100, 0, 0], [0, 0, 0], "bc", 0.1),
    ):  # fmt: skip
        before, after = (chances_of(one, labels, readings, arrived) for one in (plain, policy))
        new = np.array([name in arrived for name in "abc"]) & (np.array(labels) + np.array(readings) / 10 < 30)
        expected = before if not share else (1 - share) * before + share * new / new.sum()
        assert after == pytest.approx(expected)


NURSERY_ARMS = [Arm(name=name, tier="medium") for name in ("a", "b", "c")]


def test_labels_that_contradict_the_prior_are_told():
    """The tiers say large is best; 300 labels an arm say the opposite, or the same."""
    arms = [Arm(name=tier, tier=tier) for tier in ("small", "medium", "large")]
    policy, conflicts = PooledThompson(name="p"), []
    for quality in ((0.75, 0.8, 0.83), (0.9, 0.7, 0.4)):
        n = np.zeros((3, len(TASK_TYPES), len(PROMPT_TIERS)))
        n[:, 0, 0] = 300.0
        s = n * np.array(quality)[:, None, None]
        nothing = np.zeros_like(n)
        history = History(
            ("small", "medium", "large"), Sums(n, s, s), Sums(nothing, nothing, nothing), Calibration(), np.ones(3),
            np.zeros(3),
        )  # fmt: skip
        conflicts.append(policy.prior_conflict(arms, history))
    assert conflicts[0] < 1.0
    assert conflicts[1] > 4.0
