"""Reading request bodies: from bytes to a typed value, with OpenAI's kind of error when they do not fit."""

import asyncio
import re
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec
from litestar.openapi.spec import Example, OpenAPIMediaType, Operation, RequestBody, Schema
from litestar.openapi.spec.enums import OpenAPIType

from service.errors import BadRequest
from service.wire import ChatRequest, Fields, decode_request

T = TypeVar("T")

_LARGE_BODY = 200_000  # bytes from which decoding leaves the event loop: about a millisecond
_PATH = re.compile(r" - at (?:`(key)` in )?`\$\.?(.*)`$")


async def decoded_chat(body: bytes) -> tuple[ChatRequest, Fields]:
    """A chat request.

    Raises:
        BadRequest: not JSON, or of another shape; names the parameter.
    """
    try:
        if len(body) > _LARGE_BODY:
            return await asyncio.to_thread(decode_request, body)
        return decode_request(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise bad_request(error, body) from error


def decoded(body: bytes, kind: type[T] | Any) -> T:
    """A body as `kind`.

    Raises:
        BadRequest: not JSON, or of another shape; names the parameter.
    """
    try:
        value: T = msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise bad_request(error, body) from error
    return value


async def decoded_off_loop(body: bytes, kind: type[T] | Any) -> T:
    """A body that may be large, as `kind`; otherwise as `decoded`."""
    value: T = await asyncio.to_thread(decoded, body, kind) if len(body) > _LARGE_BODY else decoded(body, kind)
    return value


def bad_request(error: Exception, body: bytes) -> BadRequest:
    """What is wrong with a body, in OpenAI's terms."""
    if not isinstance(error, msgspec.ValidationError):
        found = "an empty body" if not body.strip() else f"no valid JSON ({error})"
        return BadRequest(f"The body must be a JSON object; found {found}.", code="invalid_json")
    match = _PATH.search(str(error))
    what = str(error)[: match.start()] if match else str(error)
    param = match[2] if match else _missing(str(error))
    where = f" at {'a key of ' if match[1] else ''}`{param}`" if match else ""
    return BadRequest(f"Invalid request: {what}{where}.", param=param, code="invalid_type")


def _missing(message: str) -> str | None:
    match = re.search(r"required field `(\w+)`", message)
    return match[1] if match else None


def example_body(description: str, examples: dict[str, dict[str, object]]) -> RequestBody:
    """How a JSON body is shown on /docs."""
    media = OpenAPIMediaType(
        schema=Schema(type=OpenAPIType.OBJECT),
        examples={name: Example(summary=name, value=value) for name, value in examples.items()},
    )
    return RequestBody(content={"application/json": media}, description=description, required=True)


_HELLO: dict[str, object] = {"messages": [{"role": "user", "content": "Write a haiku about rivers."}]}


@dataclass
class ChatOperation(Operation):
    """Documents the body of chat calls: OpenAI's, and our `router` object."""

    request_body: RequestBody | None = field(
        default_factory=lambda: example_body(
            "An OpenAI chat completion request. `model` is left out, `auto`, `auto:<policy>` or the name of a "
            "configured model. The optional `router` object carries wishes and is not forwarded.",
            {
                "routed": _HELLO,
                "streamed": {**_HELLO, "stream": True},
                "with wishes": {
                    **_HELLO,
                    "router": {"min_tier": "medium", "max_cost_usd": 0.01, "user": "u-42", "tags": {"team": "search"}},
                },
            },
        )
    )


@dataclass
class FeedbackOperation(Operation):
    """Documents the body of feedback calls."""

    request_body: RequestBody | None = field(
        default_factory=lambda: example_body(
            "One feedback, or a list of them.",
            {
                "thumb": {"decision_id": "chatcmpl-...", "value": True},
                "score": {"decision_id": "chatcmpl-...", "value": 0.8, "user": "u-42", "comment": "good"},
                "rating": {"decision_id": "chatcmpl-...", "rating": 4, "scale": [1, 5]},
            },
        )
    )
