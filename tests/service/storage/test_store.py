import asyncio
import traceback
from functools import partial

import pytest
from sqlalchemy.exc import DBAPIError, IntegrityError

from bandit.posteriors import CellKey, Counts
from service.learn import Measurement, record
from service.storage import store
from service.storage.database import Database

NOON = 1_800_000_000.0
CELL = CellKey("", "small", "Open QA", "simple", 500_000, "thumb")


async def test_a_decision_comes_back_as_it_went_in(database, decision_row):
    row = decision_row("d", propensity=0.1 + 0.2, detail='{"note":"für 分析"}', served_arm="large")
    await database.write(lambda connection: store.insert_decisions(connection, [row]))
    assert await database.read(store.decision, "d") == row
    assert await database.read(store.decision, "other") is None


async def test_a_decision_written_twice_stays_as_it_was(database, decision_row):
    await database.write(lambda connection: store.insert_decisions(connection, [decision_row("d", arm="small")]))
    with pytest.raises(IntegrityError):
        await database.write(lambda connection: store.insert_decisions(connection, [decision_row("d", arm="large")]))
    assert (await database.read(store.decision, "d"))["arm"] == "small"


async def test_who_served_is_noted(database, decision_row):
    def work(connection):
        store.insert_decisions(connection, [decision_row("a"), decision_row("b")])
        store.set_served_arms(connection, [("a", "large")])

    await database.write(work)
    assert (await database.read(store.decision, "a"))["served_arm"] == "large"
    assert (await database.read(store.decision, "b"))["served_arm"] is None


async def test_attempts_come_in_order_and_only_of_the_asked(database, decision_row, attempt_row):
    def work(connection):
        store.insert_decisions(connection, [decision_row(name) for name in "abc"])
        steps = [
            attempt_row("a", step=1),
            attempt_row("b"),
            attempt_row("c"),
            attempt_row("a", step=0, outcome="timeout"),
        ]
        store.insert_attempts(connection, steps)

    await database.write(work)
    found = await database.read(store.attempts_of, ["b", "a"])
    assert [(row["decision_id"], row["step"]) for row in found] == [("a", 0), ("a", 1), ("b", 0)]
    assert found[0]["streamed"] is False
    assert await database.read(store.attempts_of, []) == []


async def test_more_ids_than_one_list_holds(database, decision_row, attempt_row):
    ids = [f"d{number:04}" for number in range(1203)]

    def work(connection):
        store.insert_decisions(connection, [decision_row(name) for name in ids])
        store.insert_attempts(connection, [attempt_row(name) for name in ids])

    await database.write(work)
    assert [row["decision_id"] for row in await database.read(store.attempts_of, ids)] == ids
    assert set(await database.read(store.decisions_to_rate, [*ids, "unknown"])) == set(ids)


async def test_an_attempt_needs_its_decision(database, attempt_row):
    with pytest.raises(IntegrityError):
        await database.write(lambda connection: store.insert_attempts(connection, [attempt_row("nobody")]))


async def test_errors_do_not_show_what_was_stored(database, decision_row):
    row = decision_row("d", user="confidential", created_at=None)
    with pytest.raises(IntegrityError) as caught:
        await database.write(lambda connection: store.insert_decisions(connection, [row]))
    assert "created_at" in str(caught.value)
    assert "confidential" not in "".join(traceback.format_exception(caught.value))


async def test_what_raises_is_rolled_back(database, decision_row):
    def work(connection):
        store.insert_decisions(connection, [decision_row("d")])
        raise KeyError("no")

    with pytest.raises(KeyError):
        await database.write(work)
    assert await database.read(store.decision, "d") is None


async def test_reading_cannot_write(database, decision_row):
    with pytest.raises(DBAPIError):
        await database.read(lambda connection: store.insert_decisions(connection, [decision_row("d")]))
    assert await database.read(store.decision, "d") is None


async def test_reading_before_writing_meets_no_lock(database, database_url, decision_row):
    other = Database(database_url)

    async def write(one, name):
        for turn in range(20):

            def work(connection, decision_id=f"{name}{turn}"):
                store.list_decisions(connection, limit=1)
                store.insert_decisions(connection, [decision_row(decision_id)])

            await one.write(work)

    await asyncio.gather(write(database, "a"), write(other, "b"))
    await other.close()
    assert len(await database.read(partial(store.list_decisions, limit=99))) == 40


