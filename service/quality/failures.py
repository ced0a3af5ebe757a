"""Hard heuristics: what makes a reply useless to its caller, whatever it says."""

from typing import Any

import msgspec

from service.quality import CalledTool, Exchange
from service.quality.passages import passages, read_part
from service.quality.schemas import fault

# The other kinds of failure say nothing of the model: the client left, or the request or our key was at fault.
_FAULTS_OF_THE_UPSTREAM = frozenset({"timeout", "malformed", "server_error", "connection", "rate_limited"})
_MAX_JSON_CHARACTERS = 200_000  # half a millisecond to parse; longer JSON is not checked

_UNKNOWN = object()  # JSON that we cannot judge


def find_empty(exchange: Exchange) -> str | None:
    """No text, no tool call and no refusal, though the model was free to answer."""
    if exchange.tool_calls or exchange.refusal or exchange.finish_reason == "content_filter" or _not_whole(exchange):
        return None
    return "the reply holds neither text nor a tool call" if not exchange.reply.strip() else None


def find_truncated(exchange: Exchange) -> str | None:
    """The model ran out of room although its caller had set no limit."""
    if exchange.finish_reason != "length" or _not_whole(exchange):
        return None
    if passages(read_part(exchange.reply)).unclosed:
        return "the reply breaks off inside a code block, and the caller had set no limit"
    return "the reply breaks off, and the caller had set no limit"


def find_upstream_failure(exchange: Exchange) -> str | None:
    """The provider did not answer, or not with a reply."""
    if exchange.failure in _FAULTS_OF_THE_UPSTREAM:
        return f"the upstream failed: {exchange.failure}"
    return None


def find_invalid_json(exchange: Exchange) -> str | None:
    """JSON was asked for, and the reply does not parse or does not match the schema."""
    refused = exchange.refusal or exchange.finish_reason == "content_filter"
    if not exchange.json_wanted or not exchange.reply.strip() or refused or _not_whole(exchange):
        return None
    value = _decoded(exchange.reply)
    if value is None:
        if exchange.reply.lstrip().startswith("```"):
            return "JSON was asked for, and the reply is a code block"
        return "JSON was asked for, and the reply does not parse"
    if value is _UNKNOWN or exchange.json_schema is None:
        return None
    found = fault(value[0], exchange.json_schema)
    return f"the reply does not match the JSON schema: {found}" if found else None


def find_invalid_tool_call(exchange: Exchange) -> str | None:
    """A tool that was not offered, or arguments that are not JSON or do not match the tool's schema."""
    if _not_whole(exchange):
        return None
    return next((found for call in exchange.tool_calls[:32] if (found := _call_fault(call, exchange.tools))), None)


def _call_fault(call: CalledTool, tools: dict[str, dict[str, Any] | None]) -> str | None:
    # Without any tool offered there is nothing to compare with: providers have tools of their own.
    if tools and call.name not in tools:
        return "a tool was called that was not offered"
    schema = tools.get(call.name, {})
    if schema is None:
        return None
    # Several providers send no arguments at all to a tool that takes none.
    value = _decoded(call.arguments) if call.arguments.strip() else ({},)
    if value is None:
        return "the arguments of a tool call are not JSON"
    if value is _UNKNOWN:
        return None
    if not isinstance(value[0], dict):
        return "the arguments of a tool call are not an object"
    found = fault(value[0], schema)
    return f"the arguments of a tool call do not match its schema: {found}" if found else None


def _not_whole(exchange: Exchange) -> bool:
    """True when what we hold is not all the model had to say, and that is not its doing."""
    cut_by_caller = exchange.finish_reason == "length" and exchange.max_output_tokens is not None
    return bool(exchange.failure) or cut_by_caller


def _decoded(text: str) -> Any:
    """The JSON value as a tuple of one, None when the text is not JSON, `_UNKNOWN` when that cannot be told."""
    if len(text) > _MAX_JSON_CHARACTERS:
        return _UNKNOWN
    try:
        return (msgspec.json.decode(text.encode("utf-8", "replace")),)
    except (
        msgspec.ValidationError,
        RecursionError,
    ):  # a number too large or nesting too deep for us, maybe for no one else
        return _UNKNOWN
    except msgspec.DecodeError:
        return None
