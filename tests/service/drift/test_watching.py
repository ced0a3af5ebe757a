"""Models that changed: found once, whoever looks; nothing is forgotten, nothing breaks."""

import asyncio
import contextlib

import numpy as np
import pytest
from msgspec.structs import replace
from sqlalchemy import insert, update

from bandit.drift import ON_ALARM, ON_EVENT
from bandit.history import ArmRestart, Memory, faded, table_of
from bandit.posteriors import MICRO, CellKey, Counts
from bandit.vocabulary import TASK_TYPES
from service.drift import watches
from service.drift.alarms import list_alarms, restart_hour, restarts, told
from service.drift.watching import Watching
from service.metrics.catalogue import Metrics
from service.settings import Database as DatabaseSettings
from service.settings import Drift, Settings, SimulatedModel
from service.storage import store, tables
from service.storage.database import Database
from service.storage.writer import Writer

NOON = 1_800_000_000.0
HOUR = int(NOON // 3600)
MODELS = (SimulatedModel(name="small", price_in=1.0), SimulatedModel(name="large", price_in=2.0))
SETTINGS = Settings(models=MODELS)


@contextlib.asynccontextmanager
async def watching(database):
    """Detection as one process of the service has it."""
    writer = Writer(database, DatabaseSettings(timeout_s=20.0), lambda _: None, window_s=1e9)
    await writer.start()
    try:
        yield Watching(database, writer, Metrics())
    finally:
        await writer.close()


async def learned(database, now, n, s, *, arm="small", task_type="Open QA", channel="thumb", calls=None):
    """What `n` readings that sum to `s` leave in the database."""

    def write(connection):
        key = CellKey("", arm, task_type, "simple", int(now // 3600), channel)
        store.add_to_cells(connection, {key: Counts(round(n * MICRO), round(s * MICRO), 0)}, now)
        rows = [
            {
                "id": f"{arm}-{now}-{index}", "created_at": now - 6.0, "key_id": "", "method": "auto", "policy": "p",
                "namespace": "", "task_type": task_type, "tier": "simple", "arm": arm, "served_arm": None,
                "propensity": 1.0, "routing_s": 0.0, "beliefs_version": "b", "config_version": "c", "session": "",
                "user": "", "detail": "{}",
            }
            for index in range(n if calls is None else calls)
        ]  # fmt: skip
        if rows:
            store.insert_decisions(connection, rows)

    await database.write(write)


async def stream(database, looker, means, *, start=NOON, batch=5, seed=1, settings=SETTINGS):
    """Batches of thumbs with these chances of being up, each followed by a look; the time after the last one."""
    generator = np.random.default_rng(seed)
    now = start
    for mean in means:
        now += 10.0
        await learned(database, now, batch, int(generator.binomial(batch, mean)))
        await looker.look(settings, now)
    return now


async def found(database):
    return [row for row in await database.read(list_alarms, limit=1000) if row.event == "detected"]


async def test_a_drop_is_found_once_and_dated_back_to_when_it_was_suspected(database):
    async with watching(database) as looker:
        await looker.look(SETTINGS, NOON)
        now = await stream(database, looker, [0.9] * 40)
        assert await found(database) == []
        await stream(database, looker, [0.3] * 40, start=now)
    (alarm,) = await found(database)
    assert (alarm.arm, alarm.direction, alarm.stream, alarm.task_type) == ("small", "down", "label", None)
    assert alarm.evidence >= 1.0
    assert alarm.past_mean == pytest.approx(0.9, abs=0.06)
    assert alarm.mean < 0.6
    assert now < alarm.at < now + 200.0
    assert alarm.hour in (restart_hour(now), restart_hour(alarm.at))
    assert await database.read(restarts) == (ArmRestart("small", alarm.hour, ON_ALARM["down"]),)


async def test_a_rise_is_found_too(database):
    async with watching(database) as looker:
        await looker.look(SETTINGS, NOON)
        await stream(database, looker, [0.3] * 40 + [0.9] * 60)
    (alarm,) = await found(database)
    assert alarm.direction == "up"


async def test_nothing_is_found_where_nothing_changes(database):
    # 400 calls; one false alarm in 20,000 calls at most: a chance of at most 2 %, and none for this seed.
    async with watching(database) as looker:
        await looker.look(SETTINGS, NOON)
        await stream(database, looker, [0.7] * 80)
    assert await found(database) == []


async def test_what_was_learned_before_the_first_look_is_the_past_and_no_news(database):
    for hour in range(40):
        await learned(database, NOON - 3600.0 * (50 - hour), 20, 18 if hour < 20 else 4, calls=0)
    async with watching(database) as looker:
        await looker.look(SETTINGS, NOON)
        _, memory = await database.read(watches.read_memory)
    assert await found(database) == []
    assert memory.caught_up
    assert sum(memory.streams["label"]["small"].past_n) == 800.0
    assert memory.suspected == {}


async def test_a_history_larger_than_one_look_is_read_in_several(database):
    def write(connection):
        keys = [
            CellKey("", f"arm-{arm}", task, "simple", HOUR - hour, "thumb")
            for arm in range(10)
            for task in TASK_TYPES
            for hour in range(10)
        ]
        store.add_to_cells(connection, {key: Counts(MICRO, MICRO, MICRO) for key in keys}, NOON)

    await database.write(write)
    async with watching(database) as looker:
        more = [await looker.look(SETTINGS, NOON + second) for second in range(3)]
    assert more == [True, False, False]
    _, memory = await database.read(watches.read_memory)
    assert sum(sum(arm.past_n) for arm in memory.streams["label"].values()) == 1200.0


async def test_a_restart_in_the_middle_forgets_nothing(database):
    async with watching(database) as whole:
        await whole.look(SETTINGS, NOON)
        now = await stream(database, whole, [0.9] * 40)
        now = await stream(database, whole, [0.3] * 2, start=now, seed=2)
        _, before = await database.read(watches.read_memory)
    assert before.streams["label"]["small"].past_n != [0.0] * len(TASK_TYPES)
    async with watching(database) as again:
        await again.look(SETTINGS, now + 1.0)  # nothing happened meanwhile, and somebody has just looked
        assert again.suspected == frozenset(before.suspected)
        await stream(database, again, [0.3] * 40, start=now, seed=3)
    (alarm,) = await found(database)
    assert alarm.past_readings == pytest.approx(200.0, abs=11.0)


async def test_two_processes_see_each_reading_once_and_give_one_alarm(database, database_url):
    other_database = Database(database_url)
    kept = 0
    async with watching(database) as one, watching(other_database) as other:
        await one.look(SETTINGS, NOON)
        generator = np.random.default_rng(4)
        now = NOON
        for mean in [0.9] * 30 + [0.2] * 30:
            now += 10.0
            await learned(database, now, 5, int(generator.binomial(5, mean)))
            await asyncio.gather(one.look(SETTINGS, now), other.look(SETTINGS, now))
            kept += 5
        _, memory = await database.read(watches.read_memory)
        remembered = memory.streams["label"]["small"]
        (alarm,) = await found(database)
        assert sum(remembered.past_n) + sum(remembered.lately_n) == kept - alarm.past_readings - alarm.readings
        assert one.suspected == other.suspected
    await other_database.close()


async def test_a_rating_that_is_taken_back_goes_off_the_next_one(database):
    async with watching(database) as looker:
        await looker.look(SETTINGS, NOON)
        await learned(database, NOON + 10.0, 1, 1)
        await looker.look(SETTINGS, NOON + 10.0)
        await learned(database, NOON + 20.0, 0, -1)
        await looker.look(SETTINGS, NOON + 20.0)
        await learned(database, NOON + 30.0, 1, 1)
        await looker.look(SETTINGS, NOON + 30.0)
        _, memory = await database.read(watches.read_memory)
    arm = memory.streams["label"]["small"]
    assert (sum(arm.past_n), sum(arm.past_s), sum(arm.owed_s)) == (2.0, 1.0, 0.0)


@pytest.mark.parametrize(
    "damage",
    [
        {"n": -5 * MICRO},
        {"n": 2**62, "s": 2**62},
        {"s": 2**40},
        {"task_type": "nothing"},
        {"channel": "nothing"},
        {"updated_at": 9e18},
        {"hour": -7},
    ],
)
async def test_damaged_cells_neither_raise_nor_stop_detection(database, damage):
    row = {
        "namespace": "", "arm": "small", "task_type": "Rewrite", "tier": "simple", "hour": HOUR, "channel": "score",
        "n": MICRO, "s": 0, "s2": 0, "updated_at": NOON + 5.0,
    }  # fmt: skip
    async with watching(database) as looker:
        await looker.look(SETTINGS, NOON)
        await database.write(lambda connection: connection.execute(insert(tables.cells), [{**row, **damage}]) and None)
        await stream(database, looker, [0.9] * 40 + [0.2] * 30)
    assert [alarm.direction for alarm in await found(database)] == ["down"]


async def test_a_memory_that_cannot_be_read_is_told_and_begun_anew(database):
    async with watching(database) as looker:
        await looker.look(SETTINGS, NOON)
        broken = (
            update(tables.watches).where(tables.watches.c.name == watches.DETECTORS).values(content='{"since": "x"}')
        )
        await database.write(lambda connection: connection.execute(broken) and None)
        await looker.look(SETTINGS, NOON + 10.0)
        await stream(database, looker, [0.9] * 40 + [0.2] * 30, start=NOON + 20.0)
        exposed = looker._metrics.exposition()[0].decode()
    assert 'armwise_learner_errors_total{place="watch"} 1.0' in exposed
    assert len(await found(database)) == 1


async def test_another_price_is_an_event_once_and_changes_no_past(database):
    dearer = replace(SETTINGS, models=(replace(MODELS[0], price_in=3.0), MODELS[1]))
    async with watching(database) as looker:
        await looker.look(SETTINGS, NOON)
        assert await database.read(list_alarms, limit=9) == []
        await looker.look(dearer, NOON + 10.0)
    async with watching(database) as restarted:
        await restarted.look(dearer, NOON + 20.0)
    (event,) = await database.read(list_alarms, limit=9)
    assert (event.event, event.arm, event.note) == ("price", "small", "price_in 1 -> 3")
    assert await database.read(restarts) == (ArmRestart("small", restart_hour(NOON + 10.0), ON_EVENT["price"]),)


async def test_a_model_that_comes_later_is_new_once_and_the_first_ones_are_not(database):
    later = replace(SETTINGS, models=(*MODELS, replace(MODELS[1], name="later")))
    async with watching(database) as looker:
        await looker.compare(SETTINGS, NOON)
        await looker.compare(later, NOON + 10.0)
        await looker.compare(SETTINGS, NOON + 20.0)
        await looker.compare(later, NOON + 30.0)  # it was away, and is known
    (event,) = await database.read(list_alarms, limit=9)
    assert (event.event, event.arm, event.at) == ("new", "later", NOON + 10.0)
    found = faded(table_of({}), ["small", "large", "later"], NOON / 3600.0, Memory(), await database.read(restarts))
    assert found.arrived == {"later"}
    assert found.variance_factor.tolist() == [1.0, 1.0, 1.0]


async def test_a_new_version_begins_its_past_anew_and_a_price_does_not(database):
    async with watching(database) as looker:
        await looker.look(SETTINGS, NOON)
        now = await stream(database, looker, [0.9] * 40)
        await looker.tell(SETTINGS, told("small", "price", now))
        _, memory = await database.read(watches.read_memory)
        assert sum(memory.streams["label"]["small"].past_n) == 200.0
        await looker.tell(SETTINGS, told("small", "version", now))
        _, memory = await database.read(watches.read_memory)
        assert "small" not in memory.streams["label"]
        # Late feedback for decisions of the hour before says nothing of the new version.
        await learned(database, now - 3600.0, 50, 0)
        touched = update(tables.cells).values(updated_at=now)
        await database.write(lambda connection: connection.execute(touched) and None)
        await stream(database, looker, [0.3] * 40, start=now)
        _, memory = await database.read(watches.read_memory)
    assert await found(database) == []
    assert sum(memory.streams["label"]["small"].past_n) == 200.0


async def test_what_is_kept_may_be_said_again_but_not_by_somebody_else(database):
    memory = watches.Memory(looked_at=NOON)
    alarm = told("small", "version", NOON)

    async def keep(found):
        return await database.write(
            lambda connection: watches.keep(connection, revision=0, memory=found, changes=[], alarms=[alarm])
        )

    assert await keep(memory)
    assert await keep(memory)  # the commit was not heard of
    assert not await keep(replace(memory, looked_at=NOON + 1.0))
    assert await database.read(list_alarms, limit=9) == [alarm]


async def test_heuristics_have_a_detector_of_their_own(database):
    async with watching(database) as looker:
        await looker.look(SETTINGS, NOON)
        now = NOON
        for share in [0.95] * 60 + [0.6] * 60:
            now += 10.0
            await learned(database, now, 10, 10 * share, channel="heuristic")
            await learned(database, now, 10, 0, arm="large", channel="reading", calls=0)  # the same replies again
            await looker.look(SETTINGS, now)
        _, memory = await database.read(watches.read_memory)
    assert [(alarm.stream, alarm.direction) for alarm in await found(database)] == [("heuristic", "down")]
    assert not any("large" in arms for arms in memory.streams.values())


def test_the_settings_say_how_rare_a_false_alarm_is():
    assert Settings().drift == Drift(enabled=True, look_every_s=5.0, webhook_url_env="", calls_per_false_alarm=20_000.0)


@pytest.mark.parametrize("how", ["detection is off", "the model is gone"])
async def test_a_model_that_is_watched_no_longer_is_not_told_as_suspected(database, how):
    def told_of(looker):
        lines = looker._metrics.exposition()[0].decode().splitlines()
        return [line.split()[-1] for line in lines if line.startswith('armwise_model_suspected{model="small"}')]

    async with watching(database) as looker:
        await looker.look(SETTINGS, NOON)
        now = await stream(database, looker, [0.9] * 40)
        while not looker.suspected:
            now = await stream(database, looker, [0.3], start=now)
        assert told_of(looker) == ["1.0"]
        if how == "detection is off":
            looker.rest()
        else:
            await looker.look(replace(SETTINGS, models=MODELS[1:]), now + 10.0)
        assert told_of(looker) == ["0.0"]
