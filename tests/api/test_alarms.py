"""A model that changes under a running service: it is found, stored, shown and told, and no request notices."""

import asyncio
import contextlib
import logging

import aiohttp
import msgspec
import pytest
from aiohttp import web

from service.auth import key_row, new_key, new_secret
from service.configuration import read_settings
from service.drift import watches
from service.drift.alarms import told
from service.drift.webhook import Webhook
from service.settings import Drift, SimulatedModel
from service.storage import store
from service.storage.database import Database
from tests.api.asking import ask
from tests.api.conftest import Running, settings_for

WEBHOOK = "ARMWISE_TEST_WEBHOOK"
QUICK = Drift(look_every_s=0.05, webhook_url_env=WEBHOOK)
ONE_MODEL = (SimulatedModel(name="only", tier="large"),)


@contextlib.asynccontextmanager
async def listening(answer):
    """A server at the other end of the webhook, and its address."""
    app = web.Application()
    app.router.add_post("/secret-path", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/secret-path"
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def receiving():
    """A webhook that takes everything; its address, and the bodies it got."""
    got = []

    async def take(request):
        got.append(await request.json())
        return web.Response(status=204)

    async with listening(take) as url:
        yield url, got


async def until(condition):
    """Wait for something that happens in the background."""
    async with asyncio.timeout(60):
        while not (result := await condition()):
            await asyncio.sleep(0.05)
    return result


async def rated(http, *, ups, of, rounds):
    """Ask and rate, `of` at a time, `ups` of them with a thumb up."""
    for _ in range(rounds):
        replies = await asyncio.gather(*(ask(http) for _ in range(of)))
        said = [{"decision_id": reply["id"], "value": index < ups} for index, reply in enumerate(replies)]
        async with http.post("/feedback", json=said) as answer:
            assert answer.status == 200, await answer.text()


async def alarms(http, **query):
    async with http.get("/v1/alarms", params=query) as reply:
        assert reply.status == 200
        return await reply.json()


async def dropped(http):
    """A model that was good and is not any more, rated each time, until there is an alarm; the alarms."""
    await rated(http, ups=9, of=10, rounds=8)
    await asyncio.sleep(0.3)  # so that some of it is looked at before the drop
    for _ in range(30):
        await rated(http, ups=1, of=10, rounds=1)
        if found := (await alarms(http))["alarms"]:
            return found
    return (await alarms(http))["alarms"]


async def watched(url, name):
    """What is remembered under this name; "" when nothing is."""
    database = Database(url)
    _, content = await database.read(watches.read_watch, name)
    await database.close()
    return content


async def remembered(url, arm, readings):
    """Whether as many labels of an arm were seen."""
    content = await watched(url, watches.DETECTORS)
    labels = msgspec.json.decode(content, type=watches.Memory).streams.get("label", {}) if content else {}
    return arm in labels and sum(labels[arm].past_n) + sum(labels[arm].lately_n) >= readings


async def metric(http, line):
    async with http.get("/metrics") as reply:
        return line in (await reply.text()).splitlines()


async def test_a_drop_leads_to_one_alarm_everywhere(run, monkeypatch):
    async with receiving() as (url, got):
        monkeypatch.setenv(WEBHOOK, url)
        service = run(models=ONE_MODEL, drift=QUICK)
        async with aiohttp.ClientSession(service.url) as http:
            (alarm,) = await dropped(http)
            assert (alarm["event"], alarm["model"], alarm["direction"], alarm["stream"]) == (
                "detected", "only", "down", "label",
            )  # fmt: skip
            assert alarm["past_mean"] - alarm["mean"] > 0.3
            await rated(http, ups=1, of=10, rounds=5)
            assert (await alarms(http))["alarms"] == [alarm]
            assert await metric(
                http, 'armwise_drift_alarms_total{direction="down",model="only",stream="label"} 1.0'
            )  # fmt: skip
            await until(lambda: metric(http, 'armwise_webhooks_total{outcome="sent"} 1.0'))
    assert [body["alarm"] for body in got] == [alarm]
    assert got[0]["text"].startswith("only got worse: labels are 0.")


async def test_two_services_on_one_database_give_one_alarm(run, database_url, monkeypatch):
    async with receiving() as (url, got):
        monkeypatch.setenv(WEBHOOK, url)
        one, other = (run(database_url, models=ONE_MODEL, drift=QUICK) for _ in range(2))
        async with aiohttp.ClientSession(one.url) as http, aiohttp.ClientSession(other.url) as second:
            (alarm,) = await dropped(http)
            await rated(second, ups=1, of=10, rounds=5)
            assert (await alarms(second))["alarms"] == [alarm]
            await until(lambda: asyncio.sleep(0, got))
    assert [body["alarm"]["id"] for body in got] == [alarm["id"]]


async def test_a_service_that_starts_again_still_knows_the_past(run, database_url):
    drift = Drift(look_every_s=0.05)
    with Running(settings_for(database_url, models=ONE_MODEL, drift=drift)) as first:
        async with aiohttp.ClientSession(first.url) as http:
            await rated(http, ups=9, of=10, rounds=8)
            await until(lambda: remembered(database_url, "only", 80.0))
    again = run(database_url, models=ONE_MODEL, drift=drift)
    found = []
    async with aiohttp.ClientSession(again.url) as http:
        for _ in range(30):
            await rated(http, ups=1, of=10, rounds=1)
            if found := (await alarms(http))["alarms"]:
                break
    (alarm,) = found
    assert alarm["past_readings"] >= 80.0


@pytest.mark.parametrize("kind", ["hangs", "refuses", "nobody"])
async def test_a_webhook_that_fails_disturbs_nothing(run, monkeypatch, kind, free_port):
    released = asyncio.Event()

    async def answer(_request):
        if kind == "hangs":
            await released.wait()
        return web.Response(status=500)

    async with listening(answer) as url:
        monkeypatch.setenv(WEBHOOK, f"http://127.0.0.1:{free_port}/" if kind == "nobody" else url)
        service = run(models=ONE_MODEL, drift=QUICK)
        async with aiohttp.ClientSession(service.url) as http:
            event = {"model": "only", "event": "incident", "note": "many 502"}
            async with http.post("/v1/events", json=event) as reply:
                assert reply.status == 200
            await rated(http, ups=1, of=2, rounds=3)
            assert [alarm["note"] for alarm in (await alarms(http))["alarms"]] == ["many 502"]
            if kind != "hangs":
                await until(lambda: metric(http, 'armwise_webhooks_total{outcome="failed"} 1.0'))
            assert await metric(http, 'armwise_learner_errors_total{place="watch"} 0.0')
        released.set()


async def test_a_webhook_is_tried_thrice_within_its_limit_and_its_address_is_not_logged(monkeypatch, caplog):
    calls, outcomes = [], []
    answers = iter(["hang", 500, 200])

    async def answer(_request):
        calls.append(1)
        status = next(answers)
        if status == "hang":
            await asyncio.sleep(30)
        return web.Response(status=status)

    async with listening(answer) as url:
        monkeypatch.setenv(WEBHOOK, url)
        webhook = Webhook(outcomes.append, limit_s=0.2, pauses_s=(0.0, 0.0))
        task = asyncio.create_task(webhook.run())
        webhook.put(WEBHOOK, told("only", "version", 0.0))
        await until(lambda: asyncio.sleep(0, outcomes))
        monkeypatch.setenv(WEBHOOK, "http://user:secret-word@127.0.0.1:1/secret-path")
        webhook.put(WEBHOOK, told("only", "version", 0.0))
        webhook.put("ARMWISE_TEST_UNSET", told("only", "version", 0.0))
        with caplog.at_level(logging.DEBUG, logger="armwise"):
            await until(lambda: asyncio.sleep(0, outcomes[2:]))
        task.cancel()
    assert len(calls) == 3
    assert outcomes == ["sent", "failed", "failed"]
    assert "set the environment variable ARMWISE_TEST_UNSET" in caplog.text
    assert "secret" not in caplog.text


async def test_more_than_can_wait_is_dropped_and_counted():
    outcomes = []
    webhook = Webhook(outcomes.append)
    for _ in range(103):
        webhook.put(WEBHOOK, told("only", "version", 0.0))
    assert outcomes == ["dropped"] * 3


async def test_what_the_owner_tells_is_shown(run, three_models):
    service = run(models=three_models)
    async with aiohttp.ClientSession(service.url) as http:
        for model, event in [("m-small", "version"), ("m-large", "incident"), ("m-small", "price")]:
            async with http.post("/v1/events", json={"model": model, "event": event, "note": "n"}) as reply:
                assert (await reply.json())["event"] == event
        async with http.post("/v1/events", json={"model": "m-large", "event": "version", "at": 7200.0}) as reply:
            assert (await reply.json())["hour"] == 3
        found = (await alarms(http))["alarms"]
        assert [(row["model"], row["event"]) for row in found] == [
            ("m-small", "price"), ("m-large", "incident"), ("m-small", "version"), ("m-large", "version"),
        ]  # fmt: skip
        assert {row["direction"] for row in found} == {None}
        assert [row["event"] for row in (await alarms(http, model="m-large", limit=1))["alarms"]] == ["incident"]


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"model": "m-smal", "event": "version"}, 404, "model"),
        ({"model": "m-small", "event": "detected"}, 400, "event"),
        ({"model": "m-small"}, 400, "event"),
        ({"model": "m-small", "event": "version", "at": 9e12}, 422, "at"),
        ({"model": "m-small", "event": "version", "at": -1}, 422, "at"),
        ({"model": "m-small", "event": "version", "colour": "red"}, 400, None),
    ],
)
async def test_what_cannot_be_told_says_why(run, three_models, body, status, param):
    service = run(models=three_models)
    async with aiohttp.ClientSession(service.url) as http, http.post("/v1/events", json=body) as reply:
        answer = await reply.json()
    assert (reply.status, answer["error"]["param"]) == (status, param)
    assert status != 404 or "did you mean `m-small`?" in answer["error"]["message"]


