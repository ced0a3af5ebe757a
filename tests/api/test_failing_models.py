"""A model whose provider fails gets no more calls until it is back: whole requests, over real connections."""

import asyncio
import contextlib
import json
import time

import aiohttp
import pytest
from aiohttp import web
from click.testing import CliRunner

from bandit.breakers import Tolerance
from bandit.policies import Fixed, Random
from service.cli.main import main
from service.settings import Routing, SimulatedModel
from tests.api.asking import MESSAGES, ask, asked
from tests.api.upstream import metric, until, upstream

LONG = Tolerance(consecutive_failures=3, wait_s=1_000.0, max_wait_s=1_000.0)
SHORT = Tolerance(consecutive_failures=3, wait_s=0.2, max_wait_s=0.2)
RANDOM = (Random(name="random"),)
EXCLUDED = "its circuit breaker is open"


class Provider:
    """Answers for every model of a test: what fails, how, and what waits."""

    def __init__(self):
        self.failing = {}  # model to the response that it fails with
        self.holding = {}  # model to what its replies wait for
        self.calls = []  # models, in the order they were called

    async def __call__(self, body):
        model = body["model"]
        self.calls.append(model)
        if model in self.holding:
            await self.holding[model].wait()
        if model in self.failing:
            status, headers = self.failing[model]
            return web.json_response({"error": {"message": "no"}}, status=status, headers=headers)
        return "Paris is the capital of France."

    def fail(self, *models, status=503, **headers):
        self.failing |= dict.fromkeys(models, (status, headers))


@pytest.fixture
async def provider():
    """A provider, and `models(name, ...)` of it."""
    answering = Provider()
    async with upstream(answering) as there:
        answering.models = lambda *names: tuple(there.model(name, tier="medium") for name in names)
        yield answering


async def get(http, path):
    async with http.get(path) as reply:
        assert reply.status == 200
        return await reply.json()


async def breaker(http, model):
    """How the breaker of one model is told."""
    told = await get(http, "/v1/breakers")
    return next(one for one in told["breakers"] if one["model"] == model)


async def state(http, model):
    return (await breaker(http, model))["state"]


async def open_it(http, model):
    """By three failures in a row of who names it."""
    for _ in range(3):
        assert (await asked(http, model=model)).status >= 400
    assert await state(http, model) == "open"


async def test_others_answer_without_paying_for_the_failing_call(run, provider, tmp_path):
    service = run(models=provider.models("bad", "good", "other"), breakers=LONG)  # by the policy that learns
    provider.fail("bad")
    async with aiohttp.ClientSession(service.url) as http:
        await open_it(http, "bad")
        for _ in range(10):
            reply = await ask(http)
            routing = reply["routing"]
            assert routing["excluded"] == {"bad": EXCLUDED}
            assert set(routing["eligible"]) == {"good", "other"}
            assert sum(routing["eligible"].values()) == pytest.approx(1.0, abs=1e-12)
            assert routing["propensity"] == routing["eligible"][routing["model"]]
            assert "bad" not in routing["plan"]
            assert "failed" not in routing
        assert provider.calls.count("bad") == 3
        told = await get(http, f"/v1/decisions/{reply['id']}")
        assert told["repeated"]["same"]
        assert told["excluded"] == {"bad": EXCLUDED}

        async def learned():
            told = await get(http, f"/v1/decisions/{reply['id']}")
            return told["rewards"] and told

        told = await until(learned)
        assert {row["arm"] for row in (*told["attempts"], *told["rewards"])} == {reply["routing"]["model"]}

        found = await breaker(http, "bad")
        assert found["why"] == "3 failures in a row, the last: server_error"
        assert time.time() + 900.0 < found["next_trial_at"] < time.time() + 1_251.0
        assert time.time() - 60.0 < found["since"] <= time.time()
        assert await metric(http, 'armwise_breaker_state{model="bad"}') == 2.0
        assert await metric(http, 'armwise_breaker_state{model="good"}') == 0.0
        assert await metric(http, 'armwise_breaker_opened_total{model="bad"}') == 1.0
        assert await metric(http, 'armwise_breaker_skipped_total{model="bad"}') == 10.0

    config = tmp_path / "armwise.toml"
    config.write_text(f'[database]\nurl = "{service.settings.database.url}"\n')

    async def armwise(*words):
        """What a command prints."""
        done = await asyncio.to_thread(CliRunner().invoke, main, [*words, "--config", str(config)])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    explained = await armwise("explain", reply["id"])
    assert (explained["repeated"]["same"], explained["excluded"]) == (True, {"bad": EXCLUDED})
    again = await armwise("replay", "--json")
    assert (again["decisions"], again["same"], again["different"]) == (13, 13, [])


