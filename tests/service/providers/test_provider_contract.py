"""What every provider must do, shown for each of them: against an upstream on loopback, or in process."""

import json
from contextlib import asynccontextmanager

import msgspec
import pytest

from service.errors import UpstreamFailure
from service.providers import Providers
from service.settings import OpenAICompatibleModel, SimulatedModel, TranslatedModel
from service.wire import chunk_decoder, reply_decoder, upstream_body
from tests.service.providers.upstreams import completion, events, sends, streams, upstream, whole

# What LiteLLM and pydantic find amiss in LiteLLM.
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

PLAIN = sends(whole(completion()))
STREAM = streams(*events("Par", "is."))
FAILING = sends(whole(b'{"error":{"message":"Not now."}}', 503))


@asynccontextmanager
async def _passthrough(answer):
    async with upstream(answer) as server:
        yield OpenAICompatibleModel(name="m", base_url=f"{server.url}/v1", timeout_s=60.0)


@asynccontextmanager
async def _translated(answer):
    async with upstream(answer) as server:
        yield TranslatedModel(
            name="m", model="openai/m", base_url=f"{server.url}/v1", api_key_env="VENDOR_KEY", timeout_s=60.0
        )


@asynccontextmanager
async def _simulated(answer):
    yield SimulatedModel(name="m", tier="small", error_rate=float(answer is FAILING), error="server_error")


@pytest.fixture(params=[_passthrough, _translated, _simulated], ids=lambda way: way.__name__.removeprefix("_"))
def model_that_gets(request):
    """Makes a model of each provider, for an answer of its upstream."""
    return request.param


@pytest.fixture
async def providers(monkeypatch):
    monkeypatch.setenv("VENDOR_KEY", "hunter2-hunter2")
    made = Providers()
    yield made
    await made.close()


def body(*, stream=False):
    """A body as `service.complete` sends it."""
    said = {"messages": [{"role": "user", "content": "What is the capital of France?"}]}
    if stream:
        said["stream"] = True
    fields = msgspec.json.decode(msgspec.json.encode(said), type=dict[str, msgspec.Raw])
    return upstream_body(fields, "m", ask_usage=stream)


async def test_a_plain_call_gives_a_chat_completion(providers, model_that_gets):
    async with model_that_gets(PLAIN) as model:
        reply = await providers.of(model).complete(model, body())
    read = reply_decoder.decode(reply)
    assert json.loads(reply)["object"] == "chat.completion"
    assert read.id
    assert read.choices[0].message.content
    assert read.choices[0].finish_reason == "stop"
    assert read.usage.prompt_tokens > 0
    assert read.usage.completion_tokens > 0


async def test_a_stream_is_events_that_end_with_usage_and_done(providers, model_that_gets):
    async with model_that_gets(STREAM) as model:
        received = b"".join([piece async for piece in providers.of(model).stream(model, body(stream=True))])
    *written, done, rest = received.split(b"\n\n")
    assert (done, rest) == (b"data: [DONE]", b"")
    assert all(event.startswith(b"data: {") for event in written)
    chunks = [chunk_decoder.decode(event.removeprefix(b"data: ")) for event in written]
    assert len({chunk.id for chunk in chunks}) == 1
    *said, usage = chunks
    assert "".join(choice.delta.content or "" for chunk in said for choice in chunk.choices)
    assert [choice.finish_reason for chunk in said for choice in chunk.choices if choice.finish_reason] == ["stop"]
    assert usage.choices == []
    assert usage.usage.completion_tokens > 0


async def test_a_stream_without_usage_asked_for_has_none(providers, model_that_gets):
    fields = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "What is new?"}]}
    async with model_that_gets(streams(*events("Par", "is.", usage=False))) as model:
        stream = providers.of(model).stream(model, msgspec.json.encode(fields))
        received = b"".join([piece async for piece in stream])
    assert b'"usage":{' not in received.replace(b" ", b"")


async def test_a_failure_is_an_upstream_failure_before_the_first_byte(providers, model_that_gets):
    async with model_that_gets(FAILING) as model:
        with pytest.raises(UpstreamFailure) as plain:
            await providers.of(model).complete(model, body())
        with pytest.raises(UpstreamFailure) as streamed:
            await anext(providers.of(model).stream(model, body(stream=True)))
    for caught in (plain, streamed):
        assert caught.value.kind == "server_error"
        assert caught.value.status in {500, 503}
        assert caught.value.another_model_may_help
        assert "m" in caught.value.message.split()


async def test_a_stream_that_nobody_reads_costs_nothing(providers, model_that_gets):
    async with model_that_gets(STREAM) as model:
        stream = providers.of(model).stream(model, body(stream=True))
        await stream.aclose()  # never begun
        assert [piece async for piece in stream] == []


async def test_a_stream_may_be_left_after_its_first_piece(providers, model_that_gets):
    async with model_that_gets(STREAM) as model:
        stream = providers.of(model).stream(model, body(stream=True))
        assert await anext(stream)
        await stream.aclose()
        assert [piece async for piece in stream] == []


async def test_closing_twice_and_using_again_is_allowed(providers, model_that_gets):
    async with model_that_gets(PLAIN) as model:
        provider = providers.of(model)
        await provider.complete(model, body())
        await provider.close()
        await provider.close()
        assert await provider.complete(model, body())
        await provider.close()
