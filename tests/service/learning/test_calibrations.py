"""Sums over labels and readings, the cap of a user's influence, and the weights that labels teach."""

import asyncio
from functools import partial
from itertools import pairwise

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import insert

from bandit.channels import Pairs, pairs_of
from bandit.posteriors import evidence_from, posterior
from service.learn import Measurement, record
from service.learning import calibrations
from service.learning.calibrations import CalibrationKey
from service.probes.judging import JUDGE_SOURCE
from service.probes.quiz import QUIZ_SOURCE
from service.quality import Finding
from service.quality.readings import SOFT, Reader, ReadingDetail, Weights, learned_weights, prior_weights
from service.quality.refit import label_rates
from service.settings import HeuristicSetting, Quality
from service.storage import store
from service.storage.tables import reading_weights

NOON = 1_800_000_000.0
WEEK = 7 * 86_400.0
KEY = CalibrationKey("", "Open QA", "small", "v1")


def rating(value=1.0, decision_id="d", *, source="user", at=NOON + 60, **said):
    return Measurement(decision_id=decision_id, metric="quality", source=source, value=value, at=at, **said)


def reading(value=0.5, decision_id="d", *, version="v1"):
    detail = msgspec.json.encode(ReadingDetail(version, ("refusal",))).decode()
    return Measurement(
        decision_id=decision_id, metric="reading", source="heuristics", value=value, at=NOON + 60, channel="reading",
        detail=detail,
    )  # fmt: skip


async def learned(database, *measurements):
    work = partial(record, measurements=measurements, window_s=WEEK, now=NOON + 100)
    outcomes, _ = await database.write(work)
    assert await database.read(calibrations.folded_sums) == await database.read(calibrations.stored_sums)
    assert await database.read(store.compare_fold) == {}
    return [outcome.status for outcome in outcomes]


@pytest.fixture
async def decided(database, decision_row):
    rows = [decision_row("d"), decision_row("e", task_type="Rewrite")]
    await database.write(lambda connection: store.insert_decisions(connection, rows))
    return database


@pytest.mark.parametrize("order", [0, 1, 2])
async def test_a_label_and_a_reading_meet_whichever_comes_first(decided, order):
    both = [rating(1.0), reading(0.25)]
    if order == 2:
        await learned(decided, *both)
    else:
        for one in both[:: 1 - 2 * order]:
            await learned(decided, one)
    assert await decided.read(calibrations.stored_sums) == {
        KEY: Pairs(1_000_000, 1_000_000, 250_000, 1_000_000, 250_000)
    }


async def test_a_changed_rating_takes_the_old_pair_back(decided):
    await learned(decided, reading(0.25), rating(1.0))
    await learned(decided, rating(0.0))
    assert await decided.read(calibrations.stored_sums) == {KEY: Pairs(1_000_000, 0, 250_000, 0, 0)}


async def test_the_same_again_adds_nothing(decided):
    await learned(decided, reading(0.25), rating(1.0))
    assert await learned(decided, reading(0.25), rating(1.0)) == ["unchanged", "unchanged"]
    assert (await decided.read(calibrations.stored_sums))[KEY].n == 1_000_000


async def test_a_reading_by_other_weights_moves_its_pairs(decided):
    await learned(decided, rating(1.0, user="a"), rating(0.0, user="b"), reading(0.25))
    await learned(decided, reading(0.75, version="v2"))
    assert await decided.read(calibrations.stored_sums) == {
        KEY._replace(version="v2"): Pairs(2_000_000, 1_000_000, 1_500_000, 1_000_000, 750_000)
    }


async def test_each_persons_label_is_a_pair_and_a_weak_one_a_part_of_it(decided):
    await learned(decided, reading(0.25), rating(1.0, user="a"), rating(0.0, user="b", weight=0.5))
    expected = pairs_of(1.0, 0.25).plus(pairs_of(0.0, 0.25, 0.5))
    assert await decided.read(calibrations.stored_sums) == {KEY: expected}


