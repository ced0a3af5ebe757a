"""Other vendors through LiteLLM: against servers on loopback that break, and against aimock, which speaks for them."""

import asyncio
import contextlib
import json
import logging
import shutil
import socket
import subprocess
import threading
import time
import traceback

import aiohttp
import msgspec
import pytest

from service.providers.translated import Translated
from service.settings import TranslatedModel
from service.wire import ChatChunk, chunk_decoder, reply_decoder
from tests.service.providers.calls import failure_of, failures_of, read_all
from tests.service.providers.upstreams import (
    HANG_UP,
    STREAM_HEAD,
    chunked,
    completion,
    events,
    head,
    sends,
    streams,
    upstream,
    whole,
)

# What LiteLLM and pydantic find amiss in LiteLLM.
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

AIMOCK = "@copilotkit/aimock@1.43.0"
KEY = "hunter2-hunter2-hunter2"
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


def body(**said):
    return msgspec.json.encode({"model": "m", "messages": QUESTION, **said})


STREAMED = body(stream=True, stream_options={"include_usage": True})

# What the vendors' own protocols say while a reply is on its way.
ANTHROPIC_PIECE = (
    b'event: content_block_start\ndata: {"type":"content_block_start","index":0,"content_block":{"type":"text",'
    b'"text":""}}\n\nevent: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":'
    b'{"type":"text_delta","text":"Hel"}}\n\n'
)
GEMINI_PIECE = b'data: {"candidates":[{"content":{"parts":[{"text":"Hel"}],"role":"model"},"index":0}]}\n\n'
OLLAMA_PIECE = (
    b'{"model":"m","created_at":"2026-01-01T00:00:00Z","message":{"role":"assistant","content":"Hel"},"done":false}\n'
)
COHERE_PIECE = b'{"type":"content-delta","index":0,"delta":{"message":{"content":{"text":"Hel"}}}}\n'
PIECES = {
    "openai/m": events("Hel")[1],
    "mistral/m": events("Hel")[1],
    "anthropic/claude-sonnet-4-5": ANTHROPIC_PIECE,
    "gemini/gemini-2.5-flash": GEMINI_PIECE,
    "ollama_chat/m": OLLAMA_PIECE,
    "cohere_chat/command-r": COHERE_PIECE,
}
VENDORS = ["openai/m", "anthropic/claude-sonnet-4-5", "gemini/gemini-2.5-flash"]


@pytest.fixture(scope="module")
def provider():
    """One for all tests: it belongs to no loop, and importing LiteLLM takes seconds."""
    made = Translated()
    yield made
    asyncio.run(made.close())


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    monkeypatch.setenv("VENDOR_KEY", KEY)


def model_at(url, vendor="openai/m", **said):
    said = {"api_key_env": "VENDOR_KEY", "timeout_s": 5.0, **said}
    return TranslatedModel(name="other", model=vendor, base_url=url, **said)


def chunks_of(stream: bytes) -> list[ChatChunk]:
    """The chunks of a complete stream, which must end as OpenAI's do."""
    *made, done, rest = stream.split(b"\n\n")
    assert (done, rest) == (b"data: [DONE]", b"")
    return [chunk_decoder.decode(event.removeprefix(b"data: ")) for event in made]


def words_of(chunks):
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


async def both_failures(provider, model):
    return await failures_of(provider, model, body(), STREAMED)


async def test_a_plain_reply_is_openais(provider):
    async with upstream(sends(whole(completion()))) as server:
        reply = await provider.complete(model_at(server.url), body())
    read = reply_decoder.decode(reply)
    assert read.choices[0].message.content == "Paris."
    assert read.choices[0].finish_reason == "stop"
    assert (read.usage.prompt_tokens, read.usage.completion_tokens) == (3, 2)
    assert json.loads(reply)["object"] == "chat.completion"


async def test_a_stream_is_openais(provider):
    async with upstream(streams(*events("Par", "is."))) as server:
        chunks = chunks_of(await read_all(provider.stream(model_at(server.url), STREAMED)))
    assert words_of(chunks) == "Paris."
    assert len({chunk.id for chunk in chunks}) == 1
    *_, finished, usage = chunks
    assert finished.choices[0].finish_reason == "stop"
    assert (usage.choices, usage.usage.completion_tokens) == ([], 2)


