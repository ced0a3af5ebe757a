"""Spans and metrics of chat requests, in the words of OpenTelemetry's conventions for generative AI.

One span of a request, with children `classify`, `decide`, `store` and, for each model that was tried, `chat MODEL`.
Sending is done by threads of OpenTelemetry's SDK. A fault in here is logged and counted, and harms no request.

Imported only when a collector is named: see `service.tracing.tracing`.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from functools import partial, wraps
from importlib.metadata import version
from typing import Concatenate, ParamSpec, TypeVar
from uuid import uuid4

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.metrics import Histogram
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricExportResult, MetricsData, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Span, SpanKind, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from service.decide import Decision
from service.settings import AnyModel, SimulatedModel, Tracing
from service.tracing import facts
from service.tracing.tracing import CHAT_PATH, Headers
from service.wire import ChatRequest

log = logging.getLogger("armwise")

# The boundaries that the conventions ask for.
DURATION_BUCKETS = tuple(0.01 * 2**power for power in range(14))  # seconds
TOKEN_BUCKETS = tuple(float(4**power) for power in range(14))
_CLOSE_WITHIN_S = 3.0

P = ParamSpec("P")
T = TypeVar("T")
Owner = TypeVar("Owner", "Trace", "AttemptSpan")


def _harmless(method: Callable[Concatenate[Owner, P], T]) -> Callable[Concatenate[Owner, P], T | None]:
    """A fault in writing spans is logged and counted; the request goes on, and the caller gets None."""

    @wraps(method)
    def harmless(self: Owner, /, *args: P.args, **kwargs: P.kwargs) -> T | None:
        try:
            return method(self, *args, **kwargs)
        except Exception:
            log.exception("a span could not be written")
            self.spans.failed("traces")
            return None

    return harmless


class Spans:
    """What a process sends to a collector. One instance serves all requests."""

    def __init__(self, settings: Tracing, failed: Callable[[str], None]) -> None:
        resource = Resource.create({"service.version": version("armwise"), "service.instance.id": str(uuid4())})
        if str(resource.attributes.get("service.name", "")).startswith("unknown_service"):
            resource = resource.merge(Resource({"service.name": "armwise"}))
        self.failed = failed
        self.capture_prompts = settings.capture_prompts
        sampler = ParentBased(TraceIdRatioBased(settings.sample))
        self.tracers = TracerProvider(sampler=sampler, resource=resource, shutdown_on_exit=False)
        self.tracers.add_span_processor(BatchSpanProcessor(_SpanExporter(_address(settings, "traces"), failed)))
        reading = _MetricExporter(_address(settings, "metrics"), failed) if settings.metrics else None
        readers = [PeriodicExportingMetricReader(reading)] if reading is not None else []
        self.meters = MeterProvider(metric_readers=readers, resource=resource, shutdown_on_exit=False)
        self.tracer = self.tracers.get_tracer("armwise", version("armwise"))
        meter = self.meters.get_meter("armwise", version("armwise"))
        self.duration: Histogram = meter.create_histogram(
            "gen_ai.client.operation.duration",
            unit="s",
            description="GenAI operation duration.",
            explicit_bucket_boundaries_advisory=DURATION_BUCKETS,
        )
        self.tokens: Histogram = meter.create_histogram(
            "gen_ai.client.token.usage",
            unit="{token}",
            description="Number of input and output tokens used.",
            explicit_bucket_boundaries_advisory=TOKEN_BUCKETS,
        )
        self.propagator = TraceContextTextMapPropagator()
        self._facts: dict[str, tuple[AnyModel, facts.Facts]] = {}

    def trace(self, context: Headers) -> "Trace | None":
        """The trace of a chat request that begins now, part of its caller's."""
        try:
            return Trace(self, context)
        except Exception:  # serving goes on
            log.exception("a trace could not be begun")
            self.failed("traces")
            return None

    def facts_of(self, model: AnyModel) -> facts.Facts:
        """What the conventions say of every call to a model."""
        known = self._facts.get(model.name)
        if known is None or known[0] is not model:
            known = self._facts[model.name] = (model, facts.of_model(model))
        return known[1]

    def close(self) -> None:
        """Send what waits, for some seconds at most; run it in a thread.

        What a collector hangs on is left to threads that end with the process.
        """

        def shut_down(provider: TracerProvider | MeterProvider, signal: str) -> None:
            try:
                provider.shutdown()
            except Exception:  # the SDK tells of a reader that was not in time in this way
                log.exception("the last %s could not be sent", signal)
                self.failed(signal)

        ending = [
            threading.Thread(target=shut_down, args=pair, name="tracing-end", daemon=True)
            for pair in ((self.tracers, "traces"), (self.meters, "metrics"))
        ]
        for thread in ending:
            thread.start()
        deadline = time.monotonic() + _CLOSE_WITHIN_S
        for thread in ending:
            thread.join(max(deadline - time.monotonic(), 0.0))
        if any(thread.is_alive() for thread in ending):
            log.warning("the collector did not take the last spans within %g s; they are lost", _CLOSE_WITHIN_S)
            self.failed("traces")


