"""Budgets, shocks and readings in replays: the arithmetic of their columns by hand, and what policies make of them."""

import json
import sys

import numpy as np
import pytest

from bandit.budget import Pacer
from bandit.pooled import PooledThompson
from benchmarks import compare_policies
from benchmarks.baselines import baselines, drawn, hindsight, means, most_missed
from benchmarks.columns import alarms_of, overshoot, requests_to_adopt, requests_to_halve, requests_until
from benchmarks.learners import POLICIES
from benchmarks.memory import Alarm
from benchmarks.outcomes import Outcomes, arms_of
from benchmarks.replay import Replayed, replay
from benchmarks.simulated_outcomes import simulated
from benchmarks.streams import DROP, FALSE_POSITIVES, SENSITIVITY, shaken, stream

QUALITY = {"cheap": 0.6, "dear": 0.9, "middling": 0.8}
COST = {"cheap": 0.001, "dear": 0.01, "middling": 0.002}


@pytest.fixture(scope="module")
def outcomes():
    """2,000 made-up prompts of two tasks that differ in nothing; three models, dearer where better."""
    rng = np.random.default_rng(7)
    n = 2_000
    return Outcomes(
        name="made",
        models=tuple(QUALITY),
        prompt_ids=tuple(map(str, range(n))),
        prompts=("",) * n,
        quality=(rng.random((n, 3)) < list(QUALITY.values())).astype(float),
        cost_usd=np.tile(list(COST.values()), (n, 1)),
        tasks=("poems", "sums"),
        task=np.arange(n) % 2,
        tier=np.ones(n, dtype=np.int64),
        left_out=0,
    )


@pytest.fixture(scope="module")
def file(outcomes, tmp_path_factory):
    path = tmp_path_factory.mktemp("worlds") / "made.jsonl"
    with path.open("w", encoding="utf-8") as lines:
        for number, identity in enumerate(outcomes.prompt_ids):
            for column, model in enumerate(outcomes.models):
                row = {"prompt_id": identity, "category": outcomes.tasks[outcomes.task[number]], "model": model}
                score, cost = outcomes.quality[number, column], outcomes.cost_usd[number, column]
                print(json.dumps(row | {"score": score, "cost_usd": cost}), file=lines)
    return path