async def test_weak_evidence_and_another_models_failure_are_no_labels_of_the_reply(decided):
    failed = rating(0.0, channel="failure", arm="large", user="step 0")
    await learned(decided, reading(0.25), rating(0.0, channel="heuristic", user="repeat"), failed)
    assert await decided.read(calibrations.stored_sums) == {}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    said=st.lists(
        st.tuples(st.sampled_from("de"), st.sampled_from(["", "a", "b", "reading"]), st.integers(0, 10)),
        min_size=1, max_size=12,
    ),
    cuts=st.lists(st.integers(0, 12), max_size=4),
)  # fmt: skip
async def test_in_any_order_and_grouping_the_sums_are_those_of_the_last_words(decided, said, cuts):
    for table in (calibrations.calibrations, calibrations.rewards, store.cells):
        await decided.write(lambda connection, gone=table: connection.execute(gone.delete()) and None)
    measurements = [
        reading(value / 10, decision) if user == "reading" else rating(value / 10, decision, user=user)
        for decision, user, value in said
    ]
    edges = [0, *sorted(min(cut, len(said)) for cut in cuts), len(said)]
    for start, end in pairwise(edges):
        await learned(decided, *measurements[start:end])
    last = {(decision, user): value / 10 for decision, user, value in said}
    expected = {}
    for (decision, user), value in last.items():
        if user != "reading" and (decision, "reading") in last:
            key = KEY._replace(task_type="Open QA" if decision == "d" else "Rewrite")
            expected[key] = expected.get(key, Pairs()).plus(pairs_of(value, last[decision, "reading"]))
    assert await decided.read(calibrations.stored_sums) == {key: p for key, p in expected.items() if p != Pairs()}


async def test_two_processes_at_once_miss_no_pair(database, database_url, decision_row):
    rows = [decision_row(f"d{number}") for number in range(12)]
    await database.write(lambda connection: store.insert_decisions(connection, rows))
    second = type(database)(database_url)
    try:
        for number in range(12):
            one, other = rating(1.0, f"d{number}"), reading(0.5, f"d{number}")
            works = [partial(record, measurements=[m], window_s=WEEK, now=NOON + 100) for m in (one, other)]
            await asyncio.gather(database.write(works[0]), second.write(works[1]))
    finally:
        await second.close()
    assert await database.read(calibrations.stored_sums) == await database.read(calibrations.folded_sums)
    assert (await database.read(calibrations.stored_sums))[KEY].n == 12_000_000


async def test_a_rebuild_mends_sums_that_are_wrong(decided):
    await learned(decided, reading(0.25), rating(1.0))
    right = await decided.read(calibrations.stored_sums)
    ghost = KEY._replace(arm="gone")
    wrong = {KEY: Pairs(1, 2, 3, 4, 5), ghost: Pairs(9, 9, 9, 9, 9)}
    await decided.write(lambda connection: calibrations.add(connection, wrong, NOON))
    found = await decided.read(calibrations.missing)
    assert found.keys() == wrong.keys()
    await decided.write(lambda connection: calibrations.add(connection, found, NOON))
    assert await decided.read(calibrations.stored_sums) == right
    assert await decided.read(calibrations.missing) == {}


async def test_the_calibration_sums_models_and_weights_per_task_type(decided):
    await learned(decided, reading(0.25), rating(1.0), reading(0.5, "e", version="v2"), rating(0.0, "e"))
    found = await decided.read(calibrations.calibration)
    assert found.pairs == {"Open QA": pairs_of(1.0, 0.25), "Rewrite": pairs_of(0.0, 0.5)}


# One user's influence


