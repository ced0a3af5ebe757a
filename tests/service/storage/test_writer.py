import asyncio
import contextlib
import multiprocessing
import sqlite3
import time

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.exc import IntegrityError

from bandit.posteriors import Counts
from service.errors import StorageUnavailable
from service.learn import Measurement
from service.settings import Database as DatabaseSettings
from service.storage import store
from service.storage.database import Database
from service.storage.writer import Writer

NOON = 1_800_000_000.0
WEEK = 7 * 86_400.0


def rating(value=1.0, decision_id="d", user=""):
    return Measurement(decision_id=decision_id, metric="quality", source="user", value=value, user=user, at=NOON + 60)


@contextlib.asynccontextmanager
async def writing(database, on_commit=lambda _: None, **said):
    writer = Writer(database, DatabaseSettings(**said), on_commit, window_s=WEEK)
    await writer.start()
    try:
        yield writer
    finally:
        await writer.close()


async def test_all_that_follows_one_request_is_stored(database, decision_row, attempt_row):
    async with writing(database) as writer:
        await writer.add_config("c", "settings")
        await writer.add_decision(decision_row("d"), ("b", "beliefs"))
        await writer.add_attempts([attempt_row("d"), attempt_row("d", step=1)], ("d", "large"))
        (outcome,) = await writer.record([rating()])
        assert (outcome.status, outcome.arm) == ("recorded", "large")
        assert writer.last_commit_at == pytest.approx(time.time(), abs=60)
    assert (await database.read(store.decision, "d"))["served_arm"] == "large"
    assert len(await database.read(store.attempts_of, ["d"])) == 2
    assert await database.read(store.belief_content, "b") == "beliefs"
    assert await database.read(store.config_content, "c") == "settings"


async def test_a_prompt_is_stored_with_its_decision(database, decision_row):
    row = {"decision_id": "d", "created_at": NOON, "text": "What is this? 这是什么"}
    async with writing(database) as writer:
        await writer.add_decision(decision_row("d"), None, row)
        await writer.add_decision(decision_row("e"))
    assert await database.read(store.newest_prompts, 9) == ["What is this? 这是什么"]


async def test_what_waits_together_is_committed_together_in_order(database, decision_row, attempt_row):
    commits = []
    async with writing(database, commits.append) as writer:
        # Asked in the wrong order on purpose: within a group, decisions come before what refers to them.
        futures = [writer.add_attempts([attempt_row("d")], ("d", "large")), writer.record([rating()])]
        futures += [writer.add_decision(decision_row(name)) for name in "de"]
        count = await writer.call(lambda connection: len(store.list_decisions(connection, limit=9)))
        assert [future.done() for future in futures] == [True] * 4
    assert count == 2
    assert len(commits) == 1
    assert futures[1].result()[0].arm == "large"


