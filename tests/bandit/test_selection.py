"""The probability of being best against integrals done another way; floor, seed and draw against their definitions."""

from itertools import pairwise
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.special import betaln
from scipy.stats import beta as beta_distribution
from scipy.stats import chi2

from bandit.policies import Fixed, Policy, Random
from bandit.posteriors import Beliefs
from bandit.selection import (
    PolicyFailure,
    checked,
    choose,
    draw,
    probability_of_best,
    seed_of,
    uniform,
    with_floor,
)
from bandit.vocabulary import Arm, PromptProfile

PROMISED = 0.002  # what the docstring of probability_of_best promises
PROFILE = PromptProfile(task_type="Open QA", tier="medium")


def by_quad(alpha, beta, shift):
    """P(k) as the integral of the density of k times the distributions of the others, piece by piece."""
    ends = np.unique(np.concatenate([-shift, 1.0 - shift]))
    means = alpha / (alpha + beta) - shift
    chances = []
    for k in range(len(alpha)):

        def integrand(u, k=k):
            product = beta_distribution.pdf(u + shift[k], alpha[k], beta[k])
            for j in range(len(alpha)):
                if j != k:
                    product *= beta_distribution.cdf(u + shift[j], alpha[j], beta[j])
            return product

        low, high = -shift[k], 1.0 - shift[k]
        cuts = sorted({low, high, *(x for x in [*ends, *means] if low < x < high)})
        chances.append(sum(quad(integrand, a, b, limit=200)[0] for a, b in pairwise(cuts)))
    return np.array(chances)


def by_sampling(alpha, beta, shift, draws, seed):
    """P(k) as the share of draws in which arm k is best; ties (at the ends of [0, 1]) are shared."""
    random = np.random.default_rng(seed)
    utilities = random.beta(alpha[:, None], beta[:, None], (len(alpha), draws)) - shift[:, None]
    best = utilities == utilities.max(axis=0)
    return (best / best.sum(axis=0)).mean(axis=1)


def random_cells(n_arms, smallest, seed):
    """Cells of which half were measured often, and costs."""
    random = np.random.default_rng(seed)
    alpha = smallest + random.exponential(10 * smallest, n_arms)
    beta = smallest + random.exponential(10 * smallest, n_arms)
    labels, quality = random.exponential(60, n_arms) * (random.random(n_arms) < 0.5), random.random(n_arms)
    return alpha + labels * quality, beta + labels * (1 - quality), random.random(n_arms) * 0.4


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize(("n_arms", "smallest"), [(2, 1.0), (2, 1.5), (3, 1.0), (5, 2.0), (8, 1.0)])
def test_probability_of_best_equals_adaptive_quadrature(n_arms, smallest, shifted):
    alpha, beta, shift = random_cells(n_arms, smallest, seed=n_arms)
    shift = shift * shifted
    expected = by_quad(alpha, beta, shift)
    assert expected.sum() == pytest.approx(1.0, abs=1e-5)
    np.testing.assert_allclose(probability_of_best(alpha, beta, shift), expected, atol=PROMISED)


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("n_arms", [2, 3, 5, 10, 20, 40])
@pytest.mark.parametrize("smallest", [0.1, 0.5, 5.0])
def test_probability_of_best_equals_monte_carlo(n_arms, smallest, shifted):
    alpha, beta, shift = random_cells(n_arms, smallest, seed=100 + n_arms)
    shift = shift * shifted
    draws = 60_000
    sampled = by_sampling(alpha, beta, shift, draws, seed=1)
    ours = probability_of_best(alpha, beta, shift)
    # five standard errors: 36 cases of at most 40 arms would fail by chance once in about 1200 other seeds
    noise = 5.0 * np.sqrt(np.maximum(ours * (1 - ours), 1e-4) / draws)
    assert (np.abs(ours - sampled) <= PROMISED + noise).all()


def test_two_betas_with_whole_parameters_have_a_known_finite_sum():
    """P(X > Y) for Beta(a, b) and Beta(c, d): sum over i < a of B(c + i, d + b) / ((b + i) B(1 + i, b) B(c, d))."""
    for a, b, c, d in [(1, 1, 1, 1), (3, 2, 2, 3), (8, 3, 30, 12), (101, 51, 60, 40), (2, 9, 1, 1)]:
        terms = [np.exp(betaln(c + i, d + b) - np.log(b + i) - betaln(1 + i, b) - betaln(c, d)) for i in range(a)]
        ours = probability_of_best(np.array([a, c], float), np.array([b, d], float))
        assert ours[0] == pytest.approx(sum(terms), abs=PROMISED)