async def test_a_user_counts_five_labels_a_day_for_a_model(database, decision_row):
    rows = [decision_row(f"d{number}") for number in range(9)]
    rows += [decision_row("other", arm="large")]
    await database.write(lambda connection: store.insert_decisions(connection, rows))
    said = [rating(0.0, row["id"], user="ann", user_limit=5.0) for row in rows]
    await learned(database, *said[:3])
    await learned(database, *said[3:])
    assert await weights(database) == {"d0": 1, "d1": 1, "d2": 1, "d3": 1, "d4": 1, "d5": 0, "d6": 0, "d7": 0, "d8": 0,
                                       "other": 1}  # fmt: skip
    assert await learned(database, *said) == ["unchanged"] * 10
    assert await learned(database, rating(1.0, "d2", user="ann", user_limit=5.0)) == ["replaced"]
    assert (await weights(database))["d2"] == 1
    tomorrow = rating(0.0, "d8", user="ann", user_limit=5.0, source="api", at=NOON + 86_400)
    nobody = [rating(0.0, row["id"], user_limit=5.0) for row in rows]
    unlimited = [rating(0.0, row["id"], user="ann", source="judge") for row in rows]
    await learned(database, tomorrow, *nobody, *unlimited)
    cells = await database.read(store.cells_from_hour, 0)
    assert sum(counts.n for counts in cells.values()) == (6 + 1 + 10 + 10) * 1_000_000


async def weights(database):
    rows = await database.read(store.rewards_of, [*(f"d{number}" for number in range(9)), "other"])
    return {row["decision_id"]: row["weight"] for row in rows}


async def test_labels_of_a_part_fill_what_room_is_left(database, decision_row):
    rows = [decision_row(f"d{number}") for number in range(9)]
    await database.write(lambda connection: store.insert_decisions(connection, rows))
    await learned(database, *(rating(0.0, row["id"], user="ann", user_limit=2.0, weight=0.8) for row in rows))
    given = await weights(database)
    assert [given[f"d{number}"] for number in range(2)] == [0.8, 0.8]
    assert given["d2"] == pytest.approx(0.8 * 0.4)
    assert sum(given.values()) <= 2.0


async def test_one_users_2000_down_votes_hardly_move_1000_honest_labels(database, decision_row):
    ids = [f"d{number}" for number in range(2_000)]
    await database.write(lambda connection: store.insert_decisions(connection, [decision_row(one) for one in ids]))
    honest = [rating(float(n % 1000 < 730), ids[n], user=f"u{n}", user_limit=5.0) for n in range(1_000)]
    await learned(database, *honest)
    before = await mean(database)
    for start in range(0, 2_000, 250):
        await learned(database, *(rating(0.0, one, user="troll", user_limit=5.0) for one in ids[start : start + 250]))
    assert before - 0.005 <= await mean(database) < before


async def mean(database):
    cells = await database.read(store.cells_from_hour, 0)
    return posterior(0.7, 50.0, evidence_from({cell.channel: counts for cell, counts in cells.items()}), 30.0).mean


async def test_replicas_do_not_both_find_room(database, database_url, decision_row):
    rows = [decision_row(f"d{number}") for number in range(8)]
    await database.write(lambda connection: store.insert_decisions(connection, rows))
    second = type(database)(database_url)
    try:
        for number in range(0, 8, 2):
            works = [
                partial(
                    record, measurements=[rating(0.0, f"d{one}", user="ann", user_limit=3.0)], window_s=WEEK, now=NOON
                )
                for one in (number, number + 1)
            ]
            await asyncio.gather(database.write(works[0]), second.write(works[1]))
    finally:
        await second.close()
    assert sum((await weights(database)).values()) == 3.0


# Weights


def test_the_first_weights_follow_the_settings():
    weights = prior_weights(Quality(heuristics={"refusal": HeuristicSetting(weight=0.2)}))
    assert weights.effects == {
        "refusal": 1.0, "uncertainty": 1.0, "repetition": 2.0, "wrong_language": 2.0, "broken_code": 1.5,
    }  # fmt: skip
    assert weights.reading([]) == pytest.approx(0.731, abs=0.001)
    assert weights.reading(["refusal", "same_question_again"]) == 0.5


@given(st.sets(st.sampled_from(SOFT)), st.sampled_from(SOFT))
def test_another_finding_never_speaks_for_a_reply(findings, another):
    weights = prior_weights(Quality())
    assert weights.reading({*findings, another}) <= weights.reading(findings)