async def test_a_reply_without_text_still_has_its_content_field(provider):
    call = {"id": "c", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    reply = json.loads(completion())
    reply["choices"][0] |= {"message": {"role": "assistant", "tool_calls": [call]}, "finish_reason": "tool_calls"}
    async with upstream(sends(whole(json.dumps(reply).encode()))) as server:
        message = json.loads(await provider.complete(model_at(server.url), body()))["choices"][0]["message"]
    assert message["content"] is None
    assert message["tool_calls"][0]["function"] == {"name": "look", "arguments": "{}"}


async def test_all_fields_of_a_request_reach_the_vendor(provider):
    sent = {
        "temperature": 0.5,
        "seed": 7,
        "stop": ["x"],
        "top_k": 40,
        "x_unknown": {"deep": [1]},
        "metadata": {"a": "b"},
    }
    async with upstream(sends(whole(completion()))) as server:
        await provider.complete(model_at(server.url), body(user=None, **sent))
    [call] = server.calls
    assert json.loads(call.body) == {"model": "m", "messages": QUESTION, **sent}
    assert call.headers["authorization"] == f"Bearer {KEY}"


async def test_a_client_cannot_reach_into_litellm(provider):
    """Arguments of LiteLLM in a request are fields of the body like any other: our key goes where the owner says."""
    async with upstream(sends(whole(completion("stolen")))) as thief, upstream(sends(whole(completion()))) as server:
        arguments = {
            "api_base": thief.url, "base_url": thief.url, "api_key": "other", "mock_response": "mocked",
            "custom_llm_provider": "anthropic", "fallbacks": [{"model": "openai/x", "api_base": thief.url}],
            "extra_headers": {"authorization": "Bearer other"}, "num_retries": 3, "timeout": 0.001,
            "model_list": [{"model_name": "m", "litellm_params": {"model": "openai/x", "api_base": thief.url}}],
            "extra_body": {"api_base": thief.url, "messages": []},
        }  # fmt: skip
        reply = reply_decoder.decode(await provider.complete(model_at(server.url), body(**arguments)))
    assert reply.choices[0].message.content == "Paris."
    assert thief.calls == []
    [call] = server.calls
    assert call.headers["authorization"] == f"Bearer {KEY}"
    assert json.loads(call.body)["messages"] == QUESTION


async def test_a_missing_key_is_told_by_the_name_of_its_variable(provider, monkeypatch):
    monkeypatch.delenv("VENDOR_KEY")
    for failure in await both_failures(provider, model_at("http://127.0.0.1:9")):
        assert failure.kind == "credentials"
        assert "VENDOR_KEY" in failure.message


@pytest.mark.parametrize("vendor", VENDORS)
async def test_a_vendors_own_key_that_is_missing(provider, vendor, monkeypatch):
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "GEMINI_API_KEY", "GOOGLE_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    for failure in await both_failures(provider, model_at("http://127.0.0.1:9", vendor, api_key_env="")):
        assert failure.kind == "credentials"


async def test_a_vendor_that_litellm_does_not_know(provider):
    for failure in await both_failures(provider, model_at("", "nonsense/m")):
        assert failure.kind == "unknown_model"


async def test_a_parameter_that_the_vendor_does_not_take_is_not_dropped_and_another_vendor_may_take_it(provider):
    async with upstream(sends()) as server:
        model = model_at(server.url, "anthropic/claude-sonnet-4-5")
        failure = await failure_of(provider.complete(model, body(logit_bias={"1": 1})))
    assert (failure.kind, failure.status) == ("unsupported", 400)
    assert failure.another_model_may_help
    assert "logit_bias" in failure.message
    assert server.calls == []


async def test_a_stream_that_litellm_cannot_read_is_unsupported(provider):
    """The `event:` lines of Cohere's second protocol; what they hold is not shown."""
    said = b"event: content-delta\ndata: " + COHERE_PIECE.replace(b"Hel", b"secret words") + b"\n"
    async with upstream(streams(said)) as server:
        failure = await failure_of(read_all(provider.stream(model_at(server.url, "cohere_chat/command-r"), STREAMED)))
    assert (failure.kind, failure.status) == ("unsupported", 400)
    assert "secret" not in failure.message


@pytest.mark.parametrize("vendor", VENDORS)
@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "rejected"), (401, "credentials"), (402, "credentials"), (403, "credentials"), (404, "unknown_model"),
        (408, "timeout"), (413, "rejected"), (422, "rejected"), (429, "rate_limited"), (500, "server_error"),
        (503, "server_error"), (504, "timeout"), (529, "server_error"),
    ],
)  # fmt: skip
async def test_each_status_is_a_kind_of_failure(provider, vendor, status, kind):
    error = {"message": "No.", "type": "some_type", "param": "messages", "code": "some_code"}
    answer = whole(json.dumps({"error": error}).encode(), status, "application/json", "retry-after: 7")
    async with upstream(sends(answer)) as server:
        for failure in await both_failures(provider, model_at(server.url, vendor)):
            assert (failure.kind, failure.status) == (kind, status)
            assert (failure.error_type, failure.param, failure.code) == ("some_type", "messages", "some_code")
            assert failure.message == f"other answered with status {status}: No."
            assert failure.retry_after == "7"
        assert len(server.calls) == 2  # neither was tried again


