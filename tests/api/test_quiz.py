"""A quiz beside the running service: a new model is known before its first request, and nothing else notices."""

import asyncio
import json
import re
import time

import aiohttp
import pytest
from aiohttp import web
from click.testing import CliRunner
from sqlalchemy import func, select

from bandit.linear import LinearThompson
from bandit.vocabulary import PromptProfile
from service import settings
from service.cli.main import main
from service.learning.contexts import Contexts
from service.learning.prior_sources import count_ratings
from service.probes.quiz import Asked, Marking, Quiz, plan_of
from service.probes.quiz_questions import Posed, question_from
from service.providers import Providers
from service.settings import Judge, Learning, Retention, SimulatedModel
from service.storage import store, tables
from service.storage.database import Database
from service.storage.writer import Writer
from tests.api.asking import ask
from tests.api.upstream import until, upstream

QUESTIONS = [
    {"prompt": f"What is the capital of country number {number}?", "task_type": "Open QA"} for number in range(50)
]
QUICK = Learning(fit_every_s=0.2)


def answer(body):
    """Models called good or bad say so of themselves; the judge believes them."""
    if body["model"] != "judge":
        return f"a {body['model']} answer"
    return "9" if '"a good answer"' in body["messages"][0]["content"] else "2"


@pytest.fixture
def quiz(tmp_path, database_url):
    """Run `armwise quiz` beside what else runs."""

    async def command(server, *arguments, questions=QUESTIONS, local=(), text=None):
        models = "".join(
            f'[[models]]\nname = "{name}"\nprovider = "openai_compatible"\nbase_url = "{server.url}"\n'
            f"price_in = 100.0\nlocal = {str(name in local).lower()}\n"
            for name in ("good", "bad", "judge")
        )
        config = tmp_path / "armwise.toml"
        config.write_text(f'[database]\nurl = "{database_url}"\n{models}')
        given = ["--config", str(config), *arguments]
        if "--stored" not in arguments:
            file = tmp_path / "questions.jsonl"
            file.write_text("".join(json.dumps(question) + "\n" for question in questions))
            given += ["--prompts", str(file)]
        return await asyncio.to_thread(CliRunner().invoke, main, ["quiz", *given], input=text)

    return command


async def read(database_url, work):
    database = Database(database_url)
    found = await database.read(work)
    await database.close()
    return found


async def counts(database_url, *columns):
    """The sums of the cells of channel `score`, by these columns."""
    by = [tables.cells.c[name] for name in columns]
    wanted = select(*by, func.sum(tables.cells.c.n), func.sum(tables.cells.c.s)).group_by(*by)
    scores = wanted.where(tables.cells.c.channel == "score")
    rows = await read(database_url, lambda connection: connection.execute(scores).all())
    return {row[:-2] if len(by) > 1 else row[0]: (float(row[-2]) / 1e6, float(row[-1]) / 1e6) for row in rows}


async def sound(database_url):
    """Whether the cells are what the rewards add up to."""
    return await read(database_url, store.compare_fold) == {}


async def size(database_url, table):
    return await read(database_url, lambda connection: connection.scalar(select(func.count()).select_from(table)))


async def posterior(http, model, task_type="Open QA"):
    async with http.get("/v1/posteriors") as reply:
        cells = (await reply.json())["cells"]
    return next(cell for cell in cells if (cell["model"], cell["task_type"]) == (model, task_type))


async def test_a_good_model_is_preferred_after_its_quiz_and_a_bad_one_is_not(run, quiz, database_url):
    async with upstream(answer) as server:
        models = (SimulatedModel(name="old", tier="medium"), server.model("good"), server.model("bad"))
        service = run(database_url, models=models, learning=QUICK)
        async with aiohttp.ClientSession(service.url) as http:
            before = {name: await posterior(http, name) for name in ("good", "bad")}
            done = await quiz(server, "--model", "good", "--model", "bad", "--judge", "judge", "--json", "--yes")
            assert done.exit_code == 0, done.output

            async def known():
                cells = [await posterior(http, name) for name in ("good", "bad")]
                moved = [abs(cell["mean"] - before[cell["model"]]["mean"]) > 0.05 for cell in cells]
                return cells if all(moved) and all(cell["n"] >= 24.9 for cell in cells) else None

            async with asyncio.timeout(20):
                good, bad = await until(known)
            # The mean of a model is drawn to what its tier promises.
            assert 0.75 < good["mean"] < 0.9
            assert 0.2 < bad["mean"] < 0.35
            assert good["p_best"] > 0.5
            assert bad["p_best"] < 0.01
            asked = {"messages": [{"role": "user", "content": "What is the capital of France?"}]}
            async with http.post("/v1/route", json=asked) as reply:
                chances = (await reply.json())["eligible"]
            assert chances["good"] > 0.5
            async with http.get("/stats") as reply:
                assert (await reply.json())["calls"] == 0
    (first, second) = json.loads(done.stdout)["models"]
    assert (first["model"], first["marked"], first["mean"]) == ("good", 50, pytest.approx(0.9))
    assert (second["model"], second["marked"], second["mean"]) == ("bad", 50, pytest.approx(0.2))
    assert first["answers_usd"] == pytest.approx(50 * 40 * 100.0 / 1e6)
    assert await size(database_url, tables.decisions) == 0
    assert await size(database_url, tables.attempts) == 0
    assert await sound(database_url)


