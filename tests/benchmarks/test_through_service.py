"""A replay through the running service: every request in its log, every rating among its rewards."""

import gzip
import json
import sqlite3

import numpy as np
import pytest

from benchmarks import compare_policies
from benchmarks.compare_policies import checked, parser, prior_of
from benchmarks.outcomes import read, split
from benchmarks.streams import stream
from benchmarks.through_service import NAME, replay_through_service

QUALITY = {"good": 0.9, "fair": 0.5, "poor": 0.3}
PROMPTS = ("Write a poem about the sea, number {}", "Translate into French: I am {} years old")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """100 made-up prompts; qualities that are no round numbers, so that none is mistaken for another."""
    path = tmp_path_factory.mktemp("made") / "made.jsonl.gz"
    rng = np.random.default_rng(0)
    with gzip.open(path, "wt", encoding="utf-8") as lines:
        for number in range(100):
            for model, mean in QUALITY.items():
                row = {"prompt_id": f"p-{number}", "prompt": PROMPTS[number % 2].format(number), "model": model}
                row |= {"score": round(float(rng.uniform(mean - 0.1, mean + 0.1)), 4), "cost_usd": mean / 1000}
                print(json.dumps(row), file=lines)
    return path


def logged(folder, query):
    with sqlite3.connect(folder / "replay.db") as connection:
        return connection.execute(query).fetchall()


def test_what_was_recorded_goes_through_the_whole_service(file, tmp_path):
    """The ratings that are due reach the log with the recorded quality, and no others; costs are those recorded."""
    outcomes = read(file, classifier="embedded")
    known, judged = split(outcomes, 0.4)
    given = stream(judged, 60, 0.5, 5.0, seed=2)
    done = replay_through_service(given, prior_of(known, judged, "benchmark"), folder=tmp_path)
    assert done.decision_s > 0
    decisions = logged(tmp_path, "SELECT id, arm, policy, method, detail FROM decisions")
    assert len(decisions) == len({row[0] for row in decisions}) == 60
    assert {(policy, method) for _, _, policy, method, _ in decisions} == {("pooled_thompson", "auto")}
    request = {}
    for identity, arm, _, _, detail in decisions:
        tags = json.loads(detail)["caller"]["tags"]
        number = request[identity] = int(tags["request"])
        assert tags["prompt"] == judged.prompt_ids[given.rows[number]]
        assert judged.models[done.arms[number]] == arm
    rewards = logged(tmp_path, "SELECT decision_id, value FROM rewards WHERE source = 'replay'")
    due = np.flatnonzero(given.rated & (given.told_at <= 60))
    assert sorted(request[identity] for identity, _ in rewards) == due.tolist()
    for identity, value in rewards:
        number = request[identity]
        assert value == given.quality[number, done.arms[number]]
    costs = logged(tmp_path, "SELECT decision_id, cost_usd FROM attempts")
    assert len(costs) == 60
    for identity, usd in costs:
        number = request[identity]
        assert usd == pytest.approx(given.cost_usd[number, done.arms[number]], rel=1e-3)
    assert not list(tmp_path.glob("*.jsonl"))
    assert logged(tmp_path, "SELECT count(*) FROM prompts") == [(0,)]


def test_its_row_stands_beside_the_others(file, monkeypatch, tmp_path):
    out = tmp_path / "rows.json"
    words = ["--data", str(file), "--classifier", "embedded", "--through-service", "60", "--seeds", "1"]
    words += ["--feedback-rate", "1", "--delay", "0", "--policy", "pooled_thompson", "--json", str(out)]
    monkeypatch.setattr("sys.argv", ["compare", *words])
    compare_policies.main()
    rows = {row["policy"]: row for row in json.loads(out.read_bytes())["rows"]}
    assert rows[NAME]["requests"] == rows["pooled_thompson"]["requests"] == 60
    assert rows["random"]["quality"] < rows[NAME]["quality"] <= rows["oracle"]["quality"]
    assert 0 < rows[NAME]["cost_usd"] <= 0.0009


@pytest.mark.parametrize("words", [[], ["--classifier", "embedded", "--shock", "drop"]])
def test_what_the_service_cannot_replay_is_refused(words, capsys):
    made = parser()
    with pytest.raises(SystemExit):
        checked(made.parse_args(["--data", "x", "--through-service", *words]), made)
    assert "needs --classifier embedded" in capsys.readouterr().err


def test_two_thousand_requests_are_sent_when_no_number_is_said():
    made = parser()
    arguments = made.parse_args(["--data", "x", "--through-service", "--classifier", "embedded"])
    assert checked(arguments, made).requests == 2_000
