"""Readings through the whole service: stored with each reply, calibrated by labels, told to the owner."""

import asyncio
import time

import aiohttp
import pytest

from service.auth import key_row, new_key, new_secret
from service.decide import is_asked, new_id
from service.learning import calibrations
from service.settings import HeuristicSetting, Quality, Rewards
from service.storage import store
from service.storage.database import Database
from tests.api.asking import MESSAGES, ask


@pytest.fixture
async def database(service):
    """The service's database, through a connection of the test's own."""
    found = Database(service.settings.database.url)
    yield found
    await found.close()


async def give(http, decision_id, value, **more):
    async with http.post("/feedback", json={"decision_id": decision_id, "value": value, **more}) as reply:
        assert reply.status == 200, await reply.text()
        return await reply.json()


async def told(http):
    async with http.get("/v1/heuristics") as reply:
        assert reply.status == 200, await reply.text()
        return await reply.json()


async def answers(http, method, path, secret, status):
    """Whether this key is answered so within ten seconds: the service must first have read it."""
    for _ in range(200):
        async with http.request(method, path, headers={"authorization": f"Bearer {secret}"}) as reply:
            if reply.status == status:
                return True
        await asyncio.sleep(0.05)
    return False


async def rewards(http, decision_id):
    """The rewards of a decision, once the heuristics have read its reply."""
    for _ in range(200):
        async with http.get(f"/v1/decisions/{decision_id}") as reply:
            found = (await reply.json())["rewards"]
        if any(reward["source"] == "heuristics" for reward in found):
            return {(reward["metric"], reward["source"]): reward for reward in found}
        await asyncio.sleep(0.05)
    return pytest.fail("the reply was not examined")


async def test_each_examined_reply_has_a_reading_by_the_weights_in_force(http):
    reply = await ask(http)
    found = (await rewards(http, reply["id"]))["reading", "heuristics"]
    assert found["value"] == pytest.approx(0.731, abs=0.001)
    assert (found["weight"], found["channel"], found["arm"]) == (1.0, "reading", reply["routing"]["model"])
    assert (await told(http))["weights_version"] in found["detail"]


async def test_a_hard_failure_is_a_label_and_no_reading(http):
    reply = await ask(http, response_format={"type": "json_object"}, simulate={"reply": "no JSON"})
    found = await rewards(http, reply["id"])
    assert found["quality", "heuristics"]["channel"] == "failure"
    assert ("reading", "heuristics") not in found


async def test_readings_are_no_evidence_for_policies_that_cannot_weigh_them(http):
    reply = await ask(http)
    await rewards(http, reply["id"])
    await asyncio.sleep(0.6)  # snapshots are that old at most
    async with http.get("/v1/posteriors", params={"task_type": reply["routing"]["task_type"]}) as answer:
        cells = (await answer.json())["cells"]
    assert sum(cell["n"] + cell["n_heuristic"] for cell in cells) == pytest.approx(0.05)


async def test_labels_calibrate_and_a_refit_teaches_the_weights(http, service, database):
    refused = {"reply": "I'm sorry, but I cannot help with that."}
    for number in range(12):
        bad = number % 3 == 0
        reply = await ask(http, simulate=refused if bad else {"quality": 1.0})
        await rewards(http, reply["id"])
        await give(http, reply["id"], "down" if bad else "up")
    before = await told(http)
    [everybody, own] = before["accuracy"]
    assert (everybody["labelled_calls"], own["labelled_calls"], own["calibration"]) == (12, 12, "everybody")
    assert everybody["j"] > 0.3  # where it starts
    fired = {row["name"]: row for row in before["heuristics"]}
    assert (fired["refusal"]["fired"], fired["refusal"]["share"]) == (4, pytest.approx(1 / 3))
    assert fired["empty"]["kind"] == "hard"
    assert (before["weights_learned_from"], fired["refusal"]["effect"]) == (0, 2.0)

    async with http.post("/v1/heuristics/refit") as answer:
        fitted = await answer.json()
    assert fitted["labelled_calls"] == 12
    assert fitted["effects"]["refusal"] > 2.0
    after = await told(http)
    assert after["weights_version"] == fitted["version"] != fitted["before"] == before["weights_version"]
    assert await database.read(calibrations.newest_weights) == service.parts.reader.learned
    reply = await ask(http, simulate=refused)
    assert fitted["version"] in (await rewards(http, reply["id"]))["reading", "heuristics"]["detail"]


