"""`armwise evaluate`, `replay` and `report`, on logs that were stored and on one that a running service made."""

import asyncio
import json
import time

import aiohttp
import msgspec
import pytest
from click.testing import CliRunner

from bandit.policies import Random
from bandit.posteriors import Estimate
from bandit.vocabulary import PROMPT_TIERS, TASK_TYPES
from service.cli.evaluate import told_evaluation, told_replay, told_report
from service.cli.main import main, with_database
from service.configuration import read_settings
from service.learning.control_actions import Asked, store_control
from service.learning.controls import Saved
from service.storage.database import Database, migrate
from tests.api.asking import asked
from tests.api.conftest import Running
from tests.service.evaluation.decision_logs import START, rated_log, stored

MODELS = """
[[models]]
name = "small"
provider = "simulated"
tier = "small"
price_in = 1.0
price_out = 2.0

[[models]]
name = "large"
provider = "simulated"
tier = "large"
price_in = 10.0
price_out = 20.0
"""
CANDIDATES = """
[[policies]]
name = "always_large"
kind = "fixed"
arm = "large"

[[policies]]
name = "learner"
kind = "thompson"
"""


@pytest.fixture
def folder(tmp_path, database_url):
    """A folder with settings for two models on a database of each kind, and candidates."""
    (tmp_path / "armwise.toml").write_text(f'[database]\nurl = "{database_url}"\n{MODELS}')
    (tmp_path / "candidates.toml").write_text(CANDIDATES)
    return tmp_path


@pytest.fixture
def plain_folder(tmp_path):
    """The same on SQLite alone, for what does not depend on the database."""
    (tmp_path / "armwise.toml").write_text(f'[database]\nurl = "sqlite:///{tmp_path}/armwise.db"\n{MODELS}')
    (tmp_path / "candidates.toml").write_text(CANDIDATES)
    return tmp_path


def armwise(folder, command, *arguments):
    """Run a command; paths without a folder are those of `folder`."""
    given = [f"{folder}/{one}" if str(one).endswith(".toml") else str(one) for one in arguments]
    return CliRunner().invoke(main, [command, "--config", f"{folder}/armwise.toml", *given])


def as_json(done):
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def with_log(folder, log):
    """Store a log as if its decisions had been made within the last day."""
    shift = time.time() - 86_400.0 - START
    moved = [
        one._replace(decision=msgspec.structs.replace(one.decision, created_at=one.decision.created_at + shift))
        for one in log
    ]

    async def write():
        database = Database(read_settings(folder / "armwise.toml", {}).database.url)
        await database.write(lambda connection: stored(connection, moved))
        await database.close()

    migrate(read_settings(folder / "armwise.toml", {}).database.url)
    asyncio.run(write())


def test_candidates_are_evaluated(folder):
    with_log(folder, rated_log(Random(name="random"), 1500, 1))
    done = armwise(folder, "evaluate", "--policy", "candidates.toml", "--since", "2d", "--json")
    found = as_json(done)
    assert (found["decisions"], found["metric"], found["estimator"]) == (1500, "quality", "dr")
    assert [one["policy"] for one in found["policies"]] == ["always_large", "learner"]
    large = found["policies"][0]
    assert large["value"]["low"] < 0.725 < large["value"]["high"]  # .85 and .6, half each; holds in 95 of 100 seeds
    assert large["value"]["anytime_low"] < large["value"]["low"]
    assert large["difference"]["low"] < 0.05 < large["difference"]["high"]  # over .675
    assert large["cost_usd"] == pytest.approx(3.0)
    assert set(large["task_types"]) == {"Open QA", "Rewrite"}
    assert large["task_types"]["Open QA"]["difference"]["value"] > 0.1
    assert large["task_types"]["Rewrite"]["difference"]["value"] < 0.0
    assert "Reading decisions" in done.stderr
    assert list(told_evaluation(found))

    named = armwise(folder, "evaluate", "--policy", "candidates.toml", "--name", "learner", "--since", "2d", "--json")
    assert [one["policy"] for one in as_json(named)["policies"]] == ["learner"]
    told = armwise(folder, "evaluate", "--name", "random", "--since", "2d").stdout
    assert "difference  +0.000 (95 %: +0.000 to +0.000)" in told


