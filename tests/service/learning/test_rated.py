"""How good people say each model's replies are: by hand, from the database, and what a length effect is told by."""

import math
from functools import partial

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandit.channels import Rated, Unrated
from service.learn import Measurement, record
from service.learning.rated import FEWEST_FOR_LENGTH, Lengths, LengthSums, Mean, Sums, length_effect, qualities, sums
from service.quality.readings import ReadingDetail
from service.storage import store

NOON = 1_800_000_000.0
POISON = (0.0, -1.0, 1e12, -1e12, math.inf, -math.inf, math.nan)


def rating(decision_id, value, **said):
    said = {"metric": "quality", "source": "user", "at": NOON + 60, **said}
    return Measurement(decision_id=decision_id, value=value, **said)


def reading(decision_id, value, at=NOON + 60):
    detail = msgspec.json.encode(ReadingDetail("v1", ())).decode()
    return Measurement(
        decision_id=decision_id, metric="reading", source="heuristics", value=value, at=at, channel="reading",
        detail=detail,
    )  # fmt: skip


def lengths_of(y, tokens):
    y, t = np.asarray(y, dtype=float), np.asarray(tokens, dtype=float)
    good = y >= 0.5
    return LengthSums(
        float(len(y)), *map(float, (y.sum(), t.sum(), y @ y, y @ t, t @ t, good.sum(), t[good].sum()))
    )  # fmt: skip


@pytest.fixture
def told(database, decision_row, attempt_row):
    """Store decisions with their calls, then what was measured; returns the sums."""

    async def tell(decisions, *measurements, newest=100):
        rows = [decision_row(name, **said) for name, _, said in decisions]
        calls = [
            attempt_row(name, arm=said.get("arm", "small"), completion_tokens=tokens)
            for name, tokens, said in decisions
        ]
        await database.write(lambda connection: store.insert_decisions(connection, rows))
        await database.write(lambda connection: store.insert_attempts(connection, calls))
        await database.write(partial(record, measurements=measurements, window_s=1e6, now=NOON + 100))
        return await database.read(sums, newest)

    return tell


async def test_labels_readings_and_lengths_are_added_up_by_model_and_task_type(told):
    found = await told(
        [("a", 10, {}), ("b", 30, {}), ("c", 50, {}), ("d", 70, {"task_type": "Rewrite"}), ("e", 9, {"arm": "large"})],
        reading("a", 0.75), reading("b", 0.25), reading("c", 0.5), reading("d", 0.5), reading("e", 1.0),
        rating("a", 1.0), rating("b", 0.0, source="asked"),
    )  # fmt: skip
    assert found.keys() == {("small", "Open QA"), ("small", "Rewrite"), ("large", "Open QA")}
    assert found["small", "Open QA"] == Sums(
        Rated(2, 1.0, 1.0, 1.0, 0.75, 0.625), Unrated(1, 0.5, 0.25), Rated(1, 0.0, 0.25, 0.0, 0.0, 0.0625),
        lengths_of([1, 0], [10, 30]),
    )  # fmt: skip
    assert found["large", "Open QA"] == Sums(Rated(), Unrated(1, 1.0, 1.0), Rated(), LengthSums())


async def test_a_reply_counts_once_however_many_rate_it_and_only_what_people_say_counts(told):
    found = await told(
        [("a", 10, {}), ("b", 10, {}), ("c", 0, {})],
        reading("a", 0.5), reading("b", 0.5), reading("c", 0.5),
        rating("a", 1.0, user="x"), rating("a", 0.0, user="y", weight=0.25),
        rating("b", 0.0, user="repeat", channel="heuristic"), rating("b", 0.0, user="z", weight=0.0),
        rating("b", 0.0, user="step 0", channel="failure", arm="large"),
        rating("c", 1.0), rating("c", 0.0, source="judge", channel="score"),
    )  # fmt: skip
    one = found["small", "Open QA"]
    assert one.labels == Rated(2, 1.8, 1.0, 0.64 + 1.0, 0.9, 0.5)
    assert one.others.n == 1
    assert one.lengths == lengths_of([0.8], [10])  # the length of c is not known


async def test_the_judges_random_marks_stand_beside_what_people_say(told):
    def mark(decision_id, value, drawn, **said):
        detail = msgspec.json.encode({"judge": 'a "drawn":"random" one', "drawn": drawn, "cost_usd": 0.1}).decode()
        return rating(decision_id, value, source="judge", channel="score", detail=detail, **said)

    found = await told(
        [("a", 10, {}), ("b", 10, {}), ("c", 10, {})],
        reading("a", 0.5), reading("b", 0.25), reading("c", 0.75),
        rating("a", 1.0), mark("a", 0.5, "random", weight=0.3), mark("b", 0.25, "random"), mark("c", 0.0, "suspected"),
    )  # fmt: skip
    one = found["small", "Open QA"]
    assert one.labels == Rated(1, 1.0, 0.5, 1.0, 0.5, 0.25)
    assert one.judged == Rated(2, 0.75, 0.75, 0.3125, 0.3125, 0.3125)
    assert one.others.n == 2
    [shown] = qualities(found)
    assert shown.by_judge == Mean(replies=2, mean=0.375, standard_error=pytest.approx((0.03125 / 2) ** 0.5))
    assert shown.by_asked is None


async def test_the_newest_replies_are_looked_at(told):
    found = await told(
        [("old", 10, {}), ("new", 10, {})],
        reading("old", 0.5, NOON + 1), reading("new", 0.75, NOON + 2), rating("old", 0.0), rating("new", 1.0),
        newest=1,
    )  # fmt: skip
    assert found["small", "Open QA"].labels == Rated(1, 1.0, 0.75, 1.0, 0.75, 0.5625)