@pytest.mark.parametrize("vendor", VENDORS)
async def test_a_refused_connection(provider, vendor):
    async with upstream(sends()) as server:
        pass
    for failure in await both_failures(provider, model_at(server.url, vendor)):
        assert (failure.kind, failure.status) == ("connection", 502)


@pytest.mark.parametrize("vendor", VENDORS)
async def test_a_server_that_hangs_up(provider, vendor):
    async with upstream(sends(then=HANG_UP)) as server:
        for failure in await both_failures(provider, model_at(server.url, vendor)):
            assert failure.kind == "connection"


@pytest.mark.parametrize("vendor", VENDORS)
async def test_a_reply_that_breaks_off(provider, vendor):
    cut = sends(head(200, "application/json", "content-length: 900") + b'{"a', then=HANG_UP)
    async with upstream(cut) as server:
        for failure in await both_failures(provider, model_at(server.url, vendor)):
            assert failure.kind == "connection"


@pytest.mark.parametrize("vendor", VENDORS)
@pytest.mark.parametrize(
    "answer",
    [
        b"\x00\x01 garbage\r\n\r\n",
        whole(completion()[:60]),
        whole(b""),
        whole(b"<html>Welcome</html>", 200, "text/html"),
    ],
    ids=["no HTTP", "half JSON", "nothing", "HTML"],
)
async def test_what_is_no_reply_never_becomes_one(provider, vendor, answer):
    async with upstream(sends(answer, then=HANG_UP)) as server:
        plain, streamed = await both_failures(provider, model_at(server.url, vendor))
    assert plain.kind in {"malformed", "server_error"}
    assert streamed.kind == "malformed"


async def test_an_error_within_a_stream(provider):
    answer = streams(events("Par")[1], b'data: {"error":{"message":"Overloaded.","code":500}}\n\n')
    async with upstream(answer) as server:
        stream = provider.stream(model_at(server.url), STREAMED)
        assert b"Par" in await anext(stream)
        assert (await failure_of(read_all(stream))).kind in {"malformed", "server_error"}


@pytest.mark.parametrize("vendor", VENDORS)
async def test_silence_is_a_timeout(provider, vendor):
    async with upstream(sends()) as server:
        server.answer = server.waits()
        for failure in await both_failures(provider, model_at(server.url, vendor, timeout_s=0.3)):
            assert (failure.kind, failure.status) == ("timeout", 504)


@pytest.mark.parametrize("vendor", VENDORS)
async def test_a_stream_that_stalls_gives_what_came_and_then_a_timeout(provider, vendor):
    async with upstream(sends()) as server:
        server.answer = server.waits(STREAM_HEAD, chunked(PIECES[vendor]))
        stream = provider.stream(model_at(server.url, vendor, timeout_s=0.5), STREAMED)
        assert b"Hel" in await anext(stream)
        assert (await failure_of(anext(stream))).kind == "timeout"
        await asyncio.wait_for(server.left.wait(), 5)


@pytest.mark.parametrize("vendor", VENDORS)
async def test_a_stream_that_breaks_off_gives_what_came_and_then_a_failure(provider, vendor):
    async with upstream(sends(STREAM_HEAD, chunked(PIECES[vendor]), then=HANG_UP)) as server:
        stream = provider.stream(model_at(server.url, vendor), STREAMED)
        assert b"Hel" in await anext(stream)
        assert (await failure_of(read_all(stream))).kind == "connection"


