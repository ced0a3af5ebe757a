"""Regressions of quality on what is known of a prompt: their posterior, what labels count, and whom they choose."""

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal
from sklearn.linear_model import Ridge

from bandit.costs import expected_cost
from bandit.drift import Restart
from bandit.history import ArmRestart, Memory, faded, table_of
from bandit.linear import (
    MOST_DIMS,
    PLAIN,
    Labelled,
    LinearThompson,
    counted,
    features,
    moments,
    regress,
    regress_best,
    regression,
)
from bandit.pooled import PooledThompson
from bandit.posteriors import Beliefs, Estimate
from bandit.priors import PriorTable
from bandit.vocabulary import TASK_TYPES, Arm, DimensionScores, PromptProfile, Terms

DAY_H = 24


def cases(rng, n, arms, size):
    """Rows with an intercept, and what was seen beyond the prior."""
    x = np.column_stack([np.ones(n), rng.uniform(0, 1, (n, size - 1))])
    return x, rng.uniform(-1, 1, n), rng.uniform(0.2, 1.0, n), rng.integers(arms, size=n)


def noise_of(residual, weight):
    return max((10 * 0.2 + weight @ residual**2) / (10 + weight.sum()), 0.05)


def test_one_weight_by_hand():
    """Noise (10 x .2 + 4 x .25) / 14 = 3/14; precision 1/.1 + 4 x 14/3 = 86/3; mean 3/86 x 14/3 x (3 x .5 - .5)."""
    known = moments(np.ones((4, 1)), np.array([0.5, 0.5, -0.5, 0.5]), np.ones(4), np.zeros(4, dtype=int), 1)
    found = regress(known, np.array([[0.1]]), 0.0)
    assert found.covariance[0, 0, 0] == pytest.approx(3 / 86)
    assert found.mean[0, 0] == pytest.approx(14 / 86)


def test_without_labels_the_prior_stays():
    variance = np.array([[0.1, 0.2], [0.3, 0.4]])
    found = regress(moments(np.zeros((0, 2)), np.zeros(0), np.zeros(0), np.zeros(0, dtype=int), 2), variance)
    assert found.mean.tolist() == [[0.0, 0.0], [0.0, 0.0]]
    assert np.diagonal(found.covariance, axis1=1, axis2=2) == pytest.approx(variance)


def test_one_arm_by_itself_is_ridge_regression():
    rng = np.random.default_rng(1)
    x, residual, weight, _ = cases(rng, 60, 1, 5)
    found = regress(moments(x, residual, weight, np.zeros(60, dtype=int), 1), np.full((1, 5), 0.02), 0.0)
    ridge = Ridge(alpha=noise_of(residual, weight) / 0.02, fit_intercept=False, tol=1e-12)
    assert found.mean[0] == pytest.approx(ridge.fit(x, residual, sample_weight=weight).coef_, abs=1e-9)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), arms=st.integers(1, 4), size=st.integers(1, 5), shared=st.floats(0.001, 0.5))
def test_shared_and_own_weights_are_those_of_one_large_regression(seed, arms, size, shared):
    """All weights side by side, (shared, of arm 0, of arm 1, ...), solved at once."""
    rng = np.random.default_rng(seed)
    x, residual, weight, arm = cases(rng, 30, arms, size)
    variance = rng.uniform(0.01, 0.5, (arms, size))
    found = regress(moments(x, residual, weight, arm, arms), variance, shared)
    wide = np.zeros((30, (1 + arms) * size))
    wide[:, :size] = x
    for row, mine in enumerate(arm):
        wide[row, (1 + mine) * size : (2 + mine) * size] = x[row]
    noise = noise_of(residual, weight)
    prior = np.diag(1 / np.concatenate([np.full(size, shared), variance.ravel()]))
    precision = prior + wide.T @ (weight[:, None] * wide) / noise
    mean = np.linalg.solve(precision, wide.T @ (weight * residual) / noise).reshape(1 + arms, size)
    assert found.mean == pytest.approx(mean[0] + mean[1:], abs=1e-8)
    for one in range(arms):  # beside the shared ones: these taken as known
        own = slice((1 + one) * size, (2 + one) * size)
        assert found.covariance[one] == pytest.approx(np.linalg.inv(precision[own, own]), abs=1e-9)