async def test_nothing_measured_is_nothing_told(database):
    assert qualities(await database.read(sums, 100)) == []


def test_quality_by_labels_and_with_readings_by_hand():
    """As in PPI++ by hand: labels say 1/2; all replies read better by 1/4 than the rated ones, worth half of that."""
    labels, others = Rated(4, 2, 2, 2, 2, 2), Unrated(4, 3, 3)
    [found] = qualities({("small", "Open QA"): Sums(labels, others, Rated(1, 1, 1, 1, 1, 1), LengthSums())})
    assert (found.model, found.replies) == ("small", 8)
    assert found.by_labels == Mean(replies=4, mean=0.5, standard_error=pytest.approx((1 / 3 / 4) ** 0.5))
    assert found.with_readings.mean == pytest.approx(0.625)
    assert found.by_asked == Mean(replies=1, mean=1.0, standard_error=None)
    assert (found.lengths, found.at_equal_length) == (Lengths(rated_good=None, rated_bad=None, correlation=None), None)


def test_readings_undo_what_they_can_see_of_who_rates():
    """Replies of which a fault was found are rated eight times as often: .42 instead of .7, and .65 again.

    With 4,000 ratings both are within .03 but once in a thousand; the rest is the bias of a weight that assumes labels
    at random.
    """
    rng = np.random.default_rng(5)
    y = rng.binomial(1, 0.7, 40_000).astype(float)
    h = rng.binomial(1, np.where(y > 0, 0.95, 0.1)).astype(float)
    known = rng.random(40_000) < np.where(h > 0, 0.04, 0.32)
    a, b, c = y[known], h[known], h[~known]
    labels = Rated(float(len(a)), *map(float, (a.sum(), b.sum(), a @ a, a @ b, b @ b)))
    others = Unrated(float(len(c)), float(c.sum()), float(c @ c))
    [found] = qualities({("small", "Open QA"): Sums(labels, others, Rated(), LengthSums())})
    assert found.by_labels.mean < 0.5
    assert found.with_readings.mean == pytest.approx(0.7, abs=0.07)


def test_lengths_of_good_and_bad_replies_by_hand():
    """Ratings 1, 1, 0, 0 on 10, 30, 30, 50 tokens: covariance -5, deviations .5 and 14.14."""
    parts = {("small", "Open QA"): Sums(Rated(), Unrated(), Rated(), lengths_of([1, 1, 0, 0], [10, 30, 30, 50]))}
    [found] = qualities(parts)
    assert found.lengths == Lengths(rated_good=20.0, rated_bad=40.0, correlation=pytest.approx(-5 / (0.5 * 200**0.5)))
    assert found.at_equal_length is None  # too few


def liked_for_length(seed, quality, tokens, n=4_000):
    """Ratings that rise by .1 with every 100 tokens, and the lengths."""
    rng = np.random.default_rng(seed)
    t = rng.gamma(4.0, tokens / 4.0, n)
    return lengths_of(rng.random(n) < np.clip(quality + 0.001 * (t - 200), 0, 1), t)


def test_a_model_that_is_liked_for_its_length_falls_behind_at_equal_length():
    """Equal at 200 tokens, one writes 150, one 250: .05 either way. Four standard errors of slope and means are .03."""
    parts = {
        (model, task): Sums(Rated(), Unrated(), Rated(), liked_for_length(seed, quality, tokens))
        for seed, (model, task, quality, tokens) in enumerate([
            ("brief", "Open QA", 0.5, 150), ("brief", "Rewrite", 0.6, 150),
            ("wordy", "Open QA", 0.5, 250), ("wordy", "Rewrite", 0.6, 250),
        ])
    }  # fmt: skip
    assert length_effect(one.lengths for one in parts.values()) == pytest.approx(0.001, abs=0.0001)
    brief, wordy = qualities(parts)
    assert brief.at_equal_length == pytest.approx(wordy.at_equal_length, abs=0.03)
    assert brief.at_equal_length == pytest.approx(0.55, abs=0.03)


def test_better_models_that_write_more_are_no_effect_of_length():
    parts = [lengths_of([1, 0] * 100, [10] * 200), lengths_of([1] * 100, [500] * 100)]
    assert length_effect(parts) is None  # within each, all are equally long
    parts = [lengths_of([1, 0] * 100, [10, 10, 20, 20] * 50), lengths_of([1] * 100, [400, 500] * 50)]
    assert length_effect(parts) == pytest.approx(0.0)
    half = FEWEST_FOR_LENGTH // 2
    assert length_effect([lengths_of([1, 0] * (half - 1), [10, 20] * (half - 1))]) is None


@given(st.integers(0, 300), st.tuples(*[st.sampled_from(POISON)] * 5), st.tuples(*[st.sampled_from(POISON)] * 7))
def test_poisoned_sums_never_raise_and_tell_finite_numbers(n, labels, lengths):
    said = Rated(float(n), *labels)
    [found] = qualities({("small", "Open QA"): Sums(said, Unrated(), said, LengthSums(float(n), *lengths))})
    for mean in (found.by_labels, found.by_asked, found.with_readings):
        assert mean is None or 0.0 <= mean.mean <= 1.0
    assert found.lengths.correlation is None or -1.0 <= found.lengths.correlation <= 1.0
    assert found.at_equal_length is None or 0.0 <= found.at_equal_length <= 1.0