async def test_in_a_stream_the_limit_is_between_two_pieces(provider):
    async def drips(call):
        await call.send(STREAM_HEAD)
        for event in events(*"abcde"):
            await call.send(chunked(event))
            await asyncio.sleep(0.15)
        await call.send(chunked(b""))
        return HANG_UP

    async with upstream(drips) as server:
        chunks = chunks_of(await read_all(provider.stream(model_at(server.url, timeout_s=0.7), STREAMED)))
    assert words_of(chunks) == "abcde"


@pytest.mark.parametrize("vendor", PIECES)
async def test_closing_the_stream_hangs_up_on_the_vendor(provider, vendor):
    async with upstream(sends()) as server:
        server.answer = server.waits(STREAM_HEAD, chunked(PIECES[vendor]), chunked(PIECES[vendor]))
        stream = provider.stream(model_at(server.url, vendor), STREAMED)
        assert b"Hel" in await anext(stream)
        await stream.aclose()
        await asyncio.wait_for(server.left.wait(), 5)


@pytest.mark.parametrize("streamed", [False, True])
async def test_cancelling_a_call_hangs_up_on_the_vendor(provider, streamed):
    async with upstream(sends()) as server:
        server.answer = server.waits()
        model = model_at(server.url)
        call = anext(provider.stream(model, STREAMED)) if streamed else provider.complete(model, body())
        task = asyncio.ensure_future(call)
        await asyncio.wait_for(server.called.wait(), 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(server.left.wait(), 5)


async def test_a_slow_reader_holds_the_vendor_up(provider):
    sent = 0

    async def endless(call):
        nonlocal sent
        await call.send(STREAM_HEAD)
        with contextlib.suppress(ConnectionError):
            while True:
                await call.send(chunked(events("x" * 50_000)[1]))
                sent += 1
        return HANG_UP

    async with upstream(endless) as server:
        stream = provider.stream(model_at(server.url), STREAMED)
        await anext(stream)
        before = -1
        async with asyncio.timeout(20):
            while before < sent:  # until nothing more is taken
                before = sent
                await asyncio.sleep(0.5)
        await stream.aclose()
    assert sent < 1_000


async def test_no_secret_and_no_prompt_shows_anywhere(provider, caplog, monkeypatch):
    monkeypatch.setenv("ANOTHER_API_KEY", "hidden-other-key")
    told = {"message": f"Bad key {KEY} or hidden-other-key", "code": KEY, "param": KEY}
    answers = [
        whole(json.dumps({"error": told}).encode(), 401),
        whole(f"Bearer {KEY}".encode(), 502, "text/plain"),
        KEY.encode() + b" HTTP\r\n\r\n",
    ]
    caplog.set_level(logging.DEBUG)
    for vendor in VENDORS:
        for answer in answers:
            async with upstream(sends(answer, then=HANG_UP)) as server:
                for failure in await both_failures(provider, model_at(server.url, vendor)):
                    shown = "".join(traceback.format_exception(failure)) + repr(vars(failure))
                    assert KEY not in shown
                    assert "hidden-other-key" not in shown
    for said in (KEY, "hidden-other-key", "capital of France"):
        assert said not in caplog.text


async def test_calls_of_litellm_do_not_run_on_the_callers_thread(provider):
    here = threading.get_ident()
    await provider.preload()
    assert provider._background._thread.ident != here
    assert threading.current_thread().name != "litellm"
    async with upstream(sends(whole(completion()))) as server:
        model = model_at(server.url)
        await provider.complete(model, body())
        assert len(asyncio.all_tasks()) == 1 + server.connections  # nothing of LiteLLM's runs on this loop


async def test_many_calls_at_once(provider):
    async with upstream(sends(whole(completion()))) as server:
        model = model_at(server.url)
        replies = await asyncio.gather(*(provider.complete(model, body()) for _ in range(20)))
    assert {reply_decoder.decode(reply).choices[0].message.content for reply in replies} == {"Paris."}


async def test_it_can_be_closed_and_used_again_and_leaves_no_thread(provider):
    await provider.preload()
    thread = provider._background._thread
    await provider.close()
    await provider.close()
    assert not thread.is_alive()
    waiting = asyncio.create_task(provider.preload())
    await asyncio.sleep(0)
    waiting.cancel()  # one that gives up waiting for the start does not spoil it for the next
    async with upstream(sends(whole(completion()))) as server:
        assert await provider.complete(model_at(server.url), body())


# --- every vendor's protocol, spoken by aimock


@pytest.fixture(scope="module")
def aimock(tmp_path_factory):
    """The address of an aimock server that knows the capital of France."""
    if shutil.which("npx") is None:
        pytest.skip("npx is not installed: aimock, which speaks the vendors' protocols, is an npm package")
    fixtures = tmp_path_factory.mktemp("aimock") / "fixtures.json"
    usage = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
    call = {"name": "weather", "arguments": '{"city":"Paris"}'}
    fixtures.write_text(
        json.dumps(
            {
                "fixtures": [
                    {
                        "match": {"userMessage": "capital of France"},
                        "response": {"content": "Paris is the capital of France.", "usage": usage},
                    },
                    {"match": {"userMessage": "weather"}, "response": {"toolCalls": [call], "usage": usage}},
                ]
            }
        )
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["npx", "--yes", "-p", AIMOCK, "llmock", "-p", str(port), "-f", str(fixtures), "--log-level", "silent"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True) as process:
        try:
            _wait_until_open(process, port)
            yield f"http://127.0.0.1:{port}"
        finally:
            _end(process)


def _wait_until_open(process, port):
    for _ in range(600):
        if process.poll() is not None:
            pytest.skip(f"npx could not start {AIMOCK}: {process.stdout.read().decode()[-300:]}")
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        time.sleep(0.1)
    pytest.fail("aimock did not listen within a minute")


def _end(process):
    import os
    import signal

    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)  # npx, its shell and the server


PATHS = {
    "openai/gpt-4.1": "/v1",
    "anthropic/claude-sonnet-4-5": "",
    "gemini/gemini-2.5-flash": "/v1beta",
    "mistral/mistral-small-latest": "/v1",
    "cohere_chat/command-r": "/v2/chat",
    "ollama_chat/llama3": "",
}


@pytest.mark.peers
@pytest.mark.parametrize("vendor", PATHS)
async def test_each_vendor_answers_as_openai_would(provider, aimock, vendor):
    reply = reply_decoder.decode(await provider.complete(model_at(aimock + PATHS[vendor], vendor), body()))
    assert reply.choices[0].message.content == "Paris is the capital of France."
    assert reply.choices[0].finish_reason == "stop"
    assert reply.id


@pytest.mark.peers
@pytest.mark.parametrize("vendor", [vendor for vendor in PATHS if vendor != "cohere_chat/command-r"])
async def test_each_vendor_streams_as_openai_would(provider, aimock, vendor):
    chunks = chunks_of(await read_all(provider.stream(model_at(aimock + PATHS[vendor], vendor), STREAMED)))
    assert words_of(chunks) == "Paris is the capital of France."
    assert [c.finish_reason for chunk in chunks for c in chunk.choices if c.finish_reason] == ["stop"]
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None


@pytest.mark.peers
async def test_cohere_streams_fail_before_their_first_word(provider, aimock):
    """LiteLLM 1.106.2 cannot read the `event:` lines of Cohere's second protocol; another model can then answer."""
    vendor = "cohere_chat/command-r"
    failure = await failure_of(anext(provider.stream(model_at(aimock + PATHS[vendor], vendor), STREAMED)))
    assert failure.kind == "unsupported"


@pytest.mark.peers
@pytest.mark.parametrize("vendor", [vendor for vendor in PATHS if vendor != "cohere_chat/command-r"])
async def test_each_vendor_calls_tools_as_openai_would(provider, aimock, vendor):
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    tool = {"type": "function", "function": {"name": "weather", "description": "d", "parameters": schema}}
    asked = body(messages=[{"role": "user", "content": "What is the weather in Paris?"}], tools=[tool])
    reply = reply_decoder.decode(await provider.complete(model_at(aimock + PATHS[vendor], vendor), asked))
    [call] = reply.choices[0].message.tool_calls
    assert call.function.name == "weather"
    assert json.loads(call.function.arguments) == {"city": "Paris"}
    assert reply.choices[0].finish_reason == "tool_calls"


@pytest.mark.peers
async def test_aimock_itself_is_reached(aimock):
    async with aiohttp.ClientSession() as session, session.get(aimock + "/health") as response:
        assert response.status == 200
