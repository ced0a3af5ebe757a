"""Money through the whole service: budgets of policies and of keys, and the cheapest model that is good enough."""

import asyncio
import statistics
import time

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from bandit.linear import LinearThompson
from bandit.pooled import PooledThompson
from bandit.posteriors import CellKey, Counts
from service.auth import key_row, new_key
from service.money.accounts import NANO, Name
from service.providers import Providers
from service.settings import Budgets, Learning, OpenAICompatibleModel, SimulatedModel
from service.storage import store
from service.storage.database import Database
from tests.api.asking import ask, asked

CHEAP = SimulatedModel(name="cheap", tier="small", price_in=0.1, price_out=0.4)
DEAR = SimulatedModel(name="dear", tier="large", price_in=5.0, price_out=20.0)


def costly(kind=PooledThompson, **settings):
    return kind(name="paced", **settings)


both = pytest.mark.parametrize("kind", [PooledThompson, LinearThompson], ids=["pooled", "linear"])


async def spend(http, count):
    """Ask often; what each reply cost."""
    costs = []
    for _ in range(count):
        async with http.post("/v1/chat/completions", json=QUESTION) as reply:
            assert reply.status == 200
            costs.append(float(reply.headers["x-armwise-cost-usd"]))
    return costs


QUESTION = {"messages": [{"role": "user", "content": "Explain why the sky is blue."}], "simulate": {"quality": 1.0}}


REPLY = {
    "id": "up", "object": "chat.completion", "usage": {"prompt_tokens": 7, "completion_tokens": 9, "total_tokens": 16},
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "It scatters."}, "finish_reason": "stop"}],
}  # fmt: skip


@both
async def test_the_mean_cost_stays_within_the_budget(run, kind):
    # Unpaced, the dear model answers nearly always (its tier promises more); a third of its cost is allowed.
    service = run(models=(CHEAP, DEAR), policies=(costly(kind),))
    async with aiohttp.ClientSession(service.url) as http:
        unpaced = statistics.mean(await spend(http, 60))
    budget = unpaced / 3
    service = run(models=(CHEAP, DEAR), policies=(costly(kind, objective="budget", usd_per_request=budget),))
    async with aiohttp.ClientSession(service.url) as http:
        costs = await spend(http, 400)
        await asyncio.sleep(0.6)
    # The burst is 20 budgets; one call of the dear model is 3 of them.
    assert sum(costs) <= (400 + 20 + 3) * budget
    assert statistics.mean(costs) >= 0.3 * budget  # and it is used
    row = service.parts.budgets._accounts.sums(Name("paced"))
    assert row.requests == 400
    assert row.spent / NANO == pytest.approx(sum(costs), rel=1e-3)


async def test_two_replicas_share_a_budget_and_a_restart_remembers_it(run, database_url):
    policy = costly(objective="budget", usd_per_request=0.001)
    one, two = (run(models=(CHEAP, DEAR), policies=(policy,)) for _ in range(2))
    async with aiohttp.ClientSession(one.url) as first, aiohttp.ClientSession(two.url) as second:
        spent = sum(await spend(first, 30)) + sum(await spend(second, 30))
    await asyncio.sleep(2.0)
    for service in (one, two, run(models=(CHEAP, DEAR), policies=(policy,))):
        _, state = service.parts.budgets.money(policy, time.time())
        assert state.requests == 60
        assert state.spent_usd == pytest.approx(spent, rel=1e-3)


@both
async def test_a_decision_under_a_budget_is_logged_with_its_terms_and_repeats(run, kind):
    policy = costly(kind, objective="budget", usd_per_request=0.0005)
    service = run(models=(CHEAP, DEAR), policies=(policy,))
    async with aiohttp.ClientSession(service.url) as http:
        for _ in range(20):
            reply = await ask(http)
        async with http.get(f"/v1/decisions/{reply['id']}") as answer:
            told = await answer.json()
    assert told["repeated"]["same"] is True
    assert told["choice"]["terms"]["room_usd"] > 0
    assert told["expected_usd"] > 0
    trade = {row["arm"]: row for row in told["trade"]}
    assert trade.keys() == {"cheap", "dear"}
    assert trade["dear"]["cost_usd"] > trade["cheap"]["cost_usd"] > 0
    price = told["choice"]["terms"].get("usd_price", 0.0)
    assert trade["cheap"]["late"] == 0.0
    for row in trade.values():
        assert row["worth"] == pytest.approx(row["quality"] - price * row["cost_usd"])


