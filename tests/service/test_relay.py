"""Relaying a stream: byte for byte but for the id, whatever the cut of the pieces."""

from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import UpstreamFailure
from service.relay import Relay, payloads
from service.replies import said_in_stream

OURS = "chatcmpl-ours"


def chunk(content=None, *, finish=None, key='"id":"up-1"', extra=""):
    delta = "{}" if content is None else '{"content":' + msgspec.json.encode(content).decode() + "}"
    end = "null" if finish is None else f'"{finish}"'
    choice = '{"index":0,"delta":' + delta + ',"finish_reason":' + end + "}"
    return ("data: {" + key + ',"object":"chat.completion.chunk","choices":[' + choice + "]" + extra + "}\n\n").encode()


USAGE = b'data: {"id":"up-1","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\n'
DONE = b"data: [DONE]\n\n"
STREAM = [chunk(""), chunk("Hel"), chunk('lo "id":"up-1" data: x'), chunk(None, finish="stop"), USAGE, DONE]


def relayed(pieces, *, show_usage=False):
    relay = Relay(OURS, show_usage=show_usage)
    return b"".join([relay.feed(piece) for piece in pieces] + [relay.end()]), relay


def expected(events, *, show_usage):
    kept = [event for event in events if show_usage or event is not USAGE]
    return b"".join(event.replace(b'"id":"up-1"', b'"id":"' + OURS.encode() + b'"', 1) for event in kept)


@given(cuts=st.lists(st.integers(0, len(b"".join(STREAM))), max_size=12), show_usage=st.booleans())
def test_any_cut_of_the_bytes_gives_the_same_stream(cuts, show_usage):
    whole = b"".join(STREAM)
    edges = [0, *sorted(cuts), len(whole)]
    pieces = [whole[a:b] for a, b in pairwise(edges)]
    assert relayed(pieces, show_usage=show_usage)[0] == expected(STREAM, show_usage=show_usage)


def test_words_that_look_like_our_marks_stay_as_they_are():
    sent, _ = relayed(STREAM)
    texts = [msgspec.json.decode(p)["choices"][0]["delta"].get("content") for p in payloads(sent)]
    assert texts == ["", "Hel", 'lo "id":"up-1" data: x', None]


def test_ids_that_differ_from_chunk_to_chunk_all_become_ours():
    events = [chunk("a", key='"id": "x"'), chunk("b", key='"id":"y"'), chunk("c", finish="stop", key='"id":"z"'), DONE]
    sent, _ = relayed([b"".join(events)])
    assert [msgspec.json.decode(p)["id"] for p in payloads(sent)] == [OURS] * 3


def test_a_chunk_without_id_gets_ours():
    event = b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":"stop"}]}\n\n'
    sent, _ = relayed([event, DONE])
    assert msgspec.json.decode(payloads(sent)[0])["id"] == OURS


def test_an_id_inside_a_tool_call_stays():
    call = '{"tool_calls":[{"index":0,"id":"call_7","function":{"name":"f","arguments":"{}"}}]}'
    event = (
        'data: {"choices":[{"index":0,"delta":' + call + ',"finish_reason":"tool_calls"}],"id":"up-1"}\n\n'
    ).encode()
    sent, _ = relayed([event, DONE])
    assert b'"id":"call_7"' in sent
    assert msgspec.json.decode(payloads(sent)[0])["id"] == OURS


def test_null_usage_that_only_we_asked_for_is_not_shown():
    sent, _ = relayed([chunk("a", finish="stop", extra=',"usage":null'), USAGE, DONE])
    assert b"usage" not in sent
    shown, _ = relayed([chunk("a", finish="stop", extra=',"usage":null'), USAGE, DONE], show_usage=True)
    assert shown.count(b"usage") == 2


def test_comments_and_other_lines_pass():
    sent, _ = relayed([b": keep-alive\n\n", chunk("a", finish="stop"), DONE])
    assert sent.startswith(b": keep-alive\n\n")


def test_carriage_returns_are_kept():
    events = [event.replace(b"\n", b"\r\n") for event in STREAM]
    sent, _ = relayed(events)
    assert sent == expected(STREAM, show_usage=False).replace(b"\n", b"\r\n")


def test_a_stream_that_stops_in_the_middle_is_a_failure():
    relay = Relay(OURS, show_usage=False)
    relay.feed(chunk("Hel"))
    with pytest.raises(UpstreamFailure) as failure:
        relay.end()
    assert failure.value.kind == "connection"


def test_a_missing_done_after_a_finish_reason_is_supplied():
    sent, _ = relayed([chunk("a"), chunk(None, finish="stop")])
    assert sent.endswith(DONE)


@pytest.mark.parametrize("event", [b'data: {"error":{"message":"overloaded"}}\n\n', b"data: {not json\n\n"])
def test_an_error_event_is_a_failure(event):
    relay = Relay(OURS, show_usage=False)
    with pytest.raises(UpstreamFailure):
        relay.feed(event)


def test_an_error_event_after_content_is_a_failure():
    relay = Relay(OURS, show_usage=False)
    relay.feed(chunk("a"))
    with pytest.raises(UpstreamFailure, match="overloaded"):
        relay.feed(b'data: {"error":{"message":"overloaded"}}\n\n')


def test_content_starts_with_the_first_token_not_with_the_role():
    relay = Relay(OURS, show_usage=False)
    relay.feed(b'data: {"id":"u","choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n')
    assert not relay.has_content
    relay.feed(chunk("a"))
    assert relay.has_content


def test_the_copy_tells_what_was_said():
    _, relay = relayed(STREAM)
    said = said_in_stream(relay.copy)
    assert said.text == 'Hello "id":"up-1" data: x'
    assert said.finish_reason == "stop"
    assert (said.usage.prompt_tokens, said.usage.completion_tokens) == (3, 2)


def test_pieces_of_tool_calls_are_joined():
    parts = [
        '{"index":0,"id":"c","function":{"name":"look","arguments":""}}',
        '{"index":0,"function":{"arguments":"{\\"a\\":"}}',
        '{"index":0,"function":{"arguments":"1}"}}',
        '{"index":1,"id":"d","function":{"name":"go","arguments":"{}"}}',
    ]
    events = b"".join(
        ('data: {"id":"u","choices":[{"index":0,"delta":{"tool_calls":[' + part + "]}}]}\n\n").encode()
        for part in parts
    )
    calls = said_in_stream(events).tool_calls
    assert [(call.name, call.arguments) for call in calls] == [("look", '{"a":1}'), ("go", "{}")]
