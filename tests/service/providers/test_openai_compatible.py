"""The passthrough provider against real servers on loopback that answer well, badly, late or not at all."""

import asyncio
import contextlib
import gzip
import itertools
import json
import traceback

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.providers.failures import refusal
from service.providers.keys import scrub
from service.providers.openai_compatible import OpenAICompatible
from service.settings import OpenAICompatibleModel
from tests.service.providers.calls import failure_of, failures_of, read_all
from tests.service.providers.upstreams import (
    HANG_UP,
    KEEP,
    STREAM_HEAD,
    Call,
    chunked,
    completion,
    events,
    head,
    sends,
    streams,
    upstream,
    whole,
)

BODY = b'{ "model":"m",  "messages":[{"role":"user","content":"\xe4\xbd\xa0\xe5\xa5\xbd"}],"x_unknown": 1.50 }'
KEY = "hunter2-hunter2-hunter2"


@pytest.fixture
async def provider():
    made = OpenAICompatible()
    yield made
    await made.close()


def model_at(server, **said):
    said = {"timeout_s": 5.0, **said}
    return OpenAICompatibleModel(name="gpt", base_url=f"{server.url}/v1", **said)


async def both_failures(provider, model):
    return await failures_of(provider, model, BODY, BODY)


async def test_body_and_reply_pass_byte_for_byte(provider):
    async with upstream(sends(whole(completion()))) as server:
        assert await provider.complete(model_at(server), BODY) == completion()
    [call] = server.calls
    assert call.path == "/v1/chat/completions"
    assert call.body == BODY


async def test_headers_carry_the_key_and_what_the_settings_say(provider, monkeypatch):
    monkeypatch.setenv("GPT_KEY", f" {KEY}\n")
    monkeypatch.setenv("GPT_ORGANISATION", "acme")
    async with upstream(sends(whole(completion()))) as server:
        model = model_at(server, api_key_env="GPT_KEY", headers={"x-org": "$GPT_ORGANISATION", "x-plain": "yes"})
        await provider.complete(model, BODY)
    headers = server.calls[0].headers
    assert headers["authorization"] == f"Bearer {KEY}"
    assert headers["content-type"] == "application/json"
    assert (headers["x-org"], headers["x-plain"]) == ("acme", "yes")
    assert "cookie" not in headers


async def test_without_a_key_none_is_sent(provider):
    async with upstream(sends(whole(completion()))) as server:
        await provider.complete(model_at(server), BODY)
    assert "authorization" not in server.calls[0].headers


async def test_a_trailing_slash_of_the_address_does_not_double(provider):
    async with upstream(sends(whole(completion()))) as server:
        model = OpenAICompatibleModel(name="gpt", base_url=f"{server.url}/v1/")
        await provider.complete(model, BODY)
    assert server.calls[0].path == "/v1/chat/completions"


async def test_changed_settings_of_a_model_apply_at_once(provider):
    async with upstream(sends(whole(completion()))) as server:
        await provider.complete(model_at(server, headers={"x-version": "old"}), BODY)
        await provider.complete(model_at(server, headers={"x-version": "new"}), BODY)
    assert [call.headers["x-version"] for call in server.calls] == ["old", "new"]


