"""Tests that may be looked at at any time: by hand, against other programs, by property, and by simulation.

Simulations have fixed seeds. Where a chance of failure is stated, it is that of the assertion under another seed.
"""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import lambertw

from bandit.experiments import DAYS_WEIGHT
from bandit.offline import confidence_sequence
from bandit.sequential import (
    BINS,
    bounds_of_mean,
    farthest,
    half_width,
    log_evidence,
    log_ratio,
    log_sample_ratio,
    narrowest,
    tallied,
    weighted,
)

STAKES = [0.9, 0.7, *(0.5**power for power in range(1, 11))]
ALARM = math.log(1_000.0)

readings = arrays(float, st.integers(1, 40), elements=st.floats(0.0, 1.0))
inside = st.floats(0.01, 0.99)


def evidence(each, mean):
    return log_evidence(each, np.ones(len(each)), mean)


# --- Means of anything ---


def test_half_width_by_hand():
    # V = 400, n = 100, rho^2 = .01: sqrt(5 / .01 * ln(5 / .0025)) / 100
    assert float(half_width(400.0, 100.0, 0.01, 0.05)) == pytest.approx(math.sqrt(500.0 * math.log(2_000.0)) / 100.0)


@given(st.floats(0.1, 1e4), st.integers(1, 100_000), st.floats(1e-4, 1e2), st.floats(0.001, 0.3))
def test_half_width_is_the_two_sided_normal_mixture_bound_of_confseq(variance, n, rho2, alpha):
    rho = 1.0 / rho2  # confseq 0.0.11, uniform_boundaries.h: sqrt((v + rho) (log(1 + v / rho) + 2 log(1 / alpha)))
    bound = math.sqrt((variance + rho) * (math.log1p(variance / rho) + 2.0 * math.log(1.0 / alpha)))
    assert float(half_width(variance, n, rho2, alpha)) * n == pytest.approx(bound, rel=1e-9)


@pytest.mark.parametrize("alpha", [0.05, 0.01, 0.001])
def test_narrowest_is_as_good_as_the_exact_optimum(alpha):
    n = 5_000.0
    exact = (-float(lambertw(-(alpha**2) / math.e, -1).real) - 1.0) / n  # Howard and others, "Time-uniform", 2021
    best, ours = (float(half_width(n, n, rho2, alpha)) for rho2 in (exact, narrowest(n, alpha)))
    assert best <= ours <= 1.001 * best


# --- The mixture of the experiments ---

PARTS = [
    (sign * around, widely, share / 2.0) for around, widely, share in ((1, 0.2, 0.85), (3, 1, 0.15)) for sign in (1, -1)
]


def mixed(distance, time, alpha):
    """The likelihood ratio by its definition: integrated over the means, each part on a grid of its own."""
    unit, total = math.sqrt(2.0 * math.log(2.0 / alpha)), 0.0
    for around, widely, share in PARTS:
        means = unit * (around + widely * np.linspace(-9.0, 9.0, 8_001))
        density = np.exp(-0.5 * ((means / unit - around) / widely) ** 2) / (widely * unit * math.sqrt(2.0 * math.pi))
        total += share * float(np.trapezoid(np.exp(means * distance - means**2 * time / 2.0) * density, means))
    return math.log(total)


@given(st.floats(0.0, 6.0), st.floats(0.01, 2.0), st.sampled_from([0.05, 0.025, 0.001]))
def test_the_evidence_is_the_likelihood_ratio_of_its_mixture(deviations, time, alpha):
    distance = deviations * math.sqrt(time)
    assert float(log_ratio(distance, time, alpha)) == pytest.approx(mixed(distance, time, alpha), rel=1e-6, abs=1e-6)
    assert float(log_ratio(-distance, time, alpha)) == float(log_ratio(distance, time, alpha))


@given(st.floats(1e-6, 1e4), st.floats(0.0005, 0.4))
def test_the_farthest_distance_is_where_the_evidence_is_1_over_alpha(time, alpha):
    bound = float(farthest(time, alpha))
    assert float(log_ratio(bound, time, alpha)) == pytest.approx(-math.log(alpha), abs=1e-9)
    assert (
        float(log_ratio(0.999 * bound, time, alpha)) < -math.log(alpha) < float(log_ratio(1.001 * bound, time, alpha))
    )


