"""Replays are fair: the same prompts and ratings for all, late ratings stay late, and every baseline is there."""

import gzip
import json
import sys

import numpy as np
import pytest

from bandit.pooled import PooledThompson
from bandit.posteriors import Beliefs, Estimate
from benchmarks import compare_policies
from benchmarks.learners import Believed, Learner
from benchmarks.outcomes import arms_of, find, read, split
from benchmarks.peers import PEERS, NotInstalled
from benchmarks.replay import REFRESH_EVERY, replay, replay_peer
from benchmarks.streams import stream

QUALITY = {"good": 0.9, "fair": 0.5, "poor": 0.3}
KEYS = {
    "data", "policy", "requests", "feedback_rate", "prior", "classifier", "heuristic", "budget_usd", "shock",
    "seed_count", "quality", "quality_low", "quality_high", "quality_last_quarter", "cost_usd", "regret", "gap_closed",
    "overshoot", "overshoot_worst", "decision_us", "requests_to_alarm", "requests_to_halve", "false_alarms",
    "requests_to_adopt",
}  # fmt: skip
ON_POEMS = {"good": 0.7, "fair": 0.95}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """400 made-up prompts of two tasks; "fair" is best on the second."""
    folder = tmp_path_factory.mktemp("outcomes")
    rng = np.random.default_rng(0)
    with gzip.open(folder / "made.train.jsonl.gz", "wt", encoding="utf-8") as file:
        for number in range(400):
            category = "sums" if number % 2 else "poems"
            for model, mean in QUALITY.items():
                chance = ON_POEMS.get(model, mean) if category == "poems" else mean
                row = {"prompt_id": number, "prompt": f"Add {number} and 3", "category": category, "model": model}
                print(json.dumps(row | {"score": float(rng.random() < chance), "cost_usd": mean / 1000}), file=file)
        print(json.dumps({"prompt_id": "lonely", "model": "good", "score": 1.0, "category": "sums"}), file=file)
    return folder


@pytest.fixture
def outcomes(folder):
    return read(folder / "made.train.jsonl.gz")


def test_a_file_is_read_whole(outcomes):
    assert outcomes.models == ("fair", "good", "poor")
    assert outcomes.tasks == ("poems", "sums")
    assert outcomes.quality.shape == outcomes.cost_usd.shape == (400, 3)
    assert outcomes.left_out == 1
    assert [arm.tier for arm in arms_of(outcomes)] == ["medium", "large", "small"]


def test_a_name_is_looked_up_in_the_data_folder(folder, monkeypatch):
    monkeypatch.setenv("ARMWISE_DATA", str(folder))
    assert find("made") == folder / "made.train.jsonl.gz"
    with pytest.raises(FileNotFoundError, match="absent"):
        find("absent")


@pytest.mark.parametrize("line", ["{", "[]", '{"prompt_id": 1}', '{"prompt_id": 1, "model": "a", "score": "x"}'])
def test_a_line_that_is_no_outcome_is_named(tmp_path, line):
    path = tmp_path / "broken.jsonl"
    path.write_text('{"prompt_id": 1, "model": "a", "score": 1}\n' + line + "\n")
    with pytest.raises(ValueError, match=r"broken\.jsonl, line 2"):
        read(path)


def test_only_some_models_of_a_file_are_read_when_asked_so(folder):
    some = read(folder / "made.train.jsonl.gz", models=["good", "poor"])
    assert some.models == ("good", "poor")
    with pytest.raises(ValueError, match="no outcome of absent"):
        read(folder / "made.train.jsonl.gz", models=["good", "absent"])


def test_both_parts_of_a_split_share_no_prompt(outcomes):
    known, judged = split(outcomes, 0.4)
    assert not set(known.prompt_ids) & set(judged.prompt_ids)
    assert len(known.prompt_ids) + len(judged.prompt_ids) == 400
    assert len(known.prompt_ids) == pytest.approx(160, abs=40)


def test_all_routers_of_a_seed_meet_the_same_stream(outcomes):
    one, other = (stream(outcomes, 500, 0.2, 50.0, seed=3) for _ in range(2))
    assert (one.rows == other.rows).all()
    assert (one.told_at == other.told_at).all()
    assert one.rated.mean() == pytest.approx(0.2, abs=0.07)
    assert (one.told_at > np.arange(500)).all()