async def test_a_linear_policy_hears_a_quiz(run, quiz, database_url):
    async with upstream(answer) as server:
        models = (server.model("good"), server.model("bad"))
        service = run(database_url, models=models, learning=QUICK, policies=(LinearThompson(name="linear"),))
        async with aiohttp.ClientSession(service.url) as http:

            async def chances():
                body = {"messages": [{"role": "user", "content": "What is the capital of France?"}]}
                async with http.post("/v1/route", json=body) as reply:
                    return (await reply.json())["eligible"]

            assert (await chances())["good"] < 0.7
            done = await quiz(server, "--model", "good", "--model", "bad", "--judge", "judge", "--yes")
            assert done.exit_code == 0, done.output

            async def preferred():
                return (await chances())["good"] > 0.85

            async with asyncio.timeout(20):
                assert await until(preferred)


async def test_the_same_quiz_again_asks_nothing_and_again_replaces(quiz, database_url):
    words = {"good": "a good answer"}
    async with upstream(lambda body: words.get(body["model"]) or answer(body)) as server:
        arguments = ("--model", "good", "--judge", "judge", "--yes")
        assert (await quiz(server, *arguments)).exit_code == 0
        assert len(server.bodies) == 100
        assert await counts(database_url, "arm") == {"good": (25.0, pytest.approx(22.5))}
        again = await quiz(server, *arguments)
        assert again.exit_code == 0
        assert "50 answers are marked already" in again.stderr
        assert "0 answers marked, 50 before; mean 0.900" in again.stdout
        assert len(server.bodies) == 100
        words["good"] = "a bad answer"
        assert (await quiz(server, *arguments, "--again", "--weight", "0.2")).exit_code == 0
        assert len(server.bodies) == 200
    assert await counts(database_url, "arm") == {"good": (10.0, pytest.approx(2.0))}
    assert await size(database_url, tables.rewards) == 50
    assert await sound(database_url)


async def test_a_rebuild_gives_the_same_cells(quiz, database_url, tmp_path):
    async with upstream(answer) as server:
        assert (await quiz(server, "--model", "good", "--model", "bad", "--judge", "judge", "--yes")).exit_code == 0
    before = await counts(database_url, "arm", "task_type", "tier")
    done = await asyncio.to_thread(CliRunner().invoke, main, ["rebuild", "--config", str(tmp_path / "armwise.toml")])
    assert "0 cells had differed" in done.stdout
    assert await counts(database_url, "arm", "task_type", "tier") == before


async def test_what_is_expected_needs_no_judge_and_counts_in_full(quiz, database_url):
    questions = [
        {"prompt": "What is 17 + 25?", "expects": r"\b42\b"},
        {
            "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "And 1 + 1?"}],
            "expects": "^2$",
        },
    ]
    async with upstream(lambda _: "It is 42.") as server:
        done = await quiz(server, "--model", "good", "--yes", questions=questions)
        assert done.exit_code == 0, done.output
        assert sorted(body["messages"][-1]["content"] for body in server.bodies) == ["And 1 + 1?", "What is 17 + 25?"]
        assert await counts(database_url, "arm") == {"good": (2.0, 1.0)}
        questions[1]["expects"] = "42"
        await quiz(server, "--model", "good", "--yes", questions=questions)
        assert len(server.bodies) == 3, "what expects something else is asked again, and only that"
    assert await counts(database_url, "arm") == {"good": (2.0, 2.0)}
    assert await sound(database_url)


