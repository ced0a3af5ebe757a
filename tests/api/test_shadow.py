"""A policy that decides beside the one that serves: what is stored of it, what is told, and that it harms nobody."""

import asyncio
import dataclasses

import aiohttp
import pytest

from bandit.policies import Fixed, Random, StaticTier
from bandit.thompson import Thompson
from service.errors import UnusableData
from service.evaluation.evaluating import Span
from service.evaluation.shadow import shadowed
from service.settings import Quality, Routing
from service.storage.database import Database
from tests.api.asking import ask

POLICIES = (
    Random(name="random"),
    Fixed(name="always-small", arm="small"),
    Thompson(name="thompson"),
    StaticTier(name="static_tier"),
)


async def told(service, policy, method="ips"):
    database = Database(service.settings.database.url, 1)
    span = Span(since=0.0, until=4e9, metric="quality")
    try:
        return await database.read(lambda connection: shadowed(connection, service.settings, policy, span, method))
    finally:
        await database.close()


async def test_agreement_and_value_are_those_of_the_policy_in_the_shadow(run):
    service = run(
        policies=POLICIES, routing=Routing(policy="random", shadow="always-small"), quality=Quality(enabled=False)
    )
    drawn = []
    async with aiohttp.ClientSession(service.url) as http:
        for number in range(240):
            reply = await ask(http, user=f"u-{number}")
            drawn.append(reply["routing"]["model"])
            value = 1.0 if drawn[-1] == "small" else 0.0
            async with http.post("/feedback", json={"decision_id": reply["id"], "value": value}) as answer:
                assert answer.status == 200
        named = await ask(http, model="small")
        async with http.get(f"/v1/decisions/{reply['id']}") as answer:
            explained = await answer.json()
        async with http.get(f"/v1/decisions/{named['id']}") as answer:
            assert (await answer.json())["shadow"] is None
    assert explained["shadow"]["policy"] == "always-small"
    assert explained["shadow"]["arm"] == "small"
    assert sorted(explained["shadow"]["probabilities"]) == [0.0, 0.0, 1.0]
    assert explained["repeated"]["same"] is True
    found = await told(service, "always-small", "snips")
    assert found["decisions"] == 240
    assert found["agreement"] == pytest.approx(drawn.count("small") / 240)
    assert found["expected_agreement"] == pytest.approx(1 / 3)
    value = found["policies"][0]["value"]
    assert "refused" in value or value["value"] == pytest.approx(1.0)  # 80 labels of its own are expected: too few
    with pytest.raises(UnusableData, match=r"expected `routing.shadow` to name it"):
        await told(service, "thompson")


class Broken(Thompson, frozen=True, tag="broken"):
    """A policy that fails on every request."""

    def probabilities(self, profile, arms, beliefs, terms=None):
        raise RuntimeError("broken")


async def test_a_shadow_that_fails_harms_nobody(run):
    service = run(
        policies=POLICIES, routing=Routing(policy="static_tier", shadow="thompson"), quality=Quality(enabled=False)
    )
    parts = service.parts
    broken = Broken(name="thompson")
    parts.setup = dataclasses.replace(parts.setup, shadow_policy=broken)
    async with aiohttp.ClientSession(service.url) as http:
        replies = await asyncio.gather(*(ask(http) for _ in range(5)))
        assert {reply["routing"]["policy"] for reply in replies} == {"static_tier"}
        async with http.get(f"/v1/decisions/{replies[0]['id']}") as answer:
            assert (await answer.json())["shadow"]["arm"] == ""
        async with http.get("/metrics") as answer:
            assert 'armwise_learner_errors_total{place="policy"} 5.0' in await answer.text()
