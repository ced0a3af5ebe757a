"""The tools of the load test measure what they say they measure."""

import asyncio
import itertools
import math
import sys
import time
from collections import Counter

import msgspec
import openai
import pytest

from benchmarks import load_client, load_report, mock_upstream
from benchmarks.load_client import NO_REPLY, chat_bodies, feedback_bodies, http_request, percentile, run_load
from benchmarks.processes import Server, free_port
from benchmarks.sampling import hot_functions

PATH = "/v1/chat/completions"


@pytest.fixture
async def mock():
    """The port of a running mock upstream."""
    server = await mock_upstream.serve(0)
    yield server.sockets[0].getsockname()[1]
    server.close()


@pytest.fixture
async def client(mock):
    async with openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{mock}/v1", api_key="none", max_retries=0) as client:
        yield client


async def scripted(replies):
    """A server that answers the requests of each connection with `replies` in turn; None hangs up."""

    async def answer(reader, writer):
        for reply in replies:
            if not await reader.read(65536):
                break
            if reply is None:
                break
            writer.write(reply)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    return server, server.sockets[0].getsockname()[1]


def shots(**wishes):
    return (http_request(PATH, body) for body in chat_bodies(**wishes))


QUESTION = [{"role": "user", "content": "Is the kettle on?"}]


async def test_the_mock_gives_a_chat_completion_that_the_openai_client_reads(client):
    reply = await client.chat.completions.create(model="any", messages=QUESTION)
    assert reply.choices[0].message.content.startswith("A short answer")
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
    assert 560 <= len(mock_upstream.completion()) <= 600


async def test_the_mock_streams_a_hundred_chunks_and_their_usage(client):
    stream = await client.chat.completions.create(model="any", messages=QUESTION, stream=True)
    chunks = [chunk async for chunk in stream]
    words = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    assert len(words) == 100
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage.completion_tokens == 100


async def test_the_mock_paces_a_stream_when_the_request_asks_for_it(client):
    loop = asyncio.get_running_loop()
    stream = await client.chat.completions.create(
        model="any", messages=QUESTION, stream=True, extra_body={"mock_pace_ms": 1}
    )
    times = [loop.time() async for _ in stream]
    assert len(times) == 103
    assert times[-1] - times[0] >= 0.05


async def test_the_mock_refuses_what_is_not_json(mock):
    outcome = await run_load(mock, iter([http_request(PATH, b"{")]), connections=1, count=1, seconds=5)
    assert outcome.statuses == Counter({400: 1})
    assert outcome.failed == 1


async def test_a_load_sends_as_many_requests_as_it_was_told_over_all_connections(mock):
    outcome = await run_load(mock, shots(), connections=4, count=103, seconds=30)
    assert outcome.statuses == Counter({200: 103})
    assert len(outcome.latencies_ms) == len(outcome.first_byte_ms) == outcome.succeeded == 103
    assert outcome.failed == 0
    assert all(0 < first <= whole for first, whole in zip(outcome.first_byte_ms, outcome.latencies_ms, strict=True))


async def test_a_load_ends_when_its_time_is_up(mock):
    outcome = await run_load(mock, shots(), connections=2, count=10**9, seconds=0.1)
    assert 0 < outcome.succeeded < 10**9


async def test_a_load_ends_when_its_requests_are_used_up(mock):
    outcome = await run_load(mock, itertools.islice(shots(), 7), connections=3, count=100, seconds=30)
    assert outcome.statuses == Counter({200: 7})


async def test_the_first_byte_of_a_paced_stream_comes_long_before_its_last(mock):
    outcome = await run_load(
        mock, shots(stream=True, pace_ms=1), connections=3, count=6, seconds=30, streamed=True, keep_ids=True
    )
    assert outcome.statuses == Counter({200: 6})
    assert outcome.cut == 0
    assert outcome.ids == ["chatcmpl-mock0000000000000000000000"] * 6
    assert all(last - first >= 50 for first, last in zip(outcome.first_byte_ms, outcome.latencies_ms, strict=True))


async def test_statuses_are_counted_and_only_good_replies_are_timed():
    good = b"HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\n" + b'{"id":"x1"}'
    busy = b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n"
    server, port = await scripted([good, busy, good, busy])
    async with server:
        outcome = await run_load(port, shots(), connections=1, count=4, seconds=5, keep_ids=True)
    assert outcome.statuses == Counter({200: 2, 503: 2})
    assert outcome.succeeded == 2
    assert outcome.failed == 2
    assert outcome.ids == ["x1", "x1"]


