"""What the owner and the on-call engineer call: health, metrics, statistics, posteriors, decisions, reload."""

import asyncio
import multiprocessing
import os
import signal
import time
from typing import Annotated, Any

from litestar import Request, Response, get, head, post
from litestar.params import FromPath, FromQuery, QueryParameter

from bandit.vocabulary import PromptTier, TaskType
from service.errors import NotFound
from service.evaluation.explain import explain
from service.experiments.design import namespace_of, snapshot_of
from service.experiments.holdout import headline
from service.learning.posteriors import posterior_cells
from service.mistakes import suggestion
from service.parts import Parts
from service.traffic.reports import page, records, statistics

Limit = Annotated[int, QueryParameter(ge=1, le=1000, description="rows at most")]
Days = Annotated[float, QueryParameter(gt=0, description="days back from now")]
Offset = Annotated[int, QueryParameter(ge=0, le=2**31, description="rows to leave out, newest first")]


@get("/health", tags=["owner"], summary="Is the process alive?")
async def health() -> dict[str, str]:
    """Answers while the process can answer at all."""
    return {"status": "ok"}


@head("/health", include_in_schema=False)
async def health_head() -> None:
    """The same for load balancers that ask for the head alone."""


@get("/ready", tags=["owner"], summary="May traffic be sent here?")
async def ready(request: Request[Any, Any, Any]) -> Response[dict[str, Any]]:
    """200 when requests are served and learned from; 503 with the reason when the database takes no writes."""
    parts: Parts = request.app.state.parts
    setup = parts.setup
    state: dict[str, Any] = {
        "status": "degraded" if parts.degraded else "ready",
        "database": f"unavailable: serving by {setup.safe_policy.name}, learning nothing" if parts.degraded else "ok",
        "classifier": parts.classifying.serving.name,
        "classifier_state": parts.classifying.state,
        "classifier_why": parts.classifying.why,
        "kill_switch": parts.knowledge.controls.off is not None,
        "models": list(setup.models),
        "policy": setup.default_policy.name,
        "simulated": setup.settings.simulated_only,
        "config_version": setup.version,
        "snapshot_age_s": round(parts.knowledge.age(time.time()), 3),
    }
    return Response(state, status_code=503 if parts.degraded else 200)


@head("/ready", include_in_schema=False)
async def ready_head(request: Request[Any, Any, Any]) -> Response[None]:
    """The same for load balancers that ask for the head alone."""
    parts: Parts = request.app.state.parts
    return Response(None, status_code=503 if parts.degraded else 200)


@get("/metrics", tags=["owner"], summary="Prometheus metrics", media_type="text/plain")
async def metrics(request: Request[Any, Any, Any]) -> Response[bytes]:
    """All metrics in Prometheus' text format, summed over the worker processes."""
    parts: Parts = request.app.state.parts
    now = time.time()
    cells = await asyncio.to_thread(posterior_cells, parts.setup, parts.knowledge)
    parts.metrics.posteriors(cells)
    parts.metrics.worker_state(parts.knowledge.age(now), parts.writer.queue_length, degraded=parts.degraded)
    body, content_type = await asyncio.to_thread(parts.metrics.exposition)
    return Response(body, headers={"content-type": content_type})


@get("/stats", tags=["owner"], summary="Totals and distributions")
async def stats(request: Request[Any, Any, Any], days: Days = 3650.0) -> dict[str, Any]:
    """Calls, cost, mean latency, and how calls are spread over models, tiers, task types and policies.

    `holdout` says what routing is worth against the model that serves the permanent holdout; null without one.
    """
    parts: Parts = request.app.state.parts
    parts.keyring.allow(request.headers, request.client, "read")
    now = time.time()
    found = await parts.database.read(lambda connection: statistics(connection, now - days * 86_400, now + 1.0))
    worth = await parts.database.read(headline)
    return {**found, "holdout": None if worth is None else worth.public()}


@get("/stats/raw", tags=["owner"], summary="Decisions, newest first")
async def raw_stats(request: Request[Any, Any, Any], limit: Limit = 100, offset: Offset = 0) -> dict[str, Any]:
    """The records behind the statistics."""
    parts: Parts = request.app.state.parts
    parts.keyring.allow(request.headers, request.client, "read")
    found = await parts.database.read(page, limit, offset)
    return {"records": await asyncio.to_thread(records, found), "limit": limit, "offset": offset}


@get("/v1/posteriors", tags=["owner"], summary="What was learned")
async def posteriors(
    request: Request[Any, Any, Any],
    task_type: FromQuery[TaskType | None] = None,
    tier: FromQuery[PromptTier | None] = None,
    policy: FromQuery[str | None] = None,
    namespace: FromQuery[str] = "",
) -> dict[str, Any]:
    """One Beta(alpha, beta) per task type and model, with mean, 95 % interval, labels and chance of being best.

    A variant of an experiment with posteriors of its own has the namespace `@experiment/variant`.
    """
    parts: Parts = request.app.state.parts
    parts.keyring.allow(request.headers, request.client, "read")
    setup = parts.setup
    if namespace:
        await _check_namespace(parts, namespace)
    await parts.fitting.fresh(setup)
    cells = await asyncio.to_thread(
        posterior_cells, setup, parts.knowledge, task_type=task_type, tier=tier, policy=policy, namespace=namespace
    )
    return {"cells": cells, "prior_tier": tier or "mean", "prior_conflict": parts.fitting.conflicts}


async def _check_namespace(parts: Parts, namespace: str) -> None:
    """Refuse what no experiment learns in: nothing but the prior would be shown, as if it had been learned."""
    await parts.reload_experiments()
    designs = [one.design for one in parts.experiments.standing.experiments.values()]
    known = [namespace_of(design, variant) for design in designs for variant in design.variants]
    if namespace not in {*known, *map(snapshot_of, designs)}:
        hint = suggestion(namespace, known)
        raise NotFound(f"No experiment learns in the namespace `{namespace[:128]}`{hint}.", param="namespace")


@get("/v1/decisions/{decision_id:str}", tags=["owner"], summary="Explain one decision")
async def decision(request: Request[Any, Any, Any], decision_id: FromPath[str]) -> dict[str, Any]:
    """Features, eligible and excluded models, probabilities, attempts, rewards; and the choice derived again."""
    parts: Parts = request.app.state.parts
    key = parts.keyring.allow(request.headers, request.client, "read")
    key_id = None if key.may("admin") else key.id
    return await parts.database.read(lambda connection: explain(connection, decision_id, key_id))


@post("/admin/reload", status_code=200, tags=["owner"], summary="Read the settings file again")
async def reload_settings(request: Request[Any, Any, Any]) -> dict[str, Any]:
    """Take over the changed settings without losing a request; a file with mistakes changes nothing and answers 400."""
    parts: Parts = request.app.state.parts
    parts.keyring.allow(request.headers, request.client, "admin")
    changes = await parts.reload()
    if multiprocessing.parent_process() is not None:
        os.kill(os.getppid(), signal.SIGHUP)  # the supervisor tells the other workers
    return {"changes": changes}