async def test_it_comes_back_when_its_provider_does(run, provider):
    service = run(models=provider.models("bad", "good"), policies=RANDOM, breakers=SHORT)
    provider.fail("bad")
    async with aiohttp.ClientSession(service.url) as http:
        await open_it(http, "bad")

        async def tried():
            await ask(http)
            return provider.calls.count("bad") > 3

        await until(tried)
        assert (await breaker(http, "bad"))["why"] == "a trial failed: server_error"
        del provider.failing["bad"]

        async def back():
            return (await ask(http))["routing"]["model"] == "bad"

        await until(back)
        assert await state(http, "bad") == "closed"
        assert await metric(http, 'armwise_breaker_state{model="bad"}') == 0.0


async def test_when_all_are_open_they_serve_as_if_none_were(run, provider):
    service = run(models=provider.models("a", "b"), policies=RANDOM, breakers=LONG)
    provider.fail("a", "b")
    async with aiohttp.ClientSession(service.url) as http:
        await open_it(http, "a")
        await open_it(http, "b")
        failed = await asked(http)
        assert failed.status == 503, "the provider's word, not ours"
        assert sorted(provider.calls[-2:]) == ["a", "b"]
        assert await metric(http, 'armwise_breaker_skipped_total{model="a"}') == 0.0
        provider.failing.clear()
        reply = await ask(http)
        assert set(reply["routing"]["eligible"]) == {"a", "b"}
        assert reply["routing"]["excluded"] == {}
        assert sorted(reply["routing"]["breakers_ignored"]) == ["a", "b"]
        told = await get(http, f"/v1/decisions/{reply['id']}")
        assert told["repeated"]["same"]
        assert sorted(told["breakers_ignored"]) == ["a", "b"]
        assert await state(http, reply["routing"]["model"]) == "closed"
        assert "breakers_ignored" not in (await ask(http))["routing"]


async def test_a_sensitive_prompt_stays_local_though_the_local_breaker_is_open(run, provider):
    far, near = provider.models("far", "near")
    near = type(near)(name="near", base_url=near.base_url, local=True)
    service = run(models=(far, near), breakers=LONG)
    provider.fail("near")
    async with aiohttp.ClientSession(service.url) as http:
        await open_it(http, "near")
        assert (await asked(http, router={"sensitive": True})).status == 503
        assert "far" not in provider.calls


async def test_who_names_it_gets_it_and_its_success_closes(run, provider):
    service = run(models=provider.models("bad", "good"), breakers=LONG)
    provider.fail("bad")
    async with aiohttp.ClientSession(service.url) as http:
        await open_it(http, "bad")
        assert (await asked(http, model="bad")).status == 503
        assert provider.calls.count("bad") == 4
        provider.failing.clear()
        assert (await ask(http, model="bad"))["routing"]["model"] == "bad"
        assert await state(http, "bad") == "closed"


async def test_a_provider_that_asks_to_wait_is_left_alone_for_so_long(run, provider):
    service = run(models=provider.models("busy", "good"), policies=RANDOM)  # and the breakers as they are by default
    provider.fail("busy", status=429, **{"Retry-After": "300"})
    async with aiohttp.ClientSession(service.url) as http:
        assert (await asked(http, model="busy")).status == 429
        found = await breaker(http, "busy")
        assert (found["state"], found["why"]) == ("open", "the provider asked to wait 300 s")
        assert 295.0 < found["next_trial_at"] - time.time() < 376.0
        assert (await ask(http))["routing"]["excluded"] == {"busy": EXCLUDED}


