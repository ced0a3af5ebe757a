"""Experiments between policies: made, started, paused, stopped, decided, archived; who took which step is kept."""

import asyncio
import time
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgspec
from litestar import Request, get, post
from litestar.openapi.spec import Operation, RequestBody
from litestar.params import FromPath

from service.api.bodies import decoded, example_body
from service.errors import NotFound
from service.experiments.design import Design, check
from service.experiments.following import believed_at_start
from service.experiments.lifecycle import (
    Asked,
    Begun,
    Experiment,
    NextAction,
    Step,
    create,
    current,
    list_steps,
    named,
    public,
    public_step,
    take,
    told,
)
from service.experiments.lifecycle import check as check_step
from service.mistakes import suggestion
from service.parts import Parts

_ACTIONS: dict[str, NextAction] = {
    "start": "start", "pause": "pause", "stop": "stop", "decide": "decide", "archive": "archive",
}  # fmt: skip


@dataclass
class DesignOperation(Operation):
    """Documents the body of a new experiment."""

    request_body: RequestBody | None = field(
        default_factory=lambda: example_body(
            "The design. It never changes: another design is another experiment.",
            {
                "two policies": {
                    "name": "pooling",
                    "variants": [
                        {"name": "control", "policy": "thompson", "share": 0.5},
                        {"name": "pooled", "policy": "pooled_thompson", "share": 0.5},
                    ],
                    "unit": "user",
                    "primary": {"name": "quality", "direction": "up", "margin": 0.0},
                    "guardrails": [{"metric": "failure", "limit": 0.01}],
                    "minimum_s": 604800,
                    "maximum_s": 2419200,
                },
                "some requests only": {
                    "name": "code-tiers",
                    "variants": [
                        {"name": "control", "policy": "static_tier", "share": 0.1},
                        {"name": "rules", "policy": "rules", "share": 0.1},
                    ],
                    "unit": "session",
                    "primary": {"name": "cost_usd", "direction": "down"},
                    "population": {"task_types": ["Code Generation"], "tags": {"team": "search"}},
                    "mode": "shared",
                },
            },
        )
    )


@dataclass
class StepOperation(Operation):
    """Documents the body of a step."""

    request_body: RequestBody | None = field(
        default_factory=lambda: example_body(
            "Why, and for `decide` what: the variant to ship, and whether what was learned is kept.",
            {"any step": {"note": "as planned"}, "decide": {"ship": "pooled", "learning": "merge"}},
        )
    )


@get("/v1/experiments", tags=["experiments"], summary="All experiments")
async def experiments(request: Request[Any, Any, Any]) -> dict[str, Any]:
    """Each with its design and where it stands, newest first; and the permanent holdout."""
    parts: Parts = request.app.state.parts
    parts.keyring.allow(request.headers, request.client, "read")
    await parts.reload_experiments()
    found = sorted(parts.experiments.standing.experiments.values(), key=lambda one: (-one.created_at, one.name))
    return {"experiments": [public(one) for one in found], "holdout": parts.setup.settings.holdout}


@get("/v1/experiments/{name:str}", tags=["experiments"], summary="One experiment and its log")
async def experiment(request: Request[Any, Any, Any], name: FromPath[str]) -> dict[str, Any]:
    """The design, where it stands, and every step with who took it, when and why."""
    parts: Parts = request.app.state.parts
    parts.keyring.allow(request.headers, request.client, "read")
    await parts.reload_experiments()
    one = named(parts.experiments.standing.experiments, name)
    steps = await parts.database.read(list_steps, name)
    return {**public(one), "log": [public_step(step) for step in steps]}


@post(
    "/v1/experiments", status_code=201, operation_class=DesignOperation, tags=["experiments"],
    summary="Make an experiment",
)  # fmt: skip
async def create_experiment(request: Request[Any, Any, Any]) -> dict[str, Any]:
    """Nobody is in it before it is started."""
    parts: Parts = request.app.state.parts
    key = parts.keyring.allow(request.headers, request.client, "admin")
    design: Design = decoded(await request.body(), Design)
    check(design, parts.setup)
    who = key.id or key.name
    done = await parts.writer.call(partial(create, design=design, who=who, at=time.time()))
    return await _after(parts, done)


@post(
    "/v1/experiments/{name:str}/{action:str}", status_code=200, operation_class=StepOperation, tags=["experiments"],
    summary="Start, pause, stop, decide or archive an experiment",
)  # fmt: skip
async def step_experiment(
    request: Request[Any, Any, Any], name: FromPath[str], action: FromPath[str]
) -> dict[str, Any]:
    """Done at once by this process, within a second by all others."""
    parts: Parts = request.app.state.parts
    key = parts.keyring.allow(request.headers, request.client, "admin")
    if action not in _ACTIONS:
        raise NotFound(f"An experiment cannot `{action[:32]}`{suggestion(action, _ACTIONS)}.", code="not_found")
    said: dict[str, msgspec.Raw] = decoded(await request.body() or b"{}", dict[str, msgspec.Raw])
    asked: Asked = decoded(msgspec.json.encode({**said, "action": action}), Asked)
    one = named(await parts.database.read(current), name)
    begun = await _begun(parts, one, asked)
    take_it = partial(take, name=name, asked=asked, begun=begun, who=key.id or key.name, at=time.time())
    return await _after(parts, await parts.writer.call(take_it))


async def _begun(parts: Parts, one: Experiment, asked: Asked) -> Begun:
    """What is believed now, when posteriors are frozen by this step. Refuses what cannot be, before any work."""
    check_step(one, asked)
    if asked.action != "start":
        return Begun()
    check(one.design, parts.setup)  # the settings may be others than when it was made
    if one.design.mode == "frozen":
        await parts.fitting.fresh(parts.setup)
    return await asyncio.to_thread(believed_at_start, one, parts.knowledge)


async def _after(parts: Parts, done: Step) -> dict[str, Any]:
    await parts.reload_experiments()
    one = named(parts.experiments.standing.experiments, done.experiment)
    return {**public(one), "step": public_step(done), "sentence": told(done, one, parts.setup.default_policy.name)}
