"""A model that the owner takes out of service gets no request, on any way, until it is back; decisions still repeat."""

import aiohttp
import pytest

from tests.api.asking import ask, asked


async def switch(http, status=200, **said):
    async with http.post("/v1/controls", json=said) as reply:
        assert reply.status == status, await reply.text()
        return await reply.json()


async def get(http, path):
    async with http.get(path) as reply:
        return await reply.json()


async def test_nothing_is_sent_to_it_and_every_decision_says_why(http):
    await switch(http, action="disable", model="large", note="the provider is down")
    assert (await get(http, "/v1/controls"))["disabled"] == ["large"]
    async with http.get("/metrics") as found:
        assert 'armwise_controls{what="disabled"} 1.0' in await found.text()
    for policy in ("auto", "auto:random", "auto:static_tier", "auto:rules"):
        reply = await ask(http, model=policy)
        assert reply["routing"]["model"] != "large"
        assert reply["routing"]["excluded"] == {"large": "switched off by the owner"}
        assert "large" not in reply["routing"]["plan"]
        told = await get(http, f"/v1/decisions/{reply['id']}")
        assert told["repeated"]["same"]


async def test_who_names_it_is_told(http):
    await switch(http, action="disable", model="large")
    refused = await asked(http, model="large")
    assert refused.status == 400
    assert "large: switched off by the owner" in refused.body["error"]["message"]


async def test_it_comes_back_and_old_decisions_repeat_as_they_were(http):
    before = await ask(http, model="auto:random")
    await switch(http, action="disable", model="medium")
    without = await ask(http, model="auto:random")
    await switch(http, action="enable", model="medium")
    again = await ask(http, model="auto:random")
    assert (await get(http, "/v1/controls"))["disabled"] == []
    assert "medium" not in without["routing"]["eligible"]
    assert "medium" in again["routing"]["eligible"]
    for reply in (before, without, again):
        assert (await get(http, f"/v1/decisions/{reply['id']}"))["repeated"]["same"]


async def test_the_last_one_stays(http):
    await switch(http, action="disable", model="large")
    await switch(http, action="disable", model="medium")
    answer = await switch(http, 422, action="disable", model="small")
    assert "last model in service" in answer["error"]["message"]
    assert (await ask(http))["routing"]["model"] == "small"


@pytest.mark.parametrize(
    "said",
    [{"action": "disable"}, {"action": "enable"}, {"action": "disable", "model": "large", "task_type": "Rewrite"}],
)
async def test_one_model_is_named_and_nothing_else(http, said):
    answer = await switch(http, 422, **said)
    assert "one `model`" in answer["error"]["message"]


async def test_it_stays_out_after_a_restart(run, database_url):
    with_it = run(database_url)
    async with aiohttp.ClientSession(with_it.url) as http:
        await switch(http, action="disable", model="large")
    restarted = run(database_url)
    async with aiohttp.ClientSession(restarted.url) as http:
        assert "large" not in (await ask(http, model="auto:random"))["routing"]["eligible"]
