"""How the budgets of policies are kept: GET /v1/budgets."""

import time
from typing import Any

from litestar import Request, get

from service.parts import Parts


@get("/v1/budgets", tags=["owner"], summary="How budgets are kept")
async def budgets(request: Request[Any, Any, Any]) -> dict[str, Any]:
    """By policy and kind of budget: spent and granted so far over all replicas, the debt, and the price of now.

    A budget of `money` is in USD, one of `late` in late replies. One per day counts from midnight UTC, and what was
    granted is what the day so far allows. The debt is in budgets of one request, the price in quality points.
    """
    parts: Parts = request.app.state.parts
    parts.keyring.allow(request.headers, request.client, "read")
    return {"budgets": [standing._asdict() for standing in parts.budgets.standings(parts.setup, time.time())]}
