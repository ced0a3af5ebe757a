"""What the owner's pages ask: traffic over time, and decisions that are looked for, over HTTP."""

import asyncio
import time
from collections import Counter

import aiohttp
import pytest

from service.auth import key_row, new_key, new_secret
from service.settings import OpenAICompatibleModel, SimulatedModel
from service.storage import store
from service.storage.database import Database
from service.traffic.sums_of_log import missing
from tests.api.asking import MESSAGES, ask


async def get(http, path, **params):
    async with http.get(path, params=params) as reply:
        assert reply.status == 200, await reply.text()
        return await reply.json()


async def settled(http, calls):
    """Traffic of the last hours, when what follows the replies is stored."""
    deadline = time.monotonic() + 30
    while (await get(http, "/stats"))["attempts"] < calls:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    return await get(http, "/v1/traffic")


def summed(traffic, name):
    return sum(model[name] for point in traffic["points"] for model in point["models"].values())


async def test_traffic_over_a_day(service, http):
    models = []
    for number in range(6):
        reply = await ask(http)
        models.append(reply["routing"]["model"])
        for value in (number % 2 == 0, number % 3 == 0):  # the second word replaces the first
            async with http.post("/feedback", json={"decision_id": reply["id"], "value": value, "user": "a"}) as answer:
                assert answer.status == 200
    found = await settled(http, 6)
    assert found["step_s"] == 3600
    assert len(found["points"]) == 25
    assert found["points"][0]["at"] == found["since"]
    assert found["points"][-1]["at"] <= found["until"] < found["points"][-1]["at"] + 3600 + 60
    assert {model for point in found["points"] for model in point["models"]} == set(models)
    assert (summed(found, "decisions"), summed(found, "ratings"), summed(found, "failures")) == (6, 6, 0)
    models_told = [model for point in found["points"] for model in point["models"].values()]
    said = sum(model["mean_rating"] * model["ratings"] for model in models_told)
    assert said == pytest.approx(2.0)
    assert {model: told["decisions"] for model, told in found["models"].items()} == Counter(models)
    without = await get(http, "/v1/traffic", latency="false")
    assert without["models"] == found["models"]
    for point, quick in zip(found["points"], without["points"], strict=True):
        left = {"p50_s", "p95_s"}
        assert quick["models"] == {
            model: {name: value for name, value in told.items() if name not in left}
            for model, told in point["models"].items()
        }
    assert sum(told["calls"] for told in found["models"].values()) == summed(found, "calls") == 6
    assert all(0.0 <= told["mean_lag_s"] < 60.0 for told in found["models"].values())
    stats = await get(http, "/stats")
    assert (await get(http, "/stats", days="1e300"))["calls"] == 6
    assert summed(found, "cost_usd") == pytest.approx(stats["cost_usd"])
    assert all(0.0 < model["p50_s"] <= model["p95_s"] < 30.0 for model in models_told)
    week = await get(http, "/v1/traffic", since="4w", step="86400")
    assert len(week["points"]) in (28, 29)
    assert summed(week, "decisions") == 6
    assert summed(await get(http, "/v1/traffic", task_type="Rewrite"), "decisions") == 0
    database = Database(service.settings.database.url)
    assert await database.read(missing, 0.0) == {}
    await database.close()


async def test_a_fallback_counts_for_who_answered_and_the_failure_for_who_failed(run, free_port):
    dead = OpenAICompatibleModel(
        name="dead", tier="small", base_url=f"http://127.0.0.1:{free_port}/v1", api_key_env="", price_in=0, price_out=0
    )
    service = run(models=(dead, SimulatedModel(name="alive", tier="large")))
    async with aiohttp.ClientSession(service.url) as http:
        for _ in range(13):
            await ask(http, model="auto:random")
        listed = (await get(http, "/v1/decisions", model="alive"))["decisions"]
        fallbacks = sum(one["drawn"] == "dead" for one in listed)
        traffic = await settled(http, 13 + fallbacks)
        assert (await get(http, "/stats"))["distribution"]["model"] == {"alive": 13}
    (point,) = [point["models"] for point in traffic["points"] if point["models"]]
    assert fallbacks > 0  # never drawn in 13 tries: one in 8,000
    assert point["alive"]["fallbacks"] == fallbacks
    assert point["alive"]["failures"] == 0
    assert point["dead"]["decisions"] == 0
    assert point["dead"]["failures"] == fallbacks
    assert point["dead"]["p50_s"] is None
    whole = traffic["models"]
    assert {model: (told["calls"], told["failures"]) for model, told in whole.items()} == {
        "alive": (13, 0),
        "dead": (fallbacks, fallbacks),
    }


