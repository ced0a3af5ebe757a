"""The application: the only place where parts are made and joined."""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from litestar import Litestar, Request, Response
from litestar.datastructures import State
from litestar.enums import ScopeType
from litestar.exceptions import HTTPException, ValidationException
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from service.api import (
    alarms,
    breakers,
    budgets,
    chat,
    controls,
    experiment_report,
    experiments,
    feedback,
    heuristics,
    owner,
    routing,
    traffic,
)
from service.api.dashboard import dashboard_handlers
from service.api.docs import docs_handlers, openapi_config
from service.auth import Keyring, key_from_row
from service.classifiers.models import plan_of
from service.configuration import read_settings
from service.drift.alarms import restarts
from service.drift.watching import send_alarms, watch
from service.errors import (
    ArmwiseError,
    BadRequest,
    ConfigurationError,
    ErrorBody,
    StorageUnavailable,
    TooLarge,
    error_body,
    http_answer,
)
from service.experiments.verdicts import watch_experiments
from service.learning.calibrations import calibration
from service.learning.contexts import Contexts
from service.learning.knowledge import Knowledge
from service.logs import REQUEST_ID, access_line, configure_logging, handle
from service.metrics.catalogue import Metrics
from service.parts import Parts
from service.probes.canaries import ask_canaries
from service.quality.refit import recalibrate
from service.settings import Settings
from service.setup import create_setup, database_url
from service.storage import retention, store
from service.storage.database import Database, migrate
from service.tracing.tracing import begin, open_spans

log = logging.getLogger("armwise")

_PRUNE_EVERY_S = 3600.0
_LOOK_EVERY_S = 0.05
_FIT_LOOK_S = 0.2
_MEASURE_EVERY_S = 30.0
_BUDGET_LOOK_S = 0.25
_DAY_S = 86_400.0


def create_app(settings: Settings, config: Path | None = None) -> Litestar:
    """The service for these settings. `config` is the file they came from: it is read again on reload."""
    app = Litestar(
        route_handlers=[
            chat.chat_completions,
            feedback.give_feedback,
            routing.list_models,
            routing.get_model,
            routing.route,
            owner.health,
            owner.health_head,
            owner.ready,
            owner.ready_head,
            owner.metrics,
            owner.stats,
            owner.raw_stats,
            owner.posteriors,
            traffic.traffic,
            traffic.decisions,
            owner.decision,
            owner.reload_settings,
            heuristics.heuristics,
            heuristics.refit_heuristics,
            alarms.alarms,
            alarms.tell_event,
            controls.controls,
            controls.tell_control,
            budgets.budgets,
            breakers.breakers,
            experiments.experiments,
            experiments.experiment,
            experiments.create_experiment,
            experiments.step_experiment,
            experiment_report.experiment_report,
            *docs_handlers(),
            *dashboard_handlers(),
        ],
        openapi_config=openapi_config(),
        lifespan=[_running(settings, config)],
        exception_handlers={
            ArmwiseError: _armwise_error,
            HTTPException: _http_exception,
            ValidationException: _invalid,
            Exception: _unexpected,
        },
        request_max_body_size=settings.server.max_body_bytes,
        state=State({}),
        logging_config=None,
    )
    app.asgi_handler = _counted(app.asgi_handler)  # outside of routing, so that unknown paths are counted too
    return app


def app_from_environment() -> Litestar:
    """The service for a worker process: its settings file is named by ARMWISE_CONFIG, as `armwise serve` sets it."""
    named = os.environ.get("ARMWISE_CONFIG")
    config = Path(named) if named else None
    settings = read_settings(config, os.environ)
    configure_logging(settings)
    return create_app(settings, config)