def test_the_evidence_is_that_of_normal_residuals():
    """Between two prior variances: log of the ratio of the residuals' densities, N(0, x V x' + noise), by hand."""
    x, residual, weight, _ = cases(np.random.default_rng(6), 12, 1, 3)
    known = moments(x, residual, weight, np.zeros(12, dtype=int), 1)
    noise, logs = noise_of(residual, weight), []
    for variance in (0.01, 0.3):
        covariance = variance * x @ x.T + np.diag(noise / weight)
        logs.append(multivariate_normal(np.zeros(12), covariance).logpdf(residual))
    one, other = (regress(known, np.full((1, 3), variance), 0.0).evidence for variance in (0.01, 0.3))
    assert other - one == pytest.approx(logs[1] - logs[0])


@given(order=st.permutations(range(20)))
def test_the_order_of_labels_does_not_matter(order):
    x, residual, weight, arm = cases(np.random.default_rng(2), 20, 3, 4)
    variance, order = np.full((3, 4), 0.05), list(order)
    first = regress(moments(x, residual, weight, arm, 3), variance)
    again = regress(moments(x[order], residual[order], weight[order], arm[order], 3), variance)
    assert again.mean == pytest.approx(first.mean, abs=1e-10)


def test_an_arm_that_answers_hard_prompts_does_not_look_bad_for_it():
    """Both are equally good; one is asked the hard half, and its labels say .3 where the other's say .8."""
    hard = np.repeat([1.0, 0.0], 400)
    arm = np.concatenate([np.repeat([0, 1], [360, 40]), np.repeat([0, 1], [40, 360])])
    x, value = np.column_stack([np.ones(800), hard]), np.where(np.arange(800) % 10 < 8 - 5 * hard, 1.0, 0.0)
    found = regress(moments(x, value - 0.6, np.ones(800), arm, 2), np.full((2, 2), 0.004))
    naive = [value[arm == one].mean() for one in (0, 1)]
    assert naive[1] - naive[0] > 0.35
    assert found.mean[1] @ [1.0, 0.5] - found.mean[0] @ [1.0, 0.5] < 0.05


@pytest.mark.parametrize(("apart", "bold"), [(0.0, False), (0.5, True)])
def test_how_much_arms_differ_is_looked_for(apart, bold):
    """Eight arms, 200 labels each, either all of quality .5 or half of .25 and half of .75."""
    rng = np.random.default_rng(3)
    arm = np.repeat(np.arange(8), 200)
    quality = 0.5 + apart * np.where(arm % 2, 0.5, -0.5)
    value = (rng.random(1600) < quality).astype(float)
    x = np.ones((1600, 1))
    known = moments(x, value - 0.5, np.ones(1600), arm, 8)
    found, plain = regress_best(known, 0.004, np.ones(8)), regress(known, np.full((8, 1), 0.004))
    assert (found.mean.std() > plain.mean.std()) == bold


# What labels count


def rows(**columns):
    """Labels of two arms; what a test does not say is usual."""
    n = max(len(column) for column in columns.values())
    usual = {
        "arm": np.zeros(n, dtype=int), "x": np.tile(features(PromptProfile(task_type="Other", tier="medium")), (n, 1)),
        "task": np.full(n, TASK_TYPES.index("Other")), "tier": np.ones(n, dtype=int), "value": np.full(n, 0.5),
        "weight": np.ones(n), "hour": np.zeros(n, dtype=int),
    }  # fmt: skip
    return Labelled(arms=("a", "b"), **{**usual, **{name: np.array(column) for name, column in columns.items()}})


def test_labels_fade_by_their_half_life():
    memory = Memory(label_half_life_days=10.0)
    found = counted(rows(hour=[0, 10 * DAY_H, 20 * DAY_H], weight=[1.0, 1.0, 0.5]), ["a"], 20.0 * DAY_H, memory, ())
    assert found == pytest.approx([0.25, 0.5, 0.5])


def test_labels_from_before_a_change_count_less():
    change = ArmRestart("a", 5, Restart(label_keep=0.1))
    found = counted(rows(arm=[0, 0, 1], hour=[4, 5, 4]), ["a", "b"], 5.0, Memory(label_half_life_days=1e6), [change])
    assert found == pytest.approx([0.1, 1.0, 1.0], rel=1e-4)


