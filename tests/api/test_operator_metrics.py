"""What an operator's alerts look at, on `/metrics` of a running service."""

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from bandit.pooled import PooledThompson
from service.settings import SimulatedModel
from tests.api.asking import MESSAGES
from tests.api.upstream import until

MODELS = tuple(SimulatedModel(name=name, tier="small", price_in=100.0, price_out=100.0) for name in ("one", "two"))
PACED = PooledThompson(name="paced", objective="budget", usd_per_request=0.5, late_after_s=60.0, late_share=0.25)


async def cost_of_asking(http):
    """US dollars of a chat."""
    async with http.post("/v1/chat/completions", json={"messages": MESSAGES}) as reply:
        assert reply.status == 200
        return float(reply.headers["x-armwise-cost-usd"])


async def told(http):
    """Every sample of a scrape."""
    async with http.get("/metrics") as reply:
        text = await reply.text()
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_every_replica_tells_how_the_common_budget_is_kept(run):
    """Replies cost far less than their budgets, and none is late: requests save money and what may be late."""
    first, second = (run(models=MODELS, policies=(PACED,)) for _ in range(2))
    async with aiohttp.ClientSession(first.url) as here, aiohttp.ClientSession(second.url) as there:
        spent = sum([await cost_of_asking(http) for http in (here, there, here, there, here)])

        async def all_told(http):
            found = await told(http)
            known = found.get(("armwise_budget_spent_usd", "paced"), 0.0)
            granted = found.get(("armwise_budget_granted_usd", "paced"), 0.0)
            return found if known == pytest.approx(spent) and granted == pytest.approx(5 * 0.997 * 0.5) else None

        for http in (here, there):
            found = await until(all_told, http)
            saved = 5.0 - spent / (0.997 * 0.5)
            assert found["armwise_budget_debt_requests", "money", "paced"] == pytest.approx(-saved)
            assert found["armwise_budget_debt_requests", "late", "paced"] == pytest.approx(-5.0)
            assert found["armwise_budget_price", "money", "paced"] >= 0.0


async def test_the_first_failure_of_a_model_is_an_increase(run):
    service = run(models=MODELS)
    async with aiohttp.ClientSession(service.url) as http:

        async def begun():
            found = await told(http)
            return found if ("armwise_upstream_errors_total", "credentials", "two") in found else None

        found = await until(begun)
        assert found["armwise_upstream_errors_total", "credentials", "two"] == 0.0
        assert found["armwise_drift_alarms_total", "canary", "down", "one"] == 0.0
