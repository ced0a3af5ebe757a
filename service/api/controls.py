"""What the owner switched: learning held, forgotten or rolled back, models out of service, and the kill switch."""

import asyncio
import time
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from litestar import Request, get, post
from litestar.openapi.spec import Operation, RequestBody

from service.api.bodies import decoded, example_body
from service.learning.control_actions import Asked, believed_at, believed_now, check, held_cells, reset, store_control
from service.learning.controls import Saved, list_controls, public
from service.parts import Parts


@dataclass
class ControlOperation(Operation):
    """Documents the body of a control."""

    request_body: RequestBody | None = field(
        default_factory=lambda: example_body(
            "What to do. Without `task_type` it holds for all task types, without `model` for all models.",
            {
                "freeze": {"action": "freeze", "task_type": "Code Generation", "model": "large", "note": "audit"},
                "unfreeze": {"action": "unfreeze"},
                "reset": {"action": "reset", "model": "large", "note": "poisoned feedback"},
                "rollback": {"action": "rollback", "to": "2026-01-31T12:00", "task_type": "Code Generation"},
                "out of service": {"action": "disable", "model": "large", "note": "the provider is down"},
                "in service again": {"action": "enable", "model": "large"},
                "breaker": {"action": "close_breaker", "model": "large", "note": "the key was renewed"},
                "kill switch": {"action": "off", "note": "incident 42"},
                "on again": {"action": "on"},
            },
        )
    )


@get("/v1/controls", tags=["owner"], summary="What the owner switched")
async def controls(request: Request[Any, Any, Any]) -> dict[str, Any]:
    """The kill switch, models out of service, what is held, and everything that was ever switched, newest first."""
    parts: Parts = request.app.state.parts
    parts.keyring.allow(request.headers, request.client, "read")
    await parts.reload_controls()
    rows = await parts.database.read(list_controls)
    in_force = parts.knowledge.controls
    return {
        "off": in_force.off is not None,
        "disabled": sorted(in_force.disabled),
        "held": held_cells(in_force),
        "controls": [public(row) for row in reversed(rows)],
    }


@post(
    "/v1/controls", status_code=200, operation_class=ControlOperation, tags=["owner"],
    summary="Hold, forget or roll back what was learned; switch models, breakers, or all learned decisions, off and on",
)  # fmt: skip
async def tell_control(request: Request[Any, Any, Any]) -> dict[str, Any]:
    """Done at once by this process, within a second by all others, and kept with who did it, when and why."""
    parts: Parts = request.app.state.parts
    key = parts.keyring.allow(request.headers, request.client, "admin")
    asked: Asked = decoded(await request.body(), Asked)
    setup, now, who = parts.setup, time.time(), key.name or key.id
    check(asked, setup, parts.knowledge.controls)
    saved = Saved()
    if asked.action == "freeze":
        await parts.fitting.fresh(setup)
        saved = await asyncio.to_thread(believed_now, asked, setup, parts.knowledge)
    elif asked.action == "rollback":
        saved = await parts.database.read(believed_at, asked, setup)
    if asked.action == "reset":
        row = await parts.writer.call(partial(reset, asked=asked, setup=setup, who=who, at=now))
    else:
        row = await parts.writer.call(partial(store_control, asked=asked, saved=saved, who=who, at=now))
    await parts.reload_controls()
    held = [cell for cell in held_cells(parts.knowledge.controls) if cell["control"] == row.id]
    return {**public(row), "held": held}
