import asyncio
import contextlib
import math
import time
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandit.posteriors import CellKey, Counts, Evidence
from service.learn import Measurement
from service.learning.beliefs import decode, encode
from service.learning.knowledge import Knowledge
from service.settings import Database as DatabaseSettings
from service.storage import store
from service.storage.writer import Writer

TASK = "Open QA"
HOUR = 3600.0


def cell(arm="small", hour=500_000, channel="thumb", tier="simple"):
    return CellKey("", arm, TASK, tier, hour, channel)


def good(labels=1):
    return Counts(labels * 1_000_000, labels * 1_000_000, labels * 1_000_000)


def test_people_and_heuristics_are_kept_apart_and_tiers_added_up():
    knowledge = Knowledge()
    knowledge.fold(
        {cell(): good(2), cell(channel="heuristic"): good(3), cell(tier="complex", channel="failure"): good(1)}
    )
    beliefs = knowledge.beliefs("", TASK, 0.0)
    assert beliefs.evidence == {"small": Evidence(3.0, 3.0, 3.0, 3.0)}
    assert knowledge.beliefs("", "Rewrite", 0.0).evidence == {}
    assert knowledge.beliefs("experiment", TASK, 0.0).evidence == {}


def test_equal_content_has_an_equal_version_whatever_the_way_there():
    one, two = Knowledge(), Knowledge()
    one.fold({cell("a"): good(2), cell("b"): good(1)})
    two.fold({cell("b", hour=7): good(3)})
    two.fold({cell("a", channel="score"): good(2), cell("b", hour=7): Counts().minus(good(2)), cell("c"): Counts()})
    assert one.beliefs("", TASK, 0.0) == two.beliefs("", TASK, 0.0)
    two.fold({cell("b"): good(1)})
    assert one.beliefs("", TASK, 1.0).version != two.beliefs("", TASK, 1.0).version


def test_having_learned_nothing_has_a_version_too():
    knowledge = Knowledge()
    beliefs = knowledge.beliefs("", TASK, 0.0)
    assert beliefs.version
    assert knowledge.content(beliefs.version) == "{}"
    assert decode("{}") == beliefs == Knowledge().beliefs("", "Rewrite", 0.0)


floats = st.floats(0, 1e9, allow_nan=False)


@given(st.dictionaries(st.text(min_size=1), st.builds(Evidence, floats, floats, floats, floats)))
def test_content_returns_bit_for_bit(evidence):
    beliefs = decode(encode(evidence))
    assert beliefs.evidence == {arm: found for arm, found in evidence.items() if found != Evidence()}
    assert decode(encode(beliefs.evidence)) == beliefs
    assert all(beliefs.of(arm) == found for arm, found in evidence.items())


def test_a_snapshot_stays_for_half_a_second():
    knowledge = Knowledge()
    first = knowledge.beliefs("", TASK, 10.0)
    knowledge.fold({cell(): good()})
    assert knowledge.beliefs("", TASK, 10.49) is first
    second = knowledge.beliefs("", TASK, 10.51)
    assert second.of("small").explicit_n == 1.0
    knowledge.fold({cell(): good()})
    assert knowledge.beliefs("", TASK, 10.52) is second
    assert knowledge.latest("", TASK).of("small").explicit_n == 2.0
    assert first.evidence == {}


def test_what_is_shown_from_another_thread_takes_no_newer_snapshots_place():
    knowledge = Knowledge()
    knowledge.fold({cell(): good(2)})

    class Meanwhile:
        """The event loop learns and decides while the thread is at work."""

        def evidence_of(self, task_type, found):
            known, knowledge.controls = in_force.evidence_of(task_type, found), in_force
            knowledge.fold({cell(): good()})
            knowledge.beliefs("", TASK, 1.0)
            return known

    in_force, knowledge.controls = knowledge.controls, Meanwhile()
    assert knowledge.latest("", TASK).of("small").explicit_n == 2.0
    assert knowledge.beliefs("", TASK, 9.0).of("small").explicit_n == 3.0


def test_what_did_not_change_stays_the_same_object():
    knowledge = Knowledge()
    before = knowledge.beliefs("", TASK, 0.0)
    knowledge.fold({cell()._replace(task_type="Rewrite"): good()})
    assert knowledge.beliefs("", TASK, 99.0) is before


def test_the_content_of_a_snapshot_in_use_is_there_however_many_came_after_it():
    knowledge = Knowledge()
    knowledge.fold({cell(): good()})
    kept = knowledge.beliefs("", TASK, 1.0)
    content = knowledge.content(kept.version)
    for number in range(5_000):
        knowledge.fold({cell()._replace(task_type="Rewrite"): good()})
        knowledge.beliefs("", "Rewrite", 2.0 + number)
    assert knowledge.beliefs("", TASK, 10_000.0) is kept
    assert knowledge.content(kept.version) == content


def test_contents_of_earlier_versions_are_still_there():
    knowledge = Knowledge()
    versions = []
    for turn in range(50):
        knowledge.fold({cell(): good()})
        versions.append(knowledge.beliefs("", TASK, float(turn)).version)
    assert [decode(knowledge.content(version)).of("small").explicit_n for version in versions] == list(range(1, 51))
    with pytest.raises(KeyError):
        knowledge.content("never seen")


def test_replacing_sets_and_folding_adds():
    knowledge = Knowledge()
    knowledge.load({cell(hour=84): good(10)}, {cell(): good(1)})
    knowledge.replace({cell(): good(3), cell("large"): good(1)})
    knowledge.replace({cell(): good(3)})
    knowledge.fold({cell(): good(1)})
    knowledge.replace({cell(): good(4)})
    assert knowledge.cells() == {
        ("", "small", TASK, "simple", "thumb"): good(14),
        ("", "large", TASK, "simple", "thumb"): good(1),
    }