def test_uniform_qualities_with_a_shift_by_hand():
    """For two uniform qualities, the one that costs s wins with (1 - s)^2 / 2."""
    for shift in (0.0, 0.1, 0.5, 0.9):
        ours = probability_of_best(np.ones(2), np.ones(2), np.array([shift, 0.0]))
        assert ours[0] == pytest.approx((1 - shift) ** 2 / 2, abs=PROMISED)


def test_powers_of_the_uniform_by_hand():
    """Beta(a, 1) has the distribution x^a, so that P(k) = a_k / sum of a; binomial coefficients as the parameters."""
    alpha = np.array([float(comb(6, k)) for k in range(7)])
    np.testing.assert_allclose(probability_of_best(alpha, np.ones(7)), alpha / 64, atol=1e-9)


@pytest.mark.parametrize("n_arms", [2, 3, 7, 40])
@pytest.mark.parametrize(("a", "b"), [(0.1, 0.1), (0.5, 3.0), (1.0, 1.0), (41.5, 8.5), (1e6, 1e6)])
def test_equal_arms_are_equally_likely(n_arms, a, b):
    chances = probability_of_best(np.full(n_arms, a), np.full(n_arms, b), np.full(n_arms, 0.07))
    assert len(set(chances.tolist())) == 1
    assert chances[0] == pytest.approx(1 / n_arms, rel=1e-12)


cells = st.lists(
    st.tuples(st.floats(0.1, 1e4), st.floats(0.1, 1e4), st.floats(0.0, 1.5)), min_size=2, max_size=8
)  # fmt: skip


@given(cells=cells, data=st.data())
def test_the_order_of_the_arms_does_not_matter(cells, data):
    order = data.draw(st.permutations(range(len(cells))))
    alpha, beta, shift = (np.array(column) for column in zip(*cells, strict=True))
    chances = probability_of_best(alpha, beta, shift)
    again = probability_of_best(alpha[list(order)], beta[list(order)], shift[list(order)])
    np.testing.assert_allclose(again, chances[list(order)], atol=2 * PROMISED)
    assert chances.sum() == pytest.approx(1.0, abs=1e-12)
    assert (chances >= 0.0).all()


@given(cells=cells, more=st.floats(0.001, 1.0))
def test_an_arm_that_costs_more_is_best_less_often_and_the_others_more_often(cells, more):
    alpha, beta, shift = (np.array(column) for column in zip(*cells, strict=True))
    dearer = shift + np.eye(len(shift))[0] * more
    before, after = probability_of_best(alpha, beta, shift), probability_of_best(alpha, beta, dearer)
    assert after[0] <= before[0] + 2 * PROMISED
    assert (after[1:] >= before[1:] - 2 * PROMISED).all()


def test_a_common_cost_changes_nothing():
    alpha, beta, _ = random_cells(6, 1.0, seed=3)
    plain, shifted = probability_of_best(alpha, beta), probability_of_best(alpha, beta, np.full(6, 0.3))
    np.testing.assert_allclose(plain, shifted, atol=1e-9)


def test_an_arm_that_costs_more_than_all_quality_is_never_best():
    chances = probability_of_best(np.array([9.0, 2.0]), np.array([1.0, 8.0]), np.array([1.01, 0.0]))
    assert chances.tolist() == [0.0, 1.0]


@given(st.lists(st.sampled_from([0.0, 1e-300, 1e-12, 0.01, 0.5, 1.0, 30.0, 1e6, 1e12]), min_size=2, max_size=12))
def test_extreme_cells_give_finite_chances_that_sum_to_one(parameters):
    alpha, beta = np.array(parameters), np.array(parameters[::-1])
    for shift in (None, np.linspace(0.0, 2.0, len(alpha))):
        chances = probability_of_best(alpha, beta, shift)
        assert np.isfinite(chances).all()
        assert (chances >= 0.0).all()
        assert chances.sum() == pytest.approx(1.0)


def test_a_sharp_arm_among_vague_ones_gets_what_they_leave():
    """A quality known to be 0.9 is best exactly when all 39 uniform ones are below it."""
    alpha, beta = np.append(np.ones(39), 9e8), np.append(np.ones(39), 1e8)
    assert probability_of_best(alpha, beta)[-1] == pytest.approx(0.9**39, abs=PROMISED)


