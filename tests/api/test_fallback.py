"""When a model fails before its first token the next of the plan answers; after it, the client is told."""

import aiohttp
import pytest

from service.settings import Routing, SimulatedModel

MESSAGES = [{"role": "user", "content": "Tell me a story."}]
FAILURES = ["connection", "timeout", "rate_limited", "server_error", "malformed"]


def body(fail, only, **more):
    return {"messages": MESSAGES, "simulate": {"fail": fail, "only": only}, **more}


async def explained(http, decision_id):
    async with http.get(f"/v1/decisions/{decision_id}") as reply:
        assert reply.status == 200
        return await reply.json()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("failure", FAILURES)
async def test_the_next_model_answers_and_is_credited(service, failure, stream):
    async with aiohttp.ClientSession(service.url) as http:
        for _ in range(30):
            async with http.post("/v1/chat/completions", json=body(failure, ["large"], stream=stream)) as reply:
                await reply.read()
                assert reply.status == 200
                decision_id, model = reply.headers["x-armwise-decision-id"], reply.headers["x-armwise-model"]
                propensity = float(reply.headers["x-armwise-propensity"])
            assert model != "large"
            await give(http, decision_id)
            told = await explained(http, decision_id)
            if told["choice"]["arm"] == "large":
                break
        else:
            pytest.fail("the failing model was never drawn")
        assert told["served_arm"] == model
        assert told["choice"]["propensity"] == propensity == told["choice"]["probabilities"][2]
        thumbs = [reward for reward in told["rewards"] if reward["source"] == "user"]
        assert [reward["arm"] for reward in thumbs] == [model]


async def give(http, decision_id):
    async with http.post("/feedback", json={"decision_id": decision_id, "value": True}) as reply:
        assert reply.status == 200


async def test_attempts_are_stored_and_the_failing_arm_gets_a_failure(service):
    async with aiohttp.ClientSession(service.url) as http:
        request = body("server_error", ["large", "medium"])
        request["router"] = {"allow": ["medium", "large", "small"]}
        for _ in range(30):
            async with http.post("/v1/chat/completions", json=request) as reply:
                assert reply.status == 200
                told = (await reply.json())["routing"]
            if told.get("failed"):
                break
        stored = await explained(http, told["decision_id"])
        while len(stored["attempts"]) <= len(told["failed"]):  # what follows the reply is still under way
            stored = await explained(http, told["decision_id"])
    outcomes = {attempt["arm"]: attempt["outcome"] for attempt in stored["attempts"]}
    assert outcomes == {**told["failed"], "small": "ok"}
    failed = {reward["arm"] for reward in stored["rewards"] if reward["channel"] == "failure"}
    assert failed == set(told["failed"])


async def test_a_named_model_has_no_fallback(service):
    async with (
        aiohttp.ClientSession(service.url) as http,
        http.post("/v1/chat/completions", json=body("rate_limited", ["small"], model="small")) as reply,
    ):
        assert reply.status == 429


async def test_no_more_models_are_tried_than_the_setting_says(run):
    models = tuple(SimulatedModel(name=f"m{i}") for i in range(5))
    service = run(models=models, routing=Routing(fallbacks=1))
    async with aiohttp.ClientSession(service.url) as http:
        request = body("server_error", [model.name for model in models])
        async with http.post("/v1/chat/completions", json=request) as reply:
            assert reply.status >= 500
            assert "error" in await reply.json()
        stats = {"attempts": 0}
        while stats["attempts"] < 2:  # what follows the reply is still under way
            async with http.get("/stats") as reply:
                stats = await reply.json()
    assert (stats["attempts"], stats["failed_attempts"]) == (2, 2)


async def test_after_the_first_token_the_client_gets_an_error_event(service):
    request = body("cut", ["small", "medium", "large"], stream=True)
    async with (
        aiohttp.ClientSession(service.url) as http,
        http.post("/v1/chat/completions", json=request) as reply,
    ):
        text = (await reply.read()).decode()
    assert reply.status == 200
    assert '"error"' in text.strip().splitlines()[-1]
    assert "[DONE]" not in text
