"""Pooling gives what the mixed model says, whatever is in the cells."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bandit.pooling import Spread, Sums, covariance, difficulty_covariance, noise, pool, pool_best, usable

SHAPE = (3, 4, 3)  # arms, tasks, tiers
SPREAD = Spread(arm=0.006, task=0.008, tier=0.002, cell=0.002)


def nothing(shape=SHAPE):
    return Sums(np.zeros(shape), np.zeros(shape), np.zeros(shape))


def coins(seed, quality, calls):
    """Sums of `calls` coins of every arm in every cell."""
    n = np.broadcast_to(np.asarray(calls, dtype=float), quality.shape)
    good = np.random.default_rng(seed).binomial(n.astype(int), quality).astype(float)
    return Sums(n.copy(), good, good)


def test_without_labels_the_prior_is_returned():
    prior = np.random.default_rng(0).uniform(0.2, 0.9, SHAPE)
    found = pool(nothing(), prior, SPREAD)
    assert found.mean == pytest.approx(prior)
    assert found.sd == pytest.approx(np.full(SHAPE, (0.006 + 0.008 + 0.002 + 0.002) ** 0.5))
    assert pool_best(nothing(), prior, SPREAD).mean == pytest.approx(prior)


def test_covariance_by_hand():
    found = covariance(Spread(arm=1.0, task=10.0, tier=100.0, cell=1000.0), 2, 2)  # cells 00 01 10 11
    assert found.tolist() == [
        [1111.0, 11.0, 101.0, 1.0], [11.0, 1111.0, 1.0, 101.0], [101.0, 1.0, 1111.0, 11.0], [1.0, 101.0, 11.0, 1111.0]
    ]  # fmt: skip


def test_it_is_the_posterior_of_the_whole_gaussian_model():
    """Against conditioning all arms' deviations and the shared difficulty at once, in one dense solve."""
    rng = np.random.default_rng(1)
    sums = coins(2, rng.uniform(0.1, 0.9, SHAPE), rng.integers(0, 9, SHAPE))
    prior = rng.uniform(0.4, 0.8, SHAPE)
    arms, cells = SHAPE[0], SHAPE[1] * SHAPE[2]
    own, shared = covariance(SPREAD, *SHAPE[1:]), difficulty_covariance(*SHAPE[1:])
    whole = np.kron(np.eye(arms), own) + np.kron(np.ones((arms, arms)), shared)
    seen = sums.n.ravel() > 0
    labels = np.diag(noise(sums).ravel()[seen] / sums.n.ravel()[seen])
    y = (sums.s / np.maximum(sums.n, 1)).ravel()[seen] - prior.ravel()[seen]
    gain = whole[:, seen] @ np.linalg.inv(whole[np.ix_(seen, seen)] + labels)
    mean = (prior.ravel() + gain @ y).reshape(SHAPE)
    assert pool(sums, prior, SPREAD).mean == pytest.approx(mean, abs=1e-9)

    # Given the difficulty, the arms are independent, and each one's deviation has the variance that is returned.
    for arm in range(arms):
        n = sums.n[arm].ravel()
        some = n > 0
        block = own[np.ix_(some, some)] + np.diag(noise(sums)[arm][some] / n[some])
        variance = np.diag(own - own[:, some] @ np.linalg.solve(block, own[some]))
        assert pool(sums, prior, SPREAD).sd[arm].ravel() ** 2 == pytest.approx(variance, abs=1e-9)
    assert cells == 12


def test_the_evidence_is_the_likelihood_of_the_labels_difficulty_integrated_out():
    """Differences of it between two spreads are those of the dense normal density of all labelled cells' means."""
    rng = np.random.default_rng(12)
    sums, prior = coins(13, rng.uniform(0.1, 0.9, SHAPE), rng.integers(0, 9, SHAPE)), rng.uniform(0.4, 0.8, SHAPE)
    seen = sums.n.ravel() > 0
    labels = np.diag(noise(sums).ravel()[seen] / sums.n.ravel()[seen])
    y = (sums.s / np.maximum(sums.n, 1)).ravel()[seen] - prior.ravel()[seen]

    def density(spread):
        own, shared = covariance(spread, *SHAPE[1:]), difficulty_covariance(*SHAPE[1:])
        whole = (np.kron(np.eye(3), own) + np.kron(np.ones((3, 3)), shared))[np.ix_(seen, seen)] + labels
        return -0.5 * (np.linalg.slogdet(whole)[1] + y @ np.linalg.solve(whole, y))

    wide = SPREAD.scaled(8.0, 3.0)
    found = pool(sums, prior, wide).evidence - pool(sums, prior, SPREAD).evidence
    assert found == pytest.approx(density(wide) - density(SPREAD), abs=1e-8)