async def test_two_quizzes_at_once_count_once(database, database_url):
    async with upstream(answer) as server:
        marking = Marking(metric="quality", judge=Judge(model="judge"), model=server.model("judge"))
        questions = [question_from([{"role": "user", "content": f"Why {number}?"}]) for number in range(30)]
        profile = PromptProfile(task_type="Open QA", tier="medium")
        every = [Asked(server.model("good"), Posed(question, profile)) for question in questions]
        plan = plan_of(every, marking, {}, {})

        async def one():
            own, providers = Database(database_url), Providers()
            writer = Writer(own, settings.Database(timeout_s=30.0), lambda _: None, window_s=0.0)
            await writer.start()
            (result,) = await Quiz(plan, marking, providers, writer).run()
            await writer.close()
            await providers.close()
            await own.close()
            return result.marked

        assert await asyncio.gather(one(), one(), one()) == [30, 30, 30]
    assert await counts(database_url, "arm") == {"good": (15.0, pytest.approx(13.5))}
    assert await size(database_url, tables.rewards) == 30
    assert await sound(database_url)


async def test_stored_prompts_are_asked_and_sensitive_ones_are_not_among_them(run, quiz, database_url):
    async with upstream(answer) as server:
        service = run(database_url, models=(SimulatedModel(name="old", local=True),), retention=Retention(prompts=True))
        async with aiohttp.ClientSession(service.url) as http:
            prompts = [f"Write a Python function that adds {number}." for number in range(6)]
            for prompt in [*prompts, prompts[0]]:
                await ask(http, messages=[{"role": "user", "content": prompt}])
            secret = {"messages": [{"role": "user", "content": "Write a Python function for my secret."}]}
            await ask(http, router={"sensitive": True}, **secret)
        done = await quiz(server, "--model", "good", "--judge", "judge", "--stored", "--per-task", "4", "--yes")
        assert done.exit_code == 0, done.output
        asked = [body["messages"][0]["content"] for body in server.bodies if body["model"] == "good"]
    assert sorted(asked) == sorted([prompts[0], *prompts[3:]]), "the newest four different ones"
    assert not any("secret" in json.dumps(body) for body in server.bodies)
    assert await counts(database_url, "arm", "task_type") == {("good", "Code Generation"): (2.0, pytest.approx(1.8))}
    assert await size(database_url, tables.decisions) == 8
    assert await sound(database_url)


async def test_what_reads_decisions_passes_marks_over(quiz, database, database_url):
    async with upstream(answer) as server:
        assert (await quiz(server, "--model", "good", "--judge", "judge", "--yes")).exit_code == 0
    end = time.time() + 1.0
    assert len((await Contexts(database).labelled(end, 30.0)).value) == 50, "regressions hear them, as they say of what"
    assert await database.read(count_ratings, 0.0) == 0, "none is in a prior from the log"
    await database.write(lambda connection: store.prune(connection, end))
    assert await size(database_url, tables.rewards) == 50


@pytest.mark.parametrize(("local", "asked"), [((), 1), (("good",), 1), (("good", "judge"), 2)])
async def test_sensitive_questions_stay_local(quiz, database_url, local, asked):
    questions = [{"prompt": "What is a secret?", "sensitive": True}, {"prompt": "What is public?"}]
    async with upstream(answer) as server:
        done = await quiz(server, "--model", "good", "--judge", "judge", "--yes", questions=questions, local=local)
        assert done.exit_code == 0, done.output
        assert ("1 sensitive questions are left out" in done.stderr) == (asked == 1)
        assert any("secret" in json.dumps(body) for body in server.bodies) == (asked == 2)
    assert await size(database_url, tables.rewards) == asked


async def test_calls_that_fail_are_counted_and_asked_again(quiz, database_url):
    broken = {"good": True}

    def sometimes(body):
        number = int(re.search(r"number (\d+)", body["messages"][0]["content"])[1])
        if broken["good"] and body["model"] == "good" and number < 3:
            return web.Response(status=500)
        if broken["good"] and body["model"] == "judge" and number in (3, 4):
            return "I would say 7 or 8." if number == 3 else web.Response(status=429)
        return answer(body)

    async with upstream(sometimes) as server:
        arguments = ("--model", "good", "--judge", "judge", "--yes")
        done = await quiz(server, *arguments, questions=QUESTIONS[:10])
        assert done.exit_code == 0, done.output
        assert "good: 5 answers marked; mean 0.900" in done.stdout
        assert "no answer: server_error (3)" in done.stdout
        assert "no mark: " in done.stdout
        assert "unreadable (1)" in done.stdout
        assert "judge: rate_limited (1)" in done.stdout
        assert await counts(database_url, "arm") == {"good": (2.5, pytest.approx(2.25))}
        broken.clear()
        broken["good"] = False
        server.bodies.clear()
        done = await quiz(server, *arguments, questions=QUESTIONS[:10])
        assert "good: 5 answers marked, 5 before; mean 0.900" in done.stdout
        assert len(server.bodies) == 10
    assert await counts(database_url, "arm") == {"good": (5.0, pytest.approx(4.5))}