async def test_a_group_holds_at_most_its_rows(database, decision_row):
    commits = []
    async with writing(database, commits.append, group_rows=10) as writer:
        await writer.add_decision(decision_row("d"))
        await asyncio.gather(*(writer.record([rating(user=f"u{n}")]) for n in range(35)))
        await writer.record([rating(user=f"v{n}") for n in range(25)])  # one job is never split
    assert [sum(counts.n for counts in deltas.values()) // 1_000_000 for deltas in commits] == [10, 10, 10, 5, 25]


async def test_many_callers_share_commits(database, decision_row):
    commits = []
    async with writing(database, commits.append) as writer:
        await writer.add_decision(decision_row("d"))

        async def caller(number):
            return [await writer.record([rating(user=f"{number}/{turn}")]) for turn in range(10)]

        outcomes = await asyncio.gather(*(caller(number) for number in range(32)))
    assert {one.status for turns in outcomes for outcome in turns for one in outcome} == {"recorded"}
    assert sum(counts.n for deltas in commits for counts in deltas.values()) == 320_000_000
    assert len(commits) < 160
    assert await database.read(store.compare_fold) == {}


async def test_a_row_at_fault_fails_alone(database, decision_row, attempt_row):
    commits = []
    async with writing(database, commits.append) as writer:
        await writer.add_decision(decision_row("d"))
        good = [writer.record([rating(user=f"u{n}")]) for n in range(3)]
        orphan = writer.add_attempts([attempt_row("nobody")])
        incomplete = writer.add_decision(decision_row("e", created_at=None))
        broken = writer.call(lambda _: 1 / 0)
        good.append(writer.record([rating(user="last")]))
        done = await asyncio.gather(*good, orphan, incomplete, broken, return_exceptions=True)
        assert [outcome[0].status for outcome in done[:4]] == ["recorded"] * 4
        assert [type(error) for error in done[4:]] == [IntegrityError, IntegrityError, ZeroDivisionError]
        assert writer.healthy
    assert sum(counts.n for deltas in commits for counts in deltas.values()) == 4_000_000
    assert await database.read(store.decision, "e") is None


async def test_a_caller_that_goes_away_does_not_take_its_write_along(database, decision_row):
    commits = []
    async with writing(database, commits.append) as writer:
        await writer.add_decision(decision_row("d"))

        async def caller():
            await writer.record([rating()])

        task = asyncio.create_task(caller())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert len(commits) == 1
    assert len(await database.read(store.rewards_of, ["d"])) == 1


async def test_closing_writes_what_waits_and_takes_no_more(database, decision_row):
    writer = Writer(database, DatabaseSettings(), lambda _: None, window_s=WEEK)
    futures = [writer.add_decision(decision_row(f"d{n}")) for n in range(1000)]
    assert writer.queue_length == 1000
    await writer.start()
    await writer.close()
    assert all(future.done() for future in futures)
    assert writer.queue_length == 0
    assert len(await database.read(store.decisions_to_rate, [f"d{n}" for n in range(1000)])) == 1000
    with pytest.raises(StorageUnavailable, match="shutting down"):
        await writer.add_decision(decision_row("late"))


async def test_who_is_patient_is_given_more_time(sqlite_url):
    database = Database(sqlite_url)

    def slow(_):
        time.sleep(0.5)
        return "done"

    async with writing(database, timeout_s=0.1) as writer:
        assert await writer.call(slow, patience=100.0) == "done"
        with pytest.raises(StorageUnavailable):
            await writer.call(slow)
    await database.close()


async def test_too_much_waiting_is_told_at_once(database, decision_row):
    writer = Writer(database, DatabaseSettings(), lambda _: None, window_s=WEEK)
    waiting = writer.record([rating(decision_id="nobody", user=str(n)) for n in range(10_000)])
    with pytest.raises(StorageUnavailable, match="10,000 rows wait"):
        await writer.add_decision(decision_row("d"))
    await writer.start()
    await writer.close()
    assert {outcome.status for outcome in waiting.result()} == {"unknown_decision"}
    assert await database.read(store.decision, "d") is None


async def test_what_follows_a_commit_runs_before_the_next_one(database, decision_row):
    order = []
    async with writing(database, lambda deltas: order.append(sum(counts.n for counts in deltas.values()))) as writer:
        await writer.add_decision(decision_row("d"))
        first = writer.record([rating(user="a")])
        called = writer.call(store.sum_cells, order.append)
        await asyncio.gather(first, called)
        await writer.record([rating(user="b")])
    key = ("", "small", "Open QA", "simple", "thumb")
    assert order == [1_000_000, {key: Counts(1_000_000, 1_000_000, 1_000_000)}, 1_000_000]


async def test_an_error_in_memory_does_not_unsay_a_commit(database, decision_row, caplog):
    def on_commit(deltas):
        raise RuntimeError("no memory")

    async with writing(database, on_commit) as writer:
        await writer.add_decision(decision_row("d"))
        assert (await writer.record([rating()]))[0].status == "recorded"
        assert (await writer.record([rating()]))[0].status == "unchanged"
    assert "could not be taken into memory" in caplog.text


async def test_what_nobody_waits_for_is_written_together(database, decision_row, attempt_row):
    commits = []
    async with writing(database, commits.append) as writer:
        await writer.add_decision(decision_row("d"))
        later = [writer.add_later([attempt_row("d", step=step)], [rating(user=f"u{step}")]) for step in range(5)]
        await writer.record([rating()])
        assert not any(future.done() for future in later)  # a reply is never kept waiting by them
        outcomes = await asyncio.gather(*later)
    assert [outcome.status for (outcome,) in outcomes] == ["recorded"] * 5
    assert [sum(counts.n for counts in deltas.values()) for deltas in commits] == [1_000_000, 5_000_000]
    assert len(await database.read(store.attempts_of, ["d"])) == 5


async def test_closing_writes_what_nobody_waits_for(database, decision_row, attempt_row):
    async with writing(database) as writer:
        await writer.add_decision(decision_row("d"))
        later = writer.add_later([attempt_row("d")], [rating()])
    assert later.result()[0].status == "recorded"
    assert len(await database.read(store.attempts_of, ["d"])) == 1


async def test_two_writers_keep_exact_sums(database, database_url, decision_row):
    other = Database(database_url)
    commits = []
    async with (
        writing(database, commits.append, timeout_s=60) as one,
        writing(other, commits.append, timeout_s=60) as two,
    ):
        await asyncio.gather(*(one.add_decision(decision_row(f"d{n}")) for n in range(8)))

        async def rate(writer, turn):
            # Both say something of the same rewards at the same time, in other words.
            for n in range(8):
                await writer.record([rating((turn % 7) / 7, f"d{(n + turn) % 8}", user=f"u{turn % 3}")])

        await asyncio.gather(*(rate(writer, turn) for writer in (one, two) for turn in range(12)))
    await other.close()
    assert await database.read(store.compare_fold) == {}
    assert len(await database.read(store.rewards_of, [f"d{n}" for n in range(8)])) == 24
    total = Counts()
    for deltas in commits:
        for delta in deltas.values():
            total = total.plus(delta)
    assert list((await database.read(store.sum_cells)).values()) == [total]


def rate_from_another_process(url, offset):
    async def run():
        database = Database(url)
        async with writing(database, timeout_s=60) as writer:
            await asyncio.gather(
                *(writer.record([rating((n + offset) % 5 / 5, f"d{n % 8}", user=f"u{n % 16}")]) for n in range(200))
            )
        await database.close()

    asyncio.run(run())


async def test_several_processes_keep_exact_sums(database, database_url, decision_row):
    rows = [decision_row(f"d{n}") for n in range(8)]
    await database.write(lambda connection: store.insert_decisions(connection, rows))
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=rate_from_another_process, args=(database_url, offset)) for offset in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        await asyncio.to_thread(process.join)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(await database.read(store.rewards_of, [row["id"] for row in rows])) == 16
    assert await database.read(store.compare_fold) == {}


