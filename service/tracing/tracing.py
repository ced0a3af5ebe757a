"""Traces of chat requests: the caller's W3C trace context, read and handed on, and whether spans are sent anywhere.

What speaks OpenTelemetry is `service.tracing.spans`, which is imported only when a collector is named.
"""

import os
import re
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from importlib.util import find_spec
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from service.errors import ConfigurationError
from service.settings import Tracing

if TYPE_CHECKING:  # importing it takes 0.2 s and needs an extra
    from service.tracing.spans import Spans, Trace

Headers = Mapping[str, str]

ENDPOINT_VARIABLE = "OTEL_EXPORTER_OTLP_ENDPOINT"
CHAT_PATH = "/v1/chat/completions"

_TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-[!-~]*)?")
_TRACESTATE = re.compile(rb"[ -~]{1,512}")
_NO_HEADERS: Headers = {}

current: ContextVar["Trace | None"] = ContextVar("trace", default=None)  # of the request that is being handled
received: ContextVar[Headers] = ContextVar("received", default=_NO_HEADERS)  # its caller's trace context
passed_on: ContextVar[Headers] = ContextVar("passed_on", default=_NO_HEADERS)  # what the call under way takes along


def trace_context(headers: Mapping[bytes, bytes]) -> Headers:
    """The caller's `traceparent` and `tracestate`, when they are what W3C Trace Context says; else nothing."""
    traceparent = headers.get(b"traceparent")
    if traceparent is None or len(traceparent) > 256 or not _TRACEPARENT.fullmatch(traceparent):
        return _NO_HEADERS
    found = {"traceparent": traceparent.decode()}
    if (tracestate := headers.get(b"tracestate")) and _TRACESTATE.fullmatch(tracestate):
        found["tracestate"] = tracestate.decode()
    return found


def begin(spans: "Spans | None", method: str, path: str, headers: Mapping[bytes, bytes]) -> "Trace | None":
    """Begin a request: note its caller's trace context and, for a chat that is traced, make its trace."""
    context = trace_context(headers)
    received.set(context)
    trace = spans.trace(context) if spans is not None and path == CHAT_PATH and method == "POST" else None
    current.set(trace)
    return trace


def endpoint_of(settings: Tracing, environ: Mapping[str, str]) -> str:
    """Where spans are sent; empty when they are not."""
    return settings.endpoint or environ.get(ENDPOINT_VARIABLE, "")


def mistakes_of(settings: Tracing, environ: Mapping[str, str]) -> list[str]:
    """What keeps spans from being sent: an address that is none, or packages that are not there."""
    endpoint = endpoint_of(settings, environ)
    if not endpoint:
        return []
    named = "`tracing.endpoint`" if settings.endpoint else f"The environment variable {ENDPOINT_VARIABLE}"
    try:
        parts = urlsplit(endpoint)
        fine, secret = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0, parts.password
    except ValueError:
        fine, secret = False, None
    if not fine:
        return [f"{named} must be the URL of a collector that takes OTLP over HTTP, such as `http://127.0.0.1:4318`"]
    if secret and settings.endpoint:
        return [f"{named} holds a password: put what the collector asks for into OTEL_EXPORTER_OTLP_HEADERS instead"]
    if missing := [name for name in ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http") if _lacks(name)]:
        return [
            f'{named} is set, but {missing[0]} is not installed: run `pip install "armwise[otel]"`, or send no traces'
        ]
    return []


def _lacks(package: str) -> bool:
    try:
        return find_spec(package) is None
    except ModuleNotFoundError:  # of what it lies in
        return True


def open_spans(
    settings: Tracing, failed: Callable[[str], None], environ: Mapping[str, str] = os.environ
) -> "Spans | None":
    """What sends spans, or None when nobody asked for them. `failed` is told "traces" or "metrics" for a lost batch.

    Raises:
        ConfigurationError: they are asked for and cannot be sent.
    """
    if mistakes := mistakes_of(settings, environ):
        raise ConfigurationError(mistakes)
    if not endpoint_of(settings, environ):
        return None
    from service.tracing.spans import Spans  # noqa: PLC0415 - only when used

    return Spans(settings, failed)
