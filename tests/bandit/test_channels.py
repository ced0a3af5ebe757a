"""Weak signals: what they say by hand, that they cannot outvote people, and what a lying heuristic costs."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bandit.channels import (
    BIAS_VARIANCE,
    Accuracy,
    Calibration,
    MonotoneWeights,
    Pairs,
    Rated,
    Rows,
    Unrated,
    bias_covariance,
    bias_variances,
    influence,
    monotone_weights,
    pairs_of,
    ppi,
    rate_alarms,
    reading_rows,
)
from bandit.posteriors import MICRO

POISON = (0.0, -1.0, 1e12, -1e12, math.inf, -math.inf, math.nan)
TASKS = np.repeat(np.arange(4), 3)
N_CELLS = len(TASKS)
PRIOR_COV = 0.006 + 0.008 * (TASKS[:, None] == TASKS) + 0.002 * np.eye(N_CELLS)

calls = st.tuples(st.sampled_from(["Open QA", "Rewrite"]), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
calibrations = st.lists(calls, max_size=20).map(
    lambda log: sum_of([Calibration({task: pairs_of(y, h, w)}) for task, y, h, w in log])
)


def sum_of(parts):
    total = Calibration()
    for part in parts:
        total = total.plus(part)
    return total


def counted(good_high, good_low, bad_high, bad_low):
    """Calibration sums of so many calls with labels and readings of 0 or 1."""
    n, y, h = good_high + good_low + bad_high + bad_low, good_high + good_low, good_high + bad_high
    return Pairs(*(value * MICRO for value in (n, y, h, y, good_high)))


def rows(seed, shape=(N_CELLS,), precision=50.0):
    rng = np.random.default_rng(seed)
    return Rows(rng.normal(0, 0.2, shape), rng.exponential(precision, shape))


def nothing(shape=(N_CELLS,)):
    return Rows(np.zeros(shape), np.zeros(shape))


# Calibration


def test_one_call_in_sums_by_hand():
    assert pairs_of(0.5, 0.8, 2.0) == Pairs(2_000_000, 1_000_000, 1_600_000, 500_000, 800_000)
    assert pairs_of(7.0, -1.0) == pairs_of(1.0, 0.0)


@given(calibrations, calibrations, calibrations)
def test_calibrations_add_in_any_order_and_grouping(a, b, c):
    assert a.plus(b).plus(c) == c.plus(b.plus(a))
    assert a.plus(b).labelled() == pytest.approx(a.labelled() + b.labelled())


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_corrected_rating_leaves_no_trace(first, second):
    corrected = pairs_of(first, 0.3).minus(pairs_of(first, 0.3)).plus(pairs_of(second, 0.3))
    assert corrected == pairs_of(second, 0.3)


def test_without_labels_the_prior_is_cautious_and_agrees_with_the_typical_reading():
    """A reply of quality .7 gets the typical reading: .55 + .3 * .7 = .76."""
    assert Calibration().accuracy("Open QA") == pytest.approx(Accuracy(0.85, 0.55))
    assert Calibration().accuracy("Open QA", typical=0.5) == pytest.approx(Accuracy(0.59, 0.29))
    assert Calibration().accuracy("Open QA").j == pytest.approx(0.3)


def test_the_rates_are_beta_smoothed_towards_everybodys_from_200_calls_on():
    """Everybody: 120 good of which 90 read high, 100 bad of which 20 do; prior 20 at .85 and 20 at .55."""
    few = Calibration({"Open QA": counted(90, 30, 20, 80)})
    everybody = few.accuracy("Rewrite")
    assert everybody == pytest.approx(Accuracy((90 + 17) / 140, (20 + 11) / 120))
    own = few.accuracy("Open QA")  # 220 calls of its own: smoothed by 50 good and 50 bad at everybody's rates
    assert own.sensitivity == pytest.approx((90 + 50 * everybody.sensitivity) / 170)
    assert own.false_positive_rate == pytest.approx((20 + 50 * everybody.false_positive_rate) / 150)
    less = Calibration({"Open QA": counted(80, 30, 20, 69)})  # 199 calls
    assert less.accuracy("Open QA") == less.accuracy("Rewrite")


def test_labels_between_0_and_1_are_fitted_by_a_line():
    """Readings of .2 + .6 y on scores around .7: plain ratios would say J = .1, the line says .6."""
    rng = np.random.default_rng(1)
    scores = rng.normal(0.7, 0.18, 20_000).clip(0, 1)
    found = sum_of([Calibration({"Open QA": pairs_of(y, 0.2 + 0.6 * y)}) for y in scores.tolist()])
    assert found.accuracy("Open QA") == pytest.approx(Accuracy(0.8, 0.2), abs=0.02)


@given(st.tuples(*[st.integers(-(10**18), 10**18)] * 5), st.sampled_from(POISON))
def test_a_poisoned_calibration_still_gives_rates(sums, typical):
    found = Calibration({"Open QA": Pairs(*sums)}).accuracy("Open QA", typical)
    assert all(0.0 <= rate <= 1.0 for rate in found)
    assert pairs_of(typical, typical, typical) in {Pairs(), pairs_of(0, 0, 0), pairs_of(1, 1, 100)}


# Readings as measurements


def test_a_reading_row_by_hand():
    """Readings of .6 between .3 and .8 put quality at .6; the variance of one is .6 * .4 where it is as expected."""
    value, precision = reading_rows(np.array([0.6]), np.array([100.0]), [Accuracy(0.8, 0.3)], np.array([0.6]))
    assert value == pytest.approx([0.0])
    assert precision == pytest.approx([100 * 0.25 / 0.24])
    value, precision = reading_rows(np.array([0.5]), np.array([12.0]), [Accuracy(0.8, 0.3)], np.array([0.6]))
    smooth = (12 * 0.5 + 4 * 0.6) / 16
    assert (value, precision) == (pytest.approx([-0.2]), pytest.approx([12 * 0.25 / (smooth * (1 - smooth))]))


def test_one_reading_is_worth_the_share_of_a_label_that_the_formula_says():
    """J^2 p(1-p) / (h(1-h)) = .28 labels for J = .5 at p = .7, where h = .65."""
    _, precision = reading_rows(np.array([0.65]), np.array([1.0]), [Accuracy(0.8, 0.3)], np.array([0.7]))
    assert precision[0] * 0.7 * 0.3 == pytest.approx(0.25 * 0.21 / 0.2275)


def test_one_lucky_reading_is_not_certain_and_a_constant_one_has_a_least_variance():
    accuracy = Accuracy(1.0, 0.5)
    _, one = reading_rows(np.array([1.0]), np.array([1.0]), [accuracy], np.array([0.5]))
    assert one[0] == pytest.approx(0.25 / (0.8 * 0.2))
    _, many = reading_rows(np.array([1.0]), np.array([1e6]), [accuracy], np.array([0.5]))
    assert many[0] == pytest.approx(1e6 * 0.25 / 0.05)


@pytest.mark.parametrize("accuracy", [(0.6, 0.6), (0.64, 0.6), (0.3, 0.7), (math.nan, 0.5)])
def test_a_heuristic_that_cannot_tell_says_nothing(accuracy):
    found = reading_rows(np.array([0.9]), np.array([1e9]), [Accuracy(*accuracy)], np.array([0.7]))
    assert (found.value, found.precision) == ([0.0], [0.0])


def test_poisoned_readings_are_ignored_or_clipped():
    mean, count, base = (array.ravel() for array in np.meshgrid(POISON, POISON, POISON))
    value, precision = reading_rows(mean, count, [Accuracy(0.8, 0.3)] * len(mean), base)
    assert np.isfinite(value).all()
    assert np.isfinite(precision).all()
    assert not precision[~np.isfinite(mean) | ~np.isfinite(base) | ~(count > 0)].any()


# Bias


def test_the_bias_has_a_common_part_and_one_per_task_type():
    found = bias_covariance(["a", "a", "b"], 0.04)
    assert found == pytest.approx(np.array([[0.05, 0.05, 0.04], [0.05, 0.05, 0.04], [0.04, 0.04, 0.05]]))
    per_arm = bias_covariance(["a", "a", "b"], np.array([0.04, 0.08]))
    assert per_arm == pytest.approx(np.stack([found, 2 * found]))


def biased_rows(seed, sd, n_arms=40, label=200.0, reading=2000.0):
    """Rows of arms whose readings have a bias of that standard deviation."""
    rng = np.random.default_rng(seed)
    quality = rng.normal(0, 0.1, (n_arms, N_CELLS))
    bias = sd * (rng.normal(size=(n_arms, 1)) + 0.5 * rng.normal(size=(n_arms, 4))[:, TASKS])
    return tuple(
        Rows(value + rng.normal(size=value.shape) / precision**0.5, np.full(value.shape, precision))
        for value, precision in ((quality, label), (quality + bias, reading))
    )


@pytest.mark.parametrize("sd", [0.02, 0.1, 0.3])
def test_the_bias_variance_is_learned(sd):
    """With 40 arms the estimate of a standard deviation has 11 % error: beyond a factor 2 is less than one in 1e6."""
    label, reading = biased_rows(3, sd)
    common = bias_variances(label, reading, TASKS, labelled=1e4).min() ** 0.5
    assert sd / 2 <= common <= 2 * sd


def test_with_few_labels_the_default_holds_for_arms_that_do_not_contradict_it():
    label, reading = biased_rows(4, 0.02)
    assert bias_variances(label, reading, TASKS, labelled=499.0) == pytest.approx(BIAS_VARIANCE)
    assert bias_variances(nothing((2, N_CELLS)), nothing((2, N_CELLS)), TASKS, 0.0) == pytest.approx(BIAS_VARIANCE)


def test_a_liar_among_honest_arms_is_doubted_alone():
    """A bias of .6 where the others have .02. An honest arm is doubted only if its bias is far in its own tail."""
    label, reading = biased_rows(5, 0.02, n_arms=13)
    reading.value[7] -= 0.6
    found = bias_variances(label, reading, TASKS, labelled=1e4)
    assert found[7] ** 0.5 >= 0.3
    assert (np.delete(found, 7) ** 0.5 <= 0.25).all()
    assert np.argmax(found) == 7


def test_an_arm_without_labels_gets_the_common_variance():
    label, reading = biased_rows(6, 0.02)
    label.precision[0] = 0.0
    found = bias_variances(label, reading, TASKS, labelled=1e4)
    assert found[0] == found.min()


@pytest.mark.parametrize("value", POISON)
@pytest.mark.parametrize("precision", POISON)
def test_poisoned_rows_give_a_bias_variance(value, precision):
    label, reading = biased_rows(7, 0.1, n_arms=3)
    label.value[0], label.precision[0], reading.value[1], reading.precision[1] = value, precision, value, precision
    assert (bias_variances(label, reading, TASKS, 1e4) > 0).all()


# One reading from many findings


def test_weights_without_calls_are_the_prior():
    found = monotone_weights(np.zeros((0, 2)), np.zeros(0), np.array([0.5, 2.0]))
    assert found == MonotoneWeights(1.0, (0.5, 2.0))
    assert found.reading(np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 0.5]])) == pytest.approx(
        [1 / (1 + math.exp(-logit)) for logit in (1.0, 0.5, -0.5)]
    )


def test_weights_learn_what_findings_say_but_never_that_one_speaks_for_a_reply():
    """The true effects are 2, 0 and -1. A standard error is about .03, so .2 is beyond six of them."""
    rng = np.random.default_rng(8)
    findings = rng.binomial(1, 0.4, (20_000, 3)).astype(float)
    y = rng.binomial(1, 1 / (1 + np.exp(-(0.5 - findings @ [2.0, 0.0, -1.0])))).astype(float)
    found = monotone_weights(findings, y, np.array([1.0, 1.0, 1.0]))
    assert found.effects[:2] == pytest.approx((2.0, 0.0), abs=0.2)
    assert found.effects[2] == 0.0
    again = monotone_weights(findings, y, np.array([1.0, 1.0, 1.0]))
    assert (again, again.version) == (found, found.version)
    assert MonotoneWeights(found.intercept, (1.0, *found.effects[1:])).version != found.version


def test_weights_minimise_the_penalised_likelihood():
    """One finding, 30 of 40 replies good without and 10 of 40 with: the gradient is 0 at the answer."""
    findings = np.repeat([0.0, 1.0], 40)[:, None]
    y = np.concatenate([np.repeat([1.0, 0.0], [30, 10]), np.repeat([1.0, 0.0], [10, 30])])
    found = monotone_weights(findings, y, np.array([0.5]), strength=3.0)
    (without, given), effect = found.reading(np.array([[0.0], [1.0]])), found.effects[0]
    assert 40 * (without + given) - 40 + (found.intercept - 1.0) == pytest.approx(0.0, abs=1e-3)
    assert -(40 * given - 10) + 3.0 * (effect - 0.5) == pytest.approx(0.0, abs=1e-3)


@settings(deadline=None)  # the first fit imports scipy.optimize
@given(st.lists(st.tuples(st.sampled_from([*POISON, 1.0]), st.sampled_from([*POISON, 1.0])), max_size=12))
def test_poisoned_findings_still_give_a_reading(numbers):
    table = np.array(numbers, dtype=float).reshape(-1, 2)
    found = monotone_weights(table[:, :1], table[:, 1], np.array([math.nan]))
    reading = found.reading(np.array(POISON)[:, None])
    assert ((reading > 0) & (reading < 1)).all()
    assert found.effects[0] >= 0


# Labels that are missing not at random


def test_a_label_rate_far_off_rings_and_one_within_the_margin_does_not():
    calls = np.full(4, 4000.0)
    assert rate_alarms(np.array([200, 200, 400, 200.0]), calls).tolist() == [False, False, True, False]
    assert rate_alarms(np.array([200, 60, 200, 200.0]), calls).tolist() == [False, True, False, False]
    assert not rate_alarms(np.array([200, 200, 235, 200.0]), calls).any()
    assert not rate_alarms(np.array([1, 1, 3, 1.0]), np.full(4, 20.0)).any()


def test_the_alarm_is_the_binomial_tail_by_hand():
    """Two arms of equal calls, all 20 labels on one: .5454...**20 = 5e-6 < .001/4; with 13 labels 4e-4 is above it."""
    assert rate_alarms(np.array([20.0, 0.0]), np.array([1e6, 1e6])).all()
    assert (1.2 / 2.2) ** 13 > 0.001 / 4 > (1.2 / 2.2) ** 14
    assert rate_alarms(np.array([13.0, 0.0]), np.array([1e6, 1e6])).tolist() == [False, False]
    assert rate_alarms(np.array([14.0, 0.0]), np.array([1e6, 1e6]))[0]


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.5])
def test_no_alarm_by_chance_more_than_once_in_1000_looks(rate):
    """2,000 looks at 13 arms, four of them at the edges of the margin: 7 or more alarms in less than one in 200."""
    rng = np.random.default_rng(10)
    calls = rng.integers(50, 5000, (2000, 13))
    labels = rng.binomial(calls, rate * np.array([1.1, 0.9, 1.1, 0.9] + [1.0] * 9))
    rang = sum(bool(rate_alarms(x.astype(float), n.astype(float)).any()) for x, n in zip(labels, calls, strict=True))
    assert rang <= 6


@given(st.lists(st.tuples(st.sampled_from([*POISON, 5.0]), st.sampled_from([*POISON, 100.0])), min_size=1, max_size=6))
def test_poisoned_rates_never_raise(numbers):
    labels, calls = np.array(numbers).T
    assert rate_alarms(labels, calls).shape == labels.shape


# Reports


def rated(y, h):
    y, h = np.asarray(y, dtype=float), np.asarray(h, dtype=float)
    return Rated(float(len(y)), *map(float, (y.sum(), h.sum(), y @ y, y @ h, h @ h)))


def unrated(h):
    h = np.asarray(h, dtype=float)
    return Unrated(float(len(h)), float(h.sum()), float(h @ h))


def test_ppi_by_hand():
    """Cov(y, h) = 1/3, Var(h) = 1/3, n/N = 1: weight 1/2, and the others read higher by 1/4."""
    found = ppi(rated([1, 1, 0, 0], [1, 1, 0, 0]), unrated([1, 1, 1, 0]))
    assert found.mean == pytest.approx(0.5 + 0.5 * 0.25)
    assert found.variance == pytest.approx((1 / 12) / 4 + 0.25 * 0.25 / 4)


@pytest.mark.parametrize(("sensitivity", "bad"), [(0.9, 0.2), (0.3, 0.8), (0.5, 0.5)])
def test_ppi_is_unbiased_with_an_honest_variance_for_any_heuristic(sensitivity, bad):
    """2,000 repetitions: the mean's standard error is .0009, that of the variance 3 %; four of them are given."""
    rng = np.random.default_rng(11)
    y = rng.binomial(1, 0.7, (2000, 150))
    h = rng.binomial(1, np.where(y, sensitivity, bad))
    unseen = rng.binomial(1, 0.7, (2000, 1500))
    others = rng.binomial(1, np.where(unseen, sensitivity, bad))
    found = np.array([ppi(rated(*parts[:2]), unrated(parts[2])) for parts in zip(y, h, others, strict=True)])
    assert found[:, 0].mean() == pytest.approx(0.7, abs=0.004)
    assert found[:, 0].var() == pytest.approx(found[:, 1].mean(), rel=0.15)
    assert found[:, 1].mean() <= 0.21 / 150 * 1.02