def test_labels_teach_the_weights():
    bad = [(("refusal",), 0.0)] * 300 + [((), 1.0)] * 600 + [(("broken_code",), 1.0)] * 300
    weights = learned_weights(bad, prior_weights(Quality()), NOON)
    assert weights.labelled == 1_200
    assert weights.reading(["refusal"]) < 0.2
    assert weights.reading(["broken_code"]) > 0.85
    assert weights.effects["repetition"] == 2.0  # of which nothing was heard


def test_readings_use_the_weights_in_force():
    reader, quality = Reader(), Quality()
    finding = Finding(heuristic="refusal", detail="", hard=False, weight=0.4)
    before, detail = reader.read([finding], quality)
    assert (before, detail) == (
        pytest.approx(0.269, abs=0.001),
        msgspec.json.encode(ReadingDetail(prior_weights(quality).version, ("refusal",))).decode(),
    )
    reader.learned = Weights(intercept=0.0, effects=dict.fromkeys(SOFT, 0.0))
    assert reader.read([finding], quality)[0] == 0.5


async def test_the_newest_weights_are_in_force_everywhere(database):
    assert await database.read(calibrations.newest_weights) is None
    first, second = (
        Weights(intercept=i, effects=dict.fromkeys(SOFT, 1.0), labelled=3, fitted_at=NOON + i) for i in (1.0, 2.0)
    )
    for weights_ in (second, first):
        await database.write(lambda connection, one=weights_: calibrations.store_weights(connection, one))
    assert await database.read(calibrations.newest_weights) == second
    again = Weights(intercept=1.0, effects=first.effects, labelled=9, fitted_at=NOON + 3)
    await database.write(lambda connection: calibrations.store_weights(connection, again))
    assert await database.read(calibrations.newest_weights) == again


async def test_weights_of_other_heuristics_are_not_taken(database):
    strange = Weights(intercept=1.0, effects={"charm": 1.0}, fitted_at=NOON)
    await database.write(lambda connection: calibrations.store_weights(connection, strange))
    assert await database.read(calibrations.newest_weights) is None
    own = Weights(intercept=1.0, effects=dict.fromkeys(SOFT, 1.0), labelled=3, fitted_at=NOON - 1.0)
    await database.write(lambda connection: calibrations.store_weights(connection, own))
    assert await database.read(calibrations.newest_weights) == own


async def test_weights_that_cannot_be_read_are_passed_over_and_told(database, caplog):
    own = Weights(intercept=1.0, effects=dict.fromkeys(SOFT, 1.0), labelled=3, fitted_at=NOON)
    row = {"version": "broken", "content": "{", "labelled": 9, "fitted_at": NOON + 1.0}
    await database.write(lambda connection: connection.execute(insert(reading_weights), [row]) and None)
    await database.write(lambda connection: calibrations.store_weights(connection, own))
    assert await database.read(calibrations.newest_weights) == own
    assert "the weights broken of the heuristics cannot be read" in caplog.text


async def test_labelled_calls_leave_out_what_counts_nothing(decided):
    await learned(
        decided, reading(0.25), rating(1.0, user="a"), reading(0.5, "e"), rating(0.0, "e", user="b", weight=0.0)
    )
    assert await decided.read(calibrations.labelled_calls) == [(("refusal",), 1.0)]


def test_a_model_rated_far_more_often_rings():
    found = {
        "a": calibrations.Answered(5_000, 250),
        "b": calibrations.Answered(5_000, 260),
        "c": calibrations.Answered(5_000, 400),
    }
    assert [rate.model for rate in label_rates(found) if rate.alarm] == ["c"]
    assert label_rates({}) == []


async def test_a_model_that_is_judged_more_often_is_not_rated_more_often(decided):
    await learned(
        decided, reading(0.5), rating(0.5, source="judge", channel="score"), reading(0.5, "e"), rating(1, "e")
    )
    assert {JUDGE_SOURCE, QUIZ_SOURCE} == set(calibrations.MACHINES)
    assert await decided.read(calibrations.answered) == {"small": calibrations.Answered(2, 1)}
