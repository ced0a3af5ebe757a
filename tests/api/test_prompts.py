"""Prompts are kept when the owner says so, never those of sensitive requests, and shown nowhere."""

import asyncio

import aiohttp
import pytest

from service.settings import ClassifierSettings, Retention
from service.storage import store
from service.storage.database import Database

KEPT = Retention(prompts=True)


def said(*contents):
    roles = ("system", "user", "assistant", "user")
    return [{"role": role, "content": content} for role, content in zip(roles, contents, strict=False)]


async def chat(service, messages, **more):
    body = {"messages": messages, **more}
    async with (
        aiohttp.ClientSession(service.url) as http,
        http.post("/v1/chat/completions", json=body) as reply,
    ):
        await reply.read()
        assert reply.status == 200
        return reply.headers["x-armwise-decision-id"]


async def prompts(service):
    database = Database(service.settings.database.url)
    try:
        return await database.read(store.newest_prompts, 100)
    finally:
        await database.close()


async def test_nothing_is_kept_unless_told_to(service):
    await chat(service, said("Be brief.", "What is the capital of France?"))
    assert await prompts(service) == []


@pytest.mark.parametrize("stream", [False, True])
async def test_what_was_classified_is_kept_with_the_decision(run, stream):
    service = run(retention=KEPT)
    await chat(service, said("Be brief.", "first words", "an answer", "What is this? 这是什么"), stream=stream)
    assert await prompts(service) == ["What is this? 这是什么"]


async def test_the_setting_of_what_is_read_decides_what_is_kept(run):
    service = run(retention=KEPT, classifier=ClassifierSettings(reads="system_and_last_user"))
    await chat(service, said("Be brief.", "Hello."))
    assert await prompts(service) == ["Be brief.\nHello."]


async def test_sensitive_and_empty_prompts_are_never_kept(run, three_models):
    local = tuple(type(model)(name=model.name, tier=model.tier, local=True) for model in three_models)
    service = run(retention=KEPT, models=local)
    await chat(service, said("Be brief.", "my secret"), router={"sensitive": True})
    await chat(service, said("Be brief.", "  "))
    assert await prompts(service) == []


async def test_a_prompt_that_a_database_cannot_take_as_it_is_stops_nothing(run):
    service = run(retention=KEPT)
    await chat(service, said("Be brief.", "a\0b " + "x" * 9_000 + " end"))
    [kept] = await prompts(service)
    assert len(kept) == 8_001  # head, line break, tail
    assert kept.startswith("a b x")
    assert kept.endswith("x end")


async def test_no_endpoint_and_no_log_line_shows_a_prompt(run, caplog):
    caplog.set_level("DEBUG")
    service = run(retention=KEPT)
    decision_id = await chat(service, said("Be brief.", "hunter2-hunter2"))
    async with aiohttp.ClientSession(service.url) as http:
        for path in (f"/v1/decisions/{decision_id}", "/stats", "/stats/raw", "/metrics", "/ready"):
            async with http.get(path) as reply:
                assert reply.status == 200
                assert "hunter2" not in await reply.text(), path
    assert "hunter2" not in caplog.text
    assert await prompts(service) == ["hunter2-hunter2"]


async def test_old_prompts_are_dropped_at_start(run):
    first = run(retention=KEPT)
    await chat(first, said("Be brief.", "Hello."))
    second = run(url=first.settings.database.url, retention=Retention(prompts_days=1e-9))
    for _ in range(500):
        if not await prompts(second):
            break
        await asyncio.sleep(0.02)
    assert await prompts(second) == []
