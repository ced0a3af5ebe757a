"""Who rates so unlike others that taste cannot explain it: by hand, on poison, and how often honest people look so."""

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bandit.raters import (
    FEWEST_LABELS,
    FEWEST_OTHERS,
    LIMIT,
    NOBODY,
    SPREAD,
    Opinion,
    Standing,
    is_outlier,
    standing,
)  # fmt: skip
from benchmarks.outliers import WORLDS, Rule, deviations, found_after, rings, users

POISON = (0.0, -1.0, 1e12, 1e300, math.inf, -math.inf, math.nan)
OURS = Rule(FEWEST_LABELS, SPREAD, LIMIT)
MANY = 1e9  # labels of others, so that what they say is known


def said(labels, ups, quality=0.8, others=MANY, people=100.0):
    return Opinion(labels, ups, others, others * quality, people)


def test_a_standing_by_hand():
    found = standing([said(10, 4, 0.8), said(10, 8, 0.5)])
    z = (12 - 13) / math.sqrt(10 * 0.16 + 10 * 0.25 + (SPREAD * 20) ** 2)
    assert found == Standing(20.0, 0.6, pytest.approx(0.65), pytest.approx(z))


def test_what_few_others_say_is_known_less():
    """With 19 labels of others, of which 16 are up: quality 16.5/20, and its error counts ten times in ten labels."""
    quality = 16.5 / 20
    z = -10 * quality / math.sqrt(quality * (1 - quality) * 10 * (1 + 10 / 20) + (SPREAD * 10) ** 2)
    assert standing([Opinion(10, 0, 19, 16, 8)]).deviations == pytest.approx(z)


def test_where_hardly_anybody_else_spoke_nobody_is_odd():
    assert standing([said(100, 0, people=FEWEST_OTHERS - 1)]) == NOBODY
    together = standing([said(100, 0, people=FEWEST_OTHERS - 1), said(20, 10)])
    assert together == standing([said(20, 10)])


def test_a_user_is_an_outlier_from_some_labels_on_and_leaves_later():
    few, enough = standing([said(FEWEST_LABELS - 1, 0, 0.9)]), standing([said(FEWEST_LABELS, 0, 0.9)])
    assert few.deviations < -LIMIT
    assert enough.deviations < -LIMIT
    assert [is_outlier(one, before=False) for one in (few, enough)] == [False, True]
    between = Standing(50.0, 0.2, 0.8, -3.0)
    assert [is_outlier(between, before=before) for before in (False, True)] == [False, True]
    assert not is_outlier(Standing(50.0, 0.5, 0.8, -2.6), before=True)


def test_too_kind_is_as_odd_as_too_strict():
    assert is_outlier(standing([said(40, 40, 0.2)]), before=False)
    assert standing([said(40, 40, 0.2)]).deviations == pytest.approx(-standing([said(40, 0, 0.8)]).deviations)


@given(st.lists(st.tuples(*[st.sampled_from(POISON) | st.floats()] * 5), max_size=5))
@example([(7.3e-233, 0.0, 0.0, -1.0, 1e12), (7.3e-233, 0.0, 0.0, 9.0, 9.0)])  # its square is nothing
def test_poison_is_left_out_or_bounded(rows):
    found = standing([Opinion(*row) for row in rows])
    assert all(map(math.isfinite, found))
    assert 0.0 <= found.said <= 1.0
    assert 0.0 <= found.expected <= 1.0


@given(st.integers(1, 200), st.data(), st.floats(0.0, 1.0))
def test_nobody_who_says_what_others_say_is_an_outlier(labels, data, quality):
    ups = data.draw(st.integers(0, labels))
    found = standing([said(labels, ups, quality)])
    if abs(ups / labels - quality) <= LIMIT * SPREAD:
        assert not is_outlier(found, before=False)


# Simulated, as in benchmarks/outliers.py


@pytest.mark.parametrize(("spread", "most"), [(0.15, 0.0005), (0.2, 0.0013)])
def test_honest_users_with_200_labels_are_hardly_ever_taken_for_outliers(spread, most):
    """20,000 users whose taste shifts all qualities, judged after each label, where models are rated .55 to .85.

    The shares are under .00005 and about .0005: the chance of more than `most` is under .001.
    """
    flagged = found_after(*users(np.random.default_rng(3), 20_000, WORLDS["mixed: .55 to .85"], spread, "shift"), OURS)
    assert (flagged <= 200).mean() < most


def test_who_always_votes_down_is_found_after_twenty_labels_where_models_are_good():
    ups, quality = users(np.random.default_rng(4), 500, WORLDS["good: .7 to .9"], 0.0, "shift")
    assert (found_after(np.zeros_like(ups), quality, OURS) == 20).mean() > 0.98


def test_the_simulation_judges_as_we_do():
    ups, quality = users(np.random.default_rng(5), 20, WORLDS["good: .7 to .9"], 0.2, "logit")
    z = deviations(ups, quality, OURS)
    for user in range(20):
        kinds = [quality[user] == one for one in WORLDS["good: .7 to .9"]]
        own = [said(int(kind.sum()), int(ups[user, kind].sum()), quality[user, kind][0]) for kind in kinds]
        assert standing(own).deviations == pytest.approx(z[user, -1], rel=1e-6)


def test_a_ring_that_is_a_minority_moves_little():
    """Thirty accounts vote a model of quality .8 down for thirty days, beside 400 honest labels a day."""
    found = rings(5, 400, seed=1)
    assert found.found == 30
    assert found.before - found.unweighed > 0.1
    assert found.before - found.weighed < 0.05