@pytest.mark.parametrize(("value", "says"), [(None, "is not set"), ("", "is not set"), ("a\nb", "control character")])
async def test_a_missing_or_broken_key_is_told_by_the_name_of_its_variable(provider, monkeypatch, value, says):
    monkeypatch.delenv("GPT_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("GPT_KEY", value)
    async with upstream(sends(whole(completion()))) as server:
        for failure in await both_failures(provider, model_at(server, api_key_env="GPT_KEY")):
            assert failure.kind == "credentials"
            assert "GPT_KEY" in failure.message
            assert says in failure.message
    assert server.calls == []


async def test_calls_in_a_row_share_one_connection(provider):
    async with upstream(sends(whole(completion()))) as server:
        for _ in range(5):
            await provider.complete(model_at(server), BODY)
        server.answer = streams(*events("a", "b"))
        await read_all(provider.stream(model_at(server), BODY))
        await provider.complete(model_at(server), BODY)
    assert (server.connections, len(server.calls)) == (1, 7)


async def test_a_compressed_reply_arrives_as_it_was(provider):
    packed = whole(gzip.compress(completion()), 200, "application/json", "content-encoding: gzip")
    async with upstream(sends(packed)) as server:
        assert await provider.complete(model_at(server), BODY) == completion()


async def test_cookies_are_not_kept(provider):
    async with upstream(sends(whole(completion(), 200, "application/json", "set-cookie: a=b; Path=/"))) as server:
        await provider.complete(model_at(server), BODY)
        await provider.complete(model_at(server), BODY)
    assert "cookie" not in server.calls[1].headers


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "rejected"), (401, "credentials"), (402, "credentials"), (403, "credentials"), (404, "unknown_model"),
        (408, "timeout"), (409, "rejected"), (413, "rejected"), (422, "rejected"), (429, "rate_limited"),
        (500, "server_error"), (502, "server_error"), (503, "server_error"), (504, "timeout"), (529, "server_error"),
    ],
)  # fmt: skip
async def test_each_status_is_a_kind_of_failure(provider, status, kind):
    error = {"message": "No.", "type": "some_type", "param": "messages", "code": "some_code"}
    answer = whole(json.dumps({"error": error}).encode(), status, "application/json", "retry-after: 7")
    async with upstream(sends(answer)) as server:
        for failure in await both_failures(provider, model_at(server)):
            assert (failure.kind, failure.status) == (kind, status)
            assert (failure.error_type, failure.param, failure.code) == ("some_type", "messages", "some_code")
            assert failure.message == f"gpt at 127.0.0.1 answered with status {status}: No."
            assert failure.retry_after == "7"
        assert server.connections == 1


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b'{"error": "Text only."}', "Text only."),
        (b'{"detail": "Not Found"}', "Not Found"),
        (b'{"detail": [{"loc": ["body"], "msg": "missing"}]}', '[{"loc":["body"],"msg":"missing"}]'),
        (b'{"message": "Deep trouble.", "code": 40013}', "Deep trouble."),
        (b'[{"error": {"message": "In a list.", "code": 400, "status": "INVALID"}}]', "In a list."),
        (b'{"object": "error", "message": "Old vLLM.", "code": null}', "Old vLLM."),
        (b"<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>", "502 Bad Gateway nginx"),
        (b"upstream connect\n\terror", "upstream connect error"),
        (b"\xff\xfe\x00", "\ufffd\ufffd"),
        (b'{"error": {"message": "cut of', '{"error": {"message": "cut of'),
        (b"[" * 5_000, "[[["),
        (b"[]", "[]"),
        (b"null", "null"),
        (b"{}", "{}"),
        (b"", "no message."),
    ],
)
async def test_error_bodies_of_every_shape_are_read(provider, body, says):
    async with upstream(sends(whole(body, 500, "application/octet-stream"))) as server:
        failure = await failure_of(provider.complete(model_at(server), BODY))
    assert failure.kind == "server_error"
    assert says in failure.message


async def test_a_numeric_code_becomes_text(provider):
    async with upstream(sends(whole(b'{"error":{"message":"m","code":1234}}', 400))) as server:
        failure = await failure_of(provider.complete(model_at(server), BODY))
    assert failure.code == "1234"


async def test_of_a_huge_error_body_only_the_beginning_is_read(provider):
    async def answer(call: Call) -> bool:
        await call.send(head(500, "text/plain", f"content-length: {1 << 40}"))
        with contextlib.suppress(ConnectionError):
            for _ in range(200):
                await call.send(b"very long " * 10_000)
        server.left.set()
        return HANG_UP

    async with upstream(answer) as server:
        for _ in range(2):
            failure = await failure_of(provider.complete(model_at(server), BODY))
            assert failure.kind == "server_error"
            assert len(failure.message) < 400
        await asyncio.wait_for(server.left.wait(), 5)
    assert server.connections == 2  # one that was left in the middle serves no other call


async def test_an_error_whose_body_breaks_off_keeps_its_status(provider):
    async with upstream(sends(head(429, "text/plain", "content-length: 500") + b"slow do", then=HANG_UP)) as server:
        for failure in await both_failures(provider, model_at(server)):
            assert (failure.kind, failure.status) == ("rate_limited", 429)
            assert "slow do" in failure.message


async def test_an_error_whose_body_stalls_keeps_its_status(provider):
    async with upstream(sends()) as server:
        server.answer = server.waits(head(503, "text/plain", "content-length: 500") + b"busy")
        for failure in await both_failures(provider, model_at(server, timeout_s=0.2)):
            assert (failure.kind, failure.status) == ("server_error", 503)


async def test_a_redirect_is_not_followed(provider, monkeypatch):
    monkeypatch.setenv("GPT_KEY", KEY)
    async with upstream(sends(whole(completion()))) as elsewhere:
        location = f"location: {elsewhere.url}/v1/chat/completions"
        async with upstream(sends(whole(b"", 307, "text/plain", location))) as server:
            failure = await failure_of(provider.complete(model_at(server, api_key_env="GPT_KEY"), BODY))
    assert (failure.kind, failure.status) == ("malformed", 502)
    assert elsewhere.calls == []


