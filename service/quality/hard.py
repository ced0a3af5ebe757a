"""Definite failures: a reply that is of no use whatever it says. Each counts as a label of value 0."""

import json
from functools import lru_cache
from typing import Any

import msgspec

from service.quality import Exchange, Heuristic

_UPSTREAM = frozenset({"timeout", "malformed", "server_error", "connection", "rate_limited"})
_LARGEST_SCHEMA = 20_000  # characters; larger ones are not checked


def upstream_failure(exchange: Exchange) -> str | None:
    """The provider failed."""
    return f"the provider failed: {exchange.failure}" if exchange.failure in _UPSTREAM else None


def empty(exchange: Exchange) -> str | None:
    """Nothing was said, no tool called and nothing refused."""
    if exchange.failure or exchange.tool_calls or exchange.refusal or exchange.reply.strip():
        return None
    return "the reply is empty"


def truncated(exchange: Exchange) -> str | None:
    """The model ran out of tokens, though the caller had set no limit."""
    if exchange.finish_reason == "length" and exchange.max_output_tokens is None:
        return "the reply was cut at the model's own limit"
    return None


def invalid_json(exchange: Exchange) -> str | None:
    """JSON was asked for, and the reply is none, or does not match the schema."""
    if not exchange.json_wanted or exchange.failure or exchange.refusal or exchange.tool_calls:
        return None
    if exchange.finish_reason == "length" and exchange.max_output_tokens is not None:
        return None  # the caller's own limit cut it
    try:
        value = msgspec.json.decode(exchange.reply)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return "the reply is not JSON"
    return mismatch(value, exchange.json_schema) if exchange.json_schema else None


def invalid_tool_call(exchange: Exchange) -> str | None:
    """A tool is called that was not offered, or with arguments that do not match its schema."""
    for call in exchange.tool_calls:
        if call.name not in exchange.tools:
            return "a tool was called that was not offered"
        try:
            arguments = msgspec.json.decode(call.arguments or "{}")
        except (msgspec.DecodeError, UnicodeEncodeError):
            return "the arguments of a tool call are not JSON"
        if problem := mismatch(arguments, exchange.tools[call.name]):
            return f"the arguments of a tool call: {problem}"
    return None


def mismatch(value: object, schema: dict[str, Any]) -> str | None:
    """Where a value does not match a JSON schema, by path only; None when it does or the schema is itself at fault."""
    if not schema:
        return None
    text = json.dumps(schema, sort_keys=True)
    if len(text) > _LARGEST_SCHEMA:
        return None
    validator = _validator(text)
    if validator is None:
        return None
    error = next(iter(validator.iter_errors(value)), None)
    return None if error is None else f"does not match the schema ({error.validator})"


@lru_cache(maxsize=256)
def _validator(schema: str) -> Any:
    import jsonschema  # noqa: PLC0415 - only when a schema must be checked

    found = json.loads(schema)
    kind = jsonschema.validators.validator_for(found, default=jsonschema.Draft202012Validator)
    try:
        kind.check_schema(found)
    except jsonschema.SchemaError:
        return None
    return kind(found)


HARD: tuple[Heuristic, ...] = (
    Heuristic(name="upstream_failure", find=upstream_failure, hard=True, weight=1.0),
    Heuristic(name="empty", find=empty, hard=True, weight=1.0),
    Heuristic(name="truncated", find=truncated, hard=True, weight=1.0),
    Heuristic(name="invalid_json", find=invalid_json, hard=True, weight=1.0),
    Heuristic(name="invalid_tool_call", find=invalid_tool_call, hard=True, weight=1.0),
)