async def test_a_hang_up_counts_as_a_request_without_reply_and_the_load_goes_on():
    good = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
    server, port = await scripted([good, None])
    async with server:
        outcome = await run_load(port, shots(), connections=1, count=6, seconds=5)
    assert outcome.statuses == Counter({200: 3, NO_REPLY: 3})


async def test_half_a_reply_is_given_up_after_the_grace_and_counts_as_none():
    server, port = await scripted([b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{", None])
    async with server:
        outcome = await run_load(port, shots(), connections=1, count=1, seconds=0.05, grace_s=0.05)
    assert outcome.statuses == Counter({NO_REPLY: 1})
    assert outcome.succeeded == 0


async def test_a_stream_without_its_end_counts_as_failed():
    body = b'data: {"id":"x1","choices":[]}\n\n'
    cut = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    server, port = await scripted([cut])
    async with server:
        outcome = await run_load(port, shots(stream=True), connections=1, count=1, seconds=5, streamed=True)
    assert outcome.statuses == Counter({200: 1})
    assert outcome.cut == outcome.failed == 1


async def test_a_load_is_aimed_at_this_machine_only(mock):
    with pytest.raises(ValueError, match="not this machine"):
        await run_load(mock, shots(), connections=1, count=1, seconds=1, host="192.0.2.1")


async def test_a_load_on_a_port_where_nobody_listens_fails_loudly():
    with pytest.raises(OSError, match=r"refused|failed"):
        await run_load(free_port(), shots(), connections=1, count=1, seconds=1)


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        ([15, 20, 35, 40, 50], 0.30, 20),  # rank ceil(1.5) = 2
        ([15, 20, 35, 40, 50], 0.40, 20),  # rank 2 exactly
        ([50, 35, 15, 40, 20], 0.50, 35),  # order does not matter; rank ceil(2.5) = 3
        ([15, 20, 35, 40, 50], 1.00, 50),
        ([3, 6], 0.5, 3),
        ([7], 0.99, 7),
        (range(1, 101), 0.99, 99),
    ],
)
def test_percentiles_by_hand(values, share, expected):
    assert percentile(list(values), share) == expected


def test_no_values_have_no_percentile():
    assert math.isnan(percentile([], 0.5))


def test_rates_by_hand():
    """Eight good replies of ten, one of them a cut stream, in four seconds: two a second, three failed."""
    outcome = load_client.Outcome(
        statuses=Counter({200: 8, 500: 1, NO_REPLY: 1}), latencies_ms=[1.0] * 8, cut=1, seconds=4.0
    )
    assert outcome.per_second == 2.0
    assert outcome.failed == 3


def test_every_body_of_a_load_is_another_question_of_about_500_bytes():
    bodies = list(itertools.islice(chat_bodies(), 3000))
    assert len(set(bodies)) == 3000
    assert all(400 <= len(body) <= 600 for body in bodies)
    texts = [msgspec.json.decode(body)["messages"][1]["content"] for body in bodies]
    assert sum(any("\u4e00" <= letter <= "\u9fff" for letter in text) for text in texts) == 600
    assert len(set(load_client.prompts())) == len(load_client.prompts()) == 600


def test_streamed_bodies_ask_for_a_stream_with_usage():
    body = msgspec.json.decode(next(chat_bodies(stream=True, pace_ms=2)))
    assert body["stream"] is True
    assert body["stream_options"] == {"include_usage": True}
    assert body["mock_pace_ms"] == 2


def test_two_of_three_ratings_are_good():
    ratings = [msgspec.json.decode(body) for body in feedback_bodies(["a", "b", "c"])]
    assert ratings == [
        {"decision_id": "a", "value": 1.0},
        {"decision_id": "b", "value": 1.0},
        {"decision_id": "c", "value": 0.0},
    ]


BUSY_FAMILY = """
import http.server, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "sum(range(3 * 10**8))"])
block = bytearray(64 * 2**20)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), http.server.SimpleHTTPRequestHandler).serve_forever()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="CPU and memory are read from /proc")
def test_a_servers_usage_covers_its_children_and_its_memory(tmp_path):
    port = free_port()
    server = Server("busy", [sys.executable, "-c", BUSY_FAMILY, str(port)], core=0, folder=tmp_path)
    try:
        server.wait_until(f"http://127.0.0.1:{port}/")
        before = server.usage()
        assert before.rss_mb > 64
        deadline = time.monotonic() + 20
        while server.usage().cpu_s < before.cpu_s + 0.1 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert server.usage().cpu_s >= before.cpu_s + 0.1  # by the child alone: the parent sleeps
    finally:
        server.stop()


def test_a_server_that_does_not_start_says_why(tmp_path):
    server = Server("broken", [sys.executable, "-c", "raise SystemExit('no such model')"], core=0, folder=tmp_path)
    with pytest.raises(RuntimeError, match=r"broken ended with status 1:\nno such model"):
        server.wait_until(f"http://127.0.0.1:{free_port()}/")


def figures(**changed):
    row = {
        "requests": 10, "failed": 0, "statuses": {"200": 10}, "per_second": 1600.0, "p50_ms": 1.0, "p99_ms": 2.0,
        "first_byte_p50_ms": 1.0, "first_byte_p99_ms": 2.0, "cpu_ms": 0.5, "core_share": 1.0,
    }  # fmt: skip
    return {**row, **changed}


def found(**armwise):
    """Results of a load test in which the mock takes 0.5 ms, the passthrough 1 ms, and Armwise what is given."""
    direct = figures(p50_ms=0.5, first_byte_p50_ms=0.5)
    row = {"direct": direct, "passthrough": figures(), "armwise": figures(**armwise)}
    return {
        "cells": {kind: row for kind, *_ in load_report.SHOWN},
        "feedback": {**figures(per_second=3000.0), "acknowledged": 10, "stored": 10},
        "rss_mb": {"direct": 20.0, "passthrough": 90.0, "armwise": 120.0},
    }


def test_the_report_sets_armwise_beside_the_passthrough_as_a_ratio():
    lines = {line.what: line for line in load_report.summary(found(cpu_ms=0.25, p50_ms=3.0))}
    assert lines["plain, 16 connections: CPU a request"].ratio == 0.5
    assert lines["plain, 1 connection: p50"].ratio == 3.0


def test_budgets_are_judged_on_what_is_added_to_the_mock_itself():
    kept = {line.what: line for line in load_report.summary(found(p50_ms=1.5, first_byte_p50_ms=2.0))}
    missed = {line.what: line for line in load_report.summary(found(p50_ms=1.6, first_byte_p50_ms=2.1))}
    for what in ("budget: p50 added at concurrency 1", "budget: first byte of a stream added, burst"):
        assert kept[what].within is True
        assert missed[what].within is False


def test_every_budget_is_missed_when_everything_is_too_slow():
    results = found(per_second=1499.0, cpu_ms=1.01, p50_ms=9.0, first_byte_p50_ms=9.0)
    results["feedback"]["per_second"] = 2999.0
    results["rss_mb"]["armwise"] = 251.0
    results["soak"] = {"parts": [{"requests": 200_000}], "growth_mb": 11.0, "failed": 0}
    budgets = [line for line in load_report.summary(results) if line.budget]
    assert len(budgets) == 9
    assert not any(line.within for line in budgets)
    assert load_report.table(budgets).count("NOT KEPT") == 9


def test_another_version_has_a_column_when_one_was_measured():
    results = found(cpu_ms=0.5)
    assert "beside" not in load_report.table(load_report.summary(results))
    for row in results["cells"].values():
        row["beside"] = figures(cpu_ms=0.4)
    head, _, *rows = load_report.table(load_report.summary(results)).splitlines()
    column = head.split("|").index(next(cell for cell in head.split("|") if cell.strip() == "beside"))
    assert [row.split("|")[column].strip() for row in rows if "CPU a request" in row] == ["0.4", ""]


def test_figures_of_failed_requests_are_worthless():
    assert load_report.faults(found()) == []
    assert len(load_report.faults(found(failed=1))) == len({kind for kind, *_ in load_report.SHOWN})


def test_acknowledged_feedback_that_is_not_stored_is_a_fault():
    results = found()
    results["feedback"]["stored"] = 9
    assert load_report.faults(results) == ["feedback: 10 acknowledged, only 9 stored"]


def test_a_bottleneck_that_had_to_share_its_core_is_told():
    assert load_report.doubts(found()) == []
    (doubt,) = load_report.doubts(found(core_share=0.5))
    assert doubt.startswith("armwise had 50% of its core")


STACKS = """
run (a/b/loop.py:10);handle (a/b/app.py:3);encode (a/b/json.py:1) 6
run (a/b/loop.py:12);handle (a/b/app.py:9) 3
run (a/b/loop.py:10) 1
""".strip()


def test_a_profile_counts_a_function_alone_and_with_what_it_calls():
    """Ten samples: six end in `encode`, three in `handle`, one in `run`; nine pass through `handle`."""
    alone, within = hot_functions(STACKS, top=9).split("with what it calls")
    assert " 60.0 %  encode (a/b/json.py)" in alone
    assert " 30.0 %  handle (a/b/app.py)" in alone
    assert "100.0 %  run (a/b/loop.py)" in within
    assert " 90.0 %  handle (a/b/app.py)" in within
