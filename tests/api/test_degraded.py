"""Without a database that takes writes the service goes on: static tiers, nothing learned, and it says so."""

import asyncio
import sqlite3

import aiohttp
import pytest

MESSAGES = [{"role": "user", "content": "What is a noun?"}]


async def ask(http, **more):
    async with http.post("/v1/chat/completions", json={"messages": MESSAGES, **more}) as reply:
        await reply.read()
        return reply.status, reply.headers


@pytest.mark.parametrize("stream", [False, True])
async def test_chat_goes_on_while_the_database_is_locked(run, sqlite_url, stream):
    service = run(sqlite_url, timeout_s=1.0)
    path = service.settings.database.url.removeprefix("sqlite:///")
    async with aiohttp.ClientSession(service.url) as http:
        status, headers = await ask(http, stream=stream)
        assert status == 200
        assert "x-armwise-degraded" not in headers
        lock = sqlite3.connect(path, isolation_level=None)
        lock.execute("BEGIN IMMEDIATE")
        try:
            status, headers = await ask(http, stream=stream)  # the first one meets the lock
            assert status == 200
            assert headers["x-armwise-degraded"] == "database"
            status, headers = await ask(http, stream=stream)  # the next one knows
            assert status == 200
            assert headers["x-armwise-degraded"] == "database"
            assert headers["x-armwise-policy"] == "static_tier"
            assert headers["x-armwise-propensity"] == "1.0"
            body = {"decision_id": headers["x-armwise-decision-id"], "value": True}
            async with http.post("/feedback", json=body) as reply:
                assert reply.status == 503
                assert (await reply.json())["error"]["code"] == "storage_unavailable"
            async with http.get("/ready") as reply:
                assert reply.status == 503
        finally:
            lock.execute("ROLLBACK")
            lock.close()
        for _ in range(400):
            async with http.get("/ready") as reply:
                if reply.status == 200:
                    break
            await asyncio.sleep(0.05)
        status, headers = await ask(http, stream=stream)
        assert status == 200
        assert "x-armwise-degraded" not in headers
