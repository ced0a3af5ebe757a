"""POST /feedback: every form it takes, what it refuses, and that it teaches."""

import pytest

from tests.api.asking import MESSAGES, ask


async def give(http, body, path="/feedback"):
    async with http.post(path, json=body) as reply:
        return reply.status, await reply.json()


async def cell(http, routing):
    # The policy whose cells stand each by itself: a label is worth exactly one.
    asked_for = {"task_type": routing["task_type"], "policy": "thompson"}
    async with http.get("/v1/posteriors", params=asked_for) as reply:
        cells = (await reply.json())["cells"]
    return next(cell for cell in cells if cell["model"] == routing["model"])


@pytest.mark.parametrize(
    ("form", "value"),
    [
        ({"value": True}, 1.0),
        ({"value": False}, 0.0),
        ({"value": "up"}, 1.0),
        ({"value": "down"}, 0.0),
        ({"value": 0.25}, 0.25),
        ({"value": 1}, 1.0),
        ({"rating": 4, "scale": 5}, 0.75),
        ({"rating": -1, "scale": [-2, 2]}, 0.25),
        (
            {"value": True, "metric": "quality", "source": "judge", "user": "u", "comment": "ok", "tags": {"a": "b"}},
            1.0,
        ),
    ],
)
@pytest.mark.parametrize("path", ["/feedback", "/v1/feedback"])
async def test_each_form_teaches_its_value(http, form, value, path):
    reply = await ask(http)
    before = await cell(http, reply["routing"])
    status, answer = await give(http, {"decision_id": reply["id"], **form}, path)
    assert (status, answer["status"]) == (200, "recorded")
    after = await cell(http, reply["routing"])
    assert after["n"] == before["n"] + 1
    taught = after["alpha"] - before["alpha"]
    clean = after["n_heuristic"] - before["n_heuristic"]  # the reply's own heuristics may land in between
    assert taught == pytest.approx(value, abs=clean + 1e-9)


async def test_tensorzeros_field_names_are_taken(http):
    reply = await ask(http)
    body = {"inference_id": reply["id"], "metric_name": "quality", "value": True}
    assert (await give(http, {**body, "dryrun": True}))[1]["status"] == "dryrun"
    assert (await cell(http, reply["routing"]))["n"] == 0
    assert (await give(http, body))[1]["status"] == "recorded"


async def test_the_same_again_changes_nothing_and_a_changed_mind_replaces(http):
    reply = await ask(http)
    body = {"decision_id": reply["id"], "value": True, "user": "ann"}
    assert (await give(http, body))[1]["status"] == "recorded"
    once = await cell(http, reply["routing"])
    status, answer = await give(http, body)
    assert (status, answer["status"]) == (200, "unchanged")
    assert (await cell(http, reply["routing"]))["n"] == once["n"] == 1
    assert (await give(http, {**body, "value": False}))[1]["status"] == "replaced"
    turned = await cell(http, reply["routing"])
    assert turned["n"] == 1
    assert turned["alpha"] == pytest.approx(once["alpha"] - 1, abs=0.06)


async def test_users_and_sources_count_apart(http):
    reply = await ask(http)
    for user, source in [("ann", "user"), ("bob", "user"), ("ann", "judge")]:
        await give(http, {"decision_id": reply["id"], "value": True, "user": user, "source": source})
    assert (await cell(http, reply["routing"]))["n"] == 3


async def test_a_list_holds_a_thousand_at_most(http):
    reply = await ask(http)
    one = {"decision_id": reply["id"], "value": True, "comment": "x" * 200}  # together large enough for a thread
    status, answer = await give(http, [one] * 1_001)
    assert (status, answer["error"]["message"]) == (400, "Invalid request: Expected `array` of length <= 1000.")
    status, answer = await give(http, [one] * 1_000)
    assert status == 200
    assert [result["status"] for result in answer["results"]] == ["recorded"] + ["unchanged"] * 999


async def test_a_list_is_taken_in_one_call(http):
    first, second = await ask(http), await ask(http)
    bodies = [{"decision_id": reply["id"], "value": True} for reply in (first, second)]
    status, answer = await give(http, bodies)
    assert status == 200
    assert [result["status"] for result in answer["results"]] == ["recorded", "recorded"]
    status, answer = await give(http, [bodies[0], {"decision_id": "chatcmpl-none", "value": True}])
    assert status == 207
    assert [result["status"] for result in answer["results"]] == ["unchanged", "unknown_decision"]


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"value": True}, 400, "decision_id"),
        ({"decision_id": "x"}, 422, "value"),
        ({"decision_id": "x", "value": 1.5}, 422, "value"),
        ({"decision_id": "x", "value": -0.1}, 422, "value"),
        ({"decision_id": "x", "value": "great"}, 422, "value"),
        ({"decision_id": "x", "value": True, "rating": 3, "scale": 5}, 422, "value"),
        ({"decision_id": "x", "rating": 3}, 422, "scale"),
        ({"decision_id": "x", "rating": 6, "scale": 5}, 422, "rating"),
        ({"decision_id": "x", "rating": 3, "scale": [5, 1]}, 422, "scale"),
        ({"decision_id": "x", "rating": 1e308, "scale": [-1e308, 1e308]}, 422, "scale"),
        ({"decision_id": "x", "value": True, "metric": "beauty"}, 422, "metric"),
        ({"decision_id": "x", "value": True, "source": "heuristics"}, 422, "source"),
        ({"decision_id": "x", "value": True, "colour": "red"}, 400, None),
        ({"decision_id": "x", "value": True, "tags": {str(number): "" for number in range(65)}}, 400, "tags"),
        ({"decision_id": "x", "value": True, "tags": {"k" * 257: ""}}, 400, "tags"),
        ({"decision_id": 7, "value": True}, 400, "decision_id"),
        ({"decision_id": "chatcmpl-none", "value": True}, 404, "decision_id"),
    ],
)
async def test_what_cannot_be_taken_says_why(http, body, status, param):
    found, answer = await give(http, body)
    assert found == status, answer
    assert answer["error"]["param"] == param
    assert answer["error"]["message"]


async def test_text_that_is_no_json_is_told_so(http):
    async with http.post("/feedback", data=b"{") as reply:
        assert reply.status == 400
        assert (await reply.json())["error"]["code"] == "invalid_json"


async def test_feedback_after_the_window_is_gone(run):
    import aiohttp

    from service.settings import Rewards

    service = run(rewards=Rewards(window_days=1e-9))
    async with aiohttp.ClientSession(service.url) as http:
        reply = await ask(http)
        status, answer = await give(http, {"decision_id": reply["id"], "value": True})
    assert status == 410
    assert "older" in answer["error"]["message"]


async def test_streamed_and_named_calls_learn_too(http):
    body = {"messages": MESSAGES, "model": "small", "stream": True, "simulate": {"quality": 1.0}}
    async with http.post("/v1/chat/completions", json=body) as reply:
        await reply.read()
        decision_id = reply.headers["x-armwise-decision-id"]
        task_type = reply.headers["x-armwise-task-type"]
    assert (await give(http, {"decision_id": decision_id, "value": True}))[0] == 200
    assert (await cell(http, {"task_type": task_type, "model": "small"}))["n"] == 1
