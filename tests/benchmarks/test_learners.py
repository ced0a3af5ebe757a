"""What the replayed policies believe is what the service's class believes; priors are those of a table."""

import json

import numpy as np
import pytest

from bandit.channels import Calibration, Pairs, pairs_of
from bandit.pooled import PooledThompson
from bandit.pooling import Sums
from bandit.vocabulary import PROMPT_TIERS, TASK_TYPES, Arm
from benchmarks.compare_policies import PRIOR_MASS, benchmark_prior, imported, parser, reversed_tiers, setting
from benchmarks.compare_policies import tier_prior as from_tiers
from benchmarks.learners import Known, by_parts, pooled_thompson
from benchmarks.outcomes import arms_of
from benchmarks.published_means import TABLES, from_means
from benchmarks.simulated_outcomes import simulated

ARMS = [Arm(name="a", tier="small"), Arm(name="b", tier="medium"), Arm(name="c", tier="large")]
SHAPE = (3, len(TASK_TYPES), len(PROMPT_TIERS))


def told(seed, readings):
    """Labels and readings of three models; the third has hardly any."""
    rng = np.random.default_rng(seed)
    n = rng.integers(0, 9, SHAPE).astype(float)
    n[2] = 0.0
    n[2, 0, 0] = 5.0
    s = n * rng.random(SHAPE)
    read = np.array([4 * n, 3 * n, 3 * n]) if readings else np.zeros((3, *SHAPE))
    pairs = Pairs()
    for label, reading in rng.random((300, 2)):
        pairs = pairs.plus(pairs_of(float(label), float(reading)))
    calibration = Calibration(dict.fromkeys(TASK_TYPES, pairs))
    shift, factor = np.array([0.0, -0.1, 0.0]), np.array([1.0, 1.5, 1.0])
    usd, arrived = rng.random(SHAPE[:2]), np.array([False, True, True])
    return Known(Sums(n, s, s * 0.9), Sums(*read), calibration, shift, factor, usd, arrived)


@pytest.mark.parametrize("readings", [False, True])
@pytest.mark.parametrize("kind", ["tier", "benchmark"])
def test_the_parts_believe_what_the_class_believes(readings, kind):
    """So tasks of other names are replayed as the service would have them."""
    prior = from_tiers(ARMS, TASK_TYPES)
    if kind == "benchmark":
        known = simulated("simulated_paretobandit")
        prior = benchmark_prior(arms_of(known), TASK_TYPES, imported(known))
        prior = prior._replace(arms=prior.arms[:3], mean=prior.mean[:3])
    policy = PooledThompson(name="pooled_thompson", prior=prior.table)
    known = told(3, readings)
    whole, parts = pooled_thompson(prior).believe(known), by_parts(prior, policy)(known)
    np.testing.assert_allclose(whole.mean, parts.mean, atol=2e-6)
    for task in range(len(TASK_TYPES)):
        for tier in range(len(PROMPT_TIERS)):
            one, other = (found.cells[task][tier].estimates for found in (whole, parts))
            assert [arm.new for arm in one.values()] == [arm.new for arm in other.values()] == [False, False, True]
            for name in one:
                assert one[name].sd == pytest.approx(other[name].sd, abs=2e-6)
                assert one[name].output_tokens == other[name].output_tokens


def test_a_benchmark_prior_is_a_table_of_its_mass():
    known = simulated("simulated_paretobandit")
    prior = benchmark_prior(arms_of(known), known.tasks, imported(known))
    assert prior.table.mass == PRIOR_MASS
    assert pooled_thompson(prior).policy.prior is prior.table
    for column, model in enumerate(known.models):
        task = TASK_TYPES.index("Summarization")
        assert prior.mean[column, task, 0] == prior.table.quality[model]["Summarization"]
        assert prior.mean[column, task, 0] == pytest.approx(known.quality[known.task == task, column].mean(), abs=0.04)


def test_reversed_tiers_are_the_same_tiers_the_other_way_round():
    names = ["small", "small", "medium", "large"]
    arms = [Arm(name=str(number), tier=tier) for number, tier in enumerate(names)]
    assert [arm.tier for arm in reversed_tiers(arms)] == ["large", "medium", "small", "small"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A table of three models on two tasks in the data folder."""
    content = {"flagship13": {"accuracy": [[0.9, 0.5], [0.6, 0.7], [0.2, 0.1]]}}
    (tmp_path / f"{TABLES}.json").write_text(json.dumps(content))
    monkeypatch.setenv("ARMWISE_DATA", str(tmp_path))
    return tmp_path


def test_outcomes_have_the_means_of_a_published_table(folder):
    """Within .04: steps of log-odds draw means a little towards a half; 20,000 prompts a task add .004 at most."""
    made = from_means(f"{TABLES}:13")
    assert made.models == ("model-01", "model-02", "model-03")
    for task, column in ((0, [0.9, 0.6, 0.2]), (1, [0.5, 0.7, 0.1])):
        np.testing.assert_allclose(made.quality[made.task == task].mean(axis=0), column, atol=0.04)
    easy, hard = (made.quality[made.tier == tier].mean(axis=0) for tier in (0, 2))
    assert (easy > hard + 0.1).all()
    assert (made.quality == from_means(f"{TABLES}:13").quality).all()
    assert made.told.mass == PRIOR_MASS
    arguments = parser().parse_args(["--data", "x", "--prior", "benchmark", "--seeds", "1", "--requests", "10"])
    assert setting(made, arguments).prior.table is made.told


def test_a_table_that_is_not_there_is_named(folder):
    with pytest.raises(ValueError, match="known are 13, 20"):
        from_means(f"{TABLES}:14")
    with pytest.raises(ValueError, match="no accuracies under 'small20'"):
        from_means(f"{TABLES}:20")
    with pytest.raises(ValueError, match="found no model other"):
        from_means(f"{TABLES}:13", models=["other"])