def test_a_change_on_one_task_type_costs_its_labels_alone():
    tasks = [TASK_TYPES.index("Other"), TASK_TYPES.index("Open QA")]
    change = ArmRestart("a", 5, Restart(label_keep=0.1), "Open QA")
    found = counted(rows(task=tasks), ["a"], 5.0, Memory(label_half_life_days=1e6), [change])
    assert found == pytest.approx([1.0, 0.1], rel=1e-4)


def test_many_labels_of_one_arm_on_one_task_count_as_the_most():
    memory = Memory(label_half_life_days=1e6, most_labels=3.0)
    found = counted(rows(arm=[0] * 6 + [1]), ["a", "b"], 0.0, memory, ())
    assert found == pytest.approx([0.5] * 6 + [1.0])


def test_rows_that_are_no_numbers_and_arms_that_are_gone_count_nothing():
    bad = rows(value=[0.5, np.nan, np.inf, 0.5], arm=[0, 0, 0, 1])
    assert counted(bad, ["a"], 0.0, Memory(), ()) == pytest.approx([1.0, 0.0, 0.0, 0.0])
    known = LinearThompson(name="l").regressions(
        [Arm(name="a")], bad, counted(bad, ["a"], 0.0, Memory(), ()), nothing()
    )
    assert np.isfinite(known["a"].mean).all()


# The policy

ARMS = [Arm(name="a", tier="small"), Arm(name="b", tier="small", price_out=10.0)]


def nothing(arms=("a", "b"), restarts=(), now=0.0):
    return faded(table_of({}), arms, now, Memory(), restarts)


def prompt(**said):
    return PromptProfile(**{"task_type": "Open QA", "tier": "medium", **said})


def learned(policy, labelled, arms=ARMS, history=None):
    history = nothing([arm.name for arm in arms]) if history is None else history
    return Beliefs("v", regressions=policy.regressions(arms, labelled, labelled.weight, history))


def of_prompts(profiles, arm, value):
    return rows(x=np.array([features(one) for one in profiles]), arm=arm, value=value)


def test_features_by_hand():
    scores = DimensionScores(
        creativity=0.1, reasoning=0.2, contextual_knowledge=0.3, domain_knowledge=0.4, constraints=0.5, few_shots=3.0
    )
    found = features(prompt(task_type=TASK_TYPES[1], complexity=0.7, scores=scores, vector=(0.8, 0.9)), 3)
    assert found == [1.0, 0.0, 1.0, *[0.0] * 10, 0.7, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 0.9, 0.0]
    assert len(features(prompt())) == PLAIN + MOST_DIMS


def test_before_any_label_the_prior_decides():
    policy = LinearThompson(name="l", prior=PriorTable({"a": {"": 0.5, "Open QA": 0.7}}))
    mean, sd = policy.predicted(prompt(), ARMS, Beliefs())
    assert mean == pytest.approx([0.7, 0.6])
    assert sd == pytest.approx([(0.004 * (1 + 0.25)) ** 0.5] * 2)  # intercept and the task's own weight
    known = learned(policy, rows(value=[]))
    assert policy.predicted(prompt(), ARMS, known) == (pytest.approx(mean), pytest.approx(sd, rel=1e-3))


def test_a_prior_of_more_mass_is_surer():
    sds = [
        LinearThompson(name="l", prior=PriorTable({"a": {"": 0.7}}, mass=mass)).predicted(prompt(), ARMS, Beliefs())[1]
        for mass in (10.0, 1000.0)
    ]
    assert sds[0][0] == pytest.approx(10 * sds[1][0])


@pytest.mark.parametrize("by", ["reasoning", "vector"])
def test_each_prompt_gets_the_arm_that_is_better_at_it(by):
    """Arm a is good when a feature is low, b when it is high; the task type says nothing. 2,000 labels.

    Measured over 200 seeds: the right arm has at least .99 at both ends in every one.
    """
    rng = np.random.default_rng(4)
    policy = LinearThompson(name="l", floor=0.0, vector_dims=2)

    def of(level):
        if by == "vector":
            return prompt(vector=(0.0, level))
        return prompt(scores=DimensionScores(reasoning=level))

    levels, arm = rng.random(2000), rng.integers(2, size=2000)
    quality = np.where(arm == 0, 0.9 - 0.6 * levels, 0.3 + 0.6 * levels)
    known = learned(policy, of_prompts(map(of, levels), arm, (rng.random(2000) < quality).astype(float)))
    assert policy.probabilities(of(0.0), ARMS, known)[0] > 0.95
    assert policy.probabilities(of(1.0), ARMS, known)[1] > 0.95


