"""What was learned becomes estimates in the background: when, with what, and that nothing of it can stop a chat."""

import asyncio
import contextlib
import dataclasses

import aiohttp
import pytest

from bandit.channels import Calibration
from bandit.drift import ON_ALARM
from bandit.history import ArmRestart
from bandit.pooled import PooledThompson
from bandit.posteriors import MICRO, CellKey, Counts, Estimate
from bandit.priors import PriorTable
from bandit.vocabulary import PROMPT_TIERS, TASK_TYPES
from service.configuration import read_settings, settings_from_toml
from service.errors import ConfigurationError
from service.learning.fitting import Fitting
from service.learning.knowledge import Knowledge
from service.learning.priors import write_prior
from service.metrics.catalogue import Metrics
from service.settings import Learning, Settings
from service.setup import create_setup
from tests.api.asking import ask
from tests.api.conftest import Running, settings_for

POOLED = "pooled_thompson"
QUICK = Learning(fit_every_s=0.05)
CELL = (TASK_TYPES[0], PROMPT_TIERS[0])
NOW = 1_800_000_000.0


def bad(labels, arm="small"):
    """So many thumbs down for a model."""
    cell = CellKey("", arm, *CELL, int(NOW // 3600), "thumb")
    return {cell: Counts(labels * MICRO, 0, 0)}


@pytest.fixture
def setup():
    return create_setup(Settings())


@pytest.fixture
def parts():
    """Knowledge, metrics, and what fits for them."""
    knowledge, metrics = Knowledge(), Metrics()
    return knowledge, metrics, Fitting(knowledge, metrics)


def mean(knowledge, arm="small"):
    return knowledge.fit("", POOLED)[CELL].estimates[arm].mean


def failures(metrics):
    return metrics.registry.get_sample_value("armwise_learner_errors_total", {"place": "fit"})


# When


async def test_a_fit_is_due_after_a_while_or_after_many_labels_or_with_other_settings(parts, setup):
    knowledge, _, fitting = parts
    assert fitting.due(setup, NOW)
    await fitting.refresh(setup, NOW)
    assert not fitting.due(setup, NOW + 599.0)
    assert fitting.due(setup, NOW + 600.0)  # old labels fade though nothing came
    knowledge.fold(bad(1))
    assert not fitting.due(setup, NOW + 4.9)
    assert fitting.due(setup, NOW + 5.0)
    knowledge.fold(bad(198))
    assert not fitting.due(setup, NOW)
    knowledge.fold(bad(1, "large"))
    assert fitting.due(setup, NOW)
    await fitting.refresh(setup, NOW)
    assert not fitting.due(setup, NOW + 5.0)
    assert fitting.due(create_setup(Settings()), NOW)


async def test_what_is_told_of_models_and_readings_calls_for_a_fit_once(parts, setup):
    knowledge, _, fitting = parts
    knowledge.fold(bad(20))
    await fitting.refresh(setup, NOW)
    before = mean(knowledge)
    restarts = [ArmRestart("small", int(NOW // 3600) + 1, ON_ALARM["up"])]
    for _ in range(2):
        fitting.told(restarts, Calibration())
        assert fitting.due(setup, NOW + 5.0)
    await fitting.refresh(setup, NOW)
    assert mean(knowledge) > before + 0.05
    fitting.told(restarts, Calibration())
    assert not fitting.due(setup, NOW + 5.0)


async def test_whoever_asks_for_a_fresh_fit_has_it_also_while_one_is_under_way(parts, setup):
    knowledge, _, fitting = parts
    await fitting.refresh(setup, NOW)
    before = mean(knowledge)
    knowledge.fold(bad(20))
    first = asyncio.create_task(fitting.fresh(setup))
    await asyncio.sleep(0)
    assert not fitting.due(setup, NOW + 10_000.0)
    await fitting.fresh(setup)
    assert mean(knowledge) < before
    await first


async def test_nothing_new_is_no_work(parts, setup):
    knowledge, _, fitting = parts
    await fitting.fresh(setup)
    fit = knowledge.fit("", POOLED)
    await fitting.fresh(setup)
    assert knowledge.fit("", POOLED) is fit
    assert set(fit) == {(task, tier) for task in TASK_TYPES for tier in PROMPT_TIERS}


class Broken(PooledThompson, frozen=True, tag="broken"):
    """A policy that cannot be fitted."""

    def estimates(self, arms, history):
        raise FloatingPointError("poison")


async def test_a_fit_that_fails_leaves_the_last_one_and_the_other_policies(parts, setup):
    knowledge, metrics, fitting = parts
    two = dataclasses.replace(setup, policies={"other": PooledThompson(name="other"), **setup.policies})
    await fitting.refresh(two, NOW)
    fit, version = knowledge.fit("", "other"), knowledge.fit("", POOLED)[CELL].version
    knowledge.fold(bad(20))
    await fitting.refresh(dataclasses.replace(two, policies={"other": Broken(name="other"), **setup.policies}), NOW)
    assert knowledge.fit("", "other") is fit
    assert knowledge.fit("", POOLED)[CELL].version != version
    assert failures(metrics) == 1.0


async def test_a_policy_that_is_gone_has_no_conflict_any_more(parts, setup):
    _, metrics, fitting = parts
    two = dataclasses.replace(setup, policies={"other": PooledThompson(name="other"), **setup.policies})
    await fitting.refresh(two, NOW)
    assert fitting.conflicts.keys() == {"other", POOLED}
    metrics.prior_conflict("other", 9.0)
    await fitting.refresh(setup, NOW)
    assert fitting.conflicts.keys() == {POOLED}
    assert 'armwise_prior_conflict{policy="other"} 0.0' in metrics.exposition()[0].decode()


class Unspeakable(PooledThompson, frozen=True, tag="unspeakable"):
    """A policy whose estimates are no numbers."""

    def estimates(self, arms, history):
        return {cell: {"small": Estimate(float("nan"), 0.1)} for cell in super().estimates(arms, history)}


async def test_estimates_that_are_no_numbers_are_not_decided_on(parts, setup):
    knowledge, metrics, fitting = parts
    await fitting.refresh(setup, NOW)
    fit = knowledge.fit("", POOLED)
    await fitting.refresh(dataclasses.replace(setup, policies={POOLED: Unspeakable(name=POOLED)}), NOW)
    assert knowledge.fit("", POOLED) is fit
    assert failures(metrics) == 1.0


# In the running service


@pytest.fixture
def start(database_url):
    """Start a service that fits quickly, on SQLite or Postgres, with whatever else a test needs."""
    with contextlib.ExitStack() as stack:

        def begin(config=None, **changes):
            settings = settings_for(database_url, **{"learning": QUICK, **changes})
            return stack.enter_context(Running(settings, config))

        yield begin


async def until(condition):
    """Wait for something that happens in the background."""
    async with asyncio.timeout(60):
        while not (result := await condition()):
            await asyncio.sleep(0.05)
    return result


async def get(http, path, **query):
    async with http.get(path, params=query) as reply:
        assert reply.status == 200, await reply.text()
        return await reply.json()


async def rate(http, reply, value):
    async with http.post("/feedback", json={"decision_id": reply["id"], "value": value}) as answer:
        assert answer.status == 200, await answer.text()


async def known(http, reply, model="small"):
    """The mean that the posteriors show for the task type of a reply and simple prompts."""
    cells = (await get(http, "/v1/posteriors", task_type=reply["routing"]["task_type"], tier="simple"))["cells"]
    return next(cell["mean"] for cell in cells if cell["model"] == model)


async def share(http, model="small"):
    """The probability that a decision now gives a model."""
    choice = (await get(http, f"/v1/decisions/{(await ask(http))['id']}"))["choice"]
    return dict(zip(choice["arms"], choice["probabilities"], strict=True))[model]


async def test_a_label_is_shown_at_once_and_soon_decided_on(start):
    async with aiohttp.ClientSession(start().url) as http:
        reply = await ask(http, model="small")
        before, share_before = await known(http, reply), await share(http)
        for turn in range(8):
            reply = await ask(http, model="small")
            await rate(http, reply, True)
            after = await known(http, reply)
            assert after > before, turn
            before = after

        async def preferred():
            return await share(http) > share_before

        await until(preferred)


async def test_without_many_labels_a_decision_waits_for_its_time(start):
    async with aiohttp.ClientSession(start(learning=Learning(fit_every_s=3_600.0, fit_labels=4)).url) as http:
        before = await share(http)
        for _ in range(3):
            await rate(http, await ask(http, model="small"), True)
        await asyncio.sleep(0.5)
        assert await share(http) == before
        for _ in range(3):
            await rate(http, await ask(http, model="small"), True)

        async def preferred():
            return await share(http) > before

        await until(preferred)


async def test_a_new_version_makes_the_past_count_less(start):
    async with aiohttp.ClientSession(start().url) as http:
        untouched = await known(http, await ask(http, model="small"))
        for _ in range(12):
            reply = await ask(http, model="small")
            await rate(http, reply, False)
        blamed = await known(http, reply)
        assert blamed < untouched
        async with http.post("/v1/events", json={"model": "small", "event": "version"}) as answer:
            assert answer.status == 200, await answer.text()

        async def forgiven():
            return await known(http, reply) > blamed + 0.01

        await until(forgiven)
        assert await known(http, reply) < untouched


async def test_a_poisoned_ledger_stops_no_chat_and_is_fitted_again_when_it_is_sound(start):
    service = start()
    async with aiohttp.ClientSession(service.url) as http:
        await rate(http, await ask(http, model="small"), True)
        columns = service.parts.knowledge.ledger._columns[""]
        sound = columns._keys[0, 1]
        columns._keys[:, 1] = 99  # no task type has this number
        before = await known(http, await ask(http, model="small"))
        for _ in range(3):
            reply = await ask(http, model="small")
            await rate(http, reply, True)
        assert await known(http, reply) == before
        async with http.get("/metrics") as answer:
            assert 'armwise_learner_errors_total{place="fit"} 0.0' not in await answer.text()
        for _ in range(5):
            assert (await ask(http))["routing"]["method"] == "auto"
        async with http.get("/ready") as answer:
            assert answer.status == 200
        columns._keys[:, 1] = sound  # all prompts were alike
        reply = await ask(http, model="small")
        await rate(http, reply, True)
        assert await known(http, reply) > before


async def test_decisions_repeat_after_more_was_learned_and_after_a_restart(start):
    first = start()
    ids = []
    async with aiohttp.ClientSession(first.url) as http:
        for turn in range(12):
            reply = await ask(http, router={"explore": turn % 3 != 0})
            await rate(http, reply, turn % 2 == 0)
            ids.append(reply["id"])
            await asyncio.sleep(0.1)  # so that there are several fits
        versions = set()
        for one in ids:
            told = await get(http, f"/v1/decisions/{one}")
            assert told["repeated"]["same"] is True
            versions.add(told["choice"]["beliefs_version"])
        assert len(versions) > 1
    first.__exit__(None, None, None)
    async with aiohttp.ClientSession(start().url) as http:
        assert (await ask(http))["routing"]["policy"] == POOLED
        for one in ids:
            assert (await get(http, f"/v1/decisions/{one}"))["repeated"]["same"] is True


async def test_what_was_learned_is_decided_on_after_a_restart_at_once(start):
    first = start()
    async with aiohttp.ClientSession(first.url) as http:
        reply = await ask(http, model="small")
        untouched = await known(http, reply)
        for _ in range(10):
            await rate(http, await ask(http, model="small"), True)
        learned, share_before = await known(http, reply), await share(http)
        assert learned > untouched + 0.05
    first.__exit__(None, None, None)
    slow = Learning(fit_every_s=3_600.0)
    async with aiohttp.ClientSession(start(learning=slow).url) as http:
        # The last replies' readings follow them by a moment.
        assert await share(http) == pytest.approx(share_before, abs=0.01)
        assert await known(http, reply) == pytest.approx(learned, abs=0.01)


async def test_replicas_come_to_the_same_estimates(start):
    here, there = start(), start()
    async with aiohttp.ClientSession(here.url) as one, aiohttp.ClientSession(there.url) as two:
        for turn in range(6):
            await rate((one, two)[turn % 2], reply := await ask((one, two)[turn % 2], model="small"), turn % 3 > 0)

        async def agreed():
            cells = [await get(http, "/v1/posteriors") for http in (one, two)]
            means = [[cell["mean"] for cell in found["cells"]] for found in cells]
            labels = [sum(cell["n"] for cell in found["cells"]) for found in cells]
            return labels == [6.0, 6.0] and means[0] == pytest.approx(means[1], abs=1e-5)

        await until(agreed)
        assert await known(one, reply) != await known(one, reply, "large")


# Settings


def toml(database, prior="", models=("one", "two")):
    lines = ["[database]", f'url = "{database}"', "[learning]", "fit_every_s = 3600.0"]
    lines += ["[[policies]]", f'name = "{POOLED}"', f'kind = "{POOLED}"', f'prior_file = "{prior}"']
    for name in models:
        lines += ["[[models]]", f'name = "{name}"', 'provider = "simulated"']
    return "\n".join(lines)


async def test_a_reload_is_fitted_before_it_serves(start, tmp_path, database_url):
    path = tmp_path / "armwise.toml"
    path.write_text(toml(database_url))
    settings = read_settings(path, {})
    service = start(path, models=settings.models, policies=settings.policies, learning=settings.learning)
    async with aiohttp.ClientSession(service.url) as http:
        assert (await ask(http))["routing"]["policy"] == POOLED
        prior = tmp_path / "prior.json"
        write_prior(prior, PriorTable({"three": {"": 0.95}, "one": {"": 0.2}, "two": {"": 0.2}}, source="made up"))
        path.write_text(toml(database_url, prior, ("one", "two", "three")))
        async with http.post("/admin/reload") as reply:
            assert reply.status == 200, await reply.text()
        (fitted,) = {frozenset(cell.estimates) for cell in service.parts.knowledge.fit("", POOLED).values()}
        assert fitted == {"one", "two", "three"}
        assert await share(http, "three") > 0.9
        reply = await ask(http)
        assert await known(http, reply, "three") == pytest.approx(0.95, abs=0.01)
        assert await known(http, reply, "one") == pytest.approx(0.2, abs=0.01)
        path.write_text(toml(database_url, tmp_path / "gone.json", ("one", "two", "three")))
        async with http.post("/admin/reload") as answer:
            assert answer.status == 400
            assert "policies[0].prior_file" in await answer.text()
        assert await share(http, "three") > 0.9
        assert (await get(http, f"/v1/decisions/{reply['id']}"))["repeated"]["same"] is True


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (None, "there is no such prior; `armwise prior import` makes one"),
        (b"{", "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b'{"quality": {}}', "`quality` is empty"),
        (b'{"quality": {"one": {"": 1.5}}}', "quality"),
        (b'{"quality": {"one": {"Open QAs": 0.5}}}', "unknown task type `Open QAs`"),
    ],
)
def test_a_prior_file_that_cannot_be_used_is_named_with_its_setting(tmp_path, content, fault):
    path = tmp_path / "prior.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigurationError) as raised:
        settings_from_toml(toml("sqlite:///x.db", path), {})
    (mistake,) = raised.value.mistakes
    assert mistake.startswith(f"`policies[0].prior_file`: {path}: ")
    assert fault in mistake


def test_a_prior_is_part_of_the_settings_it_was_read_with(tmp_path):
    path = tmp_path / "prior.json"
    write_prior(path, PriorTable({"one": {"": 0.5}}))
    before = create_setup(settings_from_toml(toml("sqlite:///x.db", path), {}))
    write_prior(path, PriorTable({"one": {"": 0.6}}))
    after = create_setup(settings_from_toml(toml("sqlite:///x.db", path), {}))
    assert before.version != after.version
    assert before.policies[POOLED].prior == PriorTable({"one": {"": 0.5}})
