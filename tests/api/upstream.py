"""A server that speaks OpenAI's chat protocol and answers as a test tells it, and waiting for what it leads to."""

import asyncio
import contextlib
import inspect
from typing import Any

from aiohttp import web

from service.settings import OpenAICompatibleModel


class Upstream:
    """Where models of a test are: `answer(body)` gives the words of a reply, or a whole response."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.bodies: list[dict[str, Any]] = []
        self.url = ""

    def model(self, name: str, **more: Any) -> OpenAICompatibleModel:
        """A model of this server."""
        return OpenAICompatibleModel(name=name, base_url=self.url, **more)

    async def handle(self, request: web.Request) -> web.Response:
        """Note the body and answer."""
        body = await request.json()
        self.bodies.append(body)
        found = self.answer(body)
        if inspect.isawaitable(found):
            found = await found
        if isinstance(found, web.Response):
            return found
        choice = {"index": 0, "message": {"role": "assistant", "content": found}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 40, "completion_tokens": 10, "total_tokens": 50}
        return web.json_response({"id": "x", "object": "chat.completion", "choices": [choice], "usage": usage})


@contextlib.asynccontextmanager
async def upstream(answer):
    """A running `Upstream`."""
    server = Upstream(answer)
    app = web.Application()
    app.router.add_post("/v1/chat/completions", server.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    try:
        yield server
    finally:
        await runner.cleanup()


async def until(condition, *arguments):
    """Wait for something that happens in the background."""
    async with asyncio.timeout(60):
        while not (result := await condition(*arguments)):
            await asyncio.sleep(0.05)
    return result


async def metric(http, line):
    """The number behind a metric and its labels; 0 when it is not there."""
    async with http.get("/metrics") as reply:
        for found in (await reply.text()).splitlines():
            if found.startswith(f"{line} "):
                return float(found.split()[-1])
    return 0.0