class Trace:
    """The span of one chat request, and its children."""

    def __init__(self, spans: Spans, context: Headers) -> None:
        self.spans = spans
        self.chat: ChatRequest | None = None
        self._began = time.time_ns()
        parent = spans.propagator.extract(context)
        self.root = spans.tracer.start_span(
            f"POST {CHAT_PATH}", parent, SpanKind.SERVER, {"http.request.method": "POST", "http.route": CHAT_PATH}
        )
        self.context = set_span_in_context(self.root)
        self._attempts: list[AttemptSpan] = []

    @_harmless
    def decided(self, chat: ChatRequest, decision: Decision, storing: "asyncio.Future[None] | None") -> None:
        """A decision was taken just now, and `storing` ends with its commit."""
        self.chat = chat
        now = time.time_ns()
        if storing is not None:
            store = self.spans.tracer.start_span("store", self.context, start_time=now)
            storing.add_done_callback(partial(_stored, store))
        if self.root.is_recording():
            between = int(decision.created_at * 1e9)  # the classification is over then, and the choice begins
            began = max(between - int(decision.classify_s * 1e9), self._began)
            self._past("classify", began, between, facts.of_classification(decision))
            self._past("decide", between, between + int(decision.decide_s * 1e9), facts.of_choice(decision))
            self.root.set_attributes({**facts.of_decision(decision), "armwise.degraded": storing is None})

    def _past(self, name: str, began: int, ended: int, attributes: facts.Facts) -> None:
        self.spans.tracer.start_span(name, self.context, attributes=attributes, start_time=began).end(ended)

    @_harmless
    def attempt(self, model: AnyModel, step: int, *, streamed: bool) -> "AttemptSpan":
        """The span of a call to a provider that begins now."""
        span = AttemptSpan(self, model, step, streamed=streamed)
        self._attempts.append(span)
        return span

    @_harmless
    def replied(self, status: int, request_id: str) -> None:
        """The last byte of the reply was sent, or the client went away (499)."""
        self.root.set_attributes({"http.response.status_code": status, "armwise.request_id": request_id})
        served = [span.model.name for span in self._attempts if span.outcome in {"", "ok"}]
        if served:
            self.root.set_attribute("armwise.served_model", served[-1])
        if any(span.outcome == "cancelled" for span in self._attempts):
            self.root.set_attribute("error.type", "cancelled")
        elif status >= 500:
            self.root.set_attribute("error.type", str(status))
            self.root.set_status(StatusCode.ERROR)
        self.root.end()

    @_harmless
    def close(self) -> None:
        """Nothing more will happen: end what was left open."""
        for span in self._attempts:
            span.ended("unfinished")


