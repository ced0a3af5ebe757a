"""Where work on the database runs, and how it ends."""

import asyncio
import threading

import pytest
from sqlalchemy import text

from service.storage.database import Database


async def test_rows_are_read_in_another_thread_than_the_callers(database):
    assert await database.read(lambda _: threading.get_ident()) != threading.get_ident()


async def test_a_reader_that_goes_away_leaves_its_connection_to_others(database_url):
    database = Database(database_url, 1)
    started, go_on = threading.Event(), threading.Event()

    def slow(connection):
        started.set()
        connection.execute(text("SELECT 1")).all()
        go_on.wait(20)
        return connection.execute(text("SELECT 2")).scalar_one()

    reading = asyncio.create_task(database.read(slow))
    await asyncio.to_thread(started.wait, 20)
    reading.cancel()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert await database.read(lambda connection: connection.execute(text("SELECT 3")).scalar_one()) == 3
    await database.close()


async def test_an_error_reaches_the_reader(database):
    def wrong(_):
        raise LookupError("nothing there")

    with pytest.raises(LookupError, match="nothing there"):
        await database.read(wrong)


async def test_closing_ends_the_thread_and_what_still_reads(postgres_url):
    before = threading.active_count()
    database = Database(postgres_url)
    reading = asyncio.create_task(database.read(lambda connection: connection.execute(text("SELECT pg_sleep(20)"))))
    async with asyncio.timeout(20):
        while threading.active_count() == before:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        await database.close()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert not [thread for thread in threading.enumerate() if thread.name == "armwise-reading"]
    assert await database.read(lambda connection: connection.execute(text("SELECT 3")).scalar_one()) == 3
    await database.close()
