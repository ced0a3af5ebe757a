"""The owner's switches through the whole service: freeze, reset, rollback, kill switch; who may, and who is told."""

import asyncio

import aiohttp
import pytest

from bandit.posteriors import Estimate, Evidence
from bandit.vocabulary import PROMPT_TIERS, TASK_TYPES
from service.auth import key_row, new_key, new_secret
from service.learning.control_actions import Asked, store_control
from service.learning.controls import Control, Saved, insert_control
from service.settings import Ceiling, Quality, Safety
from service.storage import store
from service.storage.database import Database
from tests.api.asking import ask


@pytest.fixture
async def http(run):
    """A client of a service that learns of feedback alone: what replies are read as comes whenever it comes."""
    service = run(quality=Quality(enabled=False))
    async with aiohttp.ClientSession(service.url) as session:
        yield session


@pytest.fixture
async def keyed(run, database_url):
    """A service with ceilings, and its keys by name."""
    keys = {name: new_secret() for name in ("read", "admin", "chat")}
    database = Database(database_url)
    for name, secret in keys.items():
        row = key_row(new_key(secret, name, [name], 1.0))
        await database.write(lambda connection, row=row: store.insert_key(connection, row))
    await database.close()
    tags, by_key = {"team=billing": Ceiling(max_explore=0.05)}, {"chat": Ceiling(max_explore=0.2)}
    service = run(safety=Safety(max_explore=0.5, tags=tags, keys=by_key))
    async with aiohttp.ClientSession(service.url) as http:
        yield http, {name: {"authorization": f"Bearer {secret}"} for name, secret in keys.items()}


async def switch(http, status=200, headers=None, **said):
    """Tell a control."""
    async with http.post("/v1/controls", json=said, headers=headers) as reply:
        assert reply.status == status, await reply.text()
        return await reply.json()


async def get(http, path, **params):
    async with http.get(path, params=params) as reply:
        return await reply.json()


async def rate(http, value, times=1, **more):
    """Ask one model, and rate its replies."""
    for _ in range(times):
        reply = await ask(http, **more)
        async with http.post("/feedback", json={"decision_id": reply["id"], "value": value}) as answer:
            assert answer.status == 200
    return reply


async def betas(http, policy="pooled_thompson"):
    found = (await get(http, "/v1/posteriors", policy=policy, tier="simple"))["cells"]
    return {(cell["task_type"], cell["model"]): (cell["alpha"], cell["beta"], cell["n"]) for cell in found}


async def eventually(found, wanted):
    """What other replicas and background work do within seconds."""
    for _ in range(200):
        if await found() == wanted:
            return
        await asyncio.sleep(0.05)
    assert await found() == wanted


async def explained(http, reply):
    return await get(http, f"/v1/decisions/{reply['id']}")


@pytest.mark.parametrize("policy", ["pooled_thompson", "thompson"])
async def test_a_frozen_posterior_stays_while_feedback_is_recorded(http, policy):
    task = (await rate(http, True, model="small"))["routing"]["task_type"]
    before = await betas(http, policy)
    frozen = await switch(http, action="freeze", model="small", note="audit")
    assert {cell["model"] for cell in frozen["held"]} == {"small"}
    assert len(frozen["held"]) == 12
    await rate(http, False, times=5, model="small")
    after = await betas(http, policy)
    assert after[task, "small"] == pytest.approx(before[task, "small"], abs=1e-9)
    decided = await ask(http, model=f"auto:{policy}")
    assert (await explained(http, decided))["repeated"]["same"] is True
    await switch(http, action="unfreeze")
    free = await betas(http, policy)
    assert free[task, "small"][2] == 6.0  # what came meanwhile was recorded
    assert free[task, "small"][0] / sum(free[task, "small"][:2]) < before[task, "small"][0] / sum(
        before[task, "small"][:2]
    )