async def until(condition):
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_locked_file_is_told_in_time_and_recovered_from(sqlite_url, decision_row):
    database = Database(sqlite_url)
    async with writing(database, timeout_s=0.1) as writer:
        await writer.add_decision(decision_row("before"))
        lock = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None)
        lock.execute("BEGIN IMMEDIATE")
        under_way = writer.add_decision(decision_row("under way"))
        await asyncio.sleep(0.05)
        waiting = writer.add_decision(decision_row("waiting"))
        for job in (under_way, waiting):
            with pytest.raises(StorageUnavailable, match="within"):
                await job
        assert not writer.healthy
        assert (await database.read(store.decision, "before")) is not None  # reading goes on
        lock.execute("ROLLBACK")
        lock.close()
        await until(lambda: writer.healthy)
        await writer.add_decision(decision_row("after"))
    found = await database.read(store.decisions_to_rate, ["waiting", "after"])
    assert set(found) == {"after"}  # what waited was withdrawn
    await database.close()


class Wire:
    """A way to a Postgres server that can be cut and stalled."""

    def __init__(self, url):
        self.target = make_url(url)
        self.tasks = []  # one per connection
        self.writers = []  # two per connection
        self.open = asyncio.Event()
        self.open.set()

    async def start(self, port=0):
        self.server = await asyncio.start_server(self.connect, "127.0.0.1", port)
        self.port = self.server.sockets[0].getsockname()[1]

    @property
    def url(self):
        return self.target.set(host="127.0.0.1", port=self.port, query={}).render_as_string(hide_password=False)

    async def connect(self, reader, writer):
        self.tasks.append(asyncio.current_task())
        self.writers.append(writer)
        with contextlib.suppress(asyncio.CancelledError):
            folder = self.target.query.get("host")
            if folder is not None:
                there = await asyncio.open_unix_connection(f"{folder}/.s.PGSQL.{self.target.port or 5432}")
            else:
                there = await asyncio.open_connection(self.target.host, self.target.port or 5432)
            self.writers.append(there[1])
            await asyncio.gather(self.carry(reader, there[1]), self.carry(there[0], writer))

    async def carry(self, reader, writer):
        with contextlib.suppress(ConnectionError):
            while piece := await reader.read(65_536):
                await self.open.wait()
                writer.write(piece)
        writer.close()

    async def cut(self):
        self.server.close()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks)
        for writer in self.writers:
            writer.transport.abort()
        await asyncio.gather(*(writer.wait_closed() for writer in self.writers), return_exceptions=True)
        self.tasks.clear()
        self.writers.clear()


