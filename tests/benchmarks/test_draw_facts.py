"""The table of facts is means of the outcome data and nothing else of them."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SECRET = "a prompt that must not be passed on"
PARETOBANDIT = [
    {"category": "mbpp", "model": "google/gemini-2.5-flash", "score": 0.5, "cost_usd": 0.00028,
     "input_tokens": 100, "output_tokens": 100},
    {"category": "mbpp", "model": "mistralai/mistral-large-2512", "score": 1.0, "cost_usd": 0.00035},
    {"category": "mbpp", "model": "meta-llama/llama-3.1-8b-instruct", "score": 0.25, "cost_usd": 0.00004},
    {"category": "mbpp", "model": "google/gemini-2.5-pro", "score": 0.75, "cost_usd": 0.010125},
]  # fmt: skip
ZEROEVAL = [
    {"category": "gsm8k", "model": "cheap", "score": 1.0, "input_tokens": 200, "output_tokens": 50},
    {"category": "math_level5", "model": "cheap", "score": 0.0, "input_tokens": 100, "output_tokens": 150},
]


def write(folder, name, rows):
    with gzip.open(folder / f"{name}.train.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def draw(folder, out):
    command = [sys.executable, "benchmarks/draw_facts.py", "--data", str(folder), "--out", str(out)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture
def outcomes(tmp_path):
    write(
        tmp_path,
        "paretobandit",
        [{**row, "prompt": SECRET, "prompt_id": f"p{i}"} for i in range(20) for row in PARETOBANDIT],
    )
    rows = [{**row, "prompt": SECRET, "cost_usd": (row["input_tokens"] * 2 + row["output_tokens"] * 6) / 1e6}
            for row in ZEROEVAL * 15]  # fmt: skip
    write(tmp_path, "zeroeval", rows)
    return tmp_path


def test_means_counts_tokens_and_prices(outcomes):
    done = draw(outcomes, outcomes / "facts.json")
    assert done.returncode == 0, done.stderr
    models = json.loads((outcomes / "facts.json").read_text())["models"]
    # 350 micro-dollars less 100 prompt tokens at 0.5, at 1.5 a reply token.
    assert models["mistralai/mistral-large-2512"]["overall"] == {"quality": 1.0, "n": 20, "output_tokens": 200}
    # Recorded at 0.1 a token both ways, whatever is asked today.
    llama = models["meta-llama/llama-3.1-8b-instruct"]
    assert llama["task_types"] == {"Code Generation": {"quality": 0.25, "n": 20, "output_tokens": 300}}
    assert llama["price_out"] == 0.05
    assert models["google/gemini-2.5-pro"]["overall"]["output_tokens"] == 1000
    assert models["cheap"]["task_types"] == {"Other": {"quality": 0.5, "n": 30, "output_tokens": 100}}
    assert (models["cheap"]["price_in"], models["cheap"]["price_out"]) == (2.0, 6.0)


def test_no_prompt_goes_in_and_the_same_data_give_the_same_bytes(outcomes):
    draw(outcomes, outcomes / "one.json")
    draw(outcomes, outcomes / "two.json")
    assert SECRET not in (outcomes / "one.json").read_text()
    assert (outcomes / "one.json").read_bytes() == (outcomes / "two.json").read_bytes()


def test_missing_data_are_named(tmp_path):
    done = draw(tmp_path, tmp_path / "facts.json")
    assert done.returncode == 1
    assert "No paretobandit.train.jsonl.gz in" in done.stderr


@pytest.mark.skipif("ARMWISE_DATA" not in os.environ, reason="ARMWISE_DATA does not name the outcome data")
def test_the_committed_table_is_what_the_data_give(tmp_path):
    done = draw(os.environ["ARMWISE_DATA"], tmp_path / "facts.json")
    assert done.returncode == 0, done.stderr
    committed = ROOT / "service" / "providers" / "facts.json"
    assert (tmp_path / "facts.json").read_bytes() == committed.read_bytes()
