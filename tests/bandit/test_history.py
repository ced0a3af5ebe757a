"""What measurements count today: by hand, and the columns of a ledger beside the plain cells."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bandit.drift import ON_ALARM, ON_EVENT, Restart
from bandit.history import ArmRestart, Memory, faded, row_of, table_of
from bandit.posteriors import MICRO, CellKey, Counts
from bandit.vocabulary import PROMPT_TIERS, TASK_TYPES
from service.learning.ledger import Ledger

NOW = 500_000.0
TASK, TIER = TASK_TYPES[3], PROMPT_TIERS[1]
DAY = 24


def cell(arm="a", hour=int(NOW), channel="thumb", task=TASK, tier=TIER, namespace=""):
    return CellKey(namespace, arm, task, tier, hour, channel)


def labels(n, s=None, s2=None):
    """Counts of n labels that are all good, unless said otherwise."""
    s = n if s is None else s
    return Counts(round(n * MICRO), round(s * MICRO), round((s if s2 is None else s2) * MICRO))


def history(cells, arms=("a", "b"), now=NOW, restarts=(), **memory):
    return faded(table_of(cells), arms, now, Memory(**memory), restarts)


def test_labels_and_readings_halve_each_after_a_time_of_its_own():
    cells = {
        cell(hour=int(NOW) - 60 * DAY): labels(8, 4, 3),
        cell(hour=int(NOW) - 60 * DAY, channel="reading"): labels(1024, 512),
        cell(hour=int(NOW)): labels(1), cell("b", hour=int(NOW) + 5, channel="score"): labels(1, 0.5, 0.25),
    }  # fmt: skip
    found = history(cells, label_half_life_days=30.0, reading_half_life_days=6.0)
    assert [part[0, 3, 1] for part in found.labels] == pytest.approx([8 / 4 + 1, 4 / 4 + 1, 3 / 4 + 1])
    assert [part[0, 3, 1] for part in found.readings] == pytest.approx([1.0, 0.5, 0.5])
    # A clock that runs ahead makes nothing count more than once.
    assert [part[1, 3, 1] for part in found.labels] == [1.0, 0.5, 0.25]
    assert found.labels.n.sum() == pytest.approx(4.0)
    assert found.labels.n.shape == (2, len(TASK_TYPES), len(PROMPT_TIERS))


def test_hard_failures_are_labels_and_old_heuristics_are_neither():
    cells = {cell(channel="failure"): labels(1, 0), cell(channel="heuristic"): labels(9)}
    found = history(cells)
    assert (found.labels.n.sum(), found.labels.s.sum(), found.readings.n.sum()) == (1.0, 0.0, 0.0)
    assert row_of(cell(channel="heuristic")) is None


def test_one_model_on_one_task_counts_at_most_so_many_labels_and_keeps_its_mean():
    cells = {
        cell(tier=PROMPT_TIERS[0]): labels(300, 90), cell(tier=PROMPT_TIERS[2]): labels(100, 80),
        cell(task=TASK_TYPES[0]): labels(50), cell("b"): labels(60, 30), cell(channel="reading"): labels(9_999),
    }  # fmt: skip
    found = history(cells, most_labels=100.0)
    assert found.labels.n[0, 3] == pytest.approx([75.0, 0.0, 25.0])
    assert found.labels.s[0, 3] == pytest.approx([22.5, 0.0, 20.0])
    assert found.labels.n[0, 0, 1] == 50.0
    assert found.labels.n[1, 3, 1] == 60.0
    assert found.readings.n.sum() == 9_999.0


def test_a_restart_lessens_what_was_before_it_of_this_arm_alone():
    before, after = int(NOW) - 2, int(NOW)
    cells = {
        cell(hour=before): labels(10), cell(hour=after): labels(1), cell("b", hour=before): labels(10),
        cell(hour=before, channel="reading"): labels(100), cell(hour=after, channel="reading"): labels(1),
    }  # fmt: skip
    change = ArmRestart("a", after, Restart(label_keep=0.1, heuristic_keep=0.02, variance_factor=1.5, mean_shift=-0.1))
    long = {"label_half_life_days": 1e6, "reading_half_life_days": 1e6}
    found = history(cells, restarts=[change], **long)
    assert found.labels.n.sum(axis=(1, 2)) == pytest.approx([1 + 1, 10], rel=1e-6)
    assert found.readings.n.sum(axis=(1, 2)) == pytest.approx([1 + 2, 0], rel=1e-6)
    assert found.variance_factor.tolist() == [1.5, 1.0]
    assert found.mean_shift.tolist() == [-0.1, 0.0]
    twice = history(cells, restarts=[change, change], **long)
    assert twice.labels.n.sum(axis=(1, 2)) == pytest.approx([1 + 0.1, 10], rel=1e-6)


def test_how_wide_a_restart_makes_the_prior_fades_and_the_newest_one_says():
    events = [ArmRestart("a", int(NOW) - 30 * DAY, ON_ALARM["down"]), ArmRestart("gone", int(NOW), ON_EVENT["version"])]
    found = history({cell(): labels(1)}, restarts=events, label_half_life_days=30.0)
    assert found.variance_factor == pytest.approx([1.25, 1.0])
    assert found.mean_shift == pytest.approx([-0.05, 0.0])
    newer = history({cell(): labels(1)}, restarts=[*events, ArmRestart("a", int(NOW), ON_ALARM["up"])])
    assert newer.variance_factor == pytest.approx([1.5, 1.0])
    assert newer.mean_shift == pytest.approx([0.10, 0.0])


def test_only_the_arms_asked_for_and_in_their_order():
    cells = {cell("c"): labels(3), cell("a"): labels(1), cell("gone"): labels(7)}
    found = history(cells, arms=("never seen", "c", "a"))
    assert found.labels.n.sum(axis=(1, 2)).tolist() == [0.0, 3.0, 1.0]
    assert found.arms == ("never seen", "c", "a")
    assert history({}, arms=("a",)).labels.n.tolist() == np.zeros((1, len(TASK_TYPES), len(PROMPT_TIERS))).tolist()
    assert history(cells, arms=()).labels.n.shape[0] == 0


cells_of_one_namespace = st.builds(
    cell, arm=st.sampled_from("abcd"), hour=st.integers(int(NOW) - 3_000, int(NOW) + 1),
    channel=st.sampled_from(["thumb", "score", "failure", "reading", "heuristic"]),
    task=st.sampled_from(TASK_TYPES), tier=st.sampled_from(PROMPT_TIERS),
)  # fmt: skip
counts = st.builds(Counts, *[st.integers(-3 * MICRO, 5 * MICRO)] * 3)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(cells_of_one_namespace, counts), max_size=40), st.randoms(use_true_random=False))
def test_a_ledger_counts_what_its_cells_count_in_whatever_order_they_came(deltas, random):
    totals = {}
    for one, delta in deltas:
        totals[one] = totals.get(one, Counts()).plus(delta)
    shuffled = list(deltas)
    random.shuffle(shuffled)
    ledger = Ledger()
    for one, delta in shuffled:
        ledger.add(one, delta)
        ledger.add(one._replace(namespace="experiment"), labels(100))
    restarts = [ArmRestart("b", int(NOW) - 100, ON_ALARM["up"])]
    here = faded(ledger.table(""), ("b", "a", "c"), NOW, Memory(), restarts)
    plain = faded(table_of(totals), ("b", "a", "c"), NOW, Memory(), restarts)
    for mine, theirs in zip((*here.labels, *here.readings), (*plain.labels, *plain.readings), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-9, abs=1e-9)