async def test_a_refit_without_labels_keeps_the_weights_of_the_settings(run):
    service = run(quality=Quality(heuristics={"refusal": HeuristicSetting(weight=0.2)}))
    async with aiohttp.ClientSession(service.url) as http:
        async with http.post("/v1/heuristics/refit") as answer:
            fitted = await answer.json()
        assert (fitted["labelled_calls"], fitted["effects"]["refusal"]) == (0, 1.0)
        report = await told(http)
        assert (report["replies"], report["label_rates"], report["label_rate_alarms"]) == (0, [], [])


@pytest.mark.parametrize(("method", "path", "scope"), [
    ("GET", "/v1/heuristics", "read"),
    ("POST", "/v1/heuristics/refit", "admin"),
])  # fmt: skip
async def test_only_the_owner_may_look_and_refit(http, database, method, path, scope):
    for scopes, status in ((("chat", "feedback"), 403), ((scope,), 200)):
        secret = new_secret()
        key = key_row(new_key(secret, "test", scopes, time.time()))
        await database.write(lambda connection, row=key: store.insert_key(connection, row))
        assert await answers(http, method, path, secret, status)


async def test_one_user_weighs_five_labels_a_day_for_a_model(http, database):
    for number in range(8):
        reply = await ask(
            http, model="small", messages=[{"role": "user", "content": f"{MESSAGES[0]['content']} {number}"}]
        )
        await give(http, reply["id"], "down", user="ann")
        await give(http, reply["id"], "up")
    cells = await database.read(store.cells_from_hour, 0)
    labels = [counts for cell, counts in cells.items() if cell.channel == "thumb"]
    assert (sum(c.n for c in labels), sum(c.s for c in labels)) == (13_000_000, 8_000_000)
    assert await database.read(store.compare_fold) == {}


async def test_label_rates_of_models_ring(http):
    async with http.get("/metrics") as answer:
        assert 'armwise_label_rate_alarm{model="small"} 1.0' not in await answer.text()
    for number in range(60):
        reply = await ask(http, model="small" if number % 2 else "large")
        await rewards(http, reply["id"])
        if number % 2:
            await give(http, reply["id"], "up")
    report = await told(http)
    assert {row["model"]: row["labelled"] for row in report["label_rates"]} == {"large": 0, "small": 30}
    assert report["label_rate_alarms"] == ["large", "small"]
    async with http.get("/metrics") as answer:
        text = await answer.text()
    assert 'armwise_label_rate_alarm{model="small"} 1.0' in text
    assert 'armwise_label_rate_alarm{model="medium"} 0.0' in text


async def test_quality_and_length_of_each_models_replies_are_told(http):
    for number in range(6):
        reply = await ask(http, model="small", simulate={"reply": "four words or so " * (1 + number)})
        await rewards(http, reply["id"])
        if number < 4:
            await give(http, reply["id"], "up" if number > 1 else "down", source="asked" if number == 3 else "user")
    [small] = (await told(http))["quality"]
    assert (small["model"], small["replies"]) == ("small", 6)
    assert (small["by_labels"]["replies"], small["by_labels"]["mean"]) == (4, 0.5)
    assert small["by_asked"] == {"replies": 1, "mean": 1.0, "standard_error": None}
    assert small["with_readings"]["mean"] == pytest.approx(0.5)  # all read alike: readings have nothing to add
    assert small["lengths"]["rated_good"] > small["lengths"]["rated_bad"]
    assert small["lengths"]["correlation"] > 0.5
    assert small["at_equal_length"] is None


async def test_a_random_share_of_users_is_to_be_asked(run):
    service = run(rewards=Rewards(ask_share=1.0))
    async with aiohttp.ClientSession(service.url) as http:
        body = {"messages": MESSAGES, "stream": True}
        for changed in ({}, {"stream": False}):
            async with http.post("/v1/chat/completions", json={**body, **changed}) as reply:
                assert reply.headers["x-armwise-ask-feedback"] == "1"
                decision_id = reply.headers["x-armwise-decision-id"]
                await reply.read()
            async with http.get(f"/v1/decisions/{decision_id}") as answer:
                assert (await answer.json())["ask_feedback"] is True


async def test_nobody_is_asked_by_default(http):
    async with http.post("/v1/chat/completions", json={"messages": MESSAGES}) as reply:
        assert "x-armwise-ask-feedback" not in reply.headers


def test_the_share_that_is_asked_is_the_one_set():
    ids = [new_id(1_800_000_000.0 + number) for number in range(20_000)]
    asked = sum(is_asked(one, 0.1) for one in ids)
    assert abs(asked - 2_000) < 5 * (20_000 * 0.1 * 0.9) ** 0.5  # fails by chance once in a million
    assert not any(is_asked(one, 0.0) for one in ids)
