"""The report of an experiment through the whole service: what it says, who may read it, and that harm ends it."""

import asyncio
import json

import aiohttp
import pytest
from click.testing import CliRunner
from sqlalchemy import insert, update

from service.auth import key_row, new_key, new_secret
from service.cli.main import main
from service.experiments.assigning import Unit, held_out
from service.settings import Drift, Experiments, Holdout, Quality
from service.storage import store
from service.storage.database import Database, migrate
from service.storage.tables import exposures, looks
from tests.api.asking import ask, asked
from tests.api.test_alarms import receiving
from tests.api.test_experiment_life import PAIR, POLICIES, begin, get, make, rate, take
from tests.api.upstream import metric, until

WEBHOOK = "ARMWISE_TEST_EXPERIMENT_WEBHOOK"
QUICK = Experiments(look_every_s=0.1)
SHORT = {**PAIR, "window_s": 3.0, "grace_s": 5, "minimum_s": 0, "maximum_s": 3600}


@pytest.fixture
def service(run):
    """A service that looks ten times a second."""
    return run(policies=POLICIES, quality=Quality(enabled=False), experiments=QUICK)


@pytest.fixture
async def http(service):
    async with aiohttp.ClientSession(service.url) as session:
        yield session


async def written(service, statement, rows=None):
    database = Database(service.settings.database.url, 1)
    try:
        arguments = () if rows is None else (rows,)
        await database.write(lambda connection: connection.execute(statement, *arguments) and None)
    finally:
        await database.close()


def closed(name, variant, good, bad, at):
    """Units whose time is over: so many with a thumb up, so many with one down."""
    return [
        {
            "experiment": name, "unit": f"{variant}-{number}", "variant": variant, "first_at": at,
            "outcome": json.dumps([1, 1, 1, 0, 0, 0, 0.001, None, {"quality": [float(number < good), 1]}]),
        }
        for number in range(good + bad)
    ]  # fmt: skip


async def test_before_it_starts_a_report_says_that_nothing_is_known(http):
    await make(http, PAIR)
    found = await get(http, "/v1/experiments/pair/report")
    assert (found["verdict"], found["closed_units"], found["open_units"], found["looks"]) == ("keep_going", 0, 0, [])
    assert found["sentence"].startswith("Keep going (created). treated: quality is known of 0 and 0 units")
    assert "salt" not in found["experiment"]
    assert found["holdout"] is None
    assert (await get(http, "/stats"))["holdout"] is None


async def test_a_name_that_is_none_is_told(http):
    await make(http, PAIR)
    async with http.get("/v1/experiments/pear/report") as reply:
        assert reply.status == 404
        assert "There is no experiment `pear`" in (await reply.json())["error"]["message"]


async def test_what_users_do_is_in_the_report_when_their_time_is_over(service, http, tmp_path):
    await begin(http, SHORT, primary={"name": "failure", "direction": "down"})
    for number in range(6):
        reply = await ask(http, user=f"u-{number}")
        await rate(http, reply, value=True)
        await ask(http, user=f"u-{number}")

    async def all_closed():
        found = await get(http, "/v1/experiments/pair/report")
        assert found["closed_units"] + found["open_units"] == 6
        return found if found["open_units"] == 0 and found["looks"] else None

    found = await until(all_closed)
    sides = found["report"]["sides"]
    assert sum(side["units"] for side in sides) == 6
    assert sum(side["requests"] for side in sides) == 12
    assert {side["metrics"]["failure"] for side in sides if side["units"]} == {0.0}
    assert {side["feedback_rate"] for side in sides if side["units"]} == {1.0}
    assert found["looks"][-1]["estimate"] is None  # six users are no fifty
    await until(lambda: reads(http, 'armwise_experiment_units{experiment="pair",variant="treated"}', 6.0))
    assert await metric(http, 'armwise_experiment_sample_ratio_evalue{experiment="pair"}') < 1_000.0

    config = tmp_path / "armwise.toml"
    config.write_text(f'[database]\nurl = "{service.settings.database.url}"\n')
    told = await asyncio.to_thread(run_command, "pair", "--json", config=config)
    assert json.loads(told)["report"]["sides"] == sides
    shown = await asyncio.to_thread(run_command, "pair", config=config)
    assert shown.startswith("Keep going (running). treated: failure")
    assert "6 units are closed, 0 are not yet" in shown


def run_command(*words, config):
    """What `armwise experiment report` says."""
    done = CliRunner().invoke(main, ["experiment", "report", *words, "--config", str(config)])
    assert done.exit_code == 0, done.output
    return done.output