async def test_a_refused_connection(provider):
    async with upstream(sends()) as server:
        pass
    for failure in await both_failures(provider, model_at(server)):
        assert (failure.kind, failure.status) == ("connection", 502)


async def test_a_host_that_does_not_exist(provider):
    model = OpenAICompatibleModel(name="gpt", base_url="http://nowhere.invalid/v1")
    for failure in await both_failures(provider, model):
        assert failure.kind == "connection"


@pytest.mark.parametrize("url", ["not a url", "ftp://127.0.0.1/v1", "http://127.0.0.1:99999/v1", "http://[::1/v1"])
async def test_an_address_that_is_none(provider, url):
    for failure in await both_failures(provider, OpenAICompatibleModel(name="gpt", base_url=url)):
        assert failure.kind == "connection"


async def test_a_server_that_takes_no_connection(provider):
    # A listener whose queue is full and who never accepts drops further connections in silence.
    listener = await asyncio.get_running_loop().run_in_executor(None, _full_listener)
    try:
        model = OpenAICompatibleModel(
            name="gpt", base_url=f"http://127.0.0.1:{listener[0].getsockname()[1]}/v1", connect_timeout_s=0.2
        )
        failure = await failure_of(provider.complete(model, BODY))
    finally:
        for each in listener:
            each.close()
    assert failure.kind == "connection"
    assert "0.2 s" in failure.message


def _full_listener():
    import socket

    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    waiting = []
    for _ in range(4):
        one = socket.socket()
        one.setblocking(False)
        one.connect_ex(listener.getsockname())
        waiting.append(one)
    return [listener, *waiting]


async def test_silence_before_the_headers_is_a_timeout(provider):
    async with upstream(sends()) as server:
        server.answer = server.waits()
        for failure in await both_failures(provider, model_at(server, timeout_s=0.2)):
            assert (failure.kind, failure.status) == ("timeout", 504)


async def test_the_limit_bounds_the_whole_of_a_plain_call(provider):
    async def drips(call: Call) -> bool:
        await call.send(head(200, "application/json", "content-length: 1000"))
        for _ in range(100):
            await call.send(b" ")
            await asyncio.sleep(0.05)
        return HANG_UP

    async with upstream(drips) as server:
        failure = await failure_of(provider.complete(model_at(server, timeout_s=0.3), BODY))
    assert failure.kind == "timeout"


async def test_in_a_stream_the_limit_is_between_two_pieces(provider):
    async def drips(call: Call) -> bool:
        await call.send(STREAM_HEAD)
        for event in events(*"abcde"):
            await call.send(chunked(event))
            await asyncio.sleep(0.1)
        await call.send(chunked(b""))
        return KEEP

    async with upstream(drips) as server:
        received = await read_all(provider.stream(model_at(server, timeout_s=0.4), BODY))
    assert received == b"".join(events(*"abcde"))


async def test_a_stream_that_stalls_gives_what_came_and_then_a_timeout(provider):
    first = events("a")[0]
    async with upstream(sends()) as server:
        server.answer = server.waits(STREAM_HEAD, chunked(first))
        stream = provider.stream(model_at(server, timeout_s=0.2), BODY)
        assert await anext(stream) == first
        assert (await failure_of(anext(stream))).kind == "timeout"
        await asyncio.wait_for(server.left.wait(), 5)


async def test_a_stream_that_breaks_off_gives_what_came_and_then_a_failure(provider):
    first = events("a")[0]
    async with upstream(sends(STREAM_HEAD, chunked(first), b"40\r\nhalf a ch", then=HANG_UP)) as server:
        stream = provider.stream(model_at(server), BODY)
        assert (await anext(stream)).startswith(first)
        assert (await failure_of(read_all(stream))).kind == "connection"


async def test_a_plain_reply_that_breaks_off(provider):
    async with upstream(sends(head(200, "application/json", "content-length: 900") + b'{"a', then=HANG_UP)) as server:
        assert (await failure_of(provider.complete(model_at(server), BODY))).kind == "connection"


async def test_what_is_no_http_is_malformed(provider):
    async with upstream(sends(b"\x00\x01 garbage\r\n\r\n", then=HANG_UP)) as server:
        for failure in await both_failures(provider, model_at(server)):
            assert failure.kind == "malformed"