@contextlib.asynccontextmanager
async def replica(database, clock=time.time, window_s=1e9, known_s=7 * 24 * HOUR):
    knowledge = Knowledge(clock, window_s=known_s)
    writer = Writer(database, DatabaseSettings(timeout_s=60), knowledge.fold, window_s=window_s)
    await writer.start()
    try:
        await knowledge.refresh(writer)
        yield knowledge, writer
    finally:
        await writer.close()


def rating(value=1.0, decision_id="d", user=""):
    return Measurement(decision_id=decision_id, metric="quality", source="user", value=value, user=user, at=time.time())


def stored(sums):
    return {key: counts for key, counts in sums.items() if counts != Counts()}


@pytest.fixture
async def decided(database, decision_row):
    now = time.time()
    ages = {"d": 0.0, "yesterday": 24 * HOUR, "last month": 30 * 24 * HOUR, "last year": 365 * 24 * HOUR}
    rows = [decision_row(name, created_at=now - age) for name, age in ages.items()]
    await database.write(lambda connection: store.insert_decisions(connection, rows))
    return database


async def test_a_restart_finds_all(decided):
    async with replica(decided) as (first, writer):
        await writer.record([rating(0.3), rating(0.8, "last year"), rating(0.4, user="other")])
        before = first.cells()
    async with replica(decided) as (second, _):
        assert second.cells() == before == await decided.read(store.sum_cells)
        assert second.beliefs("", TASK, 0.0) == first.latest("", TASK)


async def test_replicas_learn_from_each_other(decided):
    async with replica(decided) as (one, first), replica(decided) as (two, second):
        await first.record([rating(1.0, user="a"), rating(1.0, "yesterday")])
        await second.record([rating(0.0, user="b")])
        assert one.cells() != two.cells()
        for knowledge, writer in ((one, first), (two, second)):
            await knowledge.refresh(writer)
        assert one.cells() == two.cells() == await decided.read(store.sum_cells)
        await first.record([rating(0.5, user="b")])  # somebody changes their mind on the other replica
        for knowledge, writer in ((one, first), (two, second)):
            await knowledge.refresh(writer)
        assert one.latest("", TASK) == two.latest("", TASK)
        assert one.cells() == two.cells() == await decided.read(store.sum_cells)


async def test_refreshing_while_writing_neither_loses_nor_doubles(decided):
    async with replica(decided) as (one, first), replica(decided) as (two, second):

        async def rate(writer, name):
            for turn in range(40):
                await writer.record([rating(turn % 5 / 5, user=f"{name}{turn % 9}")])

        async def refresh():
            for _ in range(20):
                await one.refresh(first)
                await two.refresh(second)

        await asyncio.gather(rate(first, "a"), rate(first, "b"), rate(second, "c"), rate(second, "a"), refresh())
        await one.refresh(first)
        await two.refresh(second)
        assert one.cells() == two.cells() == await decided.read(store.sum_cells)


async def test_an_hour_that_was_taken_for_closed_is_learned_too(decided):
    async with replica(decided) as (one, first), replica(decided) as (two, second):
        for turn, old in enumerate(("last month", "last year", "last month", "last year")):
            await first.record([rating(0.25 * turn, old, user=str(turn // 2)), rating(1.0, user=str(turn))])
            await two.refresh(second)
            await one.refresh(first)
            assert one.cells() == two.cells() == await decided.read(store.sum_cells)


async def test_a_rebuild_by_somebody_else_is_noticed(decided):
    async with replica(decided) as (knowledge, writer):
        await writer.record([rating(1.0)])
        spoiled = {cell("gone", hour=int(time.time() // HOUR)): good(7)}
        await decided.write(lambda connection: store.add_to_cells(connection, spoiled, time.time()))
        await knowledge.refresh(writer)
        assert knowledge.latest("", TASK).of("gone").explicit_n == 7.0
        wrong = await decided.read(store.compare_fold)
        await decided.write(partial(store.correct_cells, wrong=wrong, at=time.time()))
        await knowledge.refresh(writer)
        assert knowledge.latest("", TASK).evidence.keys() == {"small"}


async def test_a_rating_within_the_window_makes_nobody_read_everything_again(decided):
    months = 60 * 24 * HOUR
    async with replica(decided) as (_, elsewhere), replica(decided, known_s=months) as (knowledge, writer):
        span = knowledge._span_h
        await elsewhere.record([rating(1.0, "last month")])
        await knowledge.refresh(writer)
        assert knowledge._span_h == span
        assert knowledge.cells() == await decided.read(store.sum_cells)


async def test_hours_that_close_are_still_counted(decided):
    now = time.time()
    async with replica(decided, lambda: now) as (knowledge, writer):
        await writer.record([rating(1.0), rating(1.0, "yesterday")])
        now += 10 * 24 * HOUR
        await knowledge.refresh(writer)
        assert knowledge._cells == {}
        assert knowledge.cells() == await decided.read(store.sum_cells)
        now -= 10 * 24 * HOUR
        await writer.record([rating(0.0, "yesterday")])
        await knowledge.refresh(writer)
        assert stored(knowledge.cells()) == stored(await decided.read(store.sum_cells))


async def test_age_is_that_of_the_last_look(decided):
    assert math.isinf(Knowledge().age(1.0))
    now = time.time()
    async with replica(decided, lambda: now) as (knowledge, writer):
        assert knowledge.age(now + 5) == 5.0
        now += 60
        await knowledge.refresh(writer)
        assert knowledge.age(now + 5) == 5.0
