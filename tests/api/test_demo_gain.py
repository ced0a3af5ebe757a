"""The demo against the real service: what it says is gained is what the facts say, and nothing is left behind."""

import json
import math
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from bandit.vocabulary import TASK_TYPES
from service.demo.demo import prompts, run_demo
from service.demo.gain import CEILING, gains_of, told, truths
from service.demo.service import answers, own_service, own_world
from service.demo.table import Cell, Tally, course_table, known_best
from service.settings import OpenAICompatibleModel, SimulatedModel

TRUTH = truths(prompts())
EVERYWHERE = {
    task: {"small": (0.5, 0.0), "medium": (0.8, 0.01), "large": (0.9, 0.1)} for task in TASK_TYPES if task != "Unknown"
}


def a_round(**calls):
    return {"Rewrite": Tally(calls=Counter(calls))}


def test_what_was_gained_is_what_the_facts_say():
    gains = gains_of([a_round(small=2, medium=2), a_round(medium=4)], EVERYWHERE, 2.0)
    values = {side.name: side.value for side in gains.sides}
    assert values == pytest.approx({
        "routing": (2 * 0.5 + 6 * 0.78) / 8, "small": 0.5, "medium": 0.78, "large": 0.7, "random": 1.98 / 3,
        CEILING: 0.78,
    })  # fmt: skip
    best = gains.best_single
    assert (best.against, best.value) == ("medium", pytest.approx(-0.07))
    assert best.saved == pytest.approx(0.25)
    # Means by round are -0.14 and 0: a standard error of 0.07 with one degree of freedom.
    assert best.high - best.value == pytest.approx(0.07 * math.tan(0.475 * math.pi))
    assert gains.random.value == pytest.approx(0.71 - 0.66)


def test_one_round_has_no_interval_and_strange_models_no_gain():
    gains = gains_of([a_round(medium=4)], EVERYWHERE, 0.0)
    assert gains.best_single.low is None
    assert "too few" in "\n".join(told(gains, None, drawn=True))
    assert gains_of([a_round(other=1)], EVERYWHERE, 0.0) is None
    assert gains_of([], EVERYWHERE, 0.0) is None


def test_the_true_best_depends_on_what_a_dollar_is_worth():
    rounds = [{task: Tally(calls=Counter(medium=1)) for task in prompts()} for _ in range(2)]
    assert gains_of(rounds, TRUTH, 0.0).best_single.against == "large"
    gains = gains_of(rounds, TRUTH, 2.0)
    assert gains.best_single.against == "medium"
    assert gains.best_single.value == 0.0
    assert gains.random.low > 0.0


def test_the_course_is_drawn_by_round():
    lines = course_table([{"Rewrite": Tally(calls=Counter(a=1, b=3), qualities=[0.0])},
                          {"Rewrite": Tally(calls=Counter(a=4), qualities=[1.0])}], ["a", "b"])  # fmt: skip
    assert [line.split() for line in lines[1:]] == [
        ["share", "of", "a", "▃█", "100%", "62%"], ["share", "of", "b", "▇▁", "0%", "38%"],
        ["quality", "▁█", "1.00", "0.50"],
    ]  # fmt: skip


async def test_against_a_running_service_it_learns_and_tells_the_gain(service):
    said = []
    summary = await run_demo(service.url, rounds=2, echo=said.append)
    assert summary.failed == 0
    assert summary.answered == 2 * sum(map(len, prompts().values()))
    assert summary.gains.best_single.against == "large"  # without a price of money
    assert summary.gains.random.low < summary.gains.random.value < summary.gains.random.high
    assert summary.gains_late.random.low is None  # of one round
    assert "routing against" in "\n".join(said)


def test_what_was_to_gain_is_the_best_model_for_each_task():
    truth = {"Rewrite": {"a": (0.9, 0.0), "b": (0.5, 0.0)}, "Other": {"a": (0.6, 0.0), "b": (0.8, 0.0)}}
    rounds = [{"Rewrite": Tally(calls=Counter(b=1)), "Other": Tally(calls=Counter(a=1))} for _ in range(2)]
    gains = gains_of(rounds, truth, 0.0)
    assert gains.best_single.against == "a"
    assert gains.most == pytest.approx(0.1)
    assert gains.best_single.value == pytest.approx(-0.2)
    said = "\n".join(told(gains, None, drawn=False))
    assert "is worth +0.1000 over it" in said
    assert gains.best_single.saved is None
    assert "it is free" in said


def test_a_models_own_quality_stands_before_the_tables_and_real_models_have_none():
    model = SimulatedModel(name="m", tier="small", quality={"Rewrite": 0.25})
    truth = truths({"Rewrite": ["a"], "Other": ["b"]}, (model, OpenAICompatibleModel(name="real")))
    assert {task: list(known) for task, known in truth.items()} == {"Rewrite": ["m"], "Other": ["m"]}
    assert truth["Rewrite"]["m"][0] == 0.25
    assert truth["Other"]["m"] == TRUTH["Other"]["small"][:1] + truth["Other"]["m"][1:]


def test_a_task_type_is_shown_in_the_tier_that_is_known_best():
    def cells(low, high):
        return [Cell(task_type="Rewrite", model="m", mean=0.5, interval=(low, high), n=1.0, p_best=1.0)]

    assert known_best([cells(0.1, 0.9), cells(0.4, 0.6), cells(None, None)]) == tuple(cells(0.4, 0.6))


async def test_in_its_own_world_it_beats_the_best_single_model(tmp_path, monkeypatch):
    # In 40 simulated runs of the policy with as many thumbs the second half gained 0.031 to 0.100, in the mean 0.085
    # with a standard deviation of 0.012: at 0 or less it fails less often than once in ten thousand runs.
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    async with own_service() as url:
        assert list(tmp_path.iterdir()) != []
        summary = await run_demo(url, rounds=20, world=own_world(), echo=[].append)
    assert summary.gains.cost_weight == own_world().cost_weight
    assert summary.gains.best_single.against == "generalist"
    assert summary.gains_late.best_single.low > 0.0
    assert summary.gains_late.random.low > 0.0
    assert summary.gains.best_single.value < summary.gains.most
    assert summary.failed == 0
    assert summary.thumbs_up > summary.thumbs_down
    assert list(tmp_path.iterdir()) == []
    assert not await answers(url)


def test_ctrl_c_ends_it_and_its_service(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "service", "demo", "--own", "--seconds", "300"], cwd=tmp_path, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    for line in process.stdout:
        if line.startswith("round 1"):
            break
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "Traceback" not in err
    assert list(Path(tmp_path).iterdir()) == []


def test_a_service_that_is_not_there_is_a_line(tmp_path, free_port):
    done = subprocess.run(
        [sys.executable, "-m", "service", "demo", "--url", f"http://127.0.0.1:{free_port}", "--json"], cwd=tmp_path,
        text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "Nothing answers" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


def test_json_is_the_whole_result(tmp_path, service):
    done = subprocess.run(
        [sys.executable, "-m", "service", "demo", "--url", service.url, "--rounds", "1", "--json"], cwd=tmp_path,
        text=True, capture_output=True, check=True,
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert found["answered"] == sum(map(len, prompts().values()))
    assert {"small", "medium", "large"} <= {side["name"] for side in found["gains"]["sides"]}
