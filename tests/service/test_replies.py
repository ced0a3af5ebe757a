"""What is read of a reply, for the quality heuristics: tool calls of both kinds, plain and streamed."""

import msgspec
import pytest

from service.quality.failures import find_empty, find_invalid_tool_call
from service.replies import exchange_of, said_in_reply, said_in_stream
from service.wire import ChatReply, ChatRequest

TOOLS = [
    {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "required": ["city"]}}},
    {"type": "custom", "custom": {"name": "run", "format": {"type": "text"}}},
]
REQUEST = msgspec.convert({"messages": [{"role": "user", "content": "Do it."}], "tools": TOOLS}, ChatRequest)


def custom(name, text):
    return {"id": "c", "type": "custom", "custom": {"name": name, "input": text}}


def plain(*calls):
    message = {"role": "assistant", "content": None, "tool_calls": calls}
    body = msgspec.json.encode({"choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]})
    return said_in_reply(msgspec.json.decode(body, type=ChatReply))


def streamed(*pieces):
    return said_in_stream(
        b"".join(
            b"data: " + msgspec.json.encode({"choices": [{"index": 0, "delta": {"tool_calls": [piece]}}]}) + b"\n\n"
            for piece in pieces
        )
    )


@pytest.mark.parametrize(
    "said",
    [
        plain(custom("run", "SELECT 1; -- no JSON")),
        streamed(
            {"index": 0, "id": "c", "type": "custom", "custom": {"name": "run", "input": "SELECT 1;"}},
            {"index": 0, "custom": {"input": " -- no JSON"}},
        ),
    ],
    ids=["plain", "streamed"],
)
def test_a_call_of_a_custom_tool_is_a_good_reply_whatever_its_text(said):
    assert [(call.name, call.arguments) for call in said.tool_calls] == [("run", "SELECT 1; -- no JSON")]
    exchange = exchange_of(REQUEST, said)
    assert find_invalid_tool_call(exchange) is None
    assert find_empty(exchange) is None


def test_a_custom_tool_that_was_not_offered_is_a_fault():
    assert "not offered" in find_invalid_tool_call(exchange_of(REQUEST, plain(custom("other", "x"))))


def test_a_function_beside_a_custom_tool_is_held_to_its_schema():
    call = {"id": "c", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    assert "schema" in find_invalid_tool_call(exchange_of(REQUEST, plain(call)))
