"""The least that a gateway on our stack can do: litestar in, aiohttp out, every byte untouched.

Run: python -m benchmarks.passthrough --port 9001 --upstream http://127.0.0.1:9000/v1

The load test measures Armwise beside it: what it takes is the price of the stack, the rest is ours.
"""

import argparse
import gc
from collections.abc import AsyncGenerator

import aiohttp
import uvicorn
from litestar import Litestar, Request, Response, get, post
from litestar.response import Stream


def create_app(upstream: str) -> Litestar:
    """The application; `upstream` is a base URL that ends in /v1."""
    url = f"{upstream}/chat/completions"
    headers = {"content-type": "application/json"}
    sessions: list[aiohttp.ClientSession] = []

    @get("/ready", sync_to_thread=False)
    def ready() -> str:
        return "ready"

    @post("/v1/chat/completions", status_code=200)
    async def forward(request: Request) -> Response[bytes] | Stream:
        body = await request.body()
        if b'"stream":true' in body:
            return Stream(relay(body), media_type="text/event-stream")
        async with sessions[0].post(url, data=body, headers=headers) as reply:
            return Response(await reply.read(), status_code=reply.status, media_type="application/json")

    async def relay(body: bytes) -> AsyncGenerator[bytes, None]:
        async with sessions[0].post(url, data=body, headers=headers) as reply:
            async for piece in reply.content.iter_any():
                yield piece

    async def start() -> None:
        sessions.append(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))
        # What start-up left on the heap lives as long as we do: full collections need not walk it.
        gc.collect()
        gc.freeze()

    async def stop() -> None:
        await sessions.pop().close()

    return Litestar([ready, forward], on_startup=[start], on_shutdown=[stop], openapi_config=None)


def _main() -> None:
    parser = argparse.ArgumentParser(description="A bare passthrough to one upstream.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--upstream", required=True, help="base URL that ends in /v1")
    arguments = parser.parse_args()
    uvicorn.run(
        create_app(arguments.upstream),
        host="127.0.0.1",
        port=arguments.port,
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
    )


if __name__ == "__main__":
    _main()