def test_labels_on_one_task_tell_of_the_others_less():
    calls = np.zeros(SHAPE)
    calls[0, 0] = 40
    found = pool(Sums(calls, calls, calls), np.full(SHAPE, 0.5), SPREAD)
    rise = found.mean[0] - found.mean[1]
    assert (rise[0] > rise[1]).all()
    assert (rise[1] > 0.01).all()
    assert (found.sd[0, 0] < found.sd[0, 1]).all()
    assert (found.sd[0, 1] < found.sd[1, 1]).all()


def test_an_arm_that_gets_the_hard_prompts_does_not_look_bad():
    """Two equal arms, one on hard prompts mostly: raw means differ by .4, pooled ones by little."""
    quality = np.broadcast_to(np.array([0.9, 0.4]), (2, 1, 2))
    sums = coins(3, quality, np.array([[[300, 20]], [[20, 300]]]))
    raw = sums.s.sum(axis=(1, 2)) / sums.n.sum(axis=(1, 2))
    assert raw[0] - raw[1] > 0.35
    found = pool(sums, np.full((2, 1, 2), 0.6), SPREAD)
    assert np.abs(found.mean[0] - found.mean[1]).max() < 0.08


def test_scores_that_agree_count_for_more_than_coins():
    n = np.full((2, 2, 1), 50.0)
    s = n * 0.6
    steady = noise(Sums(n, s, n * (0.36 + 0.01)))
    assert noise(Sums(n, s, s)) == pytest.approx(0.24 * np.ones((2, 2)), rel=0.05)
    assert steady == pytest.approx(0.25 * 0.24 * np.ones((2, 2)), rel=0.05)  # four labels each, at most


def test_a_reversed_prior_is_given_up():
    """Means .8, .6, .4 expected the other way round; 300 labels each. Chance of failure below 1e-6."""
    quality = np.broadcast_to(np.array([0.8, 0.6, 0.4])[:, None, None], SHAPE)
    prior = np.broadcast_to(np.array([0.4, 0.6, 0.8])[:, None, None], SHAPE)
    sums = coins(4, quality, 25)
    kept, found = (method(sums, prior, Spread()).mean.mean(axis=(1, 2)) for method in (pool, pool_best))
    assert (np.diff(found) < -0.1).all()
    assert np.abs(found - quality[:, 0, 0]).sum() < np.abs(kept - quality[:, 0, 0]).sum()


def test_tasks_that_matter_are_found_and_others_are_not():
    """24 arms and tasks, 40 labels a cell. Arms differ by task with sd .15, or not at all."""
    shape = (6, 6, 1)
    rng = np.random.default_rng(5)
    arm = np.linspace(0.4, 0.8, 6)[:, None, None]
    prior = np.full(shape, 0.6)
    apart = pool_best(coins(6, np.clip(arm + rng.normal(0, 0.15, shape), 0.05, 0.95), 40), prior, Spread())
    alike = pool_best(coins(7, np.broadcast_to(arm, shape), 40), prior, Spread())
    assert apart.sd.mean() > 1.5 * alike.sd.mean()


def test_arms_in_another_order_give_the_same():
    rng = np.random.default_rng(8)
    sums, prior = coins(9, rng.uniform(0.1, 0.9, SHAPE), rng.integers(0, 20, SHAPE)), rng.uniform(0.3, 0.8, SHAPE)
    order = [2, 0, 1]
    turned = pool_best(Sums(*(part[order] for part in sums)), prior[order], SPREAD)
    assert turned.mean == pytest.approx(pool_best(sums, prior, SPREAD).mean[order])


POISON = st.sampled_from([0.0, 1.0, 7.5, 1e12, -3.0, float("inf"), float("-inf"), float("nan")])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(POISON, POISON, POISON), min_size=12, max_size=12))
def test_whatever_is_in_the_cells_answers_are_finite(cells):
    sums = Sums(*(np.array(part).reshape(2, 3, 2) for part in zip(*cells, strict=True)))
    found = pool_best(sums, np.full((2, 3, 2), 0.5), Spread())
    assert np.isfinite(found.mean).all()
    assert np.isfinite(found.sd).all()
    assert (found.sd > 0).all()
    assert np.abs(found.mean - 0.5).max() < 1.5


def test_a_poisoned_cell_counts_as_never_measured():
    sums = coins(10, np.full(SHAPE, 0.5), 10)
    broken = Sums(*(part.copy() for part in sums))
    broken.n[0, 0, 0], broken.s[1, 1, 1] = np.nan, np.inf
    clean = usable(broken)
    assert clean.n[0, 0, 0] == clean.n[1, 1, 1] == 0
    assert clean.n.sum() == sums.n.sum() - 20