async def test_a_variant_that_does_harm_is_stopped_and_everybody_is_told(run, monkeypatch):
    async with receiving() as (url, got):
        monkeypatch.setenv(WEBHOOK, url)
        service = run(policies=POLICIES, experiments=QUICK, drift=Drift(webhook_url_env=WEBHOOK))
        async with aiohttp.ClientSession(service.url) as http:
            one = await begin(http, SHORT)
            rows = closed("pair", "control", 160, 40, one["started_at"])
            await written(service, insert(exposures), rows + closed("pair", "treated", 80, 120, one["started_at"]))

            async def stopped():
                found = await get(http, "/v1/experiments/pair")
                return found if found["state"] == "stopped" and got else None

            found = await until(stopped)
            last = found["log"][-1]
            assert (last["action"], last["who"]) == ("stop", "armwise")
            assert last["note"].startswith("Stopped: a variant is worse than the control. treated: quality differs")
            assert got[0]["text"] == f"experiment pair: {last['note']}"
            assert (got[0]["experiment"], got[0]["look"]["verdict"]) == ("pair", "kill")
            report = await get(http, "/v1/experiments/pair/report")
            assert report["sentence"].startswith("Stop it (stopped). Stopped: a variant is worse than the control.")
            assert report["looks"][-1]["high"] < 0.0
            assert await metric(http, "armwise_experiments_stopped_total") == 1.0
            assert (await ask(http, user="u-1"))["routing"]["experiment"] is None
            await take(http, "pair", "decide")
            gauge = 'armwise_experiment_units{experiment="pair",variant="treated"}'
            await until(lambda: reads(http, gauge, 0.0))
        assert len(got) == 1


async def reads(http, line, value):
    return await metric(http, line) == value


async def test_damage_in_what_was_written_down_breaks_no_request(service, http):
    one = await begin(http, SHORT)
    await ask(http, user="u-1")
    await written(service, insert(exposures), closed("pair", "control", 60, 60, one["started_at"]))
    await written(service, update(exposures).where(exposures.c.unit == "control-3").values(outcome='[1,"x"]'))
    await written(service, insert(looks), [{"experiment": "pair", "at": one["started_at"] + 1e6, "content": "{"}])

    async def counted():
        return await metric(http, 'armwise_learner_errors_total{place="experiments"}')

    await until(counted)
    assert (await asked(http, user="u-1")).status == 200
    report = await get(http, "/v1/experiments/pair/report")
    assert report["damaged_units"] == 1
    assert report["report"]["units"] == report["closed_units"] - 1


async def test_reading_needs_the_scope_read(run, database_url):
    keys = {name: new_secret() for name in ("read", "chat")}
    await asyncio.to_thread(migrate, database_url)
    database = Database(database_url, 1)
    for name, secret in keys.items():
        row = key_row(new_key(secret, name, [name], 1.0))
        await database.write(lambda connection, row=row: store.insert_key(connection, row))
    await database.close()
    service = run(policies=POLICIES)
    async with aiohttp.ClientSession(service.url) as http:
        for name, status in (("read", 404), ("chat", 403)):
            headers = {"authorization": f"Bearer {keys[name]}"}
            async with http.get("/v1/experiments/pair/report", headers=headers) as reply:
                assert reply.status == status
        async with http.get("/v1/experiments/pair/report") as reply:
            assert reply.status == 401


async def test_what_routing_is_worth_stands_in_the_statistics(run):
    service = run(
        policies=POLICIES, quality=Quality(enabled=False), experiments=QUICK, holdout=Holdout(share=0.05, model="large")
    )
    names = [f"u-{number}" for number in range(400)]
    held = [name for name in names if held_out(Unit(user=name), 0.05)][:3]
    routed = [name for name in names if not held_out(Unit(user=name), 0.05)][:4]
    async with aiohttp.ClientSession(service.url) as http:
        for user in held + routed:
            reply = await ask(http, user=user)
            assert (reply["routing"]["method"] == "holdout") == (user in held)
            await rate(http, reply, value=user not in held)

        async def known():
            found = (await get(http, "/stats"))["holdout"]
            return found if found is not None and found["units"] == 7 else None

        found = await until(known)
        assert (found["model"], found["held_out_units"], found["value"]) == ("large", 3, None)
        assert found["sentence"].startswith(
            "What routing is worth against `large` is not known yet: 4 routed and 3 held"
        )
        assert found["held_out_cost_usd"] > 0.0
        await make(http, PAIR)
        assert (await get(http, "/v1/experiments/pair/report"))["holdout"] == found