@pytest.mark.parametrize(("status", "opens"), [(400, False), (422, False), (401, True), (404, True), (500, True)])
async def test_what_a_request_is_at_fault_for_does_not_count(run, provider, status, opens):
    service = run(models=provider.models("m", "good"), breakers=LONG)
    provider.fail("m", status=status)
    async with aiohttp.ClientSession(service.url) as http:
        for _ in range(6):
            await asked(http, model="m")
        assert (await state(http, "m") == "open") == opens


async def test_half_of_many_calls_are_too_many(run, provider):
    service = run(models=provider.models("m", "good"))
    async with aiohttp.ClientSession(service.url) as http:
        for _ in range(4):
            provider.failing.clear()
            assert (await asked(http, model="m")).status == 200
            provider.fail("m")
            assert (await asked(http, model="m")).status == 503
        assert await state(http, "m") == "closed"
        assert (await asked(http, model="m")).status == 503
        provider.failing.clear()
        assert (await asked(http, model="m")).status == 200
        assert await state(http, "m") == "closed", "a success opens nothing"
        provider.fail("m")
        assert (await asked(http, model="m")).status == 503
        assert (await breaker(http, "m"))["why"] == "6 of 11 calls failed, the last: server_error"


async def test_streams_that_break_off_open_it_and_one_that_begins_closes_it(run):
    models = (SimulatedModel(name="m"), SimulatedModel(name="good"))
    service = run(models=models, breakers=SHORT)
    async with aiohttp.ClientSession(service.url) as http:

        async def stream(**simulate):
            body = {"messages": MESSAGES, "model": "m", "stream": True, "simulate": simulate}
            return await http.post("/v1/chat/completions", json=body)

        for fail in ("cut", "timeout", "cut"):
            async with await stream(fail=fail) as reply:
                await reply.read()
        assert (await breaker(http, "m"))["why"] == "3 failures in a row, the last: connection"
        async with await stream(chunks=20_000) as reply:
            assert reply.status == 200
            assert await reply.content.readany()
            assert await state(http, "m") == "closed", "it answers, though it has not ended"
        async with await stream() as reply:
            assert b"[DONE]" in await reply.read()
        assert await state(http, "m") == "closed"


async def test_one_trial_at_a_time_and_a_client_that_goes_away_frees_its_place(run, provider):
    service = run(models=provider.models("bad", "good"), policies=(Fixed(name="bad first", arm="bad"),), breakers=SHORT)
    provider.fail("bad")
    async with aiohttp.ClientSession(service.url) as http:
        await open_it(http, "bad")
        del provider.failing["bad"]
        provider.holding["bad"] = asyncio.Event()

        async def half_open():
            return await state(http, "bad") == "half-open"

        await until(half_open)
        trial = asyncio.create_task(asked(http))

        async def tried():
            return provider.calls.count("bad") == 4

        await until(tried)
        meanwhile = (await ask(http))["routing"]
        assert (meanwhile["model"], meanwhile["excluded"]) == ("good", {"bad": EXCLUDED})
        assert await metric(http, 'armwise_breaker_state{model="bad"}') in {1.0, 2.0}  # told each second
        trial.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await trial
        provider.holding["bad"].set()

        async def back():
            return (await ask(http))["routing"]["model"] == "bad"

        await until(back)
        assert await state(http, "bad") == "closed"