@pytest.fixture
async def wire(postgres_url):
    wire = Wire(postgres_url)
    await wire.start()
    yield wire
    await wire.cut()


@pytest.mark.postgres
async def test_a_server_that_goes_away_is_told_and_recovered_from(wire, decision_row):
    database = Database(wire.url)
    async with writing(database, timeout_s=0.3) as writer:
        await writer.add_decision(decision_row("before"))
        await wire.cut()
        with pytest.raises(StorageUnavailable):
            await writer.add_decision(decision_row("during"))
        assert not writer.healthy
        with pytest.raises(StorageUnavailable, match="cannot be reached"):
            await database.read(store.list_keys)
        await wire.start(wire.port)
        await until(lambda: writer.healthy)
        await writer.add_decision(decision_row("after"))
        assert set(await database.read(store.decisions_to_rate, ["before", "after"])) == {"before", "after"}
    await database.close()


@pytest.mark.postgres
async def test_closing_ends_though_the_server_is_gone(wire, decision_row, attempt_row):
    database = Database(wire.url)
    async with writing(database, timeout_s=0.3) as writer:
        await writer.add_decision(decision_row("d"))
        await wire.cut()
        waiting, later = writer.record([rating()]), writer.add_later([attempt_row("d")], [rating()])
    for future in (waiting, later):
        with pytest.raises(StorageUnavailable):
            future.result()
    assert writer.queue_length == 0
    await database.close()


@pytest.mark.postgres
async def test_a_server_that_falls_silent_is_told_in_time(wire, decision_row):
    database = Database(wire.url, command_timeout_s=1.0)
    async with writing(database, timeout_s=0.3) as writer:
        await writer.add_decision(decision_row("before"))
        wire.open.clear()
        with pytest.raises(StorageUnavailable, match="within"):
            await writer.add_decision(decision_row("during"))
        assert not writer.healthy
        wire.open.set()
        await until(lambda: writer.healthy)
        await writer.add_decision(decision_row("after"))
    await database.close()


@pytest.mark.postgres
async def test_a_cut_connection_costs_nobody_a_write(postgres_url, decision_row):
    database = Database(postgres_url)
    async with writing(database) as writer:
        await writer.add_decision(decision_row("before"))
        others = text(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE pid <> pg_backend_pid() AND datname = current_database()"
        )
        await database.read(lambda connection: connection.execute(others).all())
        await writer.add_decision(decision_row("after"))
        assert writer.healthy
    assert set(await database.read(store.decisions_to_rate, ["before", "after"])) == {"before", "after"}
    await database.close()
