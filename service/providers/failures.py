"""What a provider's refusal means: its status and body become one `UpstreamFailure` without secrets."""

import re
from collections.abc import Collection
from typing import Any

import msgspec

from service.errors import FailureKind, UpstreamFailure
from service.providers.keys import scrub

_READ_CHARACTERS = 4_000  # of an error; what lies behind is never shown, so it need not be cleaned
_SHOWN_CHARACTERS = 1_000  # of a message
_SHOWN_PLAIN_CHARACTERS = 300  # of an error that is no JSON: text or a proxy's HTML page

_KINDS: dict[int, FailureKind] = {
    401: "credentials",
    402: "credentials",  # our account has no money left there; another provider may answer
    403: "credentials",
    404: "unknown_model",
    408: "timeout",
    429: "rate_limited",
    504: "timeout",
}
_TAG = re.compile(r"<[^<>]*>")


def kind_of_status(status: int) -> FailureKind:
    """What an HTTP status that is not 2xx says.

    >>> kind_of_status(429), kind_of_status(503), kind_of_status(422), kind_of_status(302)
    ('rate_limited', 'server_error', 'rejected', 'malformed')
    """
    if status in _KINDS:
        return _KINDS[status]
    if status >= 500:
        return "server_error"
    return "rejected" if status >= 400 else "malformed"


def refusal(
    who: str, status: int, body: bytes, *, secrets: Collection[str], retry_after: str | None = None
) -> UpstreamFailure:
    """The failure that an answer other than 2xx stands for.

    `who` is what answered, for the message. `body` may be anything, also cut off: OpenAI's error object, one of its
    many relatives, plain text, a page of HTML or nothing.
    """
    error = _read(body)
    text = scrub(error.message[:_READ_CHARACTERS], secrets)[: error.shown].strip()
    kind = kind_of_status(status)
    return UpstreamFailure(
        kind,
        f"{who} answered with status {status}: {text or 'no message.'}",
        status=status if status >= 400 else 502,
        code=_clean(error.code, secrets),
        param=_clean(error.param, secrets),
        error_type=_clean(error.type, secrets),
        retry_after=_clean(retry_after, secrets),
    )


class _Error(msgspec.Struct, frozen=True):
    message: str
    type: str | None = None
    param: str | None = None
    code: str | None = None
    shown: int = _SHOWN_CHARACTERS


def _read(body: bytes) -> _Error:
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return _plain(body)
    if isinstance(found, list) and found:
        found = found[0]  # Google's habit
    if not isinstance(found, dict):
        return _plain(body)
    error = found.get("error")
    if isinstance(error, dict):
        found = error
    message = next((_text(found[key]) for key in ("message", "error", "detail", "msg") if found.get(key)), "")
    if not message:
        return _plain(body)
    return _Error(
        message,
        type=_short(found.get("type")),
        param=_short(found.get("param")),
        code=_short(found.get("code")),
    )


def _plain(body: bytes) -> _Error:
    text = _TAG.sub(" ", body.decode("utf-8", "replace")[:_READ_CHARACTERS])
    return _Error(" ".join(text.split()), shown=_SHOWN_PLAIN_CHARACTERS)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _short(value: Any) -> str | None:
    return None if value is None or isinstance(value, dict | list) else str(value)


def _clean(value: str | None, secrets: Collection[str]) -> str | None:
    return None if value is None else scrub(value, secrets)[:128]