async def test_a_name_that_a_site_points_here_opens_nothing(service, http):
    """DNS rebinding: to the browser the page of `site.example` and we are the same site."""
    for headers in (
        {"host": f"site.example:{service.port}", "sec-fetch-site": "same-origin"},
        {"origin": "http://site.example"},
    ):
        for method, path in (("GET", "/v1/decisions"), ("POST", "/v1/controls"), ("POST", "/v1/chat/completions")):
            async with http.request(method, path, headers=headers, json={"action": "off"}) as reply:
                assert reply.status == 403
                assert "armwise key create" in (await reply.json())["error"]["message"]
    assert (await get(http, "/v1/controls"))["off"] is False


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("since=yesterday", "since"),
        ("since=0h", "since"),
        ("since=99999999h", "since"),
        ("step=60", "step"),
        ("step=5400", "step"),
        ("step=-3600", "step"),
        ("step=3600000000000000", "step"),
        ("since=90d&step=3600", "step"),
        ("since=201h&step=3600", "step"),
    ],
)
async def test_traffic_that_cannot_be_told_is_a_clear_400(http, query, param):
    async with http.get(f"/v1/traffic?{query}") as reply:
        assert reply.status == 400
        error = (await reply.json())["error"]
    assert error["param"] == param
    assert "expected" in error["message"]


async def listed(http, **params):
    """The ids of all pages."""
    ids, before = [], {}
    while True:
        page = await get(http, "/v1/decisions", **params, **before)
        ids += [one["id"] for one in page["decisions"]]
        if page["next"] is None:
            return ids
        before = {"before": page["next"]}


async def test_decisions_are_listed_page_by_page(http):
    asked = [(await ask(http))["id"] for _ in range(7)]
    for limit in (1, 3, 7, 50):
        assert await listed(http, limit=limit) == asked[::-1]
    (one,) = (await get(http, "/v1/decisions", limit=1))["decisions"]
    told = await get(http, f"/v1/decisions/{one['id']}")
    assert (one["drawn"], one["task_type"]) == (told["choice"]["arm"], told["profile"]["task_type"])
    assert one["propensity"] == told["choice"]["propensity"]
    assert one["explored"] is (one["propensity"] < max(told["choice"]["probabilities"]))


async def test_decisions_are_found_by_what_they_are(http):
    asked = {}
    for number in range(8):
        more = {"model": "small"} if number % 4 == 0 else {}
        reply = await ask(http, user=f"user-{number % 3}", **more)
        asked[reply["id"]] = (number, reply["routing"])
    rated = list(asked)[::3]
    for decision_id in rated:
        async with http.post("/feedback", json={"decision_id": decision_id, "value": True}) as answer:
            assert answer.status == 200

    def those(condition):
        return [one for one in reversed(asked) if condition(*asked[one])]

    for limit in (2, 50):
        for model in ("small", "medium", "large", "nobody"):
            expected = those(lambda _, routing, model=model: routing["model"] == model)
            assert await listed(http, limit=limit, model=model) == expected
        by_user = await listed(http, limit=limit, user="user-1")
        assert by_user == those(lambda number, _: number % 3 == 1)
        by_method = await listed(http, limit=limit, method="user_specified")
        assert by_method == those(lambda number, _: number % 4 == 0)
        assert await listed(http, limit=limit, rated="true") == [one for one in reversed(asked) if one in rated]
        assert await listed(http, limit=limit, rated="false") == [one for one in reversed(asked) if one not in rated]
        both = await listed(http, limit=limit, user="user-0", method="user_specified", rated="true")
        assert both == those(lambda number, _: number % 12 == 0)
        task_type = next(iter(asked.values()))[1]["task_type"]
        assert await listed(http, limit=limit, task_type=task_type) == list(reversed(asked))


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=201", "before=chatcmpl-none", "rated=perhaps", "task_type=Cooking"]
)
async def test_a_list_that_cannot_be_made_is_a_clear_400(http, query):
    async with http.get(f"/v1/decisions?{query}") as reply:
        assert reply.status == 400
        assert (await reply.json())["error"]["message"]


async def test_a_key_sees_its_own_decisions_and_an_admin_all(service):
    secrets, database = {}, Database(service.settings.database.url)
    for scopes in (("chat", "read"), ("chat", "read"), ("admin",), ("chat",)):
        secret = new_secret()
        key = new_key(secret, "tests", scopes, time.time())
        await database.write(lambda connection, key=key: store.insert_key(connection, key_row(key)))
        secrets[secret] = key
    await database.close()
    deadline = time.monotonic() + 30
    while len(service.parts.keyring._by_digest) < len(secrets):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)

    async def call(method, path, secret, body=None):
        headers = {"authorization": f"Bearer {secret}"}
        async with (
            aiohttp.ClientSession(service.url, headers=headers) as http,
            http.request(method, path, json=body) as reply,
        ):
            return reply.status, await reply.json()

    one, other, admin, chat = secrets
    asked = {}
    for secret in (one, other, one):
        _, reply = await call("POST", "/v1/chat/completions", secret, {"messages": MESSAGES})
        asked.setdefault(secret, []).append(reply["id"])
    for secret, expected in ((one, asked[one]), (other, asked[other])):
        _, found = await call("GET", "/v1/decisions", secret)
        assert [row["id"] for row in found["decisions"]] == expected[::-1]
    assert len((await call("GET", "/v1/decisions", admin))[1]["decisions"]) == 3
    for path in ("/v1/decisions", "/v1/traffic"):
        assert (await call("GET", path, chat))[0] == 403