@pytest.fixture
def run(monkeypatch, file, tmp_path):
    """The command with some arguments: its rows by policy."""

    def command(*arguments):
        out = tmp_path / "rows.json"
        words = ["compare", "--data", str(file), "--json", str(out), "--seeds", "2", *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", words)
        compare_policies.main()
        return {row["policy"]: row for row in json.loads(out.read_bytes())["rows"]}

    return command


def prior(outcomes):
    return compare_policies.tier_prior(arms_of(outcomes), outcomes.tasks)


def test_spending_less_than_the_budget_is_no_overshoot():
    assert overshoot(np.full(3, 0.9), 1.0) == (0.0, None)


def test_overshoot_by_hand():
    """999 requests at 1, then one at 101 and a thousand at 1: 1.1 after 1,000 requests, 1.05 after 2,000."""
    cost = np.ones(2_000)
    cost[999] = 101.0
    assert overshoot(cost, 1.0) == pytest.approx((0.05, 0.1))


def test_a_burst_in_the_first_thousand_requests_is_not_held_against_anybody():
    cost = np.concatenate([np.full(100, 5.0), np.full(900, 0.5)])
    assert overshoot(cost, 1.0) == pytest.approx((0.0, 0.0))


def test_requests_until_a_share_by_hand():
    """From 1,000 on all requests go to another model: after 50 of them, the 200 around are a quarter."""
    arms = np.array([0] * 1_000 + [1] * 1_000)
    assert requests_until(arms, 1, 850, at_least=0.5) == 150  # the 200 from the 50th on are half
    assert requests_until(arms, 0, 800, at_most=0.25) == 250
    assert requests_until(arms, 1, 1_000, at_least=0.5) == 100  # the middle of the first 200
    assert requests_until(arms, 2, 0, at_least=0.5) == np.inf


def test_halving_and_adoption_by_hand(outcomes):
    dropped = stream(outcomes, 8_000, 1.0, 0.0, 0, shaken(outcomes, "drop", 8_000))
    assert dropped.world.changed == 1
    arms = np.array([1] * 4_500 + [0] * 3_500)
    assert requests_to_halve(dropped, arms) == 500
    assert np.isnan(requests_to_halve(dropped, np.zeros(8_000, dtype=int)))
    world = shaken(outcomes, "new-model", 8_000)
    assert world.changed == 2
    arrived = stream(outcomes, 8_000, 1.0, 0.0, 0, world)
    best = hindsight(means(outcomes, world, 8_000))
    assert np.isnan(requests_to_adopt(arrived, arms, best))  # second best, hindsight has no use for it
    paid = hindsight(means(outcomes, world, 8_000), 0.002)
    assert requests_to_adopt(arrived, np.array([0] * 5_000 + [2] * 3_000), paid) == pytest.approx(1_000, abs=60)


def test_only_a_downward_alarm_for_the_dropped_model_after_the_drop_is_right(outcomes):
    given = stream(outcomes, 8_000, 1.0, 0.0, 0, shaken(outcomes, "drop", 8_000))
    arms = np.zeros(8_000, dtype=int)
    rang = [Alarm(3_000, 1, "down"), Alarm(4_600, 1, "down"), Alarm(5_000, 0, "down"), Alarm(6_000, 1, "up")]
    assert alarms_of(given, Replayed(arms, 0.0, rang)) == (600.0, 3.0)
    assert alarms_of(given, Replayed(arms, 0.0, [])) == (np.inf, 0.0)
    assert np.isnan(alarms_of(given, Replayed(arms, 0.0))).all()


def test_a_drop_is_silent_and_of_the_size_it_says(outcomes):
    given = stream(outcomes, 20_000, 1.0, 0.0, 1, shaken(outcomes, "drop", 20_000))
    before, after = given.quality[:10_000].mean(axis=0), given.quality[10_000:].mean(axis=0)
    np.testing.assert_allclose(before - after, [0.0, DROP, 0.0], atol=0.025)
    assert (given.quality <= outcomes.quality[given.rows]).all()  # a right answer becomes wrong, never the reverse


def test_a_price_shock_is_four_times_the_cost_and_the_same_quality(outcomes):
    given = stream(outcomes, 2_000, 1.0, 0.0, 1, shaken(outcomes, "price", 2_000))
    np.testing.assert_allclose(given.cost_usd[1_000:], 4 * outcomes.cost_usd[given.rows[1_000:]])
    np.testing.assert_allclose(given.cost_usd[:1_000], outcomes.cost_usd[given.rows[:1_000]])
    np.testing.assert_allclose(given.quality, outcomes.quality[given.rows])


def test_readings_tell_good_from_bad_as_well_as_they_say(outcomes):
    given = stream(outcomes, 20_000, 1.0, 0.0, 1, heuristic="weak")
    good = given.quality == 1.0
    assert given.readings[good].mean() == pytest.approx(SENSITIVITY, abs=0.02)
    assert given.readings[~good].mean() == pytest.approx(FALSE_POSITIVES, abs=0.03)


def test_a_biased_heuristic_accuses_the_best_model_alone(outcomes):
    weak, biased = (stream(outcomes, 20_000, 1.0, 0.0, 1, heuristic=kind) for kind in ("weak", "biased"))
    assert (weak.readings[:, [0, 2]] == biased.readings[:, [0, 2]]).all()
    assert biased.readings[:, 1].mean() == pytest.approx(0.8 * weak.readings[:, 1].mean(), abs=0.01)


def test_hindsight_under_a_budget_by_hand(outcomes):
    """At $.006, half of the traffic to middling at $.002 and half to dear at $.01; middling is the best that fits."""
    given = stream(outcomes, 20_000, 1.0, 0.0, 2)
    world = means(outcomes, given.world, 20_000)
    paid = hindsight(world, 0.006)
    np.testing.assert_allclose(paid.single, [[0.0, 0.5, 0.5]], atol=1e-9)
    assert paid.within == 2
    taken = drawn(given, paid.single)
    assert given.cost_usd[np.arange(20_000), taken].mean() == pytest.approx(0.006, rel=0.02)
    found = baselines(given, hindsight(world), paid)
    assert (found["best single within budget"] == 2).all()
    assert (found["cheapest"] == 0).all()
    assert most_missed(world, 0.002) == 2
    assert "best single within budget" not in baselines(given, hindsight(world), hindsight(world, 0.0001))


@pytest.mark.parametrize("shock", ["none", "price"])
def test_the_pooled_policy_keeps_a_budget_that_the_others_break(run, shock):
    """Overshoot at most half a percent after 8,000 requests; the best mix is reached within three hundredths.

    At exactly the price of a model, as .008 would be after the shock, whether it fits is drawn anew at each look.
    """
    chosen = ["pooled_thompson", "static_prior"]
    rows = run("--requests", 8_000, "--budget", 0.0085, "--shock", shock, "--policy", *chosen)
    pooled = rows["pooled_thompson"]
    assert pooled["overshoot"] <= 0.005
    assert pooled["overshoot_worst"] <= 0.03
    assert rows["best single"]["overshoot"] > 0.1
    assert pooled["quality"] > rows["best mix within budget"]["quality"] - 0.03
    assert pooled["quality"] > rows["cheapest"]["quality"] + 0.05
    assert pooled["budget_usd"] == 0.0085
    assert pooled["shock"] == shock


def test_no_model_costs_more_of_the_budget_than_of_the_traffic_to_explore(outcomes):
    """At a tenth of the dear model's cost it must not be the floor that takes the money."""
    given = stream(outcomes, 4_000, 0.0, 0.0, 3)
    done = replay(given, POLICIES["pooled_thompson"](prior(outcomes)), Pacer(budget_usd=0.00105))
    assert (done.arms == 1).mean() < 0.006
    assert given.cost_usd[np.arange(4_000), done.arms].mean() < 0.00105 * 1.01


def test_a_drop_is_noticed_and_the_model_left(run):
    rows = run("--requests", 12_000, "--shock", "drop", "--feedback-rate", 1, "--delay", 0, "--policy", *POLICIES)
    pooled, unwatched = rows["pooled_thompson"], rows["pooled_unwatched"]
    assert pooled["requests_to_alarm"] <= 800
    assert pooled["requests_to_halve"] <= 1_600
    assert pooled["requests_to_halve"] < (unwatched["requests_to_halve"] or np.inf)
    assert pooled["quality_last_quarter"] > unwatched["quality_last_quarter"] + 0.01
    assert pooled["false_alarms"] <= 0.5
    assert unwatched["requests_to_alarm"] is unwatched["false_alarms"] is None
    assert pooled["requests_to_adopt"] is None


def test_a_new_model_is_in_the_nursery_until_it_is_known(outcomes):
    world = shaken(outcomes, "new-model", 6_000)
    given = stream(outcomes, 6_000, 0.05, 0.0, 4, world)
    done = replay(given, POLICIES["pooled_thompson"](prior(outcomes)))
    served = done.arms == world.changed
    assert not served[:3_000].any()
    policy = PooledThompson(name="pooled_thompson")
    assert served[3_000:].mean() >= policy.nursery - 0.01  # its few calls gave no 30 labels
    assert (served & given.rated).sum() < policy.nursery_labels


def test_a_quiz_opens_the_nursery(run):
    """Under a budget of $.002 the middling model is what all of the traffic wants."""
    common = ["--requests", 8_000, "--shock", "new-model", "--budget", 0.002, "--policy", "pooled_thompson"]
    nursed, quizzed = (run(*common, "--quiz", quiz)["pooled_thompson"] for quiz in (0, 60))
    assert quizzed["requests_to_adopt"] <= 1_500
    assert quizzed["requests_to_adopt"] <= (nursed["requests_to_adopt"] or np.inf)
    assert quizzed["requests_to_halve"] is None


@pytest.mark.parametrize("heuristic", ["weak", "biased"])
def test_readings_cost_little_even_when_they_lie(run, heuristic):
    common = ["--requests", 8_000, "--policy", "pooled_thompson"]
    without, read = (run(*common, "--heuristic", kind)["pooled_thompson"] for kind in ("none", heuristic))
    assert read["quality"] > without["quality"] - 0.015
    assert (without["heuristic"], read["heuristic"]) == ("none", heuristic)
    assert read["quality"] != without["quality"]


def test_arguments_that_do_not_fit_are_refused(run, capsys):
    with pytest.raises(SystemExit):
        run("--budget", 0)
    with pytest.raises(SystemExit):
        run("--shock", "new-model", "--policy", "litellm_quality")
    assert "cannot be told of a new model" in capsys.readouterr().err


@pytest.mark.parametrize("source", ["paretobandit", "zeroeval"])
def test_outcomes_are_simulated_from_the_committed_table(source):
    one = simulated(f"simulated_{source}")
    assert one.quality.shape == one.cost_usd.shape == (4_000, len(one.models))
    assert set(np.unique(one.quality)) == {0.0, 1.0}
    assert (one.cost_usd > 0).all()
    assert one.quality[one.tier == 0].mean() > one.quality[one.tier == 2].mean() + 0.05
    assert (one.quality == simulated(f"simulated_{source}").quality).all()


def test_an_unknown_simulation_is_named():
    with pytest.raises(ValueError, match="simulated_paretobandit"):
        simulated("simulated_nothing")
