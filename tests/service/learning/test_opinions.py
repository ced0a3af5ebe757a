"""What users say beside what everybody does: sums that add up, who is found, what their labels weigh, who is shown."""

import asyncio
from functools import partial

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from service.learn import Measurement, record
from service.learning import raters
from service.learning.raters import OpinionKey, Sums
from service.storage import store
from service.storage.database import downgrade, migrate

NOON = 1_800_000_000.0
WEEK = 7 * 86_400.0
ONE = 1_000_000


def rating(value, decision_id="d", user="", **said):
    usual = {"metric": "quality", "source": "user", "at": NOON + 60, "outlier_weight": 0.1}
    return Measurement(decision_id=decision_id, value=value, user=user, **{**usual, **said})


async def learned(database, *measurements, now=NOON + 100):
    outcomes, _ = await database.write(partial(record, measurements=measurements, window_s=WEEK, now=now))
    assert await database.read(raters.missing) == {}
    assert await database.read(store.compare_fold) == {}
    return outcomes


@pytest.fixture
async def decided(database, decision_row):
    """300 decisions for the small model, and one for the large one."""
    rows = [decision_row(f"d{number}") for number in range(300)] + [decision_row("large", arm="large")]
    await database.write(lambda connection: store.insert_decisions(connection, rows))
    return database


async def crowd(database, *, ups=8, users=20):
    """Twenty users of ten labels each, who like the small model as often as this in ten."""
    said = [
        rating(float(number % 10 < ups), f"d{number}", f"honest {number // 10}")
        for number in range(10 * users)
    ]  # fmt: skip
    assert not any(outcome.outlier for outcome in await learned(database, *said))


async def stored(database, key):
    found = await database.read(lambda connection: connection.execute(text("SELECT * FROM opinions")).mappings().all())
    return {OpinionKey(*list(row.values())[:4]): Sums(*list(row.values())[4:]) for row in found}.get(key)


async def weights(database, user):
    statement = text('SELECT decision_id, weight FROM rewards WHERE "user" = :user')
    rows = await database.read(lambda connection: connection.execute(statement, {"user": user}).all())
    return {row.decision_id: row.weight for row in rows}


async def test_what_people_say_is_added_up(decided):
    await learned(
        decided,
        rating(1.0, "d1", "ann"), rating(0.5, "d2", "ann", channel="score", weight=0.5), rating(0.0, "d2", "bob"),
        rating(0.0, "d3"), rating(0.25, "d3", source="judge", channel="score"), rating(0.0, "d4", channel="heuristic"),
        rating(0.0, "d5", "step 0", channel="failure"), rating(1.0, "d1", "ann", metric="tone"),
    )  # fmt: skip
    ann = OpinionKey("ann", "quality", "small", "Open QA")
    assert await stored(decided, ann) == Sums(1, 2, 1_500_000, 1_500_000, 1_250_000)
    assert await stored(decided, ann._replace(user="")) == Sums(3, 4, 1_500_000, 3_500_000, 1_250_000)
    assert await stored(decided, ann._replace(metric="tone")) == Sums(1, 1, ONE, ONE, ONE)
    assert await stored(decided, ann._replace(user="step 0")) is None


async def test_a_changed_mind_is_taken_back_and_the_same_again_adds_nothing(decided):
    ann = OpinionKey("ann", "quality", "small", "Open QA")
    for value in (1.0, 1.0, 0.0):
        await learned(decided, rating(value, "d1", "ann"))
    assert await stored(decided, ann) == Sums(1, 1, 0, ONE, 0)
    assert await stored(decided, ann._replace(user="")) == Sums(1, 1, 0, ONE, 0)


said_by = st.tuples(
    st.sampled_from(["", "ann", "bob"]), st.sampled_from(["d1", "d2", "large"]), st.sampled_from([0.0, 0.3, 1.0]),
    st.sampled_from(["user", "judge"]), st.sampled_from([1.0, 0.4]),
)  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15, deadline=None)
@given(st.lists(st.lists(said_by, min_size=1, max_size=6), min_size=1, max_size=4))
async def test_sums_are_those_of_the_rewards_whatever_is_said(decided, batches):
    for batch in batches:
        said = [rating(value, one, user, source=source, weight=weight) for user, one, value, source, weight in batch]
        await learned(decided, *said)  # holds the sums against the rewards


async def test_two_replicas_add_up_what_one_user_says_at_once(decided, database_url):
    second = type(decided)(database_url)
    try:
        for number in range(0, 20, 2):
            works = [
                partial(record, measurements=[rating(1.0, f"d{one}", "ann")], window_s=WEEK, now=NOON)
                for one in (number, number + 1)
            ]
            await asyncio.gather(decided.write(works[0]), second.write(works[1]))
    finally:
        await second.close()
    assert (await stored(decided, OpinionKey("", "quality", "small", "Open QA")))[:2] == (1, 20)
    assert await decided.read(raters.missing) == {}


