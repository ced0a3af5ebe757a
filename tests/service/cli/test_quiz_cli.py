"""`armwise quiz`: what it is told, what it asks before it spends, and what it says when it cannot."""

import asyncio
import json
import os
import signal
import sys

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import func, select

from bandit.vocabulary import PromptProfile
from service.cli.main import main
from service.probes.quiz import Asked
from service.probes.quiz_questions import Posed, first_of_each, question_from, questions_in
from service.settings import SimulatedModel
from service.storage import tables
from service.storage.database import Database
from tests.api.upstream import until, upstream

SECRET = "zanzibar is where the treasure lies"


@pytest.fixture
def folder(tmp_path):
    """A folder with a settings file for three simulated models, of which none is a judge."""
    models = "".join(
        f'[[models]]\nname = "{name}"\nprovider = "simulated"\nprice_out = 1000.0\n'
        for name in ("large", "small", "tiny")
    )
    (tmp_path / "armwise.toml").write_text(f'[database]\nurl = "sqlite:///{tmp_path}/armwise.db"\n{models}')
    return tmp_path


def write(folder, *lines):
    path = folder / "questions.jsonl"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def armwise(folder, *arguments, text=None):
    given = ["quiz", "--config", f"{folder}/armwise.toml", *map(str, arguments)]
    return CliRunner().invoke(main, given, input=text)


def asked(folder, *lines, text=None, options=()):
    """A quiz of `small` about these lines."""
    return armwise(folder, "--model", "small", "--prompts", write(folder, *lines), *options, text=text)


ANY = {"prompt": SECRET, "expects": "."}


def test_the_cost_is_told_before_and_nothing_is_asked_without_consent(folder):
    for text in ("n\n", ""):
        done = asked(folder, ANY, text=text)
        assert done.exit_code == 1
        assert "1 questions for small: about 0.4000 USD (answers 0.4000, verdicts 0.0000)." in done.stderr
        assert "marked" not in done.stdout
    done = asked(folder, ANY, text="y\n")
    assert done.exit_code == 0
    assert "small: 1 answers marked; mean 1.000" in done.stdout
    assert "It cost 0." in done.stdout


def test_the_result_as_json(folder):
    done = asked(folder, ANY, {"prompt": "Hi", "expects": "no such words"}, options=["--yes", "--json"])
    (model,) = json.loads(done.stdout)["models"]
    assert (model["model"], model["marked"], model["mean"], model["failed"]) == ("small", 2, 0.5, {})
    assert sum(marks["marks"] for marks in model["task_types"].values()) == 2
    assert json.loads(done.stdout)["cost_usd"] == pytest.approx(model["answers_usd"])


def test_no_more_of_a_task_type_than_wanted_and_each_once(folder):
    lines = [{"prompt": f"Number {number}", "expects": ".", "task_type": "Rewrite"} for number in range(5)]
    done = asked(
        folder,
        *lines,
        lines[0],
        {**lines[0], "task_type": "Chatbot", "prompt": "x"},
        options=["--per-task", "3", "--yes"],
    )
    assert "1 questions come more than once" in done.stderr
    assert "2 questions are over --per-task 3" in done.stderr
    assert "Rewrite          1.000 (3)" in done.stdout
    assert "Chatbot          1.000 (1)" in done.stdout


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([], ["holds no question"]),
        (["", "  "], ["holds no question"]),
        ([ANY, "{"], ["line 2", "not a question"]),
        ([{"expects": "x"}], ["line 1", "either `prompt` or `messages`"]),
        ([{"prompt": SECRET, "messages": []}], ["either `prompt` or `messages`"]),
        ([{"messages": [], "expects": "x"}], ["not a question"]),
        ([{"messages": [{"content": "x"}], "expects": "x"}], ["not a question"]),
        ([{"messages": [{"role": "system", "content": "x"}], "expects": "x"}], ["no words of a user"]),
        ([{"prompt": " ", "expects": "x"}], ["no words of a user"]),
        ([{"prompt": SECRET, "expects": "("}], ["no regular expression"]),
        ([{"prompt": SECRET, "task_type": "Cooking"}], ["task_type", "Cooking"]),
        ([{"prompt": SECRET}], ["there is no judge", "--judge"]),
        (
            [{"messages": [{"role": "user", "content": [{"type": "text", "text": "?"}, {"type": "image_url"}]}]}],
            ["words only", "expects"],
        ),
    ],
)
def test_what_is_wrong_with_questions_is_said_without_their_words(folder, lines, words):
    done = asked(folder, *lines, options=["--yes"])
    assert done.exit_code == 1
    for word in words:
        assert word in done.stderr
    assert SECRET not in done.output


