"""Traces and request ids: what a whole request leaves behind, what is handed on, and that none of it harms one."""

import asyncio
import io
import json
import logging
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import aiohttp
import pytest
from aiohttp import web
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from service.configuration import describe, difference, settings_from_toml
from service.errors import ConfigurationError
from service.logs import JsonLines, TextLines, secrets_of
from service.settings import OpenAICompatibleModel, Settings, SimulatedModel, Tracing, TranslatedModel
from service.tracing import tracing
from service.tracing.facts import of_model, of_stream
from tests.api.asking import MESSAGES, asked
from tests.api.served import served
from tests.api.upstream import metric, until

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
NOBODY = "http://127.0.0.1:9"
SECRET = "my passport number is 4711 0815"
ROOT = "POST /v1/chat/completions"


class _Taking(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def endpoint():
    """A collector that takes everything and keeps nothing."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Taking) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def traced(run, endpoint):
    """Start a service that traces; it, and where its spans are kept."""

    def start(*, sample=1.0, capture_prompts=False, **changes):
        settings = Tracing(endpoint=endpoint, sample=sample, capture_prompts=capture_prompts)
        service = run(tracing=settings, **changes)
        kept = InMemorySpanExporter()
        service.app.state.spans.tracers.add_span_processor(SimpleSpanProcessor(kept))
        return service, Kept(kept)

    return start


class Kept:
    """Spans that have ended."""

    def __init__(self, kept):
        self._kept = kept

    async def all(self, count, root=ROOT):
        """As many spans of a request, by name, once its own is among them."""

        async def found():
            spans = self._kept.get_finished_spans()
            return spans if len(spans) >= count and any(span.name == root for span in spans) else None

        spans = await until(found)
        assert len(spans) == count, [span.name for span in spans]
        return {span.name: span for span in spans}


def chat(http, **more):
    headers = more.pop("headers", {})
    body = {"messages": MESSAGES, "simulate": {"quality": 1.0}, **more}
    return http.post("/v1/chat/completions", json=body, headers=headers)


async def test_a_request_is_one_span_with_its_children(traced):
    service, kept = traced()
    async with aiohttp.ClientSession(service.url) as http:
        wishes = {"session": "s-1"}
        limits = {"max_tokens": 50, "n": 2, "response_format": {"type": "json_object"}}
        async with chat(http, router=wishes, headers={"x-request-id": "r-1"}, **limits) as reply:
            answer = await reply.json()
    routing = answer["routing"]
    served_by = routing["model"]
    spans = await kept.all(5)
    root = spans[ROOT]
    assert spans.keys() == {ROOT, "classify", "decide", "store", f"chat {served_by}"}
    assert root.parent is None
    assert root.kind is SpanKind.SERVER
    for name, span in spans.items():
        assert span.context.trace_id == root.context.trace_id
        assert name == ROOT or span.parent.span_id == root.context.span_id
        assert root.start_time <= span.start_time <= span.end_time
        assert span.status.status_code is StatusCode.UNSET
    assert spans["classify"].end_time <= spans["decide"].start_time
    found = root.attributes
    assert found["armwise.decision_id"] == answer["id"]
    assert found["armwise.request_id"] == "r-1"
    assert found["armwise.propensity"] == routing["propensity"]
    assert (found["armwise.policy"], found["armwise.method"]) == ("pooled_thompson", "auto")
    assert (found["armwise.task_type"], found["armwise.tier"]) == (routing["task_type"], routing["tier"])
    assert (found["armwise.drawn_model"], found["armwise.served_model"]) == (served_by, served_by)
    assert found["http.response.status_code"] == 200
    call = spans[f"chat {served_by}"].attributes
    assert call["gen_ai.operation.name"] == "chat"
    assert call["gen_ai.provider.name"] == "simulated"
    assert (call["gen_ai.request.model"], call["gen_ai.response.model"]) == (served_by, served_by)
    assert call["gen_ai.usage.input_tokens"] == answer["usage"]["prompt_tokens"]
    assert call["gen_ai.usage.output_tokens"] == answer["usage"]["completion_tokens"]
    assert call["gen_ai.response.finish_reasons"] == tuple(c["finish_reason"] for c in answer["choices"])
    assert call["gen_ai.conversation.id"] == "s-1"
    assert (call["gen_ai.request.max_tokens"], call["gen_ai.request.choice.count"]) == (50, 2)
    assert call["gen_ai.output.type"] == "json"
    assert "gen_ai.usage.input_tokens" not in found  # it would be counted twice


async def test_a_model_that_fails_and_the_one_that_answers_each_have_a_span(traced):
    models = (SimulatedModel(name="bad", tier="small"), SimulatedModel(name="good", tier="small"))
    service, kept = traced(models=models)
    async with aiohttp.ClientSession(service.url) as http:
        for number in range(40):
            simulate = {"fail": "server_error", "only": ["bad"]}
            found = await asked(http, model="auto:random", user=str(number), simulate=simulate)
            assert found.status == 200
            if found.body["routing"].get("failed"):
                break

        async def failed_over():
            spans = kept._kept.get_finished_spans()
            failed = [span for span in spans if span.name == "chat bad"]
            roots = {span.context.span_id: span for span in spans if span.name == ROOT}
            return (failed[0], spans, roots) if failed and failed[0].parent.span_id in roots else None

        failed, spans, roots = await until(failed_over)
    root = roots[failed.parent.span_id]
    (good,) = [one for one in spans if one.name == "chat good" and one.parent.span_id == root.context.span_id]
    assert failed.status.status_code is StatusCode.ERROR
    assert failed.attributes["error.type"] == "server_error"
    assert failed.attributes["http.response.status_code"] == 500
    assert good.status.status_code is StatusCode.UNSET
    assert (failed.attributes["armwise.attempt"], good.attributes["armwise.attempt"]) == (0, 1)
    assert failed.end_time <= good.end_time
    assert root.status.status_code is StatusCode.UNSET
    assert (root.attributes["armwise.drawn_model"], root.attributes["armwise.served_model"]) == ("bad", "good")


async def test_when_all_models_fail_the_request_has_failed(traced):
    service, kept = traced(models=(SimulatedModel(name="bad"),))
    async with aiohttp.ClientSession(service.url) as http:
        assert (await asked(http, simulate={"fail": "timeout"})).status == 504
    spans = await kept.all(5)
    assert spans["chat bad"].attributes["error.type"] == "timeout"
    assert spans[ROOT].status.status_code is StatusCode.ERROR
    assert spans[ROOT].attributes["error.type"] == "504"


async def test_a_request_that_is_refused_leaves_its_span_alone(traced):
    service, kept = traced()
    async with aiohttp.ClientSession(service.url) as http:
        assert (await asked(http, model="nobody")).status == 404
        async with http.get("/v1/models") as reply:
            assert reply.status == 200
    spans = await kept.all(1)
    assert spans[ROOT].attributes["http.response.status_code"] == 404
    assert spans[ROOT].status.status_code is StatusCode.UNSET


async def test_a_streams_span_ends_with_the_stream(traced):
    service, kept = traced(models=(SimulatedModel(name="small", latency_scale=1.0),))
    simulate = {"chunks": 30, "latency_s": 0.1, "quality": 1.0}
    async with aiohttp.ClientSession(service.url) as http, chat(http, stream=True, simulate=simulate) as reply:
        await reply.read()
    spans = await kept.all(5)
    call = spans["chat small"]
    first_s, whole_s = call.attributes["gen_ai.response.time_to_first_chunk"], (call.end_time - call.start_time) / 1e9
    assert first_s >= 0.1
    assert whole_s - first_s > 0.1  # as slowly as the model is simulated, for 30 chunks
    assert call.attributes["gen_ai.request.stream"] is True
    assert call.attributes["gen_ai.response.finish_reasons"] == ("stop",)
    assert call.attributes["gen_ai.usage.output_tokens"] > 0
    assert call.attributes["gen_ai.response.id"] != spans[ROOT].attributes["armwise.decision_id"]
    assert call.end_time <= spans[ROOT].end_time


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_goes_away_ends_the_spans(traced, stream):
    service, kept = traced()
    simulate = {"chunks": 20_000} if stream else {"latency_s": 30}
    async with aiohttp.ClientSession(service.url) as http:
        asking = asyncio.create_task(chat(http, model="small", stream=stream, simulate=simulate).__aenter__())
        if stream:
            reply = await asking
            await reply.content.readany()
            reply.close()
        else:
            await asyncio.sleep(0.5)
            asking.cancel()
        spans = await kept.all(5)
    call, root = spans["chat small"], spans[ROOT]
    assert call.attributes["error.type"] == "cancelled"
    assert call.status.status_code is StatusCode.ERROR
    assert root.attributes["error.type"] == "cancelled"
    assert root.status.status_code is StatusCode.UNSET
    if stream:
        assert call.attributes["gen_ai.response.finish_reasons"] == ("error",)


# Trace contexts


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("on", [True, False])
@pytest.mark.parametrize("kind", [OpenAICompatibleModel, TranslatedModel])
async def test_a_trace_goes_from_the_client_to_the_provider(run, traced, monkeypatch, kind, on, stream):
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    seen = []

    async def answer(request):
        seen.append(request.headers)
        return web.json_response({"error": {"message": "no"}}, status=500)

    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    models = (kind(name="there", model="openai/there", base_url=url),)
    service, kept = traced(models=models) if on else (run(models=models), None)
    headers = {"traceparent": TRACEPARENT, "tracestate": "vendor=value"}
    try:
        async with aiohttp.ClientSession(service.url) as http:
            async with chat(http, headers=headers, stream=stream) as reply:
                assert reply.status == 500
            async with chat(http, headers={"traceparent": f"00-{'0' * 32}-{PARENT}-01"}) as reply:
                assert reply.status == 500
    finally:
        await runner.cleanup()
    first, second = seen
    assert first["tracestate"] == "vendor=value"
    if not on:
        assert first["traceparent"] == TRACEPARENT
        assert "traceparent" not in second
        return

    async def both():
        return [span for span in kept._kept.get_finished_spans() if span.name == "chat openai/there"][1:]

    await until(both)
    call, other = (span for span in kept._kept.get_finished_spans() if span.name == "chat openai/there")
    assert f"{call.context.trace_id:032x}" == TRACE
    assert first["traceparent"] == f"00-{TRACE}-{call.context.span_id:016x}-01"
    assert second["traceparent"][:-2] == f"00-{other.context.trace_id:032x}-{other.context.span_id:016x}-"
    assert f"{other.context.trace_id:032x}" not in {TRACE, "0" * 32}
    assert call.attributes["server.address"] == "127.0.0.1"
    assert call.attributes["server.port"] == int(url.split(":")[2].split("/", maxsplit=1)[0])
    assert call.kind is SpanKind.CLIENT


@pytest.mark.parametrize(
    ("traceparent", "taken"),
    [
        (TRACEPARENT, True),
        (f"cc-{TRACE}-{PARENT}-01-what-later-versions-add", True),
        (f"ff-{TRACE}-{PARENT}-01", False),
        (f"00-{TRACE.upper()}-{PARENT}-01", False),
        (f"00-{TRACE}-{'0' * 16}-01", False),
        (f"00-{TRACE}-{PARENT}", False),
        (f"{TRACEPARENT}\r\nx-evil: 1", False),
        ("", False),
    ],
)
def test_only_what_w3c_calls_a_traceparent_is_taken(traceparent, taken):
    found = tracing.trace_context({b"traceparent": traceparent.encode(), b"tracestate": b"a=b"})
    assert found == ({"traceparent": traceparent, "tracestate": "a=b"} if taken else {})


async def test_the_callers_decision_to_sample_is_followed_and_else_the_settings(traced):
    service, kept = traced(sample=0.0)
    async with aiohttp.ClientSession(service.url) as http:
        for headers in ({}, {"traceparent": f"00-{TRACE}-{PARENT}-00"}, {"traceparent": TRACEPARENT}):
            async with chat(http, headers=headers) as reply:
                assert reply.status == 200
    spans = await kept.all(5)
    assert {f"{span.context.trace_id:032x}" for span in spans.values()} == {TRACE}


# Request ids


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("req-1/a=b", True),
        ("x" * 128, True),
        ("x" * 129, False),
        ("two words", False),
        ("caf\u00e9", False),
        ("", False),
    ],
)
async def test_a_sane_request_id_is_kept_and_another_replaced_in_every_kind_of_reply(service, http, given, taken):
    ids = []
    for body in ({}, {"stream": True}, {"model": "nobody"}, {"messages": []}):
        async with chat(http, headers={"x-request-id": given}, **body) as reply:
            ids.append(reply.headers["x-request-id"])
    async with http.get("/nowhere", headers={"x-request-id": given}) as reply:
        ids.append(reply.headers["x-request-id"])
    if taken:
        assert set(ids) == {given}
    else:
        assert len(set(ids)) == 5
        assert given not in ids


@pytest.mark.parametrize("form", [TextLines, JsonLines])
async def test_faults_that_would_show_a_prompt_or_a_key_are_told_without_them(run, monkeypatch, form):
    monkeypatch.setenv("PROVIDER_KEY", "hunter2-hunter2")
    service = run(models=(OpenAICompatibleModel(name="there", base_url=f"{NOBODY}/v1", api_key_env="PROVIDER_KEY"),))
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(form(secrets_of(service.settings, os.environ)))
    logging.getLogger("armwise").addHandler(handler)

    class Leaky:
        async def complete(self, model, body):
            raise OSError(f"no answer to {os.environ['PROVIDER_KEY']}") from ValueError(f"cannot send {body!r}")

        async def close(self):
            """There is nothing to close."""

    class Broken:
        name, tiers = "broken", (0.2, 0.4)

        def classify(self, text):
            raise ValueError(f"cannot classify {text}")

    service.parts.providers._made[OpenAICompatibleModel] = Leaky()
    service.parts.classifying._small = Broken()
    try:
        async with aiohttp.ClientSession(service.url) as http:
            messages = [{"role": "user", "content": SECRET}]
            async with chat(http, messages=messages, headers={"x-request-id": "of-this-request"}) as reply:
                assert reply.status == 500
                assert SECRET not in await reply.text()
    finally:
        logging.getLogger("armwise").removeHandler(handler)
    lines = written.getvalue()
    assert SECRET not in lines
    assert "hunter2" not in lines
    assert lines.count("of-this-request") == 2
    assert "the classifier failed" in lines
    assert "OSError: no answer to [secret]" in lines
    assert "ValueError (its message is not logged" in lines


# Prompts


@pytest.mark.parametrize(
    ("capture", "sensitive", "sent"), [(False, False, False), (True, False, True), (True, True, False)]
)
async def test_prompts_are_sent_only_when_that_is_asked_for_and_never_sensitive_ones(traced, capture, sensitive, sent):
    models = (SimulatedModel(name="here", local=True),)
    service, kept = traced(capture_prompts=capture, models=models)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": SECRET}]
    async with aiohttp.ClientSession(service.url) as http:
        for more in ({}, {"simulate": {"fail": "server_error"}}, {"stream": True}):
            await (await chat(http, messages=messages, router={"sensitive": sensitive}, **more).__aenter__()).read()

        async def roots():
            return [span for span in kept._kept.get_finished_spans() if span.name == ROOT][2:]

        await until(roots)
    everything = "".join(span.to_json() for span in kept._kept.get_finished_spans())
    assert (SECRET in everything) is sent
    if sent:
        call = next(span for span in kept._kept.get_finished_spans() if span.name == "chat here")
        assert json.loads(call.attributes["gen_ai.input.messages"]) == [
            {"role": message["role"], "parts": [{"type": "text", "content": message["content"]}]}
            for message in messages
        ]


# Names


@pytest.mark.parametrize(
    ("name", "provider"),
    [
        ("anthropic/claude-sonnet-4-5", "anthropic"), ("vertex_ai/gemini-2.5-pro", "gcp.vertex_ai"),
        ("bedrock/x", "aws.bedrock"), ("azure/gpt", "azure.ai.openai"), ("gpt-4o", "openai"), ("new/x", "new"),
    ],
)  # fmt: skip
def test_vendors_behind_litellm_have_the_conventions_names(name, provider):
    assert of_model(TranslatedModel(name="m", model=name))["gen_ai.provider.name"] == provider


def test_of_a_long_stream_the_beginning_and_the_end_are_read():
    def event(**fields):
        return b"data: " + json.dumps({"id": "i", "model": "m-1", "choices": [], **fields}).encode() + b"\n\n"

    middle = event(choices=[{"delta": {"content": "x" * 100}}]) * 2000
    end = event(choices=[{"delta": {}, "finish_reason": "length"}]) + event(
        usage={"prompt_tokens": 3, "completion_tokens": 2000, "prompt_tokens_details": {"cached_tokens": 2}}
    )
    for events in (event() + end, event() + middle + end + b"data: [DONE]\n\n", b"data: broken\n\n" + event() + end):
        assert of_stream(events) == {
            "gen_ai.response.id": "i", "gen_ai.response.model": "m-1", "gen_ai.response.finish_reasons": ["length"],
            "gen_ai.usage.input_tokens": 3, "gen_ai.usage.output_tokens": 2000,
            "gen_ai.usage.cache_read.input_tokens": 2,
        }  # fmt: skip


# Off, wrong, broken


def test_what_speaks_opentelemetry_is_not_imported_unless_it_is_asked_for():
    code = (
        "import sys, service.app\nfrom service.settings import Tracing\n"
        "from service.tracing.tracing import open_spans\n"
        "assert open_spans(Tracing(), print, {}) is None\nassert 'opentelemetry' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("endpoint", "mistake"),
    [
        ("collector:4318", "must be the URL of a collector"),
        ("http://", "must be the URL of a collector"),
        ("http://me:secret@collector:4318", "holds a password"),
    ],
)
def test_an_address_that_cannot_be_one_is_refused(endpoint, mistake):
    with pytest.raises(ConfigurationError, match=mistake) as refused:
        settings_from_toml(f'tracing.endpoint = "{endpoint}"', {})
    assert "secret" not in str(refused.value)
    with pytest.raises(ConfigurationError):
        tracing.open_spans(Tracing(endpoint=endpoint), print, {})


def test_without_the_extra_a_named_collector_is_a_clear_sentence():
    code = (
        "import sys\nsys.modules['opentelemetry'] = None\n"
        "from service.tracing.tracing import mistakes_of\nfrom service.settings import Tracing\n"
        "print(*mistakes_of(Tracing(), {'OTEL_EXPORTER_OTLP_ENDPOINT': 'http://127.0.0.1:4318'}))"
    )
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert said.startswith("The environment variable OTEL_EXPORTER_OTLP_ENDPOINT is set, but opentelemetry.sdk is not")
    assert 'pip install "armwise[otel]"' in said


def test_other_settings_of_traces_take_effect_after_a_restart():
    (change,) = difference(Settings(), Settings(tracing=Tracing(sample=0.5)))
    assert change == "`tracing.sample` 1.0 -> 0.5 (takes effect after a restart)."


def test_check_says_where_spans_are_sent_and_shouts_about_prompts():
    settings = Settings(tracing=Tracing(endpoint=NOBODY, sample=0.25, capture_prompts=True))
    assert f"tracing     25% of chats to {NOBODY}; PROMPTS ARE SENT" in describe(settings, {})
    assert "tracing" not in describe(Settings(), {})


async def test_a_fault_in_writing_spans_harms_no_request(traced, caplog):
    service, _ = traced()

    class Broken:
        def start_span(self, *args, **kwargs):
            raise ValueError(SECRET)

    service.app.state.spans.tracer = Broken()
    with caplog.at_level(logging.ERROR):
        async with aiohttp.ClientSession(service.url) as http:
            assert (await asked(http)).status == 200
            lost = await metric(http, 'armwise_telemetry_failures_total{what="traces"}')
    assert lost >= 1
    assert "a trace could not be begun" in caplog.text


async def test_a_collector_that_is_not_there_is_counted_and_harms_no_request(run, monkeypatch):
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")  # ms; else spans are sent after 5 s
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.5")  # s; else it tries again for 10 s
    service = run(tracing=Tracing(endpoint=NOBODY))
    async with aiohttp.ClientSession(service.url) as http:
        assert (await asked(http)).status == 200
        assert await until(metric, http, 'armwise_telemetry_failures_total{what="traces"}')


# A collector


class Collector:
    """Keeps what it is sent, decoded; while `open` is not set it answers nobody."""

    def __init__(self):
        self.url = ""
        self.spans = []
        self.points = {}
        self.resources = []
        self.open = asyncio.Event()
        self.open.set()

    async def take(self, request):
        await self.open.wait()
        body = await request.read()
        if request.path == "/v1/traces":
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                self.resources.append({one.key: one.value.string_value for one in resource.resource.attributes})
                self.spans += [span for scope in resource.scope_spans for span in scope.spans]
        else:
            for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                for one in (found for scope in resource.scope_metrics for found in scope.metrics):
                    self.points[one.name] = list(one.histogram.data_points)
        return web.Response()


@pytest.fixture
async def collector():
    """A collector that takes OTLP over HTTP."""
    found = Collector()
    app = web.Application()
    app.router.add_post("/v1/{signal}", found.take)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    found.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield found
    found.open.set()
    await runner.cleanup()


@pytest.mark.parametrize("named_by", ["settings", "environment"])
async def test_a_running_service_sends_spans_and_metrics_to_a_collector(tmp_path, collector, named_by):
    toml = "[server]\nworkers = 2\n"
    environ = {"OTEL_BSP_SCHEDULE_DELAY": "100", "OTEL_METRIC_EXPORT_INTERVAL": "200"}
    if named_by == "settings":
        toml += f'[tracing]\nendpoint = "{collector.url}/"\n'
    else:
        environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = collector.url
    async with served(tmp_path, toml, **environ) as running:

        async def enough():
            headers = {"traceparent": TRACEPARENT}  # on a new connection each time: any worker may take it
            async with aiohttp.ClientSession(running.url) as http, chat(http, headers=headers) as reply:
                assert reply.status == 200
            workers = {resource["service.instance.id"] for resource in collector.resources}
            return len(workers) == 2 and "gen_ai.client.token.usage" in collector.points

        await until(enough)
    assert {resource["service.name"] for resource in collector.resources} == {"armwise"}
    assert {span.trace_id.hex() for span in collector.spans} == {TRACE}
    roots = {span.span_id: span for span in collector.spans if span.name == ROOT}
    assert all(span.parent_span_id in roots for span in collector.spans if span.name in {"classify", "decide", "store"})
    duration, tokens = (collector.points[f"gen_ai.client.{name}"] for name in ("operation.duration", "token.usage"))
    assert list(duration[0].explicit_bounds)[:3] == [0.01, 0.02, 0.04]
    assert list(tokens[0].explicit_bounds)[-1] == 67_108_864
    kinds = {one.key: one.value.string_value for point in tokens for one in point.attributes}
    assert {"gen_ai.token.type", "gen_ai.provider.name", "gen_ai.request.model", "gen_ai.response.model"} <= set(kinds)
    assert "Traceback" not in running.written


async def test_a_collector_that_hangs_delays_neither_a_request_nor_the_end(tmp_path, collector):
    collector.open.clear()
    toml = f'[tracing]\nendpoint = "{collector.url}"\n'
    patient = {"OTEL_EXPORTER_OTLP_TIMEOUT": "600", "OTEL_METRIC_EXPORT_TIMEOUT": "600000"}  # the SDK alone would wait
    async with served(tmp_path, toml, OTEL_BSP_SCHEDULE_DELAY="50", **patient) as running:
        async with aiohttp.ClientSession(running.url) as http:
            for _ in range(20):
                assert (await asyncio.wait_for(asked(http), 20)).status == 200
        await running.stop()
    assert "the collector did not take the last spans within 3 s; they are lost" in running.written
