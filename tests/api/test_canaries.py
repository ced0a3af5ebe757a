"""Canary probes: a model that gets worse while nobody uses it is found, and nothing else notices that it is asked."""

import asyncio

import aiohttp
import msgspec
import pytest
from aiohttp import web
from sqlalchemy import func, select

from bandit.drift import CANARIES, Readings, evidence, fresh, observe
from service.drift import watches
from service.drift.detecting import advanced
from service.probes.canaries import (
    Answered,
    claim,
    is_right,
    mark_seen,
    newest,
    prune_answers,
    store_answer,
    unseen,
    version_of,
)
from service.settings import Canary, Drift
from service.storage import tables
from service.storage.database import Database
from tests.api.asking import ask
from tests.api.upstream import metric, until, upstream

NOON = 1_800_000_000.0
CAPITAL = Canary(name="capital", prompt="What is the capital of Australia?", expects="(?i)canberra", every_s=0.02)
HOURLY = Canary(name="sum", prompt="What is 17 + 25? Give the number only.", expects=r"\b42\b")


async def count(database_url, table):
    database = Database(database_url)
    found = await database.read(lambda connection: connection.scalar(select(func.count()).select_from(table)))
    await database.close()
    return found


async def remembered(database_url, arm, readings):
    """Whether as many answers of an arm were seen."""
    database = Database(database_url)
    _, memory = await database.read(watches.read_memory)
    await database.close()
    found = memory.streams.get("canary", {}).get(arm)
    return found is not None and sum(found.past_n) + sum(found.lately_n) >= readings


async def alarms(http, **query):
    async with http.get("/v1/alarms", params=query) as reply:
        assert reply.status == 200
        return await reply.json()


async def test_a_model_that_gets_worse_while_nobody_uses_it_is_found(run, database_url):
    words = {"idle": "It is Canberra.", "other": "canberra"}
    async with upstream(lambda body: words[body["model"]]) as server:
        models = (server.model("idle", price_in=100.0), server.model("other"))
        drift = Drift(look_every_s=0.05, canaries=(CAPITAL,))
        service = run(database_url, models=models, drift=drift)
        async with aiohttp.ClientSession(service.url) as http:
            await until(remembered, database_url, "idle", 30.0)
            assert (await alarms(http))["alarms"] == []
            words["idle"] = "It is Sydney."

            async def found():
                return (await alarms(http))["alarms"]

            (alarm,) = await until(found)
            assert (alarm["model"], alarm["direction"], alarm["stream"]) == ("idle", "down", "canary")
            assert alarm["past_mean"] - alarm["mean"] > 0.5
            shown = {row["model"]: row for row in (await alarms(http))["canaries"]}
            assert {name: row["outcome"] for name, row in shown.items()} == {"idle": "wrong", "other": "right"}
            assert shown["idle"]["canary"] == "capital"
            assert shown["idle"]["cost_usd"] == pytest.approx(40 * 100.0 / 1e6)
            assert [row["model"] for row in (await alarms(http, model="other"))["canaries"]] == ["other"]
            assert await metric(http, 'armwise_canaries_total{model="idle",outcome="wrong"}') >= 3.0
            assert await metric(http, 'armwise_canaries_total{model="other",outcome="wrong"}') == 0.0
            assert await metric(http, 'armwise_canary_cost_usd_total{model="idle"}') > 0.0
            assert await metric(http, 'armwise_cost_usd_total{model="idle"}') == 0.0
    body = server.bodies[0]
    assert body["messages"] == [{"role": "user", "content": CAPITAL.prompt}]
    assert body["max_tokens"] == 64
    assert {table.name: await count(database_url, table) for table in (tables.decisions, tables.cells)} == {
        "decisions": 0, "cells": 0,
    }  # fmt: skip


async def test_two_replicas_ask_once(run, database_url):
    async with upstream(lambda _: "42, Canberra") as server:
        models = (server.model("one"), server.model("two"))
        drift = Drift(canaries=(HOURLY, msgspec.structs.replace(CAPITAL, every_s=3_600.0)))
        services = [run(database_url, models=models, drift=drift) for _ in range(2)]

        async def all_answered():
            return await count(database_url, tables.canaries) >= 4

        await until(all_answered)
        await asyncio.sleep(1.2)  # long enough for both to look again
        assert len(services) == 2
        assert sorted((body["model"], body["messages"][0]["content"]) for body in server.bodies) == sorted(
            (model.name, canary.prompt) for model in models for canary in drift.canaries
        )


async def test_models_that_hang_or_fail_are_not_wrong_and_disturb_nobody(run, database_url):
    async def answer(body):
        if body["model"] == "hangs":
            await asyncio.sleep(30.0)
        return "Canberra" if body["model"] == "good" else web.Response(status=500)

    async with upstream(answer) as server:
        models = (server.model("hangs", timeout_s=0.1), server.model("fails"), server.model("good"))
        service = run(database_url, models=models, drift=Drift(look_every_s=0.05, canaries=(CAPITAL,)))
        async with aiohttp.ClientSession(service.url) as http:
            await until(remembered, database_url, "good", 12.0)
            assert (await ask(http, model="good"))["choices"][0]["message"]["content"] == "Canberra"
            shown = {row["model"]: row["outcome"] for row in (await alarms(http))["canaries"]}
            assert shown == {"hangs": "failed", "fails": "failed", "good": "right"}
            errors = {row["model"]: row["error"] for row in (await alarms(http))["canaries"]}
            assert errors == {"hangs": "timeout", "fails": "server_error", "good": ""}
            assert (await alarms(http))["alarms"] == []
            assert await metric(http, 'armwise_learner_errors_total{place="canary"}') == 0.0
    assert not await remembered(database_url, "hangs", 0.0)
    assert not await remembered(database_url, "fails", 0.0)


