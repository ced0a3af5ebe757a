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
from service.demo import prompts, run_demo
from service.demo_gain import gains_of, told, truths
from service.demo_service import COST_WEIGHT, answers, own_service
from service.demo_table import Tally, course_table

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


async def test_its_own_service_learns_what_a_dollar_is_worth_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    async with own_service() as url:
        assert list(tmp_path.iterdir()) != []
        summary = await run_demo(url, rounds=2, cost_weight=COST_WEIGHT, echo=[].append)
    assert summary.gains.cost_weight == COST_WEIGHT
    assert summary.failed == 0
    assert summary.thumbs_up > summary.thumbs_down
    assert list(tmp_path.iterdir()) == []
    assert not await answers(url)


def test_ctrl_c_ends_it_and_its_service(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "service", "demo", "--seconds", "300"], cwd=tmp_path, text=True,
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
