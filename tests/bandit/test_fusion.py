"""Labels and readings together, against a joint normal that is conditioned directly."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bandit.channels import (
    BIAS_VARIANCE,
    ENOUGH_FOR_BIAS,
    Calibration,
    Pairs,
    bias_covariance,
    reading_rows,
)
from bandit.fusion import fuse
from bandit.pooling import Spread, Sums, covariance, difficulty_covariance, noise, pool, pool_best, usable
from bandit.posteriors import MICRO
from bandit.vocabulary import TASK_TYPES

N_TASKS, N_TIERS = len(TASK_TYPES), 3
CELLS = N_TASKS * N_TIERS
TASKS = np.repeat(np.arange(N_TASKS), N_TIERS)
SPREAD = Spread()
FEW = Calibration()  # nobody said yet what readings are worth


def coins(n, quality):
    """Sums of n coin flips a cell, as they are expected."""
    s = n * quality
    return Sums(n, s, s.copy())


def flips(rng, n, quality):
    s = rng.binomial(n.astype(int), quality).astype(float)
    return Sums(n.astype(float), s, s.copy())


def calibrated(j, bad, calls):
    """A calibration of so many labelled calls, half of them good, on which readings had these rates."""
    half = calls / 2
    sums = (calls, half, half * (2 * bad + j), half, half * (bad + j))
    return Calibration({"Open QA": Pairs(*(round(value * MICRO) for value in sums))})


def some(seed=0, arms=3, labelled=0.3, read=0.7):
    rng = np.random.default_rng(seed)
    shape = (arms, N_TASKS, N_TIERS)
    quality = np.clip(rng.normal(0.7, 0.1, shape), 0.05, 0.95)
    labels = flips(rng, rng.integers(1, 12, shape) * (rng.random(shape) < labelled), quality)
    readings = flips(rng, rng.integers(1, 60, shape) * (rng.random(shape) < read), 0.5 + 0.3 * quality)
    return labels, readings, np.full(shape, 0.65), quality


def fused(labels, readings, prior, calibration=FEW, factor=None, spread=SPREAD):
    factor = np.ones(len(prior)) if factor is None else factor
    before = pool(labels, prior, spread, factor)
    return before, fuse(labels, readings, calibration, prior, before, factor)


def measured(readings, before, calibration):
    """What the readings say of each arm, as in `bandit.channels`; values are qualities here."""
    readings = usable(readings)
    n, s = (part.reshape(len(part), -1) for part in readings[:2])
    typical = s.sum() / n.sum()
    accuracies = [calibration.accuracy(task, typical) for task in TASK_TYPES for _ in range(N_TIERS)]
    base = before.base.reshape(n.shape)
    rows = [reading_rows(s[arm] / np.maximum(n[arm], 1e-9), n[arm], accuracies, base[arm]) for arm in range(len(n))]
    return np.array([row.value for row in rows]) + base, np.array([row.precision for row in rows])


def test_without_readings_nothing_changes():
    labels, _, prior, _ = some()
    nothing = Sums(*(np.zeros(prior.shape) for _ in range(3)))
    before, after = fused(labels, nothing, prior)
    assert after is before


@pytest.mark.parametrize("factor", [None, np.array([1.0, 1.5, 0.5])])
def test_it_is_the_conditional_of_one_joint_normal(factor):
    """Difficulty, deviations and biases as one vector, conditioned on everything that was measured."""
    labels, readings, prior, _ = some(1)
    before, after = fused(labels, readings, prior, factor=factor)
    factor, arms = np.ones(3) if factor is None else factor, len(prior)
    said, precision = measured(readings, before, FEW)

    size = CELLS * (1 + 2 * arms)
    joint = np.zeros((size, size))
    place = [slice(CELLS * part, CELLS * (part + 1)) for part in range(1 + 2 * arms)]
    joint[place[0], place[0]] = difficulty_covariance(N_TASKS, N_TIERS)
    for arm in range(arms):
        joint[place[1 + arm], place[1 + arm]] = factor[arm] * covariance(SPREAD, N_TASKS, N_TIERS)
        joint[place[1 + arms + arm], place[1 + arms + arm]] = bias_covariance(TASKS)
    design, values, noises = [], [], []
    label_n = labels.n.reshape(arms, -1)
    label_noise = noise(usable(labels))
    for arm in range(arms):
        for cell in range(CELLS):
            for is_reading in (False, True):
                if not (precision if is_reading else label_n)[arm, cell] > 0:
                    continue
                row = np.zeros(size)
                row[[cell, CELLS * (1 + arm) + cell]] = 1.0
                row[CELLS * (1 + arms + arm) + cell] = float(is_reading)
                design.append(row)
                mean = said[arm, cell] if is_reading else labels.s.reshape(arms, -1)[arm, cell] / label_n[arm, cell]
                values.append(mean - prior.reshape(arms, -1)[arm, cell])
                noises.append(1 / precision[arm, cell] if is_reading else label_noise[arm, cell] / label_n[arm, cell])
    design, values = np.array(design), np.array(values)
    gain = joint @ design.T @ np.linalg.inv(design @ joint @ design.T + np.diag(noises))
    answer = gain @ values
    for arm in range(arms):
        mean = prior[arm].ravel() + answer[place[0]] + answer[place[1 + arm]]
        assert after.mean[arm].ravel() == pytest.approx(mean, abs=1e-8)
    # What is uncertain is told of an arm beside the others: with the difficulty known.
    joint[place[0], place[0]] = 0.0
    gain = joint @ design.T @ np.linalg.inv(design @ joint @ design.T + np.diag(noises))
    left = np.diagonal(joint - gain @ design @ joint)
    for arm in range(arms):
        assert after.sd[arm].ravel() == pytest.approx(np.sqrt(left[place[1 + arm]]), rel=1e-6)


@pytest.mark.parametrize("n_labels", [0, 5, 50, 500])
@pytest.mark.parametrize("n_readings", [100, 1_000_000])
def test_readings_are_worth_so_many_labels_at_most_however_many_they_are(n_labels, n_readings):
    """One cell of an arm, rated as expected and accused by every reading: it moves as by so few labels at most."""
    quality, shape, cell = 0.7, (1, N_TASKS, N_TIERS), (0, 4, 1)
    n, reads = np.zeros(shape), np.zeros(shape)
    n[cell], reads[cell] = n_labels, n_readings
    labels, readings = coins(n, quality), coins(reads, 0.1)
    calibration = calibrated(0.3, 0.5, 450.0)
    before, after = fused(labels, readings, np.full(shape, quality), calibration)
    moved = before.mean[cell] - after.mean[cell]
    gap = before.mean[cell] - measured(readings, before, calibration)[0][0, 4 * N_TIERS + 1]
    assert gap > 1.0  # far below what any quality can be
    cap = 1 / BIAS_VARIANCE  # as a precision
    variance = (covariance(SPREAD, N_TASKS, N_TIERS) + difficulty_covariance(N_TASKS, N_TIERS))[0, 0]
    known = 1 / variance + n_labels / noise(labels)[0, 4 * N_TIERS + 1]
    assert 0 < moved <= gap * cap / (cap + known)
    assert moved < 0.02 or n_labels < 500


def test_a_heuristic_against_one_arm_moves_it_as_little_when_its_bias_is_learned():
    shape = (3, N_TASKS, N_TIERS)
    labels = coins(np.full(shape, 10.0), 0.7)
    said = np.full(shape, 0.71)
    said[0] -= 0.3  # of the arm's readings only: labels say that it is as good as the others
    calibration = calibrated(0.3, 0.5, 2 * ENOUGH_FOR_BIAS)
    before, after = fused(labels, coins(np.full(shape, 1_000.0), said), np.full(shape, 0.7), calibration)
    assert abs(after.mean - before.mean).max() < 0.05


def test_readings_without_bias_lead_towards_the_truth():
    """Twelve worlds with two labels on every sixth cell: the error falls in each, by a quarter in the mean."""
    ratios = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        shape = (6, N_TASKS, N_TIERS)
        arm = rng.normal(0.0, 0.06, (6, 1, 1))
        quality = np.clip(0.7 + arm + rng.normal(0.0, 0.02, shape), 0.05, 0.95)
        labels = flips(rng, 2 * (rng.random(shape) < 1 / 6), quality)
        readings = flips(rng, np.full(shape, 100), 0.2 + 0.6 * quality)
        before, after = fused(labels, readings, np.full(shape, 0.7), calibrated(0.6, 0.2, 5_000.0))
        wrong = [np.sqrt(((found.mean - quality) ** 2).mean()) for found in (before, after)]
        ratios.append(wrong[1] / wrong[0])
    assert max(ratios) < 1.0
    assert np.mean(ratios) < 0.75


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.0, 1.0), st.floats(0.0, 5_000.0))
def test_nothing_is_known_less_surely_after_readings(seed, read, calls):
    labels, readings, prior, _ = some(seed, arms=2, read=read)
    before = pool_best(labels, prior, SPREAD)
    after = fuse(labels, readings, calibrated(0.4, 0.4, calls), prior, before, np.ones(2))
    assert (after.sd <= before.sd * (1 + 1e-9)).all()


poison = st.sampled_from([0.0, -1.0, 1e-12, 1e12, 1e300, np.nan, np.inf, -np.inf])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 2), st.integers(0, 107), poison), min_size=1, max_size=30))
@pytest.mark.filterwarnings("error")
def test_poisoned_sums_count_as_nothing(places):
    labels, readings, prior, _ = some(3)
    for which, part, place, value in places:
        (labels if which else readings)[part].reshape(-1)[place] = value
    before = pool_best(labels, prior, SPREAD)
    after = fuse(labels, readings, FEW, prior, before, np.ones(3))
    assert np.isfinite(after.mean).all()
    assert np.isfinite(after.sd).all()
    assert (after.sd > 0).all()


def test_labels_lift_the_cap():
    """Labels on one task type show the bias, so that readings inform about a task type without labels."""
    shape = (1, N_TASKS, N_TIERS)
    n = np.zeros(shape)
    n[:, 0] = 20_000.0
    prior, readings = np.full(shape, 0.7), coins(np.full(shape, 20_000.0), 0.8)
    calibration = calibrated(0.3, 0.5, 450.0)
    nothing = coins(np.zeros(shape), 0.7)
    _, blind = fused(nothing, readings, prior, calibration)
    without, found = fused(coins(n, 0.7), readings, prior, calibration)
    assert blind.mean[0, -1] == pytest.approx(blind.mean[0, 1])
    assert (abs(found.mean[0, -1] - 0.7) < 0.65 * abs(blind.mean[0, -1] - 0.7)).all()
    assert (found.sd[0, -1] < without.sd[0, -1]).all()


def replayed(seed, flip, lead, j):
    """Mean quality of the arms taken in each cell by labels alone, and by labels and readings: 13 arms, 5 % labels.

    The arm that is best is better than the others by about `lead`; `flip` of its replies that would read well are
    wrongly accused. 20,000 calls fall unevenly on the arms.
    """
    rng = np.random.default_rng(seed)
    shape = (13, N_TASKS, N_TIERS)
    spread = Spread(arm=0.006, task=0.008, tier=0.002, cell=0.002)
    own = covariance(spread, N_TASKS, N_TIERS)
    base = np.clip(0.65 + rng.normal(0, 0.1, CELLS), 0.3, 0.85)
    quality = base + rng.normal(size=(13, CELLS)) @ np.linalg.cholesky(own).T
    quality[0] += lead
    quality = quality.clip(0.02, 0.98)
    share = rng.dirichlet(np.full(CELLS, 2.0))
    calls = rng.poisson(20_000 * rng.dirichlet(np.ones(13))[:, None] * share)
    keep = np.ones((13, 1))
    keep[np.argmax(quality @ share)] = 1.0 - flip
    good = rng.binomial(calls, quality)
    label_good, label_bad = rng.binomial(good, 0.05), rng.binomial(calls - good, 0.05)
    both_good, both_bad = rng.binomial(label_good, 0.8 * keep), rng.binomial(label_bad, (0.8 - j) * keep)
    high = both_good + rng.binomial(good - label_good, 0.8 * keep)
    high += both_bad + rng.binomial(calls - good - label_bad, (0.8 - j) * keep)

    def of(part, task):
        return int(part[:, task == TASKS].sum()) * MICRO

    pairs = {}
    for number, name in enumerate(TASK_TYPES):
        y, h = of(label_good, number), of(both_good + both_bad, number)
        pairs[name] = Pairs(y + of(label_bad, number), y, h, y, of(both_good, number))
    labels = Sums(*(part.reshape(shape).astype(float) for part in (label_good + label_bad, label_good, label_good)))
    readings = Sums(*(part.reshape(shape).astype(float) for part in (calls, high, high)))
    prior = np.broadcast_to(base.reshape(shape[1:]), shape)
    before = pool(labels, prior, spread)
    after = fuse(labels, readings, Calibration(pairs), prior, before, np.ones(13))

    def taken(found):
        return float(share @ quality[np.argmax(found.mean.reshape(13, CELLS), axis=0), np.arange(CELLS)])

    return taken(before), taken(after)


@pytest.mark.parametrize(("lead", "j"), [(0.0, 0.22), (0.0, 0.47), (0.1, 0.22), (0.1, 0.47)])
def test_a_heuristic_that_accuses_the_best_arm_wrongly_costs_little(lead, j):
    """At most .005 of mean quality. It changes by -.001 to +.015 here, with a standard error of .003 over 60 seeds.

    With other seeds the worst of the four would fail about once in thirty.
    """
    results = np.array([replayed(seed, 0.2, lead, j) for seed in range(60)])
    assert (results[:, 0] - results[:, 1]).mean() <= 0.005
