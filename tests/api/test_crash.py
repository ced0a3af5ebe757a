"""kill -9 at any moment under load: nothing acknowledged is missing, and posteriors equal the fold of the rewards."""

import asyncio
import random

import aiohttp
import pytest
from sqlalchemy import select

from service.storage import store, tables
from service.storage.database import Database
from tests.forked import armwise

MESSAGES = [{"role": "user", "content": "What is the boiling point of water?"}]
KILLS = 20
ENOUGH = 10  # acknowledged decisions between two kills


async def ready(url, lives):
    for _ in range(1200):
        assert lives(), "the service ended"
        try:
            async with aiohttp.ClientSession(url) as http, http.get("/ready") as reply:
                if reply.status == 200:
                    return
        except aiohttp.ClientError:
            pass
        await asyncio.sleep(0.025)
    pytest.fail("the service did not become ready")


async def test_nothing_acknowledged_is_lost_when_killed(tmp_path, database_url, free_port):
    rng = random.Random(7)
    config = tmp_path / "armwise.toml"
    config.write_text(f'[database]\nurl = "{database_url}"\n')
    url = f"http://127.0.0.1:{free_port}"
    decisions, ratings = set(), {}
    for number in range(1, KILLS + 1):
        process = armwise(tmp_path, "serve", "--config", str(config), "--port", str(free_port))
        await ready(url, process.is_alive)
        async with aiohttp.ClientSession(url) as http:
            clients = [asyncio.create_task(hammer(http, client, decisions, ratings)) for client in range(8)]
            await asyncio.sleep(rng.uniform(0.02, 0.4))
            async with asyncio.timeout(60):
                while len(decisions) <= ENOUGH * number:  # on a machine that does much else a moment is too short
                    await asyncio.sleep(0.001)
            process.kill()
            process.join()
            await asyncio.gather(*clients)

    stored, rewards, wrong = await read(database_url)
    assert decisions <= stored
    assert {key: rewards[key] for key in ratings if key in rewards} == ratings
    assert wrong == {}


async def hammer(http, client, decisions, ratings):
    """Ask and rate until the service is gone; keep what it acknowledged."""
    while True:
        try:
            async with http.post("/v1/chat/completions", json={"messages": MESSAGES}) as reply:
                decision_id = (await reply.json())["id"]
            decisions.add(decision_id)
            value = client % 2 == 0
            async with http.post("/feedback", json={"decision_id": decision_id, "value": value}) as reply:
                assert reply.status == 200
                await reply.read()
            ratings[decision_id] = float(value)
        except aiohttp.ClientError:
            return


async def read(database_url):
    """Ids of stored decisions, thumbs by decision, and cells that differ from the fold of the rewards."""

    def work(connection):
        ids = set(connection.scalars(select(tables.decisions.c.id)))
        columns = (tables.rewards.c.decision_id, tables.rewards.c.value)
        rows = connection.execute(select(*columns).where(tables.rewards.c.source == "user"))
        return ids, {row[0]: row[1] for row in rows}, store.compare_fold(connection)

    database = Database(database_url)
    try:
        return await database.read(work)
    finally:
        await database.close()
