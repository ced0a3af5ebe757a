"""A NUL in what callers say: SQLite stores it, Postgres does not, and no request fails for it."""

import pytest

from tests.api.asking import ask

NUL = "a\0b"


async def post(http, path, body):
    async with http.post(path, json=body) as reply:
        assert reply.status == 200, await reply.text()
        return await reply.json()


async def test_requests_feedback_and_notes_are_taken(http):
    wishes = {"user": NUL, "session": NUL, "tags": {NUL: NUL}}
    replies = [await ask(http, user=NUL, router=wishes), await ask(http, stream=False, user=NUL)]
    for reply in replies:
        said = {"decision_id": reply["id"], "value": True, "user": "u", "comment": NUL}
        assert (await post(http, "/feedback", said))["status"] == "recorded"
    await post(http, "/v1/controls", {"action": "freeze", "note": NUL})
    await post(http, "/v1/events", {"model": "large", "event": "incident", "note": NUL})
    async with http.get("/v1/decisions", params={"user": NUL}) as found:
        assert {one["id"] for one in (await found.json())["decisions"]} == {reply["id"] for reply in replies}
    for reply in replies:
        async with http.get(f"/v1/decisions/{reply['id']}") as told:
            assert (await told.json())["repeated"]["same"]


@pytest.mark.parametrize(
    ("path", "status"),
    [("/v1/decisions/%00", 404), ("/v1/decisions?before=%00", 400), ("/v1/alarms?model=%00", 200)],
)
async def test_what_is_looked_for_may_hold_one(http, path, status):
    async with http.get(path) as reply:
        assert reply.status == status, await reply.text()


@pytest.mark.parametrize("named", ["user", "source"])
async def test_who_gives_feedback_has_none(http, named):
    async with http.post("/feedback", json={"decision_id": "x", "value": True, named: NUL}) as reply:
        assert reply.status == 400
        assert (await reply.json())["error"]["param"] == named


async def test_feedback_on_no_decision_says_so(http):
    async with http.post("/feedback", json={"decision_id": NUL, "value": True}) as reply:
        assert reply.status == 404