@pytest.mark.parametrize(
    ("time", "expected"), [(0.06, 3.583464), (0.3, 3.127981), (1.0, 2.818501), (3.0, 3.109847), (10.0, 3.838053)]
)
def test_the_farthest_distance_by_other_means(time, expected):
    """The root of the mixture's definition, found by bisection; in standard deviations at that time."""
    assert float(farthest(time, 0.05)) / math.sqrt(time) == pytest.approx(expected, abs=1e-5)
    low, high = 0.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2.0
        low, high = (middle, high) if mixed(middle, time, 0.05) < math.log(20.0) else (low, middle)
    assert low == pytest.approx(expected * math.sqrt(time), abs=1e-5)


@pytest.mark.parametrize(
    ("time", "least", "most"),
    [(0.01, 0.9, 1.0), (0.06, 0.95, 1.0), (0.3, 1.0, 1.03), (0.5, 0.95, 1.0), (1.0, 0.9, 0.93)],
)
def test_it_is_hardly_wider_than_the_sequence_of_one_normal_and_narrower_at_the_planned_end(time, least, most):
    n = 5_000.0
    one_normal = float(half_width(time * n, time * n, narrowest(n / 2.0, 0.05), 0.05)) * time * n
    assert least <= float(farthest(time, 0.05)) * math.sqrt(n) / one_normal <= most


def test_evidence_of_the_mixture_is_1_in_the_mean_and_rarely_large():
    """A fair bet on normal terms: 4,000 walks of 500 steps to twice the planned end; a chance of 1 in 1,000 each."""
    steps = np.random.default_rng(13).standard_normal((4_000, 500)) * math.sqrt(2.0 / 500)
    logs = log_ratio(np.cumsum(steps, axis=1), np.arange(1, 501) * 2.0 / 500, 0.05)
    early = np.exp(logs[:, 10])
    assert abs(early.mean() - 1.0) < 3.3 * early.std() / math.sqrt(4_000)
    assert (logs.max(axis=1) >= math.log(20.0)).mean() < 0.05


def test_huge_and_tiny_distances_give_numbers():
    assert np.isfinite(log_ratio(np.array([0.0, 1e-300, 1e300, -1e300]), 1.0, 0.05)).all()
    assert np.isfinite(farthest(np.array([5e-8, 1e-300, 1e12]), 0.05)).all()


def test_a_mixture_of_one_normal_is_the_sequence_by_its_definition():
    """`half_width`: the likelihood of d averaged over effects that are normal around 0 is 1/alpha at its end."""
    n, v, tau, alpha = 800, 0.42, 0.02, 0.05
    d = float(half_width(n * v, n, tau**2 / v**2, alpha))
    effects = np.linspace(-0.3, 0.3, 20_001)
    likelihood = np.exp(n / v * (effects * d - effects**2 / 2.0))
    density = np.exp(-(effects**2) / (2 * tau**2)) / (tau * math.sqrt(2.0 * math.pi))
    assert float(np.trapezoid(likelihood * density, effects)) == pytest.approx(1.0 / alpha, rel=1e-6)


def test_the_sequence_of_logged_decisions_is_the_same():
    terms = np.random.default_rng(1).random(900)
    low, high = confidence_sequence(terms, start=300, narrowest_at=700)
    rho2 = narrowest(700, 0.05) / terms[:300].var(ddof=1)
    expected = [half_width(n * terms[:n].var(ddof=1), n, rho2, 0.05) for n in (300, 555, 900)]
    assert ((high - low) / 2)[[299, 554, 899]] == pytest.approx(np.array(expected))


# --- Bets ---


def test_evidence_by_hand():
    each = np.array([1.0, 0.0, 1.0])
    won = [(1.0 + c) ** 2 * (1.0 - c) for c in STAKES]  # against .5 a stake c wins or loses itself
    assert evidence(each, 0.5) == pytest.approx(math.log(sum(won) / len(won)))


