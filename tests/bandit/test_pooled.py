"""Chances of arms from pooled qualities."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from bandit.pooled import Exploration, chances
from bandit.pooling import Pooled
from bandit.selection import probability_of_best_normal


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
