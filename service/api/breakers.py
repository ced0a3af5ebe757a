"""The circuit breakers of the process that answers: GET /v1/breakers."""

import time
from typing import Any

from litestar import Request, get

from service.parts import Parts


@get("/v1/breakers", tags=["owner"], summary="Which models get no calls because their provider fails")
async def breakers(request: Request[Any, Any, Any]) -> dict[str, Any]:
    """Each model's breaker in the process that answers: its state, since when, why, and when a trial may be made.

    Other workers and replicas have their own; the metric `armwise_breaker_state` tells of all workers of an instance.
    `POST /v1/controls` with the action `close_breaker` closes one everywhere.
    """
    parts: Parts = request.app.state.parts
    parts.keyring.allow(request.headers, request.client, "read")
    return {"enabled": parts.setup.settings.breakers.enabled, "breakers": parts.breakers.told(time.time())}