async def test_the_cheapest_model_that_is_good_enough_serves(run):
    policy = costly(objective="floor", within=0.05, certainty=0.9)
    service = run(models=(CHEAP, DEAR), policies=(policy,))
    hour = int(time.time() // 3600)
    async with aiohttp.ClientSession(service.url) as http:
        first = await ask(http)
        assert first["routing"]["model"] == "dear"  # by its tier; nothing is known of the cheap one
        task, tier = first["routing"]["task_type"], first["routing"]["tier"]
        labels = Counts(400_000_000, 320_000_000, 320_000_000)
        cells = {CellKey("", name, task, tier, hour, "thumb"): labels for name in ("cheap", "dear")}
        service.parts.knowledge.fold(cells)
        await service.parts.fitting.refresh(service.parts.setup)
        models = [(await ask(http))["routing"]["model"] for _ in range(30)]
    # Each draw goes to the other arm with a chance of floor / 2 = .005: more than 3 of 30 with one below 1e-5.
    assert models.count("cheap") >= 27


async def test_a_key_that_spent_its_day_is_told_so(run):
    service = run(models=(DEAR,), policies=(costly(),), budgets=Budgets(usd_per_key_day={"team-a": 0.002}))
    database, now = Database(service.settings.database.url), time.time()  # of this loop
    keys = {name: new_key(f"aw-{name}", name, ["chat"], now) for name in ("team-a", "team-b")}
    for key in keys.values():
        await database.write(lambda connection, key=key: store.insert_key(connection, key_row(key)))
    await database.close()
    await asyncio.sleep(1.3)
    async with aiohttp.ClientSession(service.url, headers={"authorization": "Bearer aw-team-a"}) as http:
        seen = []
        for _ in range(20):
            async with http.post("/v1/chat/completions", json=QUESTION) as reply:
                seen.append((reply.status, reply.headers.get("retry-after"), await reply.json()))
                if reply.status != 200:
                    break
    status, wait, body = seen[-1]
    assert status == 429
    assert 0 < int(wait) <= 86_400
    assert body["error"]["code"] == "budget_spent"
    assert len(seen) > 1
    async with aiohttp.ClientSession(service.url, headers={"authorization": "Bearer aw-team-b"}) as http:
        assert (await asked(http))[0] == 200


@both
async def test_late_replies_are_kept_to_their_share(run, kind):
    # The dear model needs .15 s, the cheap one none; a tenth of the replies may take longer than .1 s. Unlimited, the
    # dear one answers nearly all.
    async def slow(request):
        await asyncio.sleep(0.15)
        return web.json_response(REPLY)

    upstream = web.Application()
    upstream.router.add_post("/v1/chat/completions", slow)
    async with TestServer(upstream) as server:
        slow_model = OpenAICompatibleModel(name="slow", tier="large", base_url=str(server.make_url("/v1")))
        policy = costly(kind, late_after_s=0.1, late_share=0.1)
        service = run(models=(CHEAP, slow_model), policies=(policy,), learning=Learning(fit_every_s=0.2))
        async with aiohttp.ClientSession(service.url) as http:
            for _ in range(20):
                await ask(http)
            database = Database(service.settings.database.url)  # of this loop
            await service.parts.fitting.measure(database, service.parts.setup)
            await database.close()
            await asyncio.sleep(1.0)
            for _ in range(30):
                await ask(http)
            await asyncio.sleep(0.5)
            models = [(await ask(http))["routing"]["model"] for _ in range(60)]
    # The first ones ran into debt, so now hardly any are allowed.
    assert models.count("slow") <= 12
    _, state = service.parts.budgets.lateness(policy)
    assert state.requests == 110
    assert state.spent_usd > 5


class Broken(Providers):
    """Providers with a fault of our own in them."""

    def of(self, model):
        raise RuntimeError("a fault of ours")


async def test_a_request_that_failed_by_our_fault_is_not_remembered_for_ever(run):
    service = run(models=(CHEAP,), policies=(costly(objective="budget", usd_per_request=1.0),))
    sound, service.parts.providers = service.parts.providers, Broken()
    async with aiohttp.ClientSession(service.url) as http:
        for stream in (False, True):
            assert (await asked(http, stream=stream)).status == 500
        service.parts.providers = sound
        assert service.parts.budgets._expected == {}
        await ask(http)