class AttemptSpan:
    """One call to a provider."""

    def __init__(self, trace: Trace, model: AnyModel, step: int, *, streamed: bool) -> None:
        self.spans = trace.spans
        self.model = model
        self.outcome = ""  # until it has ended
        self._facts = trace.spans.facts_of(model)
        self._began = time.perf_counter()
        kind = SpanKind.INTERNAL if isinstance(model, SimulatedModel) else SpanKind.CLIENT
        name = f"chat {model.upstream_model}"
        self._span: Span = trace.spans.tracer.start_span(name, trace.context, kind, self._facts)
        if self._span.is_recording():
            asked = facts.of_request(trace.chat, streamed=streamed) if trace.chat is not None else {}
            self._span.set_attributes({"armwise.attempt": step, "armwise.model": model.name, **asked})
            if self.spans.capture_prompts and trace.chat is not None and not facts.sensitive(trace.chat):
                self._span.set_attribute("gen_ai.input.messages", facts.messages(trace.chat))

    @property
    def headers(self) -> Headers:
        """The trace context that the provider gets."""
        carrier: dict[str, str] = {}
        self.spans.propagator.inject(carrier, set_span_in_context(self._span))
        return carrier

    @_harmless
    def answered(self, raw: bytes) -> None:
        """A whole reply has come."""
        self._end("ok", facts.of_reply(raw))

    @_harmless
    def streamed(self, events: bytes, outcome: str, first_token_s: float | None) -> None:
        """A stream has ended, in whatever way; `events` are those that came."""
        found = facts.of_stream(events)
        if outcome != "ok":
            found["gen_ai.response.finish_reasons"] = ["error"]
        if first_token_s is not None:
            found["gen_ai.response.time_to_first_chunk"] = first_token_s
        self._end(outcome, found)

    @_harmless
    def ended(self, outcome: str, status: int = 0) -> None:
        """It ended without a reply; `status` is the provider's, 0 when it gave none."""
        self._end(outcome, {"http.response.status_code": status} if status else {})

    def _end(self, outcome: str, found: facts.Facts) -> None:
        if self.outcome:
            return
        self.outcome = outcome
        error = {} if outcome == "ok" else {"error.type": outcome}
        self._span.set_attributes({**found, **error})
        if error:
            self._span.set_status(StatusCode.ERROR)
        self._span.end()
        labels = {**self._facts, **error}
        if "gen_ai.response.model" in found:
            labels["gen_ai.response.model"] = found["gen_ai.response.model"]
        self.spans.duration.record(time.perf_counter() - self._began, labels)
        for kind in ("input", "output"):
            tokens = found.get(f"gen_ai.usage.{kind}_tokens")
            if isinstance(tokens, int):
                self.spans.tokens.record(tokens, {**labels, "gen_ai.token.type": kind})


def _stored(span: Span, storing: "asyncio.Future[None]") -> None:
    error = "cancelled" if storing.cancelled() else storing.exception()
    if error is not None:
        span.set_attribute("error.type", error if isinstance(error, str) else type(error).__name__)
        span.set_status(StatusCode.ERROR)
    span.end()


def _address(settings: Tracing, signal: str) -> str | None:
    """Where a signal is sent; None: the SDK reads it from the environment."""
    return f"{settings.endpoint.rstrip('/')}/v1/{signal}" if settings.endpoint else None


class _SpanExporter(OTLPSpanExporter):
    """Tells of what was lost."""

    def __init__(self, endpoint: str | None, failed: Callable[[str], None]) -> None:
        super().__init__(endpoint=endpoint)
        self._failed = failed

    def export(self, spans: "list[ReadableSpan] | tuple[ReadableSpan, ...]") -> SpanExportResult:  # type: ignore[override]
        result = super().export(spans)
        if result is not SpanExportResult.SUCCESS:
            self._failed("traces")
        return result


class _MetricExporter(OTLPMetricExporter):
    """Tells of what was lost."""

    def __init__(self, endpoint: str | None, failed: Callable[[str], None]) -> None:
        super().__init__(endpoint=endpoint)
        self._failed = failed

    def export(
        self, metrics_data: MetricsData, timeout_millis: float | None = 10_000, **kwargs: object
    ) -> MetricExportResult:
        result = super().export(metrics_data, timeout_millis, **kwargs)
        if result is not MetricExportResult.SUCCESS:
            self._failed("metrics")
        return result
