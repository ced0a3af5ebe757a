import asyncio
from functools import partial

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bandit.posteriors import CellKey, Counts
from service.learn import Measurement, record
from service.storage import store

NOON = 1_800_000_000.0
WEEK = 7 * 86_400.0
CELL = CellKey("", "small", "Open QA", "simple", int(NOON // 3600), "thumb")


def rating(value=1.0, decision_id="d", *, at=NOON + 60, **said):
    return Measurement(decision_id=decision_id, metric="quality", source="user", value=value, at=at, **said)


async def learned(database, *measurements):
    work = partial(record, measurements=measurements, window_s=WEEK, now=NOON + 100)
    outcomes, deltas = await database.write(work)
    assert await database.read(store.compare_fold) == {}
    return [outcome.status for outcome in outcomes], deltas


@pytest.fixture
async def decided(database, decision_row):
    rows = [decision_row("d"), decision_row("e", arm="large", created_at=NOON + 3600, key_id="mine")]
    await database.write(lambda connection: store.insert_decisions(connection, rows))
    return database


async def test_a_rating_is_counted_where_its_decision_was(decided):
    assert await learned(decided, rating(0.5)) == (["recorded"], {CELL: Counts(1_000_000, 500_000, 250_000)})
    assert await decided.read(store.cells_from_hour, 0) == {CELL: Counts(1_000_000, 500_000, 250_000)}


async def test_the_same_again_changes_nothing(decided):
    await learned(decided, rating(0.5, comment="fine"))
    assert await learned(decided, rating(0.5, comment="fine", at=NOON + 90)) == (["unchanged"], {})
    assert [row["created_at"] for row in await decided.read(store.rewards_of, ["d"])] == [NOON + 60]


async def test_a_changed_mind_replaces(decided):
    await learned(decided, rating(1.0))
    assert await learned(decided, rating(0.0, at=NOON + 90)) == (
        ["replaced"],
        {CELL: Counts(0, -1_000_000, -1_000_000)},
    )
    assert await decided.read(store.cells_from_hour, 0) == {CELL: Counts(1_000_000, 0, 0)}
    rows = await decided.read(store.rewards_of, ["d"])
    assert [(row["value"], row["created_at"]) for row in rows] == [(0.0, NOON + 60)]


async def test_a_mind_changed_to_another_channel_moves_the_count(decided):
    await learned(decided, rating(1.0))
    status, deltas = await learned(decided, rating(0.25, channel="score"))
    one = Counts(1_000_000, 1_000_000, 1_000_000)
    score = CELL._replace(channel="score")
    assert (status, deltas) == (["replaced"], {CELL: Counts().minus(one), score: Counts(1_000_000, 250_000, 62_500)})


async def test_a_new_comment_replaces_without_counting_again(decided):
    await learned(decided, rating(1.0))
    assert await learned(decided, rating(1.0, comment="very good")) == (["replaced"], {})
    assert [row["comment"] for row in await decided.read(store.rewards_of, ["d"])] == ["very good"]


async def test_said_several_times_in_one_batch(decided):
    statuses, deltas = await learned(decided, rating(1.0), rating(1.0), rating(0.0), rating(0.5), rating(0.5))
    assert statuses == ["recorded", "unchanged", "replaced", "replaced", "unchanged"]
    assert deltas == {CELL: Counts(1_000_000, 500_000, 250_000)}


async def test_a_mind_changed_and_changed_back_in_one_batch(decided):
    await learned(decided, rating(1.0))
    assert await learned(decided, rating(0.0), rating(1.0)) == (["replaced", "replaced"], {})


async def test_different_people_count_each(decided):
    statuses, deltas = await learned(decided, rating(1.0, user="a"), rating(0.0, user="b"), rating(0.0, "e"))
    assert statuses == ["recorded"] * 3
    assert deltas[CELL] == Counts(2_000_000, 1_000_000, 1_000_000)
    assert len(deltas) == 2


@pytest.mark.parametrize("second_first", [False, True])
async def test_the_order_of_two_people_does_not_matter(decided, second_first):
    ratings = [rating(0.1, user="a", weight=0.3), rating(0.7, user="b", channel="heuristic")]
    for one in reversed(ratings) if second_first else ratings:
        await learned(decided, one)
    assert await decided.read(store.cells_from_hour, 0) == {
        CELL: Counts(300_000, 30_000, 3_000),
        CELL._replace(channel="heuristic"): Counts(1_000_000, 700_000, 490_000),
    }


async def test_what_is_refused_teaches_nothing(decided):
    measurements = [
        rating(1.0, "nobody"),
        rating(1.0, at=NOON + WEEK + 1),
        rating(1.0, "e", key_id="theirs"),
        rating(1.0, "e", key_id="mine"),
        rating(0.0, at=NOON + WEEK),
    ]
    statuses, deltas = await learned(decided, *measurements)
    assert statuses == ["unknown_decision", "too_late", "other_key", "recorded", "recorded"]
    assert sum(counts.n for counts in deltas.values()) == 2_000_000


async def test_an_outcome_names_arm_task_and_lag(decided):
    work = partial(record, measurements=[rating(), rating(decision_id="nobody")], window_s=WEEK, now=NOON)
    (known, unknown), _ = await decided.write(work)
    assert (known.arm, known.task_type, known.lag_s) == ("small", "Open QA", 60.0)
    assert (unknown.arm, unknown.task_type, unknown.lag_s) == ("", "", None)


async def test_the_arm_that_served_is_taught(decided):
    await decided.write(lambda connection: store.set_served_arms(connection, [("d", "large")]))
    failure = rating(0.0, user="step 0", arm="small", channel="failure")
    _, deltas = await learned(decided, rating(1.0), failure)
    assert set(deltas) == {CELL._replace(arm="large"), CELL._replace(channel="failure")}


async def test_a_fallback_noted_after_a_rating_is_taken_back_where_it_was_counted(decided):
    await learned(decided, rating(1.0))
    await decided.write(lambda connection: store.set_served_arms(connection, [("d", "large")]))
    await learned(decided, rating(0.0))
    cells = await decided.read(store.cells_from_hour, 0)
    assert cells == {CELL: Counts(), CELL._replace(arm="large"): Counts(1_000_000, 0, 0)}


async def test_a_rating_outlives_its_decision(decided):
    await learned(decided, rating(1.0))
    await decided.write(lambda connection: store.prune(connection, NOON + 1))
    assert await learned(decided, rating(0.0)) == (["unknown_decision"], {})


ratings = st.lists(
    st.builds(
        rating,
        st.floats(0, 1),
        st.sampled_from(["d", "e", "nobody"]),
        user=st.sampled_from(["", "a"]),
        weight=st.floats(0, 1, exclude_min=True),
        channel=st.sampled_from(["thumb", "score", "heuristic"]),
    ),
    max_size=12,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=st.lists(ratings, max_size=3))
def test_cells_are_the_fold_of_rewards_after_any_sequence(database_url, decision_row, batches):
    from service.storage.database import Database

    async def run():
        database = Database(database_url, 1)
        try:
            if await database.read(store.decision, "d") is None:
                rows = [decision_row("d"), decision_row("e")]
                await database.write(lambda connection: store.insert_decisions(connection, rows))
            known: dict[CellKey, Counts] = await database.read(store.cells_from_hour, 0)
            for batch in batches:
                _, deltas = await learned(database, *batch)
                for cell, delta in deltas.items():
                    known[cell] = known.get(cell, Counts()).plus(delta)
            assert await database.read(store.cells_from_hour, 0) == known
        finally:
            await database.close()

    asyncio.run(run())
