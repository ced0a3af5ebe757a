"""Our mathematics against other people's: Open Bandit Pipeline, MABWiser and bayesianbandits."""

import numpy as np
import pytest
from bayesianbandits import NormalRegressor
from mabwiser.mab import MAB, LearningPolicy
from obp.ope.estimators import (
    DoublyRobust,
    InverseProbabilityWeighting,
    SelfNormalizedInverseProbabilityWeighting,
)

from bandit.linear import Moments, regress
from bandit.offline import Logged, evaluate
from bandit.selection import probability_of_best


@pytest.fixture(scope="module")
def log():
    """2,000 decisions of a policy that explores, another policy, and a rough guess of the rewards."""
    rng = np.random.default_rng(3)
    n, k = 2_000, 4
    behaviour, target = rng.dirichlet(np.full(k, 3.0), n), rng.dirichlet(np.full(k, 2.0), n)
    behaviour = 0.8 * behaviour + 0.2 / k
    chosen = (rng.random((n, 1)) >= behaviour.cumsum(axis=1)).sum(axis=1).clip(0, k - 1)
    quality = np.array([0.2, 0.5, 0.7, 0.9])
    rewards = (rng.random(n) < quality[chosen]).astype(float)
    predicted = np.clip(quality + rng.normal(0, 0.1, (n, k)), 0, 1)
    logged = Logged(
        arms=tuple("abcd"), chosen=chosen, probabilities=behaviour, rewards=rewards, predicted=predicted
    )  # fmt: skip
    return logged, target


@pytest.mark.parametrize(
    ("method", "theirs"),
    [
        ("ips", InverseProbabilityWeighting()),
        ("snips", SelfNormalizedInverseProbabilityWeighting()),
        ("dr", DoublyRobust()),
    ],
)
def test_off_policy_estimates_are_those_of_open_bandit_pipeline(log, method, theirs):
    logged, target = log
    propensities = logged.probabilities[np.arange(len(logged.chosen)), logged.chosen]
    said = {
        "reward": logged.rewards, "action": logged.chosen, "pscore": propensities, "action_dist": target[:, :, None],
        "position": np.zeros(len(logged.chosen), dtype=int),
    }  # fmt: skip
    if method == "dr":
        said["estimated_rewards_by_reg_model"] = logged.predicted[:, :, None]
    assert evaluate(logged, target, method).value == pytest.approx(theirs.estimate_policy_value(**said), abs=1e-9)


def test_the_chance_of_being_best_is_how_often_mabwiser_takes_an_arm():
    """20,000 draws: a share is off by .015 with a chance below 1e-4."""
    rng = np.random.default_rng(4)
    arms, quality = ["a", "b", "c"], [0.55, 0.6, 0.65]
    decisions = [arms[number % 3] for number in range(90)]
    rewards = [int(rng.random() < quality[number % 3]) for number in range(90)]
    bandit = MAB(arms, LearningPolicy.ThompsonSampling(), seed=4)
    bandit.fit(decisions, rewards)
    taken = np.array([arms.index(bandit.predict()) for _ in range(20_000)])
    won = np.array([sum(rewards[index::3]) for index in range(3)], dtype=float)
    expected = probability_of_best(1.0 + won, 1.0 + 30.0 - won)
    assert np.bincount(taken, minlength=3) / 20_000 == pytest.approx(expected, abs=0.015)


def test_a_regression_is_that_of_bayesianbandits():
    rng = np.random.default_rng(5)
    x = rng.normal(size=(60, 3))
    y = x @ np.array([0.5, -0.2, 0.1]) + rng.normal(0, 0.4, 60)
    noise, prior = 0.16, 0.5
    theirs = NormalRegressor(alpha=1 / prior, beta=1 / noise)
    theirs.fit(x, y)
    sums = Moments((x.T @ x / noise)[None], (x.T @ y / noise)[None], float(y @ y / noise))
    found = regress(sums, np.full((1, 3), prior), 0.0)
    assert found.mean[0] == pytest.approx(theirs.coef_, abs=1e-6)
    upper = np.triu(theirs.cov_inv_)  # of a symmetric matrix
    precision = upper + np.triu(upper, 1).T
    assert found.covariance[0] == pytest.approx(np.linalg.inv(precision), abs=1e-6)