@pytest.mark.parametrize(
    ("mean", "above", "below"),
    [
        (0.3, 37.897795492621945, 0.5631117886161087),
        (0.5, 1.666460253920946, 0.594812970923822),
        (0.62, 0.9635672049976028, 0.636811447743747),
    ],
)
def test_evidence_is_the_mean_of_the_betting_martingales_of_confseq(mean, above, below):
    """Numbers of confseq 0.0.11: the mean of `betting_mart` with constant bets c / m, and c / (1 - m) downwards."""
    each = np.array([0.0, 1, 1, 0.25, 1, 0.5, 1, 1, 0, 1, 0.75, 1])
    assert math.exp(evidence(each, mean)) == pytest.approx(above, rel=1e-9)
    assert math.exp(evidence(1.0 - each, 1.0 - mean)) == pytest.approx(below, rel=1e-9)


@given(readings, inside, inside)
def test_a_lower_mean_has_more_evidence_above_it(each, first, second):
    low, high = sorted((first, second))
    assert evidence(each, low) >= evidence(each, high) - 1e-9


@given(readings, inside, st.randoms(use_true_random=False))
def test_order_does_not_matter(each, mean, random):
    other = list(each)
    random.shuffle(other)
    assert evidence(np.array(other), mean) == pytest.approx(evidence(each, mean), abs=1e-9)


@given(readings, inside)
def test_a_tally_never_has_more_evidence_than_its_readings(each, mean):
    counts = tallied(each)
    assert counts.sum() == pytest.approx(len(each))
    points = np.linspace(0.0, 1.0, BINS + 1)
    assert points @ counts == pytest.approx(each.sum(), abs=1e-9)
    assert log_evidence(points, counts, mean) <= evidence(each, mean) + 1e-9


@given(readings, st.floats(0.001, 0.3))
def test_bounds_are_where_the_evidence_reaches_its_threshold(each, alpha):
    ones = np.ones(len(each))
    low, high = bounds_of_mean(each, ones, alpha)
    assert 0.0 <= low <= each.mean() + 1e-6
    assert each.mean() - 1e-6 <= high <= 1.0
    if low > 0.01:
        assert log_evidence(each, ones, low - 1e-4) >= -math.log(alpha) >= log_evidence(each, ones, low + 1e-4)
    if high < 0.99:
        below = 1.0 - each
        assert log_evidence(below, ones, 1.0 - high - 1e-4) >= -math.log(alpha)


def ever(good, mean):
    """The largest log evidence of each run over all looks, for readings of 0 and 1: booleans of shape (runs, n)."""
    sums = np.cumsum(good, axis=1)
    others = np.arange(1, good.shape[1] + 1) - sums
    won = [sums * math.log1p(stake * (1.0 / mean - 1.0)) + others * math.log1p(-stake) for stake in STAKES]
    return (np.logaddexp.reduce(won, axis=0) - math.log(len(STAKES))).max(axis=1)


@pytest.mark.parametrize("mean", [0.02, 0.3, 0.7])
def test_bets_on_readings_with_the_mean_rarely_win(mean):
    """1,000 runs of 2,000 readings: at most 1 % reach 100 at any time, so above 2 % comes with a chance of 1 in 300."""
    good = np.random.default_rng(7).random((1_000, 2_000)) < mean
    assert (ever(good, mean) >= math.log(100.0)).mean() <= 0.02


def test_bets_hold_when_the_mean_moves_and_depends_on_what_came_before():
    """The mean stays at most .4, chosen by an adversary who saw all readings: 1,000 runs, 1 in 300 as above."""
    chance = np.random.default_rng(8).random((1_000, 2_000))
    good, total = np.zeros(chance.shape, dtype=bool), np.zeros(1_000)
    for at in range(2_000):
        good[:, at] = chance[:, at] < np.where(total > 0.38 * at, 0.4, 0.1)
        total += good[:, at]
    assert (ever(good, 0.4) >= math.log(100.0)).mean() <= 0.02


# --- What an assigned variant does less what the control does ---


@given(readings, readings, st.floats(0.05, 0.95), st.floats(0.0, 1.0))
def test_readings_stand_for_the_difference_and_keep_to_0_and_1(variant, control, share, usual):
    variant, control = np.round(variant * BINS) / BINS, np.round(control * BINS) / BINS
    found = weighted(tallied(variant), tallied(control), share, usual)
    assert ((found.values >= 0.0) & (found.values <= 1.0)).all()
    total = ((variant - usual) / share).sum() - ((control - usual) / (1.0 - share)).sum()
    mean = found.values @ found.counts / found.counts.sum()
    assert found.difference(mean) == pytest.approx(total / (len(variant) + len(control)), abs=1e-6)
    assert found.difference(found.reading(0.01)) == pytest.approx(0.01, abs=1e-6)