def test_a_log_that_cannot_tell_is_refused_in_words(plain_folder):
    with_log(plain_folder, rated_log(Random(name="random"), 300, 2, rate=0.1))
    told = armwise(plain_folder, "evaluate", "--policy", "candidates.toml", "--since", "2d")
    assert told.exit_code == 0
    assert "value       cannot be told: the log has" in told.stdout
    empty = armwise(plain_folder, "evaluate", "--policy", "candidates.toml", "--since", "1m")
    assert empty.exit_code == 1
    assert "The log has no decision that can be used" in empty.stderr
    assert "Traceback" not in empty.stderr


def test_the_log_is_replayed_under_another_policy(plain_folder):
    with_log(plain_folder, rated_log(Random(name="random"), 600, 3))
    found = as_json(armwise(plain_folder, "replay", "--policy", "candidates.toml", "--since", "2d", "--json"))
    large, learner = found["policies"]
    assert large["shares"] == {"small": 0.0, "large": 1.0}
    assert large["cost_usd"] == pytest.approx(600 * 0.002)
    assert 0.0 < learner["shares"]["small"] < 1.0
    assert sum(learner["shares"].values()) == pytest.approx(1.0)
    assert list(told_replay(found))
    few = as_json(armwise(plain_folder, "replay", "--name", "random", "--since", "2d", "--limit", "7", "--json"))
    assert few["decisions"] == 7


def test_the_report_has_values_and_bills(plain_folder):
    with_log(plain_folder, rated_log(Random(name="random"), 2000, 4))
    found = as_json(armwise(plain_folder, "report", "--since", "2d", "--json"))
    assert found["best_fixed"]["model"] == "large"  # .725 against .625: by chance the other in 1 of 1,000 seeds
    assert found["bills_usd"] == pytest.approx({"small": 0.4, "large": 4.0})
    assert set(found["against"]) == {"small", "large", "random"}
    assert found["against"]["random"]["value"] == 0.0
    assert found["feedback_rate"] == pytest.approx(0.7, abs=0.05)
    told = list(told_report(found))
    assert any("large, chosen on the first half" in line for line in told)
    assert armwise(plain_folder, "report", "--since", "2d").stdout.splitlines()[0] == told[0]


def live(folder, requests, tag=""):
    """Serve the folder's settings, and send some rated requests."""
    config = folder / "armwise.toml"

    async def send(url):
        async with aiohttp.ClientSession(url) as http:
            for number in range(requests):
                text = ("What is the capital of France?", "Write a Python function that sorts a list.")[number % 2]
                messages = [{"role": "user", "content": f"{text} {tag}{number}"}]
                answer = await asked(http, messages=messages)
                assert answer.status == 200
                body = {"decision_id": answer.body["id"], "value": number % 3 / 2, "user": f"u{number}"}
                async with http.post("/feedback", json=body) as reply:
                    assert reply.status == 200

    with Running(read_settings(config, {}), config) as running:
        asyncio.run(send(running.url))


@pytest.mark.parametrize("kind", ["pooled_thompson", "thompson", "linear_thompson"])
def test_decisions_of_a_running_service_are_derived_again_bit_for_bit(folder, kind):
    config = folder / "armwise.toml"
    learning = "[learning]\nfit_every_s = 0.05\nfit_labels = 5\n"
    config.write_text(f'{config.read_text()}\n{learning}[[policies]]\nname = "learner"\nkind = "{kind}"\n')
    live(folder, 30)
    config.write_text(config.read_text().replace("price_in = 10.0", "price_in = 7.0"))
    live(folder, 10, "again ")
    found = as_json(armwise(folder, "replay", "--since", "1h", "--json"))
    assert (found["decisions"], found["same"], found["different"]) == (40, 40, [])
    assert "40 of 40 decisions come out the same" in armwise(folder, "replay", "--since", "1h").stdout

    prices = folder / "prices.toml"
    prices.write_text('[[models]]\nname = "large"\nprice_out = 40.0\n')
    dear = as_json(armwise(folder, "replay", "--prices", "prices.toml", "--since", "1h", "--json"))
    (moved,) = dear["policies"]
    assert moved["policy"] == "at the prices of prices.toml"
    assert moved["likeliest_differs"] == 0.0  # this policy does not look at prices
    assert moved["shares"] == pytest.approx(dear["logged"]["shares"], abs=1e-12)