async def test_a_reset_lets_what_was_learned_count_no_more(http):
    prior = await betas(http, "thompson")
    task = (await rate(http, False, times=6, model="small"))["routing"]["task_type"]
    await rate(http, False, times=2, model="large")
    await switch(http, action="reset", model="small", task_type=task)
    found = await betas(http, "thompson")
    assert found[task, "small"] == pytest.approx(prior[task, "small"])
    assert found[task, "large"][2] == 2.0
    await rate(http, True, times=3, model="small")
    assert (await betas(http, "thompson"))[task, "small"][2] == 3.0


async def test_a_reset_reaches_the_fitted_policies(http):
    prior = await betas(http)
    task = (await rate(http, False, times=6, model="small"))["routing"]["task_type"]
    learned = await betas(http)
    assert learned[task, "small"][:2] != pytest.approx(prior[task, "small"][:2], rel=1e-3)
    await switch(http, action="reset")

    async def mean():
        alpha, beta, _ = (await betas(http))[task, "small"]
        return round(alpha / (alpha + beta), 3)

    alpha, beta, _ = prior[task, "small"]
    await eventually(mean, round(alpha / (alpha + beta), 3))


@pytest.mark.parametrize("by", ["time", "version"])
async def test_a_rollback_serves_what_a_decision_was_taken_on(http, by):
    first = await ask(http, model="auto:pooled_thompson")
    told = await explained(http, first)
    task, tier = told["profile"]["task_type"], told["profile"]["tier"]
    before = (await get(http, "/v1/posteriors", policy="pooled_thompson", task_type=task, tier=tier))["cells"]
    await rate(http, False, times=6, model="large")
    await betas(http)  # fits again
    to = told["choice"]["beliefs_version"] if by == "version" else str(told["created_at"])
    done = await switch(http, action="rollback", to=to, task_type=task)
    assert {cell["model"] for cell in done["held"]} == {"small", "medium", "large"}
    again = await ask(http, model="auto:pooled_thompson")
    assert (await explained(http, again))["choice"]["probabilities"] == told["choice"]["probabilities"]
    assert (await explained(http, again))["repeated"]["same"] is True
    cells = (await get(http, "/v1/posteriors", policy="pooled_thompson", task_type=task, tier=tier))["cells"]
    assert [cell["mean"] for cell in cells] == pytest.approx([cell["mean"] for cell in before])


async def test_there_is_nothing_to_return_to_before_the_first_decision(http):
    refused = await switch(http, 404, action="rollback", to="2020-01-01")
    assert "No decision up to 2020-01-01" in refused["error"]["message"]
    assert (await switch(http, 404, action="rollback", to="0" * 32))["error"]["param"] == "to"
    assert (await switch(http, 422, action="rollback", to="some day"))["error"]["param"] == "to"


async def test_the_kill_switch_hands_over_to_the_safe_policy_and_back(http):
    assert (await get(http, "/ready"))["kill_switch"] is False
    await switch(http, action="off", note="incident 42")
    ready = await get(http, "/ready")
    assert (ready["status"], ready["kill_switch"]) == ("ready", True)
    for model in ("auto", "auto:random"):
        reply = await rate(http, True, model=model)
        assert (reply["routing"]["method"], reply["routing"]["policy"]) == ("kill_switch", "static_tier")
        told = await explained(http, reply)
        assert told["choice"]["propensity"] == 1.0
        assert told["repeated"]["same"] is True
    assert sum(n for _, _, n in (await betas(http)).values()) == 2.0  # learning went on
    assert (await ask(http, model="small"))["routing"]["method"] == "user_specified"
    async with http.get("/metrics") as answer:
        assert 'armwise_controls{what="kill_switch"} 1.0' in await answer.text()
    await switch(http, action="on")
    assert (await ask(http))["routing"]["method"] == "auto"


async def test_the_baseline_of_the_settings_serves_instead(run):
    service = run(safety=Safety(baseline="medium"))
    async with aiohttp.ClientSession(service.url) as http:
        await switch(http, action="off")
        reply = await ask(http)
        assert (reply["routing"]["model"], reply["routing"]["method"]) == ("medium", "kill_switch")
        assert (await explained(http, reply))["repeated"]["same"] is True


