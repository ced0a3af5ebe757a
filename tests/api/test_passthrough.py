"""What the client sends reaches the provider unchanged, and what the provider says reaches the client."""

import asyncio
import io
import re
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import pytest
from aiohttp import ClientSession, web

from service.settings import OpenAICompatibleModel, Server

MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [
        {"type": "text", "text": "What is this? 这是什么"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA", "detail": "low"}},
    ]},
]  # fmt: skip
REQUEST = {
    "model": "auto",
    "messages": MESSAGES,
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}, "strict": True}}],
    "tool_choice": {"type": "function", "function": {"name": "f"}},
    "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}},
    "stop": ["\n", "END"],
    "seed": 12345678901234567890,
    "temperature": 0.30000000000000004,
    "logprobs": True,
    "top_logprobs": 5,
    "n": 1,
    "metadata": {"a": "b"},
    "store": False,
    "something_new": {"deep": [1, 2.50, None, "\u2028"]},
    "max_completion_tokens": 99,
}
REPLY = {
    "id": "up-1",
    "object": "chat.completion",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "ok"}, "finish_reason": "stop", "odd": 1}],
    "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
    "system_fingerprint": "fp",
    "service_tier": "default",
}
EVENTS = [
    b'data: {"id":"up-1","choices":[{"index":0,"delta":{"role":"assistant","content":"a"}}],"x":1}\n\n',
    b'data: {"id":"up-1","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n',
    b'data: {"id":"up-1","choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}}\n\n',
    b"data: [DONE]\n\n",
]


