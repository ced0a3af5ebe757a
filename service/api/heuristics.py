"""What the quality heuristics are worth: GET /v1/heuristics, and POST /v1/heuristics/refit."""

import time
from typing import Any

from litestar import Request, get, post

from service.parts import Parts
from service.quality.refit import Report, refit, report


@get("/v1/heuristics", tags=["owner"], summary="What the heuristics are worth")
async def heuristics(request: Request[Any, Any, Any]) -> Report:
    """How often each fired, how well their readings agree with labels on each task type, and the weights in force.

    Also how good people say each model's replies are: by labels, with readings, by those who were asked, and what
    length has to do with it. What is told of the newest replies stood so at `counted_at`; with thousands of them it is
    added up at most once a minute, while somebody looks.
    """
    parts: Parts = request.app.state.parts
    parts.keyring.allow(request.headers, request.client, "read")
    return await report(parts, time.time())


@post("/v1/heuristics/refit", status_code=200, tags=["owner"], summary="Learn the heuristics' weights again")
async def refit_heuristics(request: Request[Any, Any, Any]) -> dict[str, Any]:
    """Learn the weights from the newest 20,000 labelled calls now, rather than within the hour."""
    parts: Parts = request.app.state.parts
    parts.keyring.allow(request.headers, request.client, "admin")
    before = parts.reader.weights(parts.setup.settings.quality).version
    weights = await refit(parts, time.time())
    return {
        "version": weights.version,
        "before": before,
        "labelled_calls": weights.labelled,
        "effects": weights.effects,
    }
