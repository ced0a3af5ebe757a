"""GET /v1/models and POST /v1/route: what may be asked for, and what would be chosen."""

from typing import Any

from litestar import Request, get, post
from litestar.params import FromPath

from bandit.costs import expected_cost
from service.api.bodies import ChatOperation, decoded_chat
from service.api.chat import routing_of
from service.errors import NotFound
from service.parts import Parts


@get("/v1/models", tags=["chat"], summary="Models that may be named")
async def list_models(request: Request[Any, Any, Any]) -> dict[str, Any]:
    """The configured models, and `auto` with every policy."""
    parts: Parts = request.app.state.parts
    parts.keyring.allow(request.headers, request.client, "chat")
    setup = parts.setup
    created = int(parts.started_at)
    names = ["auto", *(f"auto:{policy}" for policy in setup.policies), *setup.models]
    entries = [{"id": name, "object": "model", "created": created, "owned_by": "armwise"} for name in names]
    for entry in entries:
        model = setup.models.get(str(entry["id"]))
        if model is not None:
            entry["tier"] = model.tier
    return {"object": "list", "data": entries}


@get("/v1/models/{name:path}", tags=["chat"], summary="One model")
async def get_model(request: Request[Any, Any, Any], name: FromPath[str]) -> dict[str, Any]:
    """One entry of the list."""
    listed = await list_models.fn(request)
    wanted = name.lstrip("/")
    for entry in listed["data"]:
        if entry["id"] == wanted:
            return dict(entry)
    raise NotFound(f"The model `{wanted[:128]}` does not exist.", param="model", code="model_not_found")


@post("/v1/route", status_code=200, operation_class=ChatOperation, tags=["chat"], summary="Decide without calling")
async def route(request: Request[Any, Any, Any]) -> dict[str, Any]:
    """What would be decided for this chat request: nothing is called and nothing is stored."""
    parts: Parts = request.app.state.parts
    key = parts.keyring.allow(request.headers, request.client, "chat")
    chat, _ = await decoded_chat(await request.body())
    setup = parts.setup
    decision = await parts.decide(setup, chat, key.id)
    answer = routing_of(decision)
    del answer["decision_id"]  # it is not stored, so feedback could not find it
    costs = {arm.name: expected_cost(arm, decision.profile) for arm in setup.arms if arm.name in decision.choice.arms}
    return {**answer, "expected_cost_usd": costs, "prompt_tokens": decision.profile.prompt_tokens}
