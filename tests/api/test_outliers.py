"""Somebody who votes against everything, through the whole service: found, told to the owner and to nobody else."""

import logging

import aiohttp
import pytest

from service.settings import Rewards
from tests.api.asking import ask


async def rate(http, user, value):
    reply = await ask(http, model="small")
    body = {"decision_id": reply["id"], "value": value, "user": user}
    async with http.post("/feedback", json=body) as answer:
        assert answer.status == 200, await answer.text()
    async with http.get(f"/v1/decisions/{reply['id']}") as found:
        rewards = (await found.json())["rewards"]
    return next(reward["weight"] for reward in rewards if reward["user"] == user)


async def rate_all(http):
    """Eight honest users of six labels each, then 22 of one who likes nothing; their weights."""
    for number in range(48):
        assert await rate(http, f"honest {number % 8}", number % 6 > 0) == 1.0
    return [await rate(http, "troll@example.org", value=False) for _ in range(22)]


async def told(http):
    async with http.get("/v1/heuristics") as reply:
        return await reply.json()


async def counted(http, name):
    async with http.get("/metrics") as reply:
        text = await reply.text()
    assert "troll" not in text
    return next(float(line.split()[-1]) for line in text.splitlines() if line.startswith(f"{name} "))


async def test_who_votes_against_everything_counts_in_part_and_is_shown(run, caplog):
    service = run(rewards=Rewards(user_labels_per_day=0.0, outlier_weight=0.2))
    with caplog.at_level(logging.WARNING, "armwise"):
        async with aiohttp.ClientSession(service.url) as http:
            weights = await rate_all(http)
            report = await told(http)
            found, labels = [
                await counted(http, f"armwise_{name}_total") for name in ("outliers_found", "outlier_labels")
            ]
    assert weights[0] == 1.0
    assert weights[-1] == 0.2
    assert weights == sorted(weights, reverse=True)
    assert report["outliers"] == 1
    [shown] = report["outlier_users"]
    assert (shown["user"], shown["labels"], shown["mean_said"]) == ("troll@example.org", 22, 0.0)
    assert shown["mean_expected"] == pytest.approx(40.5 / 49)
    assert shown["deviations"] < -3.3
    assert (found, labels) == (1.0, weights.count(0.2))
    assert caplog.text.count("a user rates unlike everybody else") == 1
    assert "troll" not in caplog.text


async def test_with_weight_1_nobody_is_looked_for(run):
    service = run(rewards=Rewards(user_labels_per_day=0.0, outlier_weight=1.0))
    async with aiohttp.ClientSession(service.url) as http:
        assert set(await rate_all(http)) == {1.0}
        report = await told(http)
    assert (report["outliers"], report["outlier_users"]) == (0, [])