def test_a_restart_moves_and_widens_the_prior():
    policy = LinearThompson(name="l")
    change = ArmRestart("a", 0, Restart(variance_factor=4.0, mean_shift=-0.1))
    before, after = (
        policy.predicted(prompt(), ARMS, learned(policy, rows(value=[]), history=nothing(restarts=restarts)))
        for restarts in ((), (change,))
    )
    assert after[0] - before[0] == pytest.approx([-0.1, 0.0], abs=1e-6)
    assert after[1] / before[1] == pytest.approx([2.0, 1.0], rel=1e-3)


def test_money_counts():
    policy = LinearThompson(name="l", floor=0.0)
    for dear, terms in ((0.5, Terms()), (0.0, Terms(usd_price=1000.0)), (0.0, Terms(room_usd=0.001))):
        assert policy.probabilities(prompt(), ARMS, Beliefs(), terms)[1] == pytest.approx(dear, abs=1e-6)
    weighed = LinearThompson(name="l", floor=0.0, cost_weight=1000.0)
    assert weighed.probabilities(prompt(), ARMS, Beliefs())[1] < 1e-6


def test_an_arm_that_no_regression_knows_has_its_prior():
    policy = LinearThompson(name="l")
    known = learned(policy, rows(arm=[0] * 50, value=[1.0] * 50), arms=ARMS[:1])
    mean, sd = policy.predicted(prompt(), ARMS, known)
    assert (mean[1], sd[1]) == (pytest.approx(0.6), pytest.approx(0.005**0.5))
    assert mean[0] > 0.7


def test_what_is_stored_is_close_to_what_was_found_and_small():
    rng = np.random.default_rng(5)
    x, residual, weight, arm = cases(rng, 4000, 40, PLAIN + MOST_DIMS)
    found = regress(moments(x, residual, weight, arm, 40), np.full((40, x.shape[1]), 0.001))
    stored = {f"model-{one}": regression(found.mean[one], found.covariance[one]) for one in range(40)}
    assert len(msgspec.json.encode(stored)) < 200_000
    policy, some = LinearThompson(name="l"), prompt(complexity=0.3, vector=tuple(rng.normal(0, 0.2, 32).tolist()))
    mean, sd = policy.predicted(some, [Arm(name=name) for name in stored], Beliefs(regressions=stored))
    seen = np.array(features(some))
    assert mean == pytest.approx(policy.prior_means.of("medium", "medium") + found.mean @ seen, abs=1e-5)
    assert sd == pytest.approx(np.sqrt(np.einsum("i,kij,j->k", seen, found.covariance, seen)), rel=2e-3)


# What is held against quality, as in `pooled_thompson`

THREE = [Arm(name="a", price_out=1.0), Arm(name="b", price_out=100.0), Arm(name="c", price_out=50.0)]


def believing(means, sds, **more):
    """Regressions of an intercept alone: quality of each arm beside its prior of .72, whatever the prompt."""
    found = {}
    for (name, mean), sd in zip(means.items(), sds, strict=True):
        weights, covariance = np.zeros(PLAIN), np.eye(PLAIN) * 1e-8
        weights[0], covariance[0, 0] = mean - 0.72, sd**2
        found[name] = msgspec.structs.replace(regression(weights, covariance), **more.get(name, {}))
    return Beliefs("v", regressions=found)