def test_a_good_guess_of_what_is_usual_makes_bets_sharper():
    random = np.random.default_rng(9)
    tallies = [tallied(random.beta(30, 20, 2_000)) for _ in range(2)]  # around .6
    widths = []
    for usual in (0.0, 0.6):
        bets = weighted(*tallies, 0.5, usual)
        low, high = bounds_of_mean(bets.values, bets.counts, 0.01)
        widths.append(bets.difference(high) - bets.difference(low))
    assert widths[1] < 0.3 * widths[0]


# --- Sample ratio ---


def test_sample_ratio_by_hand():
    """Two units in a variant with half of the traffic: 501/1001 instead of a half the second time, or .5065, .4935."""
    anything = 501.0 / 1_001.0 * 2.0
    slightly = (1.013**2 + 0.987**2) / 2.0
    found = log_sample_ratio(np.array([2.0, 0.0]), np.array([0.5, 0.5]))
    assert float(found) == pytest.approx(math.log((anything + slightly) / 2.0))


@pytest.mark.parametrize(
    ("counts", "shares", "expected"),
    [((4_100, 3_120), (0.5, 0.5), 57.511329030377965), ((1_410, 1_112, 11_570), (0.1, 0.1, 0.8), 32.38948129648634)],
)
def test_sample_ratio_is_half_the_bayes_factor_of_another_program(counts, shares, expected):
    """Numbers of ssrm-test 0.1.5, `sequential_bayes_factors` with a concentration of 1,000: the other half is small."""
    found = float(log_sample_ratio(np.array(counts, float), np.array(shares)))
    assert found == pytest.approx(expected - math.log(2.0), abs=0.01)


@given(st.integers(1, 6), st.integers(0, 6), st.floats(0.05, 0.95))
def test_evidence_of_the_sample_ratio_is_1_in_the_mean(units, already, share):
    """Over every way that further units can fall, weighted by the plan: what makes it a fair bet."""
    start = np.array([float(already), 2.0])
    ways = [
        math.comb(units, here) * share**here * (1.0 - share) ** (units - here)
        * math.exp(log_sample_ratio(start + np.array([here, units - here]), np.array([share, 1.0 - share])))
        for here in range(units + 1)
    ]  # fmt: skip
    assert sum(ways) == pytest.approx(math.exp(log_sample_ratio(start, np.array([share, 1.0 - share]))), rel=1e-9)


@pytest.mark.parametrize("share", [1e-4, 1e-3, 0.01, 0.9999])
def test_evidence_of_tiny_shares_is_a_number_and_still_fair(share):
    shares = np.array([share, 1.0 - share])
    each = np.exp(log_sample_ratio(np.array([[1.0, 0.0], [0.0, 1.0]]), shares))
    assert each @ shares == pytest.approx(1.0)
    assert float(log_sample_ratio(np.array([1_000.0, 1_000.0]), shares)) > ALARM


def alarmed(share, runs, seed, alarm=ALARM):
    """Which share of runs of 100,000 units, half of them planned in the variant, alarms at a look each 100 units."""
    random, n = np.random.default_rng(seed), np.arange(100.0, 100_001.0, 100.0)
    alarms = 0
    for _ in range(runs // 100):
        here = np.cumsum(random.binomial(100, share, (100, len(n))), axis=1)
        each = log_sample_ratio(np.stack([here, n - here], axis=-1), np.array([0.5, 0.5]))
        alarms += int((each.max(axis=1) > alarm).sum())
    return alarms / runs


def test_the_sample_ratio_raises_no_alarm_without_cause():
    """By Ville at most .1 %. Measured .04 to .09 %, so that 10 of 10,000 come with a chance of about 1 in 10."""
    assert alarmed(0.5, 10_000, 11) < 0.001


def test_the_sample_ratio_finds_51_to_49_in_100_000_units():
    """Measured 99.3 to 99.5 %: below 99 % of 10,000 comes with a chance below 1 in 1,000. Days have their share."""
    assert alarmed(0.51, 10_000, 12, ALARM - math.log(1.0 - DAYS_WEIGHT)) >= 0.99