async def test_every_replica_follows_and_a_restart_forgets_nothing(run):
    first, second = run(), run()
    async with aiohttp.ClientSession(first.url) as here, aiohttp.ClientSession(second.url) as there:
        await switch(here, action="off")
        await switch(here, action="freeze", model="large", task_type="Rewrite")

        async def followed():
            return (await get(there, "/ready"))["kill_switch"]

        await eventually(followed, True)
        assert (await ask(there))["routing"]["method"] == "kill_switch"
        held = (await get(there, "/v1/controls"))["held"]
        assert [(cell["task_type"], cell["model"]) for cell in held] == [("Rewrite", "large")]
    second.__exit__(None, None, None)
    third = run()
    async with aiohttp.ClientSession(third.url) as http:
        assert (await ask(http))["routing"]["method"] == "kill_switch"
        found = await get(http, "/v1/controls")
        assert found["off"] is True
        assert [row["action"] for row in found["controls"]] == ["freeze", "off"]


async def test_rows_that_cannot_be_read_stop_neither_the_start_nor_a_chat(run, database_url):
    database = Database(database_url)
    spoilt = [
        "",
        "[]",
        '{"estimates": {"pooled_thompson": {"Nothing": {}}}}',
        '{"evidence": {"Open QA": {"small": [1e999]}}}',
    ]
    for content in spoilt:
        row = Control(at=1.0, action="freeze", content=content)
        await database.write(lambda connection, row=row: insert_control(connection, row))
    huge = {"small": Estimate(100.0, 0.0), "medium": Estimate(-100.0, 100.0), "gone": Estimate(0.5, 0.1)}
    tasks = {task: dict.fromkeys(PROMPT_TIERS, huge) for task in TASK_TYPES}
    saved = Saved(
        estimates={"pooled_thompson": tasks}, evidence={task: {"small": Evidence(0.0, 1e15)} for task in TASK_TYPES}
    )
    asked = Asked(action="rollback", to="x")
    await database.write(lambda connection: store_control(connection, asked, saved, "me", 2.0))
    await database.close()
    service = run()
    async with aiohttp.ClientSession(service.url) as http:
        for policy in ("pooled_thompson", "thompson"):
            reply = await ask(http, model=f"auto:{policy}")
            assert reply["routing"]["method"] in {"auto", "static_fallback"}
            assert (await explained(http, reply))["repeated"]["same"] is True
        async with http.get("/metrics") as answer:
            assert 'armwise_learner_errors_total{place="controls"} 1.0' in await answer.text()
        await switch(http, action="unfreeze")
        assert (await ask(http))["routing"]["method"] == "auto"


async def test_only_an_admin_may_switch_and_is_written_down(keyed):
    http, keys = keyed
    refused = await switch(http, 403, keys["read"], action="off")
    assert refused["error"]["code"] == "insufficient_permissions"
    await switch(http, 200, keys["admin"], action="off", note="incident 42")
    async with http.get("/v1/controls", headers=keys["read"]) as answer:
        (row,) = (await answer.json())["controls"]
    assert (row["who"], row["action"], row["note"]) == ("admin", "off", "incident 42")
    assert "content" not in row


async def test_ceilings_hold_by_key_tag_and_task_type(keyed):
    http, keys = keyed

    async def likeliest(router=None):
        body = {"model": "auto:random", "messages": [{"role": "user", "content": "Hi"}], "router": router or {}}
        async with http.post("/v1/route", json=body, headers=keys["chat"]) as answer:
            return max((await answer.json())["eligible"].values())

    assert await likeliest() == pytest.approx(0.8)  # by the key
    assert await likeliest({"tags": {"team": "billing"}}) == pytest.approx(0.95)  # the smallest holds
    assert await likeliest({"explore": False}) == 1.0