@pytest.mark.parametrize("body", [b"<html>Welcome</html>", completion()[:60], b""])
async def test_a_2xx_reply_comes_back_as_it_is(provider, body):
    async with upstream(sends(whole(body, 200, "text/html"))) as server:
        assert await provider.complete(model_at(server), BODY) == body


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (whole(b'{"error":{"message":"Overloaded, really.","code":"busy"}}'), "Overloaded, really."),
        (whole(b"<html>Welcome</html>", 200, "text/html"), "Welcome"),
        (whole(completion()), "not application/json"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi", "hi"),
    ],
)
async def test_a_200_that_is_no_event_stream_is_malformed_when_streaming(provider, answer, says):
    async with upstream(sends(answer)) as server:
        failure = await failure_of(anext(provider.stream(model_at(server), BODY)))
    assert (failure.kind, failure.status) == ("malformed", 502)
    assert says in failure.message


async def test_pieces_are_handed_on_as_they_arrive(provider):
    step = asyncio.Event()
    first, second = events("a")[:2]

    async def answer(call: Call) -> bool:
        await call.send(STREAM_HEAD + chunked(first))
        await step.wait()
        await call.send(chunked(second) + chunked(b""))
        return KEEP

    async with upstream(answer) as server:
        stream = provider.stream(model_at(server), BODY)
        assert await anext(stream) == first  # while the upstream still waits
        step.set()
        assert await read_all(stream) == second


@given(cuts=st.sets(st.integers(1, len(b"".join(events("one", "two"))) - 1), max_size=12))
def test_a_stream_cut_anywhere_arrives_complete(cuts):
    whole_stream = b"".join(events("one", "two"))
    edges = [0, *sorted(cuts), len(whole_stream)]
    pieces = [whole_stream[start:end] for start, end in itertools.pairwise(edges)]

    async def run():
        provider = OpenAICompatible()
        try:
            async with upstream(streams(*pieces)) as server:
                return await read_all(provider.stream(model_at(server), BODY))
        finally:
            await provider.close()

    assert asyncio.run(run()) == whole_stream


async def test_closing_the_stream_hangs_up_on_the_upstream(provider):
    async with upstream(sends()) as server:
        server.answer = server.waits(STREAM_HEAD, chunked(events("a")[0]))
        stream = provider.stream(model_at(server), BODY)
        await anext(stream)
        await stream.aclose()
        await asyncio.wait_for(server.left.wait(), 5)