def _running(settings: Settings, config: Path | None) -> Any:
    @asynccontextmanager
    async def running(app: Litestar) -> AsyncGenerator[None, None]:
        """Everything that starts with the service and ends with it."""
        url = database_url(settings.database, os.environ)
        await asyncio.to_thread(migrate, url)
        setup = await asyncio.to_thread(create_setup, settings)
        plan = await asyncio.to_thread(plan_of, settings.classifier)
        database = Database(url, settings.database.pool_size)
        knowledge = Knowledge(window_s=settings.rewards.window_days * _DAY_S)
        parts = Parts(setup, database, knowledge, Metrics(), config)
        parts.fitting.contexts = Contexts(database)
        app.state.spans = await asyncio.to_thread(open_spans, settings.tracing, parts.metrics.telemetry_failed)
        parts.classifying.take_over(plan)
        app.state.parts = parts
        await parts.writer.start()
        await parts.knowledge.refresh(parts.writer)
        await parts.reload_controls()
        parts.fitting.told(
            parts.knowledge.controls.restarts(await database.read(restarts)), await database.read(calibration)
        )
        await parts.fitting.measure(database, setup)
        await parts.fitting.refresh(setup)
        await parts.reload_experiments()
        await parts.budgets.exchange(parts.writer, setup, time.time())
        await asyncio.to_thread(parts.budgets.reprice, setup, parts.knowledge, time.time())
        await reload_keys(parts)
        await parts.providers.prepare(setup.models.values())
        background = (
            _refresh, _fit, _keep_budgets, _prune, _watch_the_loop, recalibrate, watch, send_alarms, ask_canaries,
            watch_experiments,
        )  # fmt: skip
        loops = [asyncio.create_task(work(parts), name=work.__name__) for work in background]
        for loop in loops:
            loop.add_done_callback(tell_if_ended)
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):  # no signals outside the main thread
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, _reload_on_signal, parts)
        gc.collect()
        gc.freeze()  # a full collection walks the import heap: tens of milliseconds
        gc.set_threshold(50_000, 20, 50)  # a request makes some hundred objects, none of them in a cycle
        sys.setswitchinterval(0.0005)  # a thread that computes gives way to the loop after so long, not after 5 ms
        try:
            yield
        finally:
            for task in loops:
                task.cancel()
            await asyncio.gather(*loops, return_exceptions=True)
            await parts.settled()
            await parts.judging.close()
            await parts.classifying.close()
            await parts.writer.close()
            await parts.providers.close()
            await database.close()
            if app.state.spans is not None:
                await asyncio.to_thread(app.state.spans.close)

    return running


def tell_if_ended(work: "asyncio.Task[None]") -> None:
    """Say that background work, which is for ever, ended by a fault: nobody waits for it."""
    if not work.cancelled() and (error := work.exception()) is not None:
        log.error("the background work %s ended; restart the service", work.get_name(), exc_info=error)


async def reload_keys(parts: Parts) -> None:
    """Read the API keys again; a revoked one ends here."""
    rows = await parts.database.read(store.list_keys)
    parts.keyring = Keyring(tuple(key_from_row(row) for row in rows))


async def _refresh(parts: Parts) -> None:
    """Each second: what other replicas learned, keys made or revoked, and whether the database is back."""
    measured_at = time.time()
    while True:
        await asyncio.sleep(parts.setup.settings.database.refresh_s)
        try:
            await reload_keys(parts)  # first: a revoked key must end, whatever becomes of learning
            await parts.reload_controls()
            await parts.knowledge.refresh(parts.writer)
            await parts.reload_experiments()
            found = parts.knowledge.controls.restarts(await parts.database.read(restarts))
            parts.fitting.told(found, await parts.database.read(calibration))
            if time.time() - measured_at >= _MEASURE_EVERY_S:
                measured_at = time.time()
                await parts.fitting.measure(parts.database, parts.setup)
        except StorageUnavailable as error:
            log.warning("what other replicas learned could not be read: %s", error)
            parts.metrics.learner_error("refresh")
        except Exception:  # the next second tries again; serving goes on
            log.exception("the posteriors could not be refreshed")
            parts.metrics.learner_error("refresh")
        parts.metrics.models(parts.setup.models)
        parts.breakers.tell()
        parts.metrics.worker_state(parts.knowledge.age(time.time()), parts.writer.queue_length, degraded=parts.degraded)
        parts.classifying.tell()


async def _fit(parts: Parts) -> None:
    """Work out estimates again when enough was learned."""
    while True:
        await asyncio.sleep(_FIT_LOOK_S)
        if parts.fitting.due(parts.setup, time.time()):
            await parts.fitting.refresh(parts.setup)


async def _keep_budgets(parts: Parts) -> None:
    """Four times a second: what was spent here and elsewhere, and what a dollar costs now."""
    while True:
        await asyncio.sleep(_BUDGET_LOOK_S)
        try:
            await parts.budgets.exchange(parts.writer, parts.setup, time.time())
            await asyncio.to_thread(parts.budgets.reprice, parts.setup, parts.knowledge, time.time())
            parts.metrics.budgets(parts.budgets.standings(parts.setup, time.time()))
        except StorageUnavailable:  # what was counted stays counted
            parts.metrics.learner_error("budget")
        except Exception:  # the next turn tries again; serving goes on
            log.exception("the budgets could not be kept")
            parts.metrics.learner_error("budget")


