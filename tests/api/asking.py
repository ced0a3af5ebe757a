"""A chat call that a simulated model answers well."""

from typing import Any, NamedTuple

import aiohttp

MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]


class Answer(NamedTuple):
    """What came back."""

    status: int
    body: dict[str, Any]


async def asked(http: aiohttp.ClientSession, **more: Any) -> Answer:
    """Ask, and take what comes."""
    body = {"messages": MESSAGES, "simulate": {"quality": 1.0}, **more}
    async with http.post("/v1/chat/completions", json=body) as reply:
        return Answer(reply.status, await reply.json())


async def ask(http: aiohttp.ClientSession, **more: Any) -> dict[str, Any]:
    """Ask; the reply."""
    found = await asked(http, **more)
    assert found.status == 200, found.body
    return found.body