async def test_who_always_votes_down_counts_a_tenth_from_the_21st_label_on(decided):
    await crowd(decided)
    outcomes = [(await learned(decided, rating(0.0, f"d{number}", "troll")))[0] for number in range(25)]
    assert [outcome.outlier for outcome in outcomes] == [number >= 20 for number in range(25)]
    assert [number for number, outcome in enumerate(outcomes) if outcome.found] == [20]
    assert (outcomes[20].found.labels, outcomes[20].found.said) == (20, 0.0)
    found = await weights(decided, "troll")
    assert [found[f"d{number}"] for number in range(25)] == [1.0] * 20 + [0.1] * 5
    assert set((await weights(decided, "honest 3")).values()) == {1.0}
    [shown] = await decided.read(raters.newest_outliers)
    assert (shown.user, shown.labels, shown.mean_said) == ("troll", 25, 0.0)
    assert shown.mean_expected == pytest.approx(0.8, abs=0.01)
    assert await decided.read(raters.outlier_count) == 1


async def test_an_outlier_may_say_no_more_in_a_day_than_anybody(decided):
    await crowd(decided)
    said = [rating(0.0, f"d{number}", "troll", user_limit=5.0) for number in range(30)]
    await learned(decided, *said[:20])
    await learned(decided, *said[20:])
    assert sum((await weights(decided, "troll")).values()) == 5.0  # of before it was found
    tomorrow = [rating(0.0, f"d{number}", "troll", user_limit=5.0, at=NOON + 86_400) for number in range(30, 60)]
    await learned(decided, *tomorrow)
    found = await weights(decided, "troll")
    assert [found[f"d{number}"] for number in range(30, 60)] == pytest.approx([0.1] * 5 + [0.0] * 25)


async def test_the_same_again_keeps_its_weight_and_another_word_does_not(decided):
    await crowd(decided)
    await learned(decided, *(rating(0.0, f"d{number}", "troll") for number in range(20)))
    [same] = await learned(decided, rating(0.0, "d1", "troll"))
    assert same.status == "unchanged"
    await learned(decided, rating(0.0, "d1", "troll", comment="bad"), rating(0.5, "d2", "troll", channel="score"))
    found = await weights(decided, "troll")
    assert (found["d1"], found["d2"]) == (1.0, 0.1)


async def test_who_comes_to_rate_like_others_counts_in_full_again(decided):
    await crowd(decided)
    await learned(decided, *(rating(0.0, f"d{number}", "hasty") for number in range(20)))
    assert (await learned(decided, rating(0.0, "d20", "hasty")))[0].outlier
    for number in range(20, 60):
        await learned(decided, rating(1.0, f"d{number}", "hasty"))
    assert not (await learned(decided, rating(1.0, "d61", "hasty")))[0].outlier
    assert (await weights(decided, "hasty"))["d61"] == 1.0
    assert await decided.read(raters.outlier_count) == 0


async def test_nobody_is_looked_for_where_it_is_off_and_without_a_name(decided):
    await crowd(decided)
    for user, weight in (("troll", 1.0), ("", 0.1)):
        for start in (0, 20):
            said = [rating(0.0, f"d{n}", user, outlier_weight=weight) for n in range(start, start + 20)]
            assert not any(outcome.outlier for outcome in await learned(decided, *said))
        assert set((await weights(decided, user)).values()) == {1.0}


async def test_among_five_people_nobody_is_odd(decided):
    await crowd(decided, users=4)
    await learned(decided, *(rating(0.0, f"d{number}", "fifth") for number in range(100)))
    assert not (await learned(decided, rating(0.0, "d100", "fifth")))[0].outlier


async def test_an_update_adds_up_the_labels_there_are(decided, database_url):
    await crowd(decided, users=6)
    await learned(
        decided, rating(0.5, "d1"), rating(0.5, "d1", source="judge"), rating(0.3, "d2", "ann", weight=0.7, metric="t")
    )
    key = OpinionKey("", "quality", "small", "Open QA")
    before = await stored(decided, key)
    await asyncio.to_thread(downgrade, database_url, "0008")
    await asyncio.to_thread(migrate, database_url)
    assert await stored(decided, key) == before
    assert await decided.read(raters.missing) == {}


async def test_wrong_sums_are_made_again_from_the_rewards(decided):
    await crowd(decided, users=2)
    wrong = {OpinionKey("nobody", "quality", "small", "Rewrite"): Sums(1, 2, 3, 4, 5)}
    await decided.write(lambda connection: raters.add(connection, wrong))
    found = await decided.read(raters.missing)
    assert found == {key: Sums().minus(sums) for key, sums in wrong.items()}
    await decided.write(lambda connection: raters.add(connection, found))
    assert await decided.read(raters.missing) == {}