async def _watch_the_loop(parts: Parts) -> None:
    """Measure what every request waits for when something holds the event loop up."""
    while True:
        due = time.perf_counter() + _LOOK_EVERY_S
        await asyncio.sleep(_LOOK_EVERY_S)
        parts.metrics.loop_late(max(time.perf_counter() - due, 0.0))


async def _prune(parts: Parts) -> None:
    """Each hour: drop what is past its retention."""
    while True:
        try:
            for step in retention.steps(parts.setup.settings.retention, time.time()).values():
                while await parts.writer.call(step):
                    pass
        except Exception:  # the next hour tries again; serving goes on
            log.exception("what is past its retention could not be pruned")
            parts.metrics.learner_error("prune")
        await asyncio.sleep(_PRUNE_EVERY_S)


def _reload_on_signal(parts: Parts) -> None:
    async def reload() -> None:
        try:
            changes = await parts.reload()
        except ConfigurationError as error:
            log.error("the settings were not taken over:\n%s", error)  # noqa: TRY400 - the mistakes, not a traceback
        else:
            log.info("settings read again: %s", "; ".join(changes) or "nothing changed")

    parts.after_reply(reload())


def _counted(app: ASGIApp) -> ASGIApp:
    """Count every request with its status and its time, when its last byte is sent: what follows a reply is no part."""

    async def counted(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await app(scope, receive, send)
            return
        started = time.perf_counter()
        state, headers = scope["litestar_app"].state, dict(scope["headers"])
        request = handle(headers)
        trace = begin(state.spans, scope["method"], scope["path"], headers)
        status = 499  # the client went away before there was an answer
        streamed = counted_already = False

        def count() -> None:
            nonlocal counted_already
            if not counted_already:
                counted_already = True
                metrics: Metrics = state.parts.metrics
                seconds = time.perf_counter() - started
                metrics.request_done(scope["path"], status, streamed=streamed, seconds=seconds)
                access_line(request, scope["method"], scope["path"], status, seconds)
                if trace is not None:
                    trace.replied(status, request.id)

        async def sending(message: Message) -> None:
            nonlocal status, streamed
            if message["type"] == "http.response.start":
                status = message["status"]
                sent = [*message["headers"], (REQUEST_ID, request.id.encode())]
                message["headers"] = sent
                streamed = any(value.startswith(b"text/event-stream") for _, value in sent)
                request.model = next((value.decode() for name, value in sent if name == b"x-armwise-model"), "")
            await send(message)
            if message["type"] == "http.response.body" and not message.get("more_body"):
                count()

        try:
            await app(scope, receive, sending)
        finally:
            count()
            if trace is not None:
                trace.close()

    return counted


def _json(status: int, body: bytes, headers: dict[str, str] | None = None) -> Response[bytes]:
    return Response(body, status_code=status, media_type="application/json", headers=headers or {})


def _armwise_error(request: Request[Any, Any, Any], error: ArmwiseError) -> Response[bytes]:
    _count(request, error)
    status, body, headers = http_answer(error)
    return _json(status, body, headers)


def _http_exception(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    """Errors of the framework, in OpenAI's envelope."""
    _count(request, error)
    if error.status_code == 413:
        limit = request.app.state.parts.setup.settings.server.max_body_bytes
        status, body, headers = http_answer(TooLarge(f"The body is larger than the {limit:,} bytes this server takes."))
        return _json(status, body, headers)
    messages = {
        404: f"There is nothing at {request.method} {request.url.path}. /docs lists what there is.",
        405: f"{request.url.path} does not take {request.method}. /docs lists what there is.",
    }
    message = messages.get(error.status_code, error.detail)
    kind = "invalid_request_error" if error.status_code < 500 else "server_error"
    return _json(error.status_code, error_body(ErrorBody(message, kind)))


def _invalid(request: Request[Any, Any, Any], error: ValidationException) -> Response[bytes]:
    """A parameter of a path or query that does not fit; bodies are read by `service.api.bodies`."""
    if not isinstance(error.extra, list) or not error.extra:
        return _http_exception(request, error)
    _count(request, error)
    fault: Any = error.extra[0]
    key = fault.get("key")
    where = f" at `{key}`" if key else ""
    told = f"Invalid request: {fault['message']}{where}."
    return _json(*http_answer(BadRequest(told, param=key, code="invalid_type")))


def _unexpected(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """A fault of ours: logged with its traceback, told to the client without it."""
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    _count(request, error)
    status, body, headers = http_answer(ArmwiseError())
    return _json(status, body, headers)


def _count(request: Request[Any, Any, Any], error: Exception) -> None:
    request.app.state.parts.metrics.request_failed(request.url.path, error)
