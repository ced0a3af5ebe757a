"""What LiteLLM's exceptions mean.

LiteLLM reports many different things as `APIConnectionError` or `InternalServerError` with status 500, each vendor's
code in its own way. What really happened stands in the exceptions that they came from, so the whole chain is read: an
`httpx.HTTPStatusError` in it is an answer of the vendor, with its true status, headers and body.
"""

import json
import re
from collections.abc import Collection, Iterator

import httpx

from service.errors import UpstreamFailure
from service.providers.failures import kind_of_status, refusal
from service.providers.keys import scrub

_SHOWN_CHARACTERS = 300
_LONGEST_CHAIN = 32
_PREFIX = re.compile(r"^(?:(?:litellm\.)?\w+(?:Error|Exception): )*(?:\w+(?:Error|Exception) - )?")
_NO_KEY = re.compile(r"\b(?:missing|no)\b.{0,40}\b(?:api[ _]?key|credentials)\b", re.IGNORECASE)


def failure_of(error: BaseException, who: str, timeout_s: float, secrets: Collection[str]) -> UpstreamFailure:
    """The failure that an exception of LiteLLM stands for. `who` is the model, for the message."""
    chain = list(_causes(error))
    answer = next((each.response for each in reversed(chain) if isinstance(each, httpx.HTTPStatusError)), None)
    if answer is not None:
        retry_after = answer.headers.get("retry-after")
        return refusal(who, answer.status_code, _body(answer, chain), secrets=secrets, retry_after=retry_after)
    return (
        _unsupported(chain, who, secrets)
        or _of_transport(chain, who, timeout_s, secrets)
        or _not_answered(chain, who, secrets)
    )


def _unsupported(chain: list[BaseException], who: str, secrets: Collection[str]) -> UpstreamFailure | None:
    """LiteLLM cannot ask this vendor for what the request holds, or cannot read how it streams."""
    for each in chain:
        if type(each).__name__ == "UnsupportedParamsError":
            return UpstreamFailure("unsupported", f"LiteLLM, for {who}: {_first_line(each, secrets)}", status=400)
        if isinstance(each, json.JSONDecodeError) and each.doc.lstrip().startswith("event:"):
            return UpstreamFailure("unsupported", f"LiteLLM cannot read the streams of {who}.", status=400)
    return None


def _of_transport(
    chain: list[BaseException], who: str, timeout_s: float, secrets: Collection[str]
) -> UpstreamFailure | None:
    if _any(chain, httpx.ConnectTimeout):
        return UpstreamFailure("connection", f"{who} took no connection in time.")
    if _any(chain, TimeoutError, httpx.TimeoutException):
        return UpstreamFailure("timeout", f"{who} sent nothing more within {timeout_s:g} s.", status=504)
    if _any(chain, httpx.TransportError, ConnectionError):
        root = f"{type(chain[-1]).__name__}: {_shown(' '.join(str(chain[-1]).split()), secrets)}"
        return UpstreamFailure("connection", f"{who} could not be reached, or hung up. {root}")
    if _any(chain, httpx.RequestError, json.JSONDecodeError):
        return UpstreamFailure("malformed", f"{who} answered with something else than a chat completion.")
    return None


def _not_answered(chain: list[BaseException], who: str, secrets: Collection[str]) -> UpstreamFailure:
    """LiteLLM refused the request before it was sent, or could not make a chat completion of the answer."""
    error = chain[0]
    text = _first_line(error, secrets)
    if _NO_KEY.search(text):
        return UpstreamFailure("credentials", f"{who} has no key: {text}")
    if "LLM Provider NOT provided" in text:
        advice = 'Name it as LiteLLM does, with its vendor: "anthropic/claude-sonnet-4-5".'
        return UpstreamFailure("unknown_model", f"LiteLLM does not know the vendor of {who}. {advice}")
    status = getattr(error, "status_code", None)
    if isinstance(status, int) and all(type(each).__module__.startswith("litellm") for each in chain):
        kind = kind_of_status(status)
        return UpstreamFailure(kind, f"LiteLLM, for {who}: {text}", status=status if kind == "rejected" else 502)
    # What LiteLLM says here may hold the reply, so only the kind of the exception is shown.
    return UpstreamFailure("malformed", f"LiteLLM could not understand what {who} sent: {type(chain[-1]).__name__}.")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The exception and all that it came from; the last one is the first that was raised."""
    current: BaseException | None = error
    for _ in range(_LONGEST_CHAIN):
        if current is None:
            return
        original = getattr(current, "original_exception", None)  # of an exception that only wraps another
        # StopIteration is how a JSON decoder notices the end: never the reason itself.
        if original is None and not isinstance(current, StopIteration):
            yield current
        current = original or current.__cause__ or current.__context__


def _any(chain: list[BaseException], *kinds: type[BaseException]) -> bool:
    return any(isinstance(each, kinds) for each in chain)


def _body(answer: httpx.Response, chain: list[BaseException]) -> bytes:
    try:
        return answer.content
    except httpx.ResponseNotRead:  # of a stream: the vendor's code has read it into its own exception
        told = next((each.message for each in reversed(chain) if hasattr(each, "message")), b"")
        return told if isinstance(told, bytes) else str(told).encode()


def _first_line(error: BaseException, secrets: Collection[str]) -> str:
    """What it says, without LiteLLM's prefixes and the tracebacks and messages that it appends."""
    text = _PREFIX.sub("", str(error)).strip()
    return _shown(text.splitlines()[0] if text else "no message", secrets)


def _shown(text: str, secrets: Collection[str]) -> str:
    return scrub(text, secrets)[:_SHOWN_CHARACTERS]