def test_ppi_without_readings_is_the_labels_mean_and_without_labels_knows_nothing():
    y = [1, 0, 1, 1]
    assert ppi(rated(y, np.ones(4)), unrated(np.ones(9))) == pytest.approx((0.75, 0.25 / 4))
    assert ppi(rated(y, y), Unrated()) == pytest.approx((0.75, 0.25 / 4))
    assert ppi(Rated(), unrated(np.ones(9))) == (0.5, math.inf)
    assert ppi(rated([1], [1]), unrated(np.ones(9))) == (1.0, math.inf)


@given(st.tuples(*[st.sampled_from(POISON)] * 6), st.tuples(*[st.sampled_from(POISON)] * 3))
def test_poisoned_sums_never_raise_and_give_no_negative_variance(labels, others):
    found = ppi(Rated(*labels), Unrated(*others))
    assert not found.variance < 0.0


# Abuse


def test_one_user_counts_five_labels_for_an_arm_and_day():
    assert sum(influence(said) for said in range(2000)) == 5.0
    assert [influence(said, 1.5) for said in range(3)] == [1.0, 0.5, 0.0]
    assert all(0.0 <= influence(said) <= 1.0 for said in POISON)


def test_2000_down_votes_of_one_user_move_1000_honest_labels_by_less_than_half_a_point():
    honest = (0.733 * 1000, 1000.0)
    counted_votes = sum(influence(said) for said in range(2000))
    assert honest[0] / honest[1] - honest[0] / (honest[1] + counted_votes) <= 0.005