@pytest.fixture
async def upstream():
    """A provider that keeps the bodies it gets."""
    bodies = []

    async def answer(request):
        bodies.append(await request.read())
        if not msgspec.json.decode(bodies[-1]).get("stream"):
            return web.json_response(REPLY)
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for event in EVENTS:
            await response.write(event)
        return response

    application = web.Application(client_max_size=100_000_000)
    application.router.add_post("/v1/chat/completions", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    model = OpenAICompatibleModel(name="one", model="up/model", base_url=f"http://127.0.0.1:{port}/v1", price_out=1.0)
    yield model, bodies
    await runner.cleanup()


async def test_every_field_reaches_the_provider_unchanged(run, upstream):
    model, bodies = upstream
    service = run(models=(model,))
    async with ClientSession(service.url) as http:
        body = {**REQUEST, "router": {"tags": {"team": "x"}}}
        async with http.post("/v1/chat/completions", data=msgspec.json.encode(body)) as reply:
            answer = await reply.json()
            assert float(reply.headers["x-armwise-cost-usd"]) == pytest.approx(3e-6)
    sent = msgspec.json.decode(bodies[0], type=dict[str, msgspec.Raw])
    expected = {**REQUEST, "model": "up/model"}
    assert {name: bytes(value) for name, value in sent.items()} == {
        name: msgspec.json.encode(value) for name, value in expected.items()
    }
    assert answer.pop("routing")["model"] == "one"
    assert answer.pop("id").startswith("chatcmpl-")
    assert answer == {name: value for name, value in REPLY.items() if name != "id"}


@pytest.mark.parametrize("asked", [None, {"include_usage": False}, {"include_usage": True, "other": 1}])
async def test_usage_is_metered_but_only_shown_when_asked_for(run, upstream, asked):
    model, bodies = upstream
    service = run(models=(model,))
    body = {**REQUEST, "stream": True}
    if asked is not None:
        body["stream_options"] = asked
    async with ClientSession(service.url) as http:
        async with http.post("/v1/chat/completions", json=body) as reply:
            text = await reply.read()
            decision_id = reply.headers["x-armwise-decision-id"].encode()
        told = {"attempts": []}
        while not told["attempts"]:
            async with http.get(f"/v1/decisions/{decision_id.decode()}") as answer:
                told = await answer.json()
    options = msgspec.json.decode(bodies[0])["stream_options"]
    assert options == {**(asked or {}), "include_usage": True}
    shown = [event for event in EVENTS if (asked or {}).get("include_usage") or b"usage" not in event]
    assert text == b"".join(shown).replace(b"up-1", decision_id)
    assert (told["attempts"][0]["prompt_tokens"], told["attempts"][0]["completion_tokens"]) == (7, 3)
    assert told["attempts"][0]["cost_usd"] == pytest.approx(3e-6)


def large(body):
    """A body in a form that aiohttp sends piece by piece."""
    return io.BytesIO(msgspec.json.encode(body))


async def test_a_body_that_is_too_large_is_told_the_limit(run, upstream):
    model, bodies = upstream
    service = run(models=(model,))
    limit = Server().max_body_bytes
    body = msgspec.json.encode({"messages": [{"role": "user", "content": "x" * limit}]})
    address = urlsplit(service.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    # By hand: the service answers before all is sent, and an HTTP client would leave the rest to a dying connection.
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: armwise\r\ncontent-type: application/json\r\n")
    writer.write(b"content-length: %d\r\n\r\n" % len(body) + body)
    head = await reader.readuntil(b"\r\n\r\n")
    size = int(re.search(rb"content-length: (\d+)", head.lower())[1])
    told = msgspec.json.decode(await reader.readexactly(size))
    writer.transport.abort()
    await asyncio.sleep(0)  # the transport is closed in the next turn of the loop
    assert head.startswith(b"HTTP/1.1 413 ")
    assert f"{limit:,}" in told["error"]["message"]
    assert bodies == []


async def test_a_large_body_below_the_limit_goes_through(run, upstream):
    model, bodies = upstream
    service = run(models=(msgspec.structs.replace(model, window=100_000_000),))
    body = {"messages": [{"role": "user", "content": "word " * 1_000_000}]}
    async with ClientSession(service.url) as http, http.post("/v1/chat/completions", data=large(body)) as reply:
        assert reply.status == 200
    assert msgspec.json.decode(bodies[0])["messages"] == body["messages"]


async def test_what_an_upstream_says_of_a_prompt_reaches_the_client_but_not_the_database(run, unused_tcp_port):
    async def refuse(request):
        return web.json_response({"error": {"message": "bad prompt: my-secret-words", "code": "odd"}}, status=400)

    application = web.Application()
    application.router.add_post("/v1/chat/completions", refuse)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", unused_tcp_port).start()
    model = OpenAICompatibleModel(name="one", base_url=f"http://127.0.0.1:{unused_tcp_port}/v1")
    service = run(models=(model,))
    body = {"messages": [{"role": "user", "content": "my-secret-words"}]}
    async with ClientSession(service.url) as http:
        async with http.post("/v1/chat/completions", json=body) as reply:
            assert reply.status == 400
            assert (await reply.json())["error"]["message"].endswith("my-secret-words")
        attempts = []
        while not attempts:
            async with http.get("/stats/raw") as answer:
                attempts = (await answer.json())["records"][0]["attempts"]
    await runner.cleanup()
    assert (attempts[0]["outcome"], attempts[0]["status"], attempts[0]["error"]) == ("rejected", 400, "odd")
    url = service.settings.database.url
    if url.startswith("sqlite"):
        files = Path(url.removeprefix("sqlite:///")).parent.glob("*.db*")
        assert b"my-secret-words" not in b"".join(path.read_bytes() for path in files)


async def test_forty_models_are_served(run, upstream):
    model, _ = upstream
    models = tuple(msgspec.structs.replace(model, name=f"model-{number:02}") for number in range(40))
    service = run(models=models)
    async with ClientSession(service.url) as http:
        body = {"messages": [{"role": "user", "content": "hello"}]}
        async with http.post("/v1/chat/completions", json=body) as reply:
            routing = (await reply.json())["routing"]
        async with http.get("/v1/posteriors") as reply:
            cells = (await reply.json())["cells"]
    assert len(routing["eligible"]) == 40
    assert sum(routing["eligible"].values()) == pytest.approx(1.0)
    assert len(cells) == 40 * 12