class Listener:
    """A peer that takes arms in turn and writes down what it hears."""

    name, fallbacks, decision_s = "listener", 0, 0.0

    def __init__(self):
        self.seen, self.heard = 0, []

    def choose(self, request):
        assert request.number == self.seen
        self.seen += 1
        return request.number % 3

    def learn(self, number, request, arm, reward):
        assert arm == number % 3
        assert request.number == number
        self.heard.append((number, self.seen, reward))


def test_a_rating_arrives_late_and_is_that_of_the_arm_that_served(outcomes):
    given, peer = stream(outcomes, 2_000, 0.5, 100.0, seed=4), Listener()
    replay_peer(given, peer)
    assert len(peer.heard) > 700
    assert all(now >= given.told_at[number] - 1 for number, now, _ in peer.heard)
    assert all(reward == outcomes.quality[given.rows[number], number % 3] for number, _, reward in peer.heard)


def test_a_learner_is_told_exactly_what_was_due(outcomes):
    given, totals = stream(outcomes, 2_000, 0.5, 100.0, seed=5), []

    def believe(known):
        totals.append(known.labels.n.sum())
        cell = Beliefs("", {}, {model: Estimate(0.5, 0.1) for model in outcomes.models})
        return Believed(np.full((3, 2, 3), 0.5), [[cell] * 3] * 2)

    replay(given, Learner(believe, PooledThompson(name="made")))
    due = [((given.told_at <= upto) & given.rated).sum() for upto in range(REFRESH_EVERY, 2_001, REFRESH_EVERY)]
    assert totals == [0, *dict.fromkeys(due)]


def run(monkeypatch, folder, tmp_path, *arguments):
    out = tmp_path / "rows.json"
    command = ["compare", "--data", str(folder / "made.train.jsonl.gz"), "--json", str(out), *arguments]
    monkeypatch.setattr(sys, "argv", command)
    compare_policies.main()
    return {row["policy"]: row for row in json.loads(out.read_bytes())["rows"]}


def test_every_baseline_stands_in_the_table(monkeypatch, folder, tmp_path, capsys):
    """Full feedback, so that pooling closes most of the gap. Chance of failure below one in a thousand seeds."""
    rows = run(monkeypatch, folder, tmp_path, "--requests", "6000", "--feedback-rate", "1", "--seeds", "2")
    fixed = {"always good", "always fair", "always poor"}
    assert {"random", "cheapest", "best single", "best per task", "oracle", *fixed} < set(rows)
    assert set(compare_policies.POLICIES) < set(rows)
    assert rows["random"]["quality"] < rows["best single"]["quality"] < rows["best per task"]["quality"]
    assert rows["best per task"]["quality"] <= rows["oracle"]["quality"]
    assert rows["best single"]["gap_closed"] == pytest.approx(0.0)
    assert rows["best per task"]["gap_closed"] == pytest.approx(1.0)
    assert rows["best per task"]["regret"] == pytest.approx(0.0)
    assert rows["pooled_thompson"]["gap_closed"] > 0.6
    assert rows["pooled_thompson"]["gap_closed"] > rows["thompson_global"]["gap_closed"]
    assert rows["always poor"]["cost_usd"] == pytest.approx(0.0003)
    for row in rows.values():
        assert row["quality_low"] <= row["quality"] <= row["quality_high"]
        assert row["seed_count"] == 2
        assert set(row) == KEYS
        assert row["overshoot"] is row["overshoot_worst"] is row["budget_usd"] is row["requests_to_halve"] is None
    assert "| made | pooled_thompson |" in capsys.readouterr().out


@pytest.mark.parametrize("prior", ["benchmark", "reversed"])
def test_priors_are_what_they_are_called(monkeypatch, folder, tmp_path, prior):
    rows = run(monkeypatch, folder, tmp_path, "--requests", "800", "--prior", prior, "--policy", "thompson")
    static, single = rows["static_prior"]["quality"], rows["best single"]["quality"]
    assert static > single if prior == "benchmark" else static < single - 0.2


def test_a_peer_that_is_not_installed_is_said_to_be(monkeypatch, folder, tmp_path):
    def absent(*_):
        raise NotInstalled("not installed: run this")

    monkeypatch.setitem(PEERS, "mabwiser", absent)
    rows = run(monkeypatch, folder, tmp_path, "--requests", "200", "--policy", "mabwiser")
    assert rows["mabwiser"]["not_installed"] == "not installed: run this"