async def test_who_may_read_and_who_may_tell(run, database_url, three_models):
    database, secrets = Database(database_url), {}
    for scope in ("read", "admin", "chat"):
        secrets[scope] = new_secret()
        row = key_row(new_key(secrets[scope], scope, [scope], 1.0))
        await database.write(lambda connection, row=row: store.insert_key(connection, row))
    await database.close()
    service = run(database_url, models=three_models)
    event = {"model": "m-small", "event": "version"}
    statuses = {}
    async with aiohttp.ClientSession(service.url) as http:
        for scope, secret in [("none", ""), *secrets.items()]:
            headers = {"authorization": f"Bearer {secret}"} if secret else {}
            async with (
                http.get("/v1/alarms", headers=headers) as read,
                http.post("/v1/events", json=event, headers=headers) as said,
            ):
                statuses[scope] = (read.status, said.status)
    assert statuses == {"none": (401, 401), "read": (200, 403), "admin": (200, 200), "chat": (403, 403)}


async def test_switched_off_nobody_looks_and_events_are_taken_all_the_same(run, database_url):
    service = run(database_url, models=ONE_MODEL, drift=Drift(enabled=False, look_every_s=0.01))
    async with aiohttp.ClientSession(service.url) as http:
        await rated(http, ups=5, of=10, rounds=2)
        async with http.post("/v1/events", json={"model": "only", "event": "version"}) as reply:
            assert reply.status == 200
        assert len((await alarms(http))["alarms"]) == 1
    assert await watched(database_url, watches.DETECTORS) == ""


async def test_a_price_changed_in_the_settings_is_an_event(run, database_url, tmp_path):
    path = tmp_path / "armwise.toml"

    def write(price):
        lines = ["[database]", f'url = "{database_url}"', "[drift]", "look_every_s = 0.05"]
        lines += ["[[models]]", 'name = "only"', 'provider = "simulated"', f"price_out = {price}"]
        path.write_text("\n".join(lines))
        return read_settings(path, {})

    settings = write(1.0)
    service = run(database_url, config=path, models=settings.models, drift=settings.drift)
    async with aiohttp.ClientSession(service.url) as http:
        await until(lambda: watched(database_url, watches.PRICES))
        write(2.5)
        async with http.post("/admin/reload") as reply:
            assert reply.status == 200

        async def told_of():
            return (await alarms(http))["alarms"]

        (event,) = await until(told_of)
    assert (event["event"], event["model"], event["note"]) == ("price", "only", "price_out 1 -> 2.5")
