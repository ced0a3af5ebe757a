"""Rows of a newer version, or of nobody: the service starts on them, serves, learns from the rest, and tells."""

import asyncio
import logging
import time

import aiohttp
from sqlalchemy import insert

from bandit.posteriors import MICRO
from service.auth import key_row, new_key, new_secret
from service.storage import tables
from service.storage.database import Database
from tests.api.asking import ask

NOW = time.time()
CELL = {
    "namespace": "", "arm": "large", "task_type": "Rewrite", "tier": "simple", "hour": int(NOW // 3600),
    "channel": "score", "n": 4 * MICRO, "s": 3 * MICRO, "s2": 3 * MICRO, "updated_at": NOW,
}  # fmt: skip
DAMAGED_CELLS = [
    {"task_type": "Poetry"},
    {"tier": "absurd"},
    {"channel": "rumour"},
    {"n": -5 * MICRO},
    {"n": 2**62, "s": 2**62, "s2": 2**62},
    {"hour": -7},
    {"updated_at": 9e18},
]
DAMAGE = [
    *((tables.cells, {**CELL, "arm": f"arm-{number}", **damage}) for number, damage in enumerate(DAMAGED_CELLS)),
    (tables.alarms, {"id": "alarm-x", "at": NOW, "event": "renamed", "arm": "small", "hour": 1, "note": ""}),
    (tables.reading_weights, {"version": "x", "content": "{", "labelled": 9, "fitted_at": NOW}),
    (tables.budgets, {"name": "x", "day": 0, "requests": -5, "granted": -5, "spent": 2**62, "updated_at": 1.0}),
]


async def write(url, rows):
    """Store rows as if it happened now: what others write is looked for by its time."""
    database, now = Database(url), time.time()
    fresh = [(table, {**row, "updated_at": now} if row.get("updated_at") == NOW else row) for table, row in rows]
    try:
        await database.write(
            lambda connection: [connection.execute(insert(table), [row]) for table, row in fresh] and 0
        )
    finally:
        await database.close()


async def labels_of(http, model, **headers):
    """How many labels the posteriors of a model hold."""
    async with http.get("/v1/posteriors", headers=headers) as reply:
        assert reply.status == 200, await reply.text()
        return sum(cell["n"] for cell in (await reply.json())["cells"] if cell["model"] == model)


async def until(found, wanted, limit_s=10.0):
    """Wait for what another process wrote to be known here."""
    end = time.monotonic() + limit_s
    while await found() != wanted and time.monotonic() < end:
        await asyncio.sleep(0.1)
    assert await found() == wanted


async def test_a_service_starts_and_learns_beside_damage(run, database_url, caplog):
    await write(database_url, [*DAMAGE, (tables.cells, CELL)])
    caplog.set_level(logging.ERROR)
    service = run()
    async with aiohttp.ClientSession(service.url) as http:
        assert await labels_of(http, "large") == 4.0
        for policy in ("thompson", "pooled_thompson"):
            reply = await ask(http, model=f"auto:{policy}")
            assert reply["routing"]["method"] == "auto"
        for path in ("/v1/alarms", "/v1/heuristics", "/v1/controls", "/stats", "/metrics", "/ready"):
            async with http.get(path) as answer:
                assert answer.status == 200, (path, await answer.text())
    assert sum("alarm-x of a model cannot be read" in message for message in caplog.messages) <= 1


async def test_a_running_service_goes_on_learning_beside_damage(run):
    service = run()
    secret = new_secret()
    async with aiohttp.ClientSession(service.url) as http:
        await ask(http)
        key = key_row(new_key(secret, "reader", ("read",), NOW))
        await write(service.settings.database.url, [*DAMAGE, (tables.cells, CELL), (tables.keys, key)])
        await until(lambda: labels_of(http, "large", authorization=f"Bearer {secret}"), 4.0)
        async with http.get("/v1/posteriors") as refused:  # what comes after learning in the same second was done, too
            assert refused.status == 401


async def test_a_reset_holds_beside_damage(run, database_url):
    await write(database_url, [*DAMAGE, (tables.cells, CELL)])
    service = run()
    async with aiohttp.ClientSession(service.url) as http:
        async with http.post("/v1/controls", json={"action": "reset"}) as reply:
            assert reply.status == 200, await reply.text()
        assert await labels_of(http, "large") == 0.0