def test_prices_move_a_policy_that_looks_at_them(plain_folder):
    config = plain_folder / "armwise.toml"
    policy = '[[policies]]\nname = "learner"\nkind = "pooled_thompson"\ncost_weight = 50.0\n'
    config.write_text(f"{config.read_text()}\n{policy}")
    live(plain_folder, 20)
    shares = []
    for price in (0.0, 2000.0):
        (plain_folder / "prices.toml").write_text(f'[[models]]\nname = "large"\nprice_out = {price}\n')
        found = as_json(armwise(plain_folder, "replay", "--prices", "prices.toml", "--since", "1h", "--json"))
        shares.append(found["policies"][0]["shares"]["large"])
    assert shares[1] < 0.05 < shares[0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["evaluate", "--since", "2d"], "Give candidates: --policy FILE, or --name"),
        (["evaluate", "--name", "randm"], "No policy is called `randm` (did you mean `random`?)."),
        (["evaluate", "--name", "random", "--since", "soon"], "'soon' is no time"),
        (["evaluate", "--name", "random", "--metric", "qality"], "did you mean `quality`?"),
        (["replay", "--name", "random", "--prices", "candidates.toml"], "Give candidates or --prices"),
        (["replay", "--prices", "candidates.toml"], "unknown key `policies`"),
        (["evaluate", "--policy", "armwise.toml"], "unknown key"),
    ],
)
def test_mistakes_are_named(plain_folder, arguments, said):
    done = armwise(plain_folder, *arguments)
    assert done.exit_code != 0
    assert said in done.output
    assert "Traceback" not in done.output


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[[policies]]\nname = "f"\nkind = "fixed"\narm = "lage"\n', "lage"),
        ('[[policies]]\nname = "p"\nkind = "pooled_thompson"\nprior_file = "none.json"\n', "there is no such prior"),
        ('[[policies]]\nname = "p"\nkind = "thomson"\n', "did you mean `thompson`?"),
        ("", "holds no [[policies]]"),
        ("[[policies", "is not TOML"),
    ],
)
def test_mistakes_in_a_file_of_candidates_are_named(plain_folder, text, said):
    (plain_folder / "candidates.toml").write_text(text)
    done = armwise(plain_folder, "evaluate", "--policy", "candidates.toml")
    assert done.exit_code == 1
    assert said in done.output
    assert "candidates.toml" in done.output


def test_prices_of_an_unknown_model_are_a_mistake(plain_folder):
    (plain_folder / "prices.toml").write_text('[[models]]\nname = "lage"\nprice_in = 1.0\n')
    done = armwise(plain_folder, "replay", "--prices", "prices.toml")
    assert "no model `lage` is configured" in done.output


def test_a_policy_that_learns_from_prompts_is_evaluated_like_any_other(folder):
    """It finds the better model of each task type, which is worth .1 more than chance; three standard errors."""
    with_log(folder, rated_log(Random(name="random"), 2500, 5))
    (folder / "candidates.toml").write_text('[[policies]]\nname = "l"\nkind = "linear_thompson"\n')
    found = as_json(armwise(folder, "evaluate", "--policy", "candidates.toml", "--since", "2d", "--json"))
    over = found["policies"][0]["difference"]
    assert over["value"] > 0.05
    assert over["low"] > 0.0


def test_candidates_follow_the_owner_s_switches_unless_told_otherwise(folder):
    """Held from the beginning at what makes small the best by far, they send it all."""
    with_log(folder, rated_log(Random(name="random"), 400, 6))
    held = {"small": Estimate(0.9, 0.01), "large": Estimate(0.1, 0.01)}
    saved = Saved(estimates={"l": {task: dict.fromkeys(PROMPT_TIERS, held) for task in TASK_TYPES}})

    def switch(connection):
        return store_control(connection, Asked(action="rollback", to="x"), saved, "me", time.time() - 90_000.0)

    with_database(folder / "armwise.toml", switch)
    (folder / "candidates.toml").write_text('[[policies]]\nname = "l"\nkind = "pooled_thompson"\n')
    small = []
    for more in ([], ["--without-controls"]):
        done = armwise(folder, "replay", "--policy", "candidates.toml", "--since", "2d", "--json", *more)
        small.append(as_json(done)["policies"][0]["shares"]["small"])
    assert small[0] > 0.99
    assert small[1] < 0.9
