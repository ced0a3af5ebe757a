"""A client that goes away ends the upstream call, and is no label for the model."""

import asyncio

import aiohttp
import pytest

MESSAGES = [{"role": "user", "content": "Write a very long story."}]


async def until(check):
    """The first true answer of `check` within ten seconds."""
    for _ in range(500):
        if found := await check():
            return found
        await asyncio.sleep(0.02)
    pytest.fail("it did not happen within ten seconds")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_goes_away_cancels_the_upstream_call(service, stream):
    simulate = {"latency_s": 30, "chunks": 5000} if not stream else {"chunks": 20_000}
    body = {"messages": MESSAGES, "stream": stream, "simulate": simulate}
    async with aiohttp.ClientSession(service.url) as http:
        asked = asyncio.create_task(http.post("/v1/chat/completions", json=body))
        if stream:
            reply = await asked
            await reply.content.readany()
            reply.close()
        else:
            await asyncio.sleep(0.3)
            asked.cancel()

        async def stored():
            async with http.get("/stats/raw") as answer:
                records = (await answer.json())["records"]
            return records[0]["attempts"] if records else None

        attempts = await until(stored)
        assert [attempt["outcome"] for attempt in attempts] == ["cancelled"]
        async with http.get("/v1/posteriors") as answer:
            cells = (await answer.json())["cells"]
        assert sum(cell["n"] + cell["n_heuristic"] for cell in cells) == 0