@pytest.mark.parametrize("pieces", [(), (STREAM_HEAD,)], ids=["before the headers", "before the first event"])
async def test_cancelling_a_step_of_the_stream_hangs_up_on_the_upstream(provider, pieces):
    async with upstream(sends()) as server:
        server.answer = server.waits(*pieces)
        task = asyncio.ensure_future(anext(provider.stream(model_at(server), BODY)))
        await asyncio.wait_for(server.called.wait(), 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(server.left.wait(), 5)


async def test_cancelling_a_plain_call_hangs_up_on_the_upstream(provider):
    async with upstream(sends()) as server:
        server.answer = server.waits()
        task = asyncio.create_task(provider.complete(model_at(server), BODY))
        await asyncio.wait_for(server.called.wait(), 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(server.left.wait(), 5)


def _hangs_up_on_second_calls(*bytes_before: bytes):
    """Answers the first call of each connection and hangs up on its second, as a server does whose patience is over."""
    seen = set()

    async def answer(call: Call) -> bool:
        if call.writer in seen:
            for piece in bytes_before:
                await call.send(piece)
            return HANG_UP
        seen.add(call.writer)
        await call.send(whole(completion()))
        return KEEP

    return answer


async def test_a_kept_connection_that_was_hung_up_is_replaced_once(provider):
    async with upstream(_hangs_up_on_second_calls()) as server:
        await provider.complete(model_at(server), BODY)
        assert await provider.complete(model_at(server), BODY) == completion()
    assert (server.connections, len(server.calls)) == (2, 3)


async def test_a_new_connection_that_dies_is_not_tried_again(provider):
    async with upstream(sends(then=HANG_UP)) as server:
        failure = await failure_of(provider.complete(model_at(server), BODY))
    assert failure.kind == "connection"
    assert len(server.calls) == 1


async def test_a_kept_connection_that_dies_after_a_byte_of_the_answer_is_not_tried_again(provider):
    async with upstream(_hangs_up_on_second_calls(head(200, "application/json", "content-length: 9") + b"{")) as server:
        await provider.complete(model_at(server), BODY)
        assert (await failure_of(provider.complete(model_at(server), BODY))).kind == "connection"
    assert len(server.calls) == 2


async def test_a_kept_connection_that_dies_after_a_while_is_not_tried_again(provider):
    async def answer(call: Call) -> bool:
        if len(server.calls) == 1:
            await call.send(whole(completion()))
            return KEEP
        await asyncio.sleep(0.3)
        return HANG_UP

    async with upstream(answer) as server:
        model = model_at(server, timeout_s=0.5)  # half of it is more than a stale connection takes to show
        await provider.complete(model, BODY)
        assert (await failure_of(provider.complete(model, BODY))).kind == "connection"
    assert len(server.calls) == 2


async def test_the_provider_works_again_after_it_was_closed(provider):
    async with upstream(sends(whole(completion()))) as server:
        await provider.complete(model_at(server), BODY)
        await provider.close()
        await provider.close()
        assert await provider.complete(model_at(server), BODY) == completion()


async def test_many_calls_at_once(provider):
    async def answer(call: Call) -> bool:
        await asyncio.sleep(0.05)
        await call.send(whole(call.body))
        return KEEP

    async with upstream(answer) as server:
        model = model_at(server)
        bodies = [b'{"n":%d}' % number for number in range(200)]
        assert await asyncio.gather(*(provider.complete(model, body) for body in bodies)) == bodies
    assert server.connections == 200  # none had to wait for another


@pytest.mark.parametrize(
    "answer",
    [
        whole(json.dumps({"error": {"message": f"Bad {KEY} x", "code": KEY, "param": KEY}}).encode(), 401),
        whole(f"proxy: authorization: Bearer {KEY} refused, x-extra: hidden-extra".encode(), 502, "text/plain"),
        whole(b"x" * 290 + KEY.encode(), 500, "text/plain"),
        whole(json.dumps({"error": {"message": "no"}, "echo": KEY}).encode(), 200, f"text/{KEY}"),
        KEY.encode() + b" HTTP\r\n\r\n",
    ],
)
async def test_no_secret_shows_anywhere(provider, monkeypatch, answer):
    monkeypatch.setenv("GPT_KEY", KEY)
    monkeypatch.setenv("GPT_EXTRA", "hidden-extra")
    async with upstream(sends(answer, then=HANG_UP)) as server:
        url = server.url.replace("//", "//user:hidden-password@")
        model = OpenAICompatibleModel(
            name="gpt", base_url=url, api_key_env="GPT_KEY", headers={"x-extra": "$GPT_EXTRA"}, timeout_s=5
        )
        failures = [await failure_of(anext(provider.stream(model, BODY)))]
        if not answer.startswith(b"HTTP/1.1 200"):
            failures.append(await failure_of(provider.complete(model, BODY)))
    for failure in failures:
        shown = "".join(traceback.format_exception(failure)) + repr(vars(failure))
        for secret in (KEY, KEY[:12], "hidden-extra", "hidden-password"):
            assert secret not in shown


async def test_a_password_in_the_address_is_sent_when_there_is_no_key(provider):
    async with upstream(sends(whole(completion()))) as server:
        model = OpenAICompatibleModel(name="gpt", base_url=server.url.replace("//", "//user:word@"))
        await provider.complete(model, BODY)
    assert server.calls[0].headers["authorization"] == aiohttp.encode_basic_auth("user", "word")


@given(
    secret=st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=9, max_size=60),
    before=st.text(max_size=40),
    after=st.text(max_size=40),
)
def test_a_configured_secret_never_survives(secret, before, after):
    assert secret not in scrub(before + secret + after, [secret])
    body = json.dumps({"error": {"message": before + secret + after}}).encode()
    assert secret not in refusal("m", 500, body, secrets=[secret]).message


@pytest.mark.parametrize(
    "text",
    [
        "Incorrect API key provided: sk-proj-abc***********xyz.",
        "header was 'Authorization: bearer abcdef0123456789'",
        "GET https://host/v1/models/m:generate?alt=sse&key=AIzaSyD-123456789 failed",
        "got gsk_abcdefghijkl",
    ],
)
def test_what_looks_like_a_key_is_taken_out(text):
    cleaned = scrub(text, [])
    assert "[secret]" in cleaned
    for part in ("abc", "xyz", "0123", "1234"):
        assert part not in cleaned


@given(body=st.binary(max_size=300), status=st.integers(300, 599))
def test_any_bytes_make_a_failure(body, status):
    failure = refusal("m", status, body, secrets=[])
    assert failure.status == (status if status >= 400 else 502)
    assert len(failure.message) < 1_100