@pytest.mark.parametrize("drift", [Drift(), Drift(enabled=False, canaries=(CAPITAL,))])
async def test_nobody_is_asked_unless_it_is_configured(run, drift):
    async with upstream(lambda _: "Canberra") as server:
        service = run(models=(server.model("only"),), drift=drift)
        async with aiohttp.ClientSession(service.url) as http:
            await ask(http)
            await asyncio.sleep(1.2)  # longer than between two looks
            assert (await alarms(http))["canaries"] == []
    assert len(server.bodies) == 1


# By hand


async def test_one_of_many_may_ask_and_again_when_it_is_time(database, database_url):
    others = [Database(database_url) for _ in range(3)]

    def claims(now):
        mine = {"name": "sum", "arm": "small", "every_s": 60.0, "now": now}
        return asyncio.gather(
            *(one.write(lambda connection: claim(connection, **mine)) for one in others for _ in range(3))
        )

    assert sum(await claims(NOON)) == 1
    assert sum(await claims(NOON + 59.0)) == 0
    assert sum(await claims(NOON + 60.0)) == 1
    assert sum(await claims(NOON - 1e6)) == 1  # a clock that had been far ahead
    assert await database.write(lambda connection: claim(connection, name="x", arm="small", every_s=60.0, now=NOON))
    for one in others:
        await one.close()


def answered(at, *, right=True, arm="small", canary=HOURLY):
    return Answered(name=canary.name, arm=arm, at=at, version=version_of(canary), right=right)


async def test_answers_are_seen_once_and_the_newest_are_shown(database):
    rows = [answered(NOON, right=False), answered(NOON + 1.5), answered(NOON + 2.0, right=None), answered(1.0)]
    for row in [*rows, rows[0]]:
        await database.write(lambda connection, row=row: store_answer(connection, row))
    found = await database.read(unseen, NOON + 3.0)
    assert [(probe.at, probe.right) for probe in found] == [(NOON, False), (NOON + 1.5, True)]
    await database.write(lambda connection: mark_seen(connection, found[:1]))
    assert await database.read(unseen, NOON + 3.0) == found[1:]
    assert await database.read(newest) == [rows[2]]
    await database.write(lambda connection: prune_answers(connection, before=NOON + 2.0))
    assert await database.read(newest) == [rows[2]]
    assert await database.read(unseen, NOON + 3.0) == []


def looked(memory, answers, canaries, now):
    """The memory and alarms after a look at answers to `HOURLY`."""
    probes = [
        watches.Probe(HOURLY.name, "small", now, version_of(HOURLY), right) for right in answers
    ]  # fmt: skip
    news = watches.News(
        revision=1, memory=memory, changes=[], damaged=0, calls={}, since=now, counted_until=now, complete=True,
        probes=probes,
    )  # fmt: skip
    return advanced(news, Drift(canaries=canaries), now)


def past_of(memory):
    found = memory.streams["canary"].get("small")
    return None if found is None else sum(found.past_n) + sum(found.lately_n)


def test_answers_to_another_question_say_nothing_of_a_change():
    memory = watches.Memory(caught_up=True)
    for step in range(30):
        memory, found = looked(memory, [True], (HOURLY,), NOON + step)
        assert found == []
    assert past_of(memory) == 30.0
    other = msgspec.structs.replace(HOURLY, expects="43")
    memory, found = looked(memory, [False], (HOURLY, CAPITAL), NOON + 40)
    assert past_of(memory) == 1.0, "a canary more: the past was of others"
    memory, found = looked(memory, [False] * 9, (other,), NOON + 41)
    assert (past_of(memory), found) == (None, []), "answers to what is not asked any more are passed over"


def test_six_wrong_answers_after_a_day_of_right_ones_are_an_alarm():
    memory = watches.Memory(caught_up=True)
    for step in range(24):
        memory, _ = looked(memory, [True], (HOURLY,), NOON + step)
    for step in range(6):
        memory, found = looked(memory, [False], (HOURLY,), NOON + 24 + step)
        assert bool(found) == (step == 5)
    assert (found[0].arm, found[0].direction, found[0].stream) == ("small", "down", "canary")


@pytest.mark.parametrize("value", [1.0, 0.0])
def test_a_stream_that_never_errs_is_never_taken_for_a_rise(value):
    detector = fresh((1,), 1, CANARIES)
    for _ in range(3_000):
        reading = Readings(detector.past.n * 0.0 + 1.0, detector.past.n * 0.0 + value)
        detector = observe(detector, reading, detector.past.n.sum(-1) * 0.0 + 1.0, reading.s, CANARIES)
        assert evidence(detector, CANARIES).max() < 1.0


def test_what_is_right_is_what_the_expression_finds():
    assert is_right(CAPITAL, "The capital is CANBERRA.")
    assert not is_right(CAPITAL, "Sydney")
    assert not is_right(CAPITAL, "")
    assert not is_right(CAPITAL, "x" * 5_000 + "Canberra"), "only the beginning is looked at"
