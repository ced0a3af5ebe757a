"""What the owner calls: statistics, posteriors, decisions, health, documents; and that they survive a restart."""

import aiohttp
import pytest

from tests.api.asking import MESSAGES, ask


async def get(http, path, **params):
    async with http.get(path, params=params) as reply:
        assert reply.status == 200, await reply.text()
        return await reply.json()


async def test_route_decides_without_calling_or_storing(http):
    async with http.post("/v1/route", json={"messages": MESSAGES}) as reply:
        decided = await reply.json()
    assert decided["model"] in decided["eligible"]
    assert sum(decided["eligible"].values()) == pytest.approx(1.0)
    assert decided["expected_cost_usd"].keys() == decided["eligible"].keys()
    assert (await get(http, "/stats"))["calls"] == 0


async def test_statistics_add_up(http):
    models = [(await ask(http))["routing"]["model"] for _ in range(5)]
    stats = await get(http, "/stats")
    assert stats["calls"] == 5
    assert 0 < stats["mean_routing_ms"] < 1000
    assert stats["distribution"]["model"] == {name: models.count(name) for name in stats["distribution"]["model"]}
    assert stats["distribution"]["method"] == {"auto": 5}
    raw = await get(http, "/stats/raw", limit=2, offset=1)
    assert len(raw["records"]) == 2
    assert raw["records"][0]["timestamp"] >= raw["records"][1]["timestamp"]


@pytest.mark.parametrize("query", ["limit=0", "limit=5000", "offset=-1", f"offset={10**23}", "limit=x"])
async def test_bad_paging_is_a_clear_400(http, query):
    async with http.get(f"/stats/raw?{query}") as reply:
        assert reply.status == 400
        error = (await reply.json())["error"]
    name = query.partition("=")[0]
    assert error["param"] == name
    assert f"at `{name}`" in error["message"]


async def test_posteriors_have_a_cell_for_each_task_type_and_model(http):
    cells = (await get(http, "/v1/posteriors"))["cells"]
    assert len(cells) == 12 * 3
    for cell in cells:
        assert cell["mean"] == pytest.approx(cell["alpha"] / (cell["alpha"] + cell["beta"]))
        assert cell["interval"][0] < cell["mean"] < cell["interval"][1]
    by_task = {}
    for cell in cells:
        by_task.setdefault(cell["task_type"], []).append(cell["p_best"])
    assert all(sum(chances) == pytest.approx(1.0) for chances in by_task.values())


@pytest.mark.parametrize("policy", ["thomson", "random", ""])
async def test_posteriors_of_a_policy_that_does_not_learn_are_not_those_of_another(http, policy):
    async with http.get("/v1/posteriors", params={"policy": policy}) as reply:
        assert reply.status == 404
        assert "`thompson`" in (await reply.json())["error"]["message"]


async def test_posteriors_of_no_experiment_are_not_the_prior(http):
    async with http.get("/v1/posteriors", params={"namespace": "@none/control"}) as reply:
        assert reply.status == 404
        assert (await reply.json())["error"]["param"] == "namespace"


@pytest.mark.parametrize("model", ["auto", "auto:random", "auto:static_tier", "auto:rules", "small"])
async def test_a_decision_is_explained_and_repeats_bit_for_bit(http, model):
    for value in (True, False, True):
        reply = await ask(http, model=model)
        async with http.post("/feedback", json={"decision_id": reply["id"], "value": value}) as answer:
            assert answer.status == 200
    told = await get(http, f"/v1/decisions/{reply['id']}")
    assert told["repeated"]["same"] is True
    assert told["repeated"]["probabilities"] == told["choice"]["probabilities"]
    assert told["profile"]["task_type"] == reply["routing"]["task_type"]


async def test_an_unknown_decision_is_not_found(http):
    async with http.get("/v1/decisions/chatcmpl-none") as reply:
        assert reply.status == 404
        assert (await reply.json())["error"]["code"] == "not_found"


async def test_health_and_readiness(http):
    assert (await get(http, "/health")) == {"status": "ok"}
    ready = await get(http, "/ready")
    assert ready["status"] == "ready"
    assert ready["classifier"].startswith("embedded")
    assert ready["simulated"] is True


@pytest.mark.parametrize("path", ["/health", "/ready"])
async def test_a_load_balancer_may_ask_for_the_head_alone(http, path):
    async with http.head(path) as reply:
        assert reply.status == 200
        assert await reply.read() == b""


async def test_metrics_are_prometheus_text(http):
    await ask(http)
    async with http.get("/metrics") as reply:
        assert reply.content_type == "text/plain"
        text = await reply.text()
    assert "armwise_decisions_total{" in text


async def test_unknown_paths_and_methods_have_openais_envelope(http):
    async with http.get("/v2/nothing") as reply:
        assert reply.status == 404
        assert "/docs" in (await reply.json())["error"]["message"]
    async with http.get("/v1/chat/completions") as reply:
        assert reply.status == 405
        assert (await reply.json())["error"]["type"] == "invalid_request_error"


async def test_everything_learned_is_there_after_a_restart(run):
    first = run()
    async with aiohttp.ClientSession(first.url) as http:
        for _ in range(10):
            reply = await ask(http)
            async with http.post("/feedback", json={"decision_id": reply["id"], "value": True}) as answer:
                assert answer.status == 200
    first.__exit__(None, None, None)
    second = run()
    async with aiohttp.ClientSession(second.url) as http:
        cells = (await get(http, "/v1/posteriors"))["cells"]
        assert sum(cell["n"] for cell in cells) == 10
        assert (await get(http, "/stats"))["calls"] == 10
        assert (await get(http, f"/v1/decisions/{reply['id']}"))["repeated"]["same"] is True
