"""What the pages for the owner ask: traffic over time, and decisions that are looked for."""

import asyncio
import re
import time
from functools import partial
from typing import Annotated, Any

from litestar import Request, get
from litestar.params import FromQuery, QueryParameter
from sqlalchemy import Connection

from bandit.vocabulary import TaskType
from service.errors import BadRequest
from service.parts import Parts
from service.traffic.listing import Wanted, newest, position
from service.traffic.series import models, points, series, whole
from service.traffic.sums import HOUR_S, hour_of

Since = Annotated[str, QueryParameter(description="how long ago it begins: a number with h, d or w, such as 24h")]
Step = Annotated[int, QueryParameter(description="seconds of a step; whole hours")]
Latency = Annotated[bool, QueryParameter(description="whether each step tells latencies; the whole time always does")]
Limit = Annotated[int, QueryParameter(ge=1, le=200, description="decisions at most")]

_MOST_STEPS = 200  # a week by the hour; of forty models, more takes seconds
_LONGEST_STEP_H = 366 * 24
_UNITS_H = {"h": 1.0, "d": 24.0, "w": 168.0}


@get("/v1/traffic", tags=["owner"], summary="Traffic over time, by model")
async def traffic(
    request: Request[Any, Any, Any],
    since: Since = "24h",
    step: Step = 3600,
    task_type: FromQuery[TaskType | None] = None,
    latency: Latency = True,  # noqa: FBT002 - a query has no other way
) -> dict[str, Any]:
    """Decisions, calls, failures, fallbacks, cost, ratings and latency of each model, in steps of whole hours.

    Everything counts in the hour of its decision: decisions and `fallbacks` (replies in another model's stead) for the
    model that answered, calls, failures, cost and latency for the model that was called. Latency is that of calls that
    succeeded, told from classes each 1.4 times as wide as the one before. `models` is the whole time in one.
    """
    parts: Parts = request.app.state.parts
    parts.keyring.allow(request.headers, request.client, "read")
    now = time.time()
    step_h, hours = _step_hours(step), _hours(since)
    first = int((now / HOUR_S - hours) // step_h) * step_h
    steps = (hour_of(now) - first) // step_h + 1
    if steps > _MOST_STEPS:
        raise BadRequest(
            f"`since` {since} in steps of {step} s is {steps:,} steps; expected {_MOST_STEPS:,} at most. "
            "Ask for longer steps or a shorter time.",
            param="step",
        )
    rows, totals = await parts.database.read(
        lambda connection: (
            series(connection, first, steps, step_h, task_type, latency=latency),
            whole(connection, first, steps, step_h, task_type),
        )
    )
    return {
        "since": first * HOUR_S,
        "until": now,
        "step_s": step,
        "models": models(totals),
        "points": await asyncio.to_thread(points, rows, first, steps, step_h),
    }


def _step_hours(step: int) -> int:
    if step < HOUR_S or step % HOUR_S or step > _LONGEST_STEP_H * HOUR_S:
        raise BadRequest(
            f"`step` is {step}; expected whole hours in seconds, a year at most, such as 3600 or 86400.", param="step"
        )
    return int(step // HOUR_S)


def _hours(since: str) -> float:
    found = re.fullmatch(r"(\d{1,6}(?:\.\d{1,6})?)([hdw])", since)
    if not found or not float(found[1]):
        raise BadRequest(f"`since` is {since[:40]!r}; expected a number with h, d or w, such as 24h.", param="since")
    return float(found[1]) * _UNITS_H[found[2]]


@get("/v1/decisions", tags=["owner"], summary="Look for decisions")
async def decisions(  # noqa: PLR0913, PLR0917 - each is a wish
    request: Request[Any, Any, Any],
    limit: Limit = 50,
    before: FromQuery[str | None] = None,
    model: FromQuery[str | None] = None,
    task_type: FromQuery[TaskType | None] = None,
    user: FromQuery[str | None] = None,
    method: FromQuery[str | None] = None,
    rated: FromQuery[bool | None] = None,
) -> dict[str, Any]:
    """Decisions, newest first. `next` is what to send as `before` for the following ones; null at the end.

    `model` is the one that answered, `rated` whether people said what they think. A key without the scope `admin` sees
    its own decisions.
    """
    parts: Parts = request.app.state.parts
    key = parts.keyring.allow(request.headers, request.client, "read")
    key_id = None if key.may("admin") else key.id
    wanted = Wanted(model=model, task_type=task_type, method=method, rated=rated, user=user, key_id=key_id)
    found = await parts.database.read(partial(_page, wanted=wanted, limit=limit, before=before))
    return {"decisions": found, "next": found[-1]["id"] if len(found) == limit else None}


def _page(connection: Connection, *, wanted: Wanted, limit: int, before: str | None) -> list[dict[str, Any]]:
    last = None if before is None else position(connection, before)
    if before is not None and last is None:
        raise BadRequest(
            f"No decision has the id `{before[:80]}`; expected `next` of the page before, or nothing for the newest.",
            param="before",
        )
    return newest(connection, wanted, limit, last)
