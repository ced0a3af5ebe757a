"""Definite failures: what is one, and what only looks like one."""

import pytest

from service.quality import CalledTool, Exchange
from service.quality.failures import (
    find_empty,
    find_invalid_json,
    find_invalid_tool_call,
    find_truncated,
    find_upstream_failure,
)

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


@pytest.mark.parametrize("reply", ["", " \n\t"])
def test_empty(reply):
    assert find_empty(Exchange(prompt="Hello", reply=reply, finish_reason="stop"))


@pytest.mark.parametrize(
    "exchange",
    [
        Exchange(prompt="Hello", reply="."),
        Exchange(prompt="Hello", tool_calls=(CalledTool(name="look", arguments=""),)),
        Exchange(prompt="Hello", refusal="I can't."),
        Exchange(prompt="Hello", finish_reason="content_filter"),
        Exchange(prompt="Hello", failure="cancelled"),
        Exchange(prompt="Hello", failure="timeout"),  # which is a finding of its own
        Exchange(prompt="Hello", finish_reason="length", max_output_tokens=16),  # spent on thinking
    ],
    ids=["text", "tool call", "refusal", "filtered", "cancelled", "failed", "caller's limit"],
)
def test_not_empty(exchange):
    assert find_empty(exchange) is None


def test_truncated():
    assert find_truncated(Exchange(prompt="Write", reply="Once upon a", finish_reason="length"))


def test_truncated_inside_code_says_so():
    cut = Exchange(prompt="Write", reply="Here:\n```python\ndef f(", finish_reason="length")
    closed = Exchange(prompt="Write", reply="Here:\n```python\nx\n```\nThis", finish_reason="length")
    assert "code block" in find_truncated(cut)
    assert "code block" not in find_truncated(closed)


@pytest.mark.parametrize(
    "exchange",
    [
        Exchange(prompt="Write", reply="Once upon a", finish_reason="length", max_output_tokens=3),
        Exchange(prompt="Write", reply="```python\ndef f(", finish_reason="length", max_output_tokens=3),
        Exchange(prompt="Write", reply="Once upon a time.", finish_reason="stop"),
        Exchange(prompt="Write", reply="Once upon a", failure="cancelled"),
    ],
    ids=["caller's limit", "caller's limit in code", "whole", "cancelled"],
)
def test_not_truncated(exchange):
    assert find_truncated(exchange) is None


@pytest.mark.parametrize("kind", ["timeout", "malformed", "server_error", "connection", "rate_limited"])
def test_failures_of_the_upstream(kind):
    assert kind in find_upstream_failure(Exchange(prompt="Hello", failure=kind))


@pytest.mark.parametrize("kind", ["", "cancelled", "rejected", "credentials", "unknown_model"])
def test_failures_that_are_not_the_models(kind):
    assert find_upstream_failure(Exchange(prompt="Hello", failure=kind)) is None


@pytest.mark.parametrize(
    "reply",
    [
        '{"name": "Ada", "age": 36',
        "{'name': 'Ada'}",
        "The name is Ada.",
        '```json\n{"name": "Ada", "age": 36}\n```',
        "NaN",
    ],
    ids=["cut", "Python", "prose", "in a fence", "not a number"],
)
def test_invalid_json(reply):
    assert find_invalid_json(Exchange(prompt="JSON", reply=reply, json_wanted=True, finish_reason="stop"))


@pytest.mark.parametrize(
    "reply",
    ['{"name": "Ada"}', '{"name": "Ada", "age": "36"}', '{"name": "Ada", "age": 36, "x": 1}', "[]"],
    ids=["missing", "wrong type", "too much", "no object"],
)
def test_json_that_does_not_match(reply):
    assert "schema" in find_invalid_json(Exchange(prompt="JSON", reply=reply, json_wanted=True, json_schema=PERSON))


@pytest.mark.parametrize(
    "exchange",
    [
        Exchange(prompt="JSON", reply=' {"name": "Ada", "age": 36}\n', json_wanted=True, json_schema=PERSON),
        Exchange(prompt="JSON", reply='{"any": ["thing"]}', json_wanted=True),
        Exchange(prompt="Hello", reply="Not JSON, and nobody asked."),
        Exchange(prompt="JSON", reply='{"na', json_wanted=True, finish_reason="length", max_output_tokens=2),
        Exchange(prompt="JSON", reply='{"na', json_wanted=True, failure="cancelled"),
        Exchange(prompt="JSON", reply="I can't.", json_wanted=True, refusal="I can't."),
        Exchange(prompt="JSON", reply='{"na', json_wanted=True, finish_reason="content_filter"),
        Exchange(prompt="JSON", json_wanted=True, tool_calls=(CalledTool(name="look", arguments="{}"),)),
        Exchange(prompt="JSON", reply="9" * 400, json_wanted=True),
        Exchange(prompt="JSON", reply="x" * 300_000, json_wanted=True),
        Exchange(prompt="JSON", reply="[" * 100_000 + "]" * 100_000, json_wanted=True),
    ],
    ids=[
        "matches", "no schema", "not asked", "caller's limit", "cancelled", "refused", "filtered", "tool call",
        "a number beyond 64 bits", "too long to check", "too deep to check",
    ],
)  # fmt: skip
def test_json_that_is_not_at_fault(exchange):
    assert find_invalid_json(exchange) is None


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("forecast", '{"city": "Bonn"}'),
        ("weather", '{"city": "Bonn"'),
        ("weather", '{"town": "Bonn"}'),
        ("weather", '{"city": 3}'),
        ("weather", '"Bonn"'),
        ("weather", ""),
    ],
    ids=["unknown tool", "no JSON", "missing", "wrong type", "no object", "no arguments where some are required"],
)
def test_invalid_tool_calls(name, arguments):
    calls = (CalledTool(name="weather", arguments='{"city": "Rome"}'), CalledTool(name=name, arguments=arguments))
    assert find_invalid_tool_call(Exchange(prompt="Weather?", tool_calls=calls, tools={"weather": WEATHER}))


@pytest.mark.parametrize(
    "exchange",
    [
        Exchange(prompt="?", tool_calls=(CalledTool(name="now", arguments=""),), tools={"now": {}}),
        Exchange(prompt="?", tool_calls=(CalledTool(name="now", arguments="{}"),), tools={"now": {"type": "object"}}),
        Exchange(prompt="?", tool_calls=(CalledTool(name="web_search", arguments='{"query": "x"}'),)),
        Exchange(
            prompt="?",
            tool_calls=(CalledTool(name="weather", arguments='{"ci'),),
            tools={"weather": WEATHER},
            finish_reason="length",
            max_output_tokens=9,
        ),
        Exchange(
            prompt="?",
            tool_calls=(CalledTool(name="weather", arguments='{"ci'),),
            tools={"weather": WEATHER},
            failure="cancelled",
        ),
    ],
    ids=["no arguments", "empty object", "a tool of the provider", "caller's limit", "cancelled"],
)
def test_tool_calls_that_are_not_at_fault(exchange):
    assert find_invalid_tool_call(exchange) is None