def test_one_arm_is_best():
    assert probability_of_best(np.array([3.0]), np.array([1.0])).tolist() == [1.0]


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=40).filter(lambda raw: sum(raw) > 0.01), st.floats(0.0, 1.0))
def test_the_floor_is_shared_evenly_and_keeps_the_order(raw, floor):
    chances = np.array(raw) / sum(raw)
    floored = with_floor(chances, floor)
    assert floored.sum() == pytest.approx(1.0)
    assert floored.min() >= floor / len(chances) - 1e-12
    np.testing.assert_allclose(floored, (1 - floor) * chances + floor / len(chances))


def test_a_seed_is_a_function_of_the_id_alone():
    assert seed_of("a") == 0x40F89E395B66422F  # a stored decision must give the same draw in every release
    assert len({seed_of(str(number)) for number in range(10_000)}) == 10_000
    assert all(0 <= seed_of(str(number)) < 2**64 for number in range(100))


def test_the_uniform_number_of_a_seed_covers_its_range_and_never_reaches_one():
    assert uniform(0) == 0.0
    assert uniform(2**64 - 1) == 1.0 - 2.0**-53
    assert uniform(3 << 62) == 0.75


def test_draws_follow_the_logged_probabilities():
    """Chi-square over a million decision ids; the seeds are fixed, so this passes always or never."""
    logged, n = (0.004, 0.0, 0.3, 0.046, 0.65), 1_000_000
    counts = np.bincount([draw(logged, seed_of(f"decision-{number}")) for number in range(n)], minlength=5)
    assert counts[1] == 0
    expected = n * np.array(logged)
    drawn = expected > 0
    statistic = float(((counts[drawn] - expected[drawn]) ** 2 / expected[drawn]).sum())
    # with a true draw, one set of ids in a thousand would exceed this
    assert statistic < chi2.ppf(0.999, df=3)


def test_an_arm_of_probability_zero_is_never_drawn_even_when_rounding_leaves_a_rest():
    almost = (0.0, 0.1, 0.2, 0.3, 0.1, 0.29999999999999, 0.0)
    assert draw(almost, 2**64 - 1) == 5
    assert draw((0.0, 0.5, 0.5), 0) == 1
    assert draw((1.0, 0.0), 2**64 - 1) == 0


@pytest.mark.parametrize(
    ("chances", "words"),
    [
        ([0.5, 0.5], "expected"),
        ([0.5, np.nan, 0.5], "finite"),
        ([1.5, -0.5, 0.0], "at least 0"),
        ([0.0, 0.0, 0.0], "no positive"),
        ([np.inf, 0.0, 0.0], "finite"),
    ],
)
def test_what_is_no_distribution_is_refused(chances, words):
    with pytest.raises(PolicyFailure, match=words):
        checked(np.array(chances), 3)


def test_probabilities_are_brought_to_sum_one():
    assert checked(np.array([1.0, 3.0]), 2) == (0.25, 0.75)


class Broken(Policy, frozen=True, tag="broken"):
    def probabilities(self, profile, arms, beliefs, terms):
        return np.full(len(arms), np.nan)


def arms(*names):
    return [Arm(name=name) for name in names]


def test_a_choice_logs_the_numbers_it_was_drawn_from():
    beliefs = Beliefs(version="v7")
    for number in range(50):
        seed = seed_of(str(number))
        choice = choose(Random(name="r"), PROFILE, arms("a", "b", "c"), beliefs, seed)
        assert choice.arms == ("a", "b", "c")
        assert choice.propensity == choice.probabilities[choice.arms.index(choice.arm)] > 0
        assert choice.arm == choice.arms[draw(choice.probabilities, seed)]
        assert (choice.policy, choice.beliefs_version, choice.seed) == ("r", "v7", seed)


def test_without_exploration_the_likeliest_arm_is_certain():
    choice = choose(Fixed(name="f", arm="b"), PROFILE, arms("a", "b"), Beliefs(), 5, explore=False)
    assert (choice.arm, choice.propensity, choice.probabilities) == ("b", 1.0, (0.0, 1.0))


def test_a_broken_policy_and_an_empty_choice_are_errors():
    with pytest.raises(PolicyFailure):
        choose(Broken(name="x"), PROFILE, arms("a"), Beliefs(), 1)
    with pytest.raises(ValueError, match="no arm"):
        choose(Random(name="r"), PROFILE, [], Beliefs(), 1)