def test_what_is_wrong_with_the_command_is_said(folder):
    file = write(folder, {"prompt": SECRET})
    unknown = armwise(folder, "--model", "smal", "--prompts", file)
    assert (unknown.exit_code, "No model `smal` is configured (did you mean `small`?)" in unknown.stderr) == (1, True)
    judge = armwise(folder, "--model", "small", "--prompts", file, "--judge", "nobody")
    assert (judge.exit_code, "No model `nobody` is configured" in judge.stderr) == (1, True)
    itself = armwise(folder, "--model", "large", "--model", "small", "--prompts", file, "--judge", "small")
    assert (itself.exit_code, "small would mark its own answers" in itself.stderr) == (1, True)
    for options in (["--prompts", file, "--stored"], []):
        both = armwise(folder, "--model", "small", *options)
        assert (both.exit_code, "one of both" in both.stderr) == (2, True)
    none = armwise(folder, "--model", "small", "--stored")
    assert (none.exit_code, "No prompts are kept" in none.stderr) == (1, True)


def test_a_model_that_cannot_be_marked_is_a_failure_that_says_why(folder):
    done = asked(folder, {"prompt": SECRET}, options=["--judge", "large", "--yes"])  # it speaks, and gives no number
    assert done.exit_code == 1
    assert "no mark: unreadable (1)" in done.stdout
    assert "Not one new answer of small could be marked" in done.stderr
    assert SECRET not in done.output


async def test_an_interrupted_quiz_goes_on_where_it_ended(tmp_path, database_url):
    go_on = asyncio.Event()
    first = 7

    async def answer(_body):
        if len(server.bodies) > first:
            await go_on.wait()
        return "yes"

    async def marked():
        database = Database(database_url)
        try:
            return await database.read(lambda one: one.scalar(select(func.count()).select_from(tables.rewards)))
        finally:
            await database.close()

    async with upstream(answer) as server:
        (tmp_path / "armwise.toml").write_text(
            f'[database]\nurl = "{database_url}"\n[[models]]\nname = "new"\nprovider = "openai_compatible"\n'
            f'base_url = "{server.url}"\nenabled = false\n[[models]]\nname = "old"\nprovider = "simulated"\n'
        )
        file = write(tmp_path, *({"prompt": f"Is {number} a number?", "expects": "yes"} for number in range(30)))
        command = [sys.executable, "-m", "service", "quiz", "--model", "new", "--prompts", str(file), "--yes"]
        quiz = await asyncio.create_subprocess_exec(
            *command, cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=os.environ
        )

        async def stuck():
            return len(server.bodies) == first + 4 and await marked() == first

        await until(stuck)
        quiz.send_signal(signal.SIGINT)
        out, err = await asyncio.wait_for(quiz.communicate(), 30)
        assert quiz.returncode == 1, err
        assert b"Traceback" not in err
        assert b"marked" not in out
        go_on.set()
        server.bodies.clear()
        done = await asyncio.to_thread(
            CliRunner().invoke, main, ["quiz", *command[4:], "--config", str(tmp_path / "armwise.toml")]
        )
        assert f"new: {30 - first} answers marked, {first} before; mean 1.000" in done.stdout, done.output
        assert len(server.bodies) == 30 - first
    assert await marked() == 30


# By hand


def posed(prompt, **more):
    return Posed(
        question_from([{"role": "user", "content": prompt}], **more), PromptProfile(task_type="Rewrite", tier="simple")
    )


def test_a_question_is_named_by_model_and_words_and_by_nothing_else():
    small, large = SimulatedModel(name="small"), SimulatedModel(name="large")
    name = Asked(small, posed("Why?")).id
    assert name == Asked(SimulatedModel(name="small", price_in=3.0), posed("Why?", expects="x", sensitive=True)).id
    other_order = Posed(
        question_from([{"content": "Why?", "role": "user"}]), PromptProfile(task_type="Other", tier="complex")
    )
    assert name == Asked(small, other_order).id
    assert len({name, Asked(large, posed("Why?")).id, Asked(small, posed("How?")).id}) == 3
    assert len(name) <= 64
    assert "Why" not in name


@given(st.lists(st.sampled_from("abcdefgh")), st.integers(1, 5))
def test_the_first_different_ones_are_kept(prompts, most):
    found = first_of_each([posed(prompt) for prompt in prompts], most)
    assert [one.question.request.last_user_text for one in found] == list(dict.fromkeys(prompts))[:most]


def test_messages_go_to_the_model_as_they_are(tmp_path):
    messages = [
        {
            "role": "user",
            "content": [{"type": "image_url", "image_url": {"url": "data:,"}}, {"type": "text", "text": "?"}],
        }
    ]
    (question,) = questions_in(write(tmp_path, {"messages": messages, "expects": "x", "id": 7}))
    assert json.loads(question.messages) == messages
