"""Models that changed: what was found, and what the owner tells."""

import time
from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec
from litestar import Request, get, post
from litestar.openapi.spec import Operation, RequestBody
from litestar.params import FromQuery, QueryParameter
from msgspec import Meta

from bandit.drift import Event
from service.api.bodies import decoded, example_body
from service.drift.alarms import list_alarms, public, told
from service.errors import NotFound, Unprocessable
from service.mistakes import suggestion
from service.parts import Parts
from service.probes.canaries import newest
from service.probes.canaries import public as public_answer

Limit = Annotated[int, QueryParameter(ge=1, le=1000, description="rows at most")]

_AHEAD_S = 60.0  # how far the caller's clock may be ahead of ours


class ToldEvent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the owner knows of a model."""

    model: str
    event: Event
    note: Annotated[str, Meta(max_length=1_000)] = ""
    at: float | None = None  # seconds since 1970-01-01 UTC; None: now


@dataclass
class EventOperation(Operation):
    """Documents the body of an event."""

    request_body: RequestBody | None = field(
        default_factory=lambda: example_body(
            "What happened to which model.",
            {
                "version": {"model": "large", "event": "version", "note": "the name points to a newer model"},
                "incident": {"model": "large", "event": "incident"},
            },
        )
    )


@get("/v1/alarms", tags=["owner"], summary="Models that changed")
async def alarms(
    request: Request[Any, Any, Any], limit: Limit = 100, model: FromQuery[str | None] = None
) -> dict[str, Any]:
    """Alarms and events, newest first, the models that are suspected now, and the newest answers to canaries."""
    parts: Parts = request.app.state.parts
    parts.keyring.allow(request.headers, request.client, "read")
    rows = await parts.database.read(list_alarms, limit=limit, arm=model)
    asked = {canary.name for canary in parts.setup.settings.drift.canaries}
    answers = [found for found in await parts.database.read(newest) if found.name in asked] if asked else []
    return {
        "alarms": [public(row) for row in rows],
        "suspected": sorted(parts.watching.suspected),
        "canaries": [public_answer(found) for found in answers if model in (None, found.arm)],
    }


@post(
    "/v1/events", status_code=200, operation_class=EventOperation, tags=["owner"], summary="Tell that a model changed"
)
async def tell_event(request: Request[Any, Any, Any]) -> dict[str, Any]:
    """A new version or price, an incident, a model to try: what was learned of it before may count less from now on."""
    parts: Parts = request.app.state.parts
    parts.keyring.allow(request.headers, request.client, "admin")
    said: ToldEvent = decoded(await request.body(), ToldEvent)
    now = time.time()
    settings = parts.setup.settings
    names = [model.name for model in settings.models]
    if said.model not in names:
        hint = suggestion(said.model, names)
        raise NotFound(f"There is no model `{said.model[:128]}`{hint}. GET /v1/models lists them.", param="model")
    at = now if said.at is None else said.at
    if not 0.0 <= at <= now + _AHEAD_S:
        raise Unprocessable(
            f"`at` is {at:g}; expected seconds since 1970-01-01 UTC that are not in the future, or nothing for now.",
            param="at",
        )
    row = told(said.model, said.event, at, said.note)
    await parts.watching.tell(settings, row)
    return public(row)