@settings(max_examples=50, deadline=None)
@given(
    st.tuples(*[st.floats(0.3, 0.9)] * 3),
    st.tuples(*[st.floats(0.01, 0.2)] * 3),
    st.sampled_from(["", "b"]),
    st.floats(0.01, 1.0),
    st.sampled_from([0.0, 20.0]),
    st.booleans(),
    st.sampled_from(["quality", "floor"]),
    st.sampled_from([Terms(), Terms(usd_price=10.0, room_usd=0.03, budget_usd=0.001), Terms(late_price=0.5)]),
)
def test_a_prompt_is_weighed_like_a_cell_of_which_as_much_is_known(
    mean, sd, baseline, credit, price, new, objective, terms
):
    """`pooled_thompson` with estimates equal to what the regressions predict draws alike."""
    same = {"baseline": baseline, "credit": credit, "objective": objective, "cost_weight": price}
    linear, cells = LinearThompson(name="l", **same), PooledThompson(name="p", floor=0.01, **same)
    linear = msgspec.structs.replace(linear, floor=0.01)
    long, late = {"output_tokens": (500.0,) * 12}, {"late": (0.0, *[0.3] * 11), "output_tokens": (0.0,) * 12}
    known = believing(dict(zip("abc", mean, strict=True)), sd, a=long | {"late": (0.0,) * 12}, b=late, c={"new": new})
    some = prompt(prompt_tokens=64)
    means, sds = linear.predicted(some, THREE, known)
    estimates = {
        arm.name: Estimate(
            float(one), float(wide), 500.0 * (arm.name == "a"), 0.3 * (arm.name == "b"), new and arm.name == "c"
        )
        for arm, one, wide in zip(THREE, means, sds, strict=True)
    }
    expected = cells.probabilities(some, THREE, Beliefs("v", {}, estimates), terms)
    assert linear.probabilities(some, THREE, known, terms) == pytest.approx(expected, abs=1e-6)
    for one, other in zip(
        linear.trade(some, THREE, known, terms),
        cells.trade(some, THREE, Beliefs("v", {}, estimates), terms),
        strict=True,
    ):
        assert msgspec.structs.astuple(one) == pytest.approx(msgspec.structs.astuple(other))


def test_the_cheapest_that_is_as_good_is_drawn():
    policy = LinearThompson(name="l", objective="floor", floor=0.03)
    found = policy.probabilities(prompt(), THREE, believing({"a": 0.6, "b": 0.9, "c": 0.895}, [0.005] * 3))
    assert found == pytest.approx([0.01, 0.01, 0.98])


@pytest.mark.parametrize("kind", [LinearThompson, PooledThompson])
def test_a_new_arm_is_nursed_where_the_cheapest_serves(kind):
    policy = kind(name="p", objective="floor", floor=0.0, nursery=0.2)
    known = {"a": (0.9, False), "b": (0.9, False), "c": (0.2, True)}
    estimates = {name: Estimate(mean, 0.001, 100.0, 0.0, new) for name, (mean, new) in known.items()}
    held = believing({name: mean for name, (mean, _) in known.items()}, [0.001] * 3)
    regressions = {name: msgspec.structs.replace(one, new=known[name][1]) for name, one in held.regressions.items()}
    found = policy.probabilities(prompt(), THREE, Beliefs("v", {}, estimates, regressions))
    assert found[2] == pytest.approx(0.2)
    assert max(found) == pytest.approx(0.8)


def test_an_arm_that_came_later_is_new_until_enough_is_known_of_it():
    """Both have few labels; the one that was there from the beginning is not new."""
    policy = LinearThompson(name="l", floor=0.0, nursery=0.2)
    came = ArmRestart("b", 0, Restart(new=True))
    known = learned(policy, rows(arm=[0] * 5, value=[1.0] * 5), history=nothing(restarts=[came]))
    assert {name: one.new for name, one in known.regressions.items()} == {"a": False, "b": True}
    without = msgspec.structs.replace(policy, nursery=0.0).probabilities(prompt(), ARMS, known)
    assert policy.probabilities(prompt(), ARMS, known) == pytest.approx(0.8 * without + [0.0, 0.2])


def test_what_each_arm_offers_is_told():
    policy = LinearThompson(name="l", cost_weight=100.0)
    known = believing({"a": 0.6, "b": 0.9, "c": 0.8}, [0.01] * 3)
    for row, arm in zip(policy.trade(prompt(), THREE, known), THREE, strict=True):
        assert row.worth == pytest.approx(row.quality - 100.0 * expected_cost(arm, prompt()))
        assert (row.arm, row.late) == (arm.name, 0.0)


def test_how_long_and_how_late_replies_are_is_known_by_task_type():
    history = nothing()._replace(output_tokens={("a", "Open QA"): 70.0}, late={("a", "Rewrite"): 0.25})
    known = learned(LinearThompson(name="l"), rows(value=[]), history=history)
    assert known.usage("a", "Open QA") == (70.0, 0.0)
    assert known.usage("a", "Rewrite") == (0.0, 0.25)
    assert known.usage("b", "Rewrite") == known.usage("gone", "Rewrite") == (0.0, 0.0)