async def test_decisions_are_listed_newest_first(database, decision_row):
    rows = [decision_row(f"d{n}", created_at=NOON + n // 2, key_id="even" if n % 2 == 0 else "odd") for n in range(6)]
    await database.write(lambda connection: store.insert_decisions(connection, rows))

    async def listed(**said):
        return [row["id"] for row in await database.read(partial(store.list_decisions, **said))]

    assert await listed(limit=10) == ["d5", "d4", "d3", "d2", "d1", "d0"]
    assert await listed(limit=2, offset=1) == ["d4", "d3"]
    assert await listed(limit=2, before=(NOON + 2, "d4")) == ["d3", "d2"]
    assert await listed(limit=10, key_id="odd") == ["d5", "d3", "d1"]


async def test_pruning_drops_the_log_and_keeps_what_was_learned(database, decision_row, attempt_row):
    def work(connection):
        store.insert_beliefs(connection, {"old": "{}", "used": "{}"}, NOON - 200)
        store.insert_beliefs(connection, {"new": "{}"}, NOON)
        store.insert_decisions(connection, [decision_row("old", created_at=NOON - 100, beliefs_version="old")])
        store.insert_decisions(connection, [decision_row("new", created_at=NOON, beliefs_version="used")])
        store.insert_attempts(connection, [attempt_row("old"), attempt_row("new")])
        store.add_to_cells(connection, {CELL: Counts(1, 1, 1)}, NOON - 100)
        return store.prune(connection, NOON - 50)

    assert await database.write(work) == 2  # a decision and what it was taken on
    assert await database.read(store.decision, "old") is None
    assert [row["decision_id"] for row in await database.read(store.attempts_of, ["old", "new"])] == ["new"]
    assert await database.read(store.sum_cells) == {("", "small", "Open QA", "simple", "thumb"): Counts(1, 1, 1)}
    contents = [await database.read(store.belief_content, version) for version in ("old", "used", "new")]
    assert contents == [None, "{}", "{}"]


async def test_pruning_leaves_the_writer_to_others_between(database, decision_row):
    """No transaction drops more than 500 of a kind: an hour's decisions at once kept all others waiting for seconds."""

    def fill(connection):
        rows = [decision_row(f"d{n}", created_at=NOON - 100, beliefs_version=f"v{n}") for n in range(1_200)]
        store.insert_beliefs(connection, {f"v{n}": "{}" for n in range(1_200)}, NOON - 100)
        store.insert_decisions(connection, rows)
        prompts = [{"decision_id": f"d{n}", "created_at": NOON - 100, "text": ""} for n in range(700)]
        store.insert_prompts(connection, prompts)

    await database.write(fill)
    steps = [await database.write(lambda connection: store.prune(connection, NOON)) for _ in range(4)]
    assert steps == [1_000, 1_000, 400, 0]
    prompts = [await database.write(lambda connection: store.prune_prompts(connection, NOON)) for _ in range(3)]
    assert prompts == [500, 200, 0]


async def test_prompts_have_a_retention_of_their_own(database, decision_row):
    def work(connection):
        rows = [{"decision_id": name, "created_at": NOON - age, "text": f"{name} 分析"} for name, age in AGES.items()]
        store.insert_prompts(connection, rows)
        store.insert_prompts(connection, [{**rows[0], "text": "again"}])
        store.insert_decisions(connection, [decision_row("old", created_at=NOON - 100)])
        store.prune(connection, NOON)  # the decision goes, its prompt stays
        return store.newest_prompts(connection, 10), store.prune_prompts(connection, NOON - 50)

    assert await database.write(work) == (["old 分析", "newer 分析", "newest 分析"], 1)
    assert await database.read(store.newest_prompts, 10) == ["newer 分析", "newest 分析"]
    assert await database.read(store.newest_prompts, 1) == ["newest 分析"]


AGES = {"old": 100, "newer": 10, "newest": 0}


async def test_contents_are_stored_once_each(database):
    await database.write(lambda connection: store.insert_beliefs(connection, {"v": "first", "w": "other"}, NOON))
    await database.write(lambda connection: store.insert_beliefs(connection, {"v": "again"}, NOON + 1))
    assert await database.read(store.belief_content, "v") == "first"
    await database.write(lambda connection: store.insert_configs(connection, {"c": "settings"}, NOON))
    assert await database.read(store.config_content, "c") == "settings"
    assert await database.read(store.config_content, "v") is None


async def test_cells_add_up_over_hours(database):
    later = CELL._replace(hour=CELL.hour + 1)
    other = CELL._replace(namespace="experiment", channel="heuristic")
    large = Counts(2**40, 2**39, -(2**38))
    await database.write(lambda connection: store.add_to_cells(connection, {later: large, CELL: Counts(5, 3, 2)}, 10.0))
    await database.write(lambda connection: store.add_to_cells(connection, {CELL: large, other: Counts(1, 1, 1)}, 20.0))
    key = ("", "small", "Open QA", "simple", "thumb")
    both = Counts(5, 3, 2).plus(large).plus(large)
    assert await database.read(store.sum_cells) == {key: both, ("experiment", *key[1:4], "heuristic"): Counts(1, 1, 1)}
    assert await database.read(store.sum_cells, "") == {key: both}
    assert await database.read(store.sum_cells, "", later.hour) == {key: Counts(5, 3, 2).plus(large)}
    assert await database.read(store.cells_from_hour, later.hour) == {later: large}
    changed, latest = await database.read(store.cells_changed_since, 20.0)
    assert (changed, latest) == ({CELL: Counts(5, 3, 2).plus(large), other: Counts(1, 1, 1)}, 20.0)
    assert await database.read(store.cells_changed_since, 21.0) == ({}, 21.0)


async def test_cells_are_corrected_from_the_rewards(database, decision_row):
    reward = {
        "decision_id": "d", "metric": "quality", "source": "user", "user": "", "value": 0.3, "weight": 0.7,
        "channel": "thumb", "namespace": "", "arm": "small", "task_type": "Open QA", "tier": "simple",
        "hour": CELL.hour, "comment": "", "detail": "{}", "created_at": NOON, "updated_at": NOON,
    }  # fmt: skip
    stray = CELL._replace(arm="gone")

    def work(connection):
        store.insert_rewards(connection, [reward])
        store.add_to_cells(connection, {stray: Counts(9, 9, 9), CELL: Counts(1, 0, 0)}, NOON)

    await database.write(work)
    right = Counts(700_000, 210_000, 63_000)
    wrong = await database.read(store.compare_fold)
    assert wrong == {stray: (Counts(9, 9, 9), Counts()), CELL: (Counts(1, 0, 0), right)}

    def learned_meanwhile(connection):
        store.insert_rewards(connection, [{**reward, "user": "another"}])
        store.add_to_cells(connection, {CELL: right}, NOON)

    await database.write(learned_meanwhile)
    await database.write(lambda connection: store.correct_cells(connection, wrong, NOON + 1))
    assert await database.read(store.compare_fold) == {}
    assert (await database.read(store.cells_from_hour, 0))[CELL] == right.plus(right)


async def test_what_is_learned_while_cells_are_compared_is_not_taken_for_wrong(database, database_url, decision_row):
    ids = [f"d{number}" for number in range(400)]
    await database.write(lambda c: store.insert_decisions(c, [decision_row(one, created_at=NOON) for one in ids]))

    async def learn():
        for one in ids:
            said = [Measurement(decision_id=one, metric="quality", source="user", value=1.0, at=NOON)]
            await database.write(partial(record, measurements=said, window_s=1.0, now=NOON))

    other, learning, found = Database(database_url), asyncio.create_task(learn()), []
    while not learning.done():
        found.append(await other.read(store.compare_fold))
    await other.close()
    await learning
    assert len(found) > 5
    assert not any(found)


async def test_keys_are_found_by_digest_and_revoked_once(database):
    row = {"id": "k", "name": "tests", "digest": "f" * 64, "scopes": "chat", "created_at": NOON, "revoked_at": None}
    await database.write(lambda connection: store.insert_key(connection, row))
    assert await database.read(store.list_keys) == [row]
    with pytest.raises(IntegrityError):
        await database.write(lambda connection: store.insert_key(connection, {**row, "id": "l"}))
    assert await database.write(lambda connection: store.revoke_key(connection, "k", NOON + 1)) is True
    assert await database.write(lambda connection: store.revoke_key(connection, "k", NOON + 2)) is False
    assert [key["revoked_at"] for key in await database.read(store.list_keys)] == [NOON + 1]