async def test_a_fallback_that_opened_meanwhile_is_tried_last(run, provider):
    names = ("first", "second", "third")
    service = run(
        models=provider.models(*names), policies=(Fixed(name="first first", arm="first"),), breakers=LONG,
        routing=Routing(fallbacks=2),
    )  # fmt: skip
    provider.fail("first", "second")
    provider.holding["first"] = asyncio.Event()
    async with aiohttp.ClientSession(service.url) as http:
        waiting = asyncio.create_task(asked(http))

        async def called():
            return "first" in provider.calls

        await until(called)
        await open_it(http, "second")
        provider.holding["first"].set()
        routing = (await waiting).body["routing"]
        assert routing["plan"] == ["first", "second", "third"]
        assert (routing["model"], routing["failed"]) == ("third", {"first": "server_error"})
        assert await metric(http, 'armwise_breaker_skipped_total{model="second"}') == 1.0

        provider.holding["first"] = asyncio.Event()
        provider.calls.clear()
        waiting = asyncio.create_task(asked(http))
        await until(called)
        provider.fail("third")
        provider.holding["first"].set()
        assert (await waiting).status == 503
        assert provider.calls == ["first", "third"], "excluded when it was decided, it is in no plan"


async def test_an_admin_closes_it_on_every_replica_and_that_is_kept(run, provider):
    services = [run(models=provider.models("bad", "good"), breakers=LONG) for _ in range(2)]  # on one database
    provider.fail("bad")
    async with contextlib.AsyncExitStack() as stack:
        https = [await stack.enter_async_context(aiohttp.ClientSession(one.url)) for one in services]
        for http in https:
            await open_it(http, "bad")
        said = {"action": "close_breaker", "model": "bad", "note": "the key was renewed"}
        async with https[0].post("/v1/controls", json=said) as reply:
            assert reply.status == 200
        assert await state(https[0], "bad") == "closed"

        async def followed():
            return await metric(https[1], 'armwise_breaker_state{model="bad"}') == 0.0

        await until(followed)
        newest = (await get(https[1], "/v1/controls"))["controls"][0]
        assert (newest["action"], newest["model"], newest["note"]) == ("close_breaker", "bad", "the key was renewed")
        await open_it(https[0], "bad")
        await get(https[0], "/v1/controls")  # which reads all controls again
        assert await state(https[0], "bad") == "open", "an old control closes nothing that opens later"
        async with https[0].post("/v1/controls", json={"action": "close_breaker"}) as reply:
            assert reply.status == 422
            assert "one `model`" in (await reply.json())["error"]["message"]


async def test_a_reload_takes_over_what_breakers_bear(run, provider, tmp_path, database_url):
    config = tmp_path / "armwise.toml"

    def write(more, timeout_s=120.0):
        lines = ["[database]", f'url = "{database_url}"', more]
        for model in provider.models("m", "good"):
            lines += ["[[models]]", f'name = "{model.name}"', 'provider = "openai_compatible"', 'tier = "medium"']
            lines += [f'base_url = "{model.base_url}"', f"timeout_s = {timeout_s if model.name == 'm' else 120.0}"]
        config.write_text("\n".join(lines))

    service = run(models=provider.models("m", "good"), breakers=LONG, config=config)
    provider.fail("m")
    async with aiohttp.ClientSession(service.url) as http:

        async def reload():
            async with http.post("/admin/reload") as reply:
                assert reply.status == 200, await reply.text()

        await open_it(http, "m")
        write("[breakers]\nconsecutive_failures = 2\nwait_s = 500.0\nmax_wait_s = 500.0")
        await reload()
        assert await state(http, "m") == "open", "it stays as it is"
        write("[breakers]\nconsecutive_failures = 2\nwait_s = 500.0\nmax_wait_s = 500.0", timeout_s=60.0)
        await reload()
        assert await state(http, "m") == "closed", "another address, key or limit may have mended it"
        await asked(http, model="m")
        await asked(http, model="m")
        assert (await breaker(http, "m"))["why"] == "2 failures in a row, the last: server_error"
        write("[breakers]\nenabled = false", timeout_s=60.0)
        await reload()
        for _ in range(20):
            await asked(http, model="m")
        assert await state(http, "m") == "closed"
        assert await metric(http, 'armwise_breaker_state{model="m"}') == 0.0
