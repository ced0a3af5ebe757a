"""Fading counts and change detection: by hand, by property, and against simulated streams."""

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandit.drift import (
    HEURISTICS,
    LABELS,
    ON_ALARM,
    ON_EVENT,
    Alarm,
    Detector,
    Readings,
    Watch,
    alarms,
    evidence,
    expected,
    fresh,
    kept,
    observe,
    restarted,
    suspected,
)

ARMS, TASKS = 13, 11
ONE_SIZE = Watch(sizes=(0.25,), margin=0.0, shrinkage=0.0, least=1.0)
HALF = np.array([0.5])


def readings(n, s) -> Readings:
    return Readings(np.atleast_1d(np.array(n, dtype=float)), np.atleast_1d(np.array(s, dtype=float)))


def after(past: Readings, batches, watch=ONE_SIZE) -> Detector:
    """A detector with this past that then saw batches of (n, s, calls)."""
    detector = observe(fresh((), len(past.n), watch), past, np.array(0.0), np.full(len(past.n), 0.5), watch)
    for n, s, calls in batches:
        detector = observe(detector, readings(n, s), np.array(calls), np.full(len(past.n), 0.5), watch)
    return detector


# --- Forgetting ---


def test_a_bucket_counts_less_for_each_later_restart():
    shares = kept(np.array([1.0, 5.0, 9.0]), [(5.0, 0.1), (8.0, 0.5)])
    assert shares.tolist() == pytest.approx([0.05, 0.5, 1.0])


# --- The bet, by hand ---


def test_the_first_bad_reading_multiplies_the_stake_by_its_likelihood_ratio():
    """Past .5, a drop to .25: a bad reading is 0.75 / 0.5 times as likely, a good one 0.25 / 0.5 times."""
    bad = after(readings(100, 50), [(1, 0, 1.0)])
    assert np.exp(bad.log_stake) == pytest.approx(np.array([[1.5], [0.5]]))
    good_after = after(readings(100, 50), [(1, 1, 1.0)])
    assert np.exp(good_after.log_stake) == pytest.approx(np.array([[0.5], [1.5]]))


def test_each_call_adds_a_unit_of_stake_before_the_reading_counts():
    detector = after(readings(100, 50), [(1, 0, 1.0)], ONE_SIZE)
    value, _ = expected(detector.past, HALF, 0.0)
    ratio = (1.0 - (value[0] - 0.25)) / (1.0 - value[0])
    again = observe(detector, readings(1, 0), np.array(20.0), HALF, ONE_SIZE)
    assert np.exp(again.log_stake[0, 0]) == pytest.approx((1.5 + 20.0) * ratio)


def test_a_score_between_counts_as_part_of_a_success():
    half = after(readings(100, 50), [(1, 0.5, 1.0)])
    assert np.exp(half.log_stake[0, 0]) == pytest.approx(math.sqrt(1.5 * 0.5))


def test_calls_without_readings_add_stake_and_nothing_else():
    detector = after(readings(100, 50), [(0, 0, 30.0), (0, 0, 12.0)])
    assert np.exp(detector.log_stake) == pytest.approx(np.full((2, 1), 42.0))
    assert detector.past.n.tolist() == [100.0]


def test_evidence_is_the_mean_stake_as_a_share_of_what_an_alarm_needs():
    stake = np.log(np.array([[100.0, 300.0], [50.0, 50.0]]))
    detector = Detector(readings(1, 1), readings(0, 0), stake)
    assert evidence(detector) == pytest.approx(np.array([200.0 * 0.8, 50.0 * 0.2]) / 20_000.0)


def test_expected_values_are_the_arms_own_distance_to_the_difficulty_of_each_cell():
    """40 readings .1 above base as a whole: 30 of them 0.2 above in cell 0, 10 of them 0.2 below in cell 1."""
    past = readings([30.0, 10.0, 0.0], [30 * 0.6, 10 * 0.6, 0.0])
    value, error = expected(past, np.array([0.4, 0.8, 0.3]), shrinkage=10.0)
    assert value == pytest.approx([0.4 + (6.0 + 1.0) / 40.0, 0.8 + (-2.0 + 1.0) / 20.0, 0.3 + 0.1])
    variance = (30 * 0.575 * 0.425 + 10 * 0.75 * 0.25) / 40
    assert error == pytest.approx(math.sqrt(variance / 40))


def test_nothing_is_tested_before_there_is_a_past():
    detector = fresh((), 1)
    for _ in range(19):
        detector = observe(detector, readings(1, 0), np.array(1.0), HALF)
    assert np.isneginf(detector.log_stake).all()
    assert not suspected(detector)


def test_what_is_suspected_stays_out_of_the_past_until_it_is_cleared():
    watch = msgspec.structs.replace(ONE_SIZE, calls_per_false_alarm=100.0)  # suspect from a stake of 5 / 0.8 units
    suspect = after(readings(100, 50), [(5, 0, 1.0)], watch)  # 1.5^5 = 7.6
    assert suspected(suspect, watch)
    assert (suspect.past.n[0], suspect.lately.n[0], suspect.lately.s[0]) == (100.0, 5.0, 0.0)
    cleared = observe(suspect, readings(4, 4), np.array(1.0), HALF, watch)
    assert not suspected(cleared, watch)
    assert (cleared.past.n[0], cleared.past.s[0], cleared.lately.n[0]) == (109.0, 54.0, 0.0)


# --- Order, poison, values ---


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0.0, 1.0)), min_size=1, max_size=12), st.randoms())
def test_order_within_a_batch_does_not_matter(batch, random):
    def told(order):
        n, s = np.zeros(4), np.zeros(4)
        for cell, value in order:
            n[cell] += 1.0
            s[cell] += value
        start = after(readings([30] * 4, [15] * 4), [])
        return observe(start, Readings(n, s), np.array(float(len(order))), np.full(4, 0.5), ONE_SIZE)

    first, second = told(batch), told(random.sample(batch, len(batch)))
    assert first.log_stake == pytest.approx(second.log_stake)
    assert first.past.s + first.lately.s == pytest.approx(second.past.s + second.lately.s)


poison = st.sampled_from([0.0, -1.0, 1.0, 1e12, -1e12, np.inf, -np.inf, np.nan]) | st.floats()


@given(st.lists(st.tuples(poison, poison, poison, poison), min_size=1, max_size=6))
def test_poison_never_raises_and_is_never_remembered(batches):
    detector = after(readings(100, 70), [], LABELS)
    for n, s, calls, base in batches:
        detector = observe(detector, readings(n, s), np.array(calls), np.array([base]))
        assert np.isfinite(evidence(detector)).all()
        for kept_n, kept_s in (detector.past, detector.lately):
            assert np.isfinite(kept_n).all()
            assert (kept_s <= kept_n).all()


@given(st.floats(0.05, 0.95), st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_without_a_change_no_reading_wins_in_the_mean(p, low, high):
    """For readings in [0, 1] of mean p, binary or two-valued, the mean of the ratio is at most 1 (up to rounding)."""
    low, high = p * low, p + (1.0 - p) * high
    chance = 0.5 if high == low else (p - low) / (high - low)
    past = readings(1e6, 1e6 * p)
    won = sum(
        weight * np.exp(after(past, [(1, value, 1.0)]).log_stake)
        for value, weight in ((low, 1.0 - chance), (high, chance))
    )
    assert (won <= 1.0 + 1e-6).all()


def test_alarms_name_arm_direction_and_stream():
    past = Readings(np.full((3, 1), 200.0), np.full((3, 1), 100.0))
    detector = observe(fresh((3,), 1), past, np.zeros(3), HALF)
    new = Readings(np.full((3, 1), 100.0), np.array([[0.0], [50.0], [100.0]]))
    detector = observe(detector, new, np.full(3, 100.0), HALF)
    found = alarms(detector, [("a", None), ("b", "Open QA"), ("c", "Open QA")], "label", 12.5)
    assert [(alarm.arm, alarm.task_type, alarm.direction) for alarm in found] == [
        ("a", None, "down"),
        ("c", "Open QA", "up"),
    ]
    assert [(alarm.past_readings, alarm.past_mean, alarm.readings, alarm.mean) for alarm in found] == [
        (200.0, 0.5, 100.0, 0.0),
        (200.0, 0.5, 100.0, 1.0),
    ]
    assert all(alarm.evidence >= 1.0 and alarm.when == 12.5 for alarm in found)
    assert msgspec.json.decode(msgspec.json.encode(found[0]), type=Alarm) == found[0]
    assert suspected(detector).tolist() == [True, False, True]
    again = restarted(detector, np.array([True, False, True]))
    assert not suspected(again).any()
    assert again.past.n[:, 0].tolist() == [0.0, 300.0, 0.0]


def test_a_restart_never_adds_to_the_past():
    every = [*ON_ALARM.values(), *ON_EVENT.values()]
    assert all(0.0 < restart.label_keep <= 1.0 and 0.0 < restart.heuristic_keep <= 1.0 for restart in every)
    assert all(restart.variance_factor > 1.0 for restart in every if not restart.new)
    assert ON_ALARM["down"].mean_shift == -ON_ALARM["up"].mean_shift < 0.0


# --- Streams: 13 arms, 11 task types, the top arm called on 20-30 % of requests, references learned online ---


class World:
    """Many repetitions of a stream of requests, rated at `rate`; readings are coin flips of the arm's quality."""

    def __init__(self, seed: int, repetitions: int, rate: float, batch: int, watch: Watch = LABELS, gain: float = 1.0):
        self.rng = np.random.default_rng(seed)
        self.repetitions, self.rate, self.batch, self.watch = repetitions, rate, batch, watch
        shape = (repetitions, ARMS, TASKS)
        level = self.rng.normal(0.0, 0.04, (repetitions, ARMS, 1))
        level[:, 0] = 0.08
        difficulty = self.rng.uniform(0.45, 0.85, TASKS)
        quality = difficulty + level + self.rng.normal(0.0, 0.08, shape)
        self.quality = 0.5 + gain * (np.clip(quality, 0.05, 0.97) - 0.5)  # gain < 1: a weak heuristic's view
        top = self.rng.uniform(0.2, 0.3, (repetitions, 1))
        others = self.rng.dirichlet(np.full(ARMS - 1, 0.7), repetitions) * (1.0 - top)
        mix = self.rng.dirichlet(np.full(TASKS, 1.5), repetitions)
        self.traffic = (np.concatenate([top, others], 1)[..., None] * mix[:, None]).reshape(repetitions, -1)
        self.seen = Readings(np.zeros(shape), np.zeros(shape))
        self.detector = fresh((repetitions, ARMS), TASKS, watch)

    def move(self, requests: int) -> np.ndarray:
        """Serve a batch after another; the first request at which each arm alarmed: (repetitions, ARMS, 2)."""
        first = np.full((self.repetitions, ARMS, 2), np.inf)
        for served in range(self.batch, requests + 1, self.batch):
            calls = self.rng.multinomial(self.batch, self.traffic).reshape(self.quality.shape)
            n = calls if self.rate == 1.0 else self.rng.binomial(calls, self.rate)
            new = Readings(n.astype(float), self.rng.binomial(n, self.quality).astype(float))
            base = (self.seen.s.sum(1, keepdims=True) + 4.0) / (self.seen.n.sum(1, keepdims=True) + 6.0)
            self.seen = Readings(self.seen.n + new.n, self.seen.s + new.s)
            self.detector = observe(self.detector, new, calls.sum(-1), base, self.watch)
            alarmed = evidence(self.detector, self.watch) >= 1.0
            first = np.where(alarmed, np.minimum(first, served), first)
            if alarmed.any():
                self.detector = restarted(self.detector, alarmed.any(-1))
        return first


@pytest.mark.parametrize(
    ("rate", "batch", "target"), [(1.0, 25, 250), (0.2, 50, 1_100), (0.05, 100, 4_000)], ids=["100%", "20%", "5%"]
)
def test_a_silent_drop_is_noticed_and_nothing_else(rate, batch, target):
    """A repetition lies below its target with a chance of about .7 (.55 to .84 by seed, of 12 tried).

    So the median of 80 fails for about one seed in 50. False alarms come at most .2 times in 20,000 requests: 80
    repetitions expect 16 at most, and the limit of one is 80; not once in a million seeds.
    """
    world = World(seed=5, repetitions=80, rate=rate, batch=batch)
    false_alarms = np.isfinite(world.move(20_000)).sum()
    assert false_alarms <= 80
    world.quality[:, 0] = np.clip(world.quality[:, 0] - 0.25, 0.02, 0.98)
    noticed = world.move(target)[:, 0, 0]
    assert np.median(noticed) <= target


def test_a_recovered_arm_is_noticed_from_below():
    """Half of the repetitions need 250 requests, so the median of 40 lies above 600 not once in 1,000 seeds."""
    world = World(seed=6, repetitions=40, rate=1.0, batch=50)
    world.move(5_000)
    world.quality[:, 0] = np.clip(world.quality[:, 0] - 0.25, 0.02, 0.98)
    world.move(2_000)
    world.quality[:, 0] = np.clip(world.quality[:, 0] + 0.25, 0.02, 0.98)
    assert np.median(world.move(1_500)[:, 0, 1]) <= 600


def test_a_weak_heuristic_on_every_call_notices_too():
    """Nine in ten need at most 1,300 requests; false alarms, .1 in 20,000, expect 2. Not once in a million seeds."""
    world = World(seed=7, repetitions=40, rate=1.0, batch=100, watch=HEURISTICS, gain=0.5)
    false_alarms = np.isfinite(world.move(10_000)).sum()
    assert false_alarms <= 20
    world.quality[:, 0] -= 0.125  # a drop of .25 seen through sensitivity minus false-positive rate of .5
    assert np.median(world.move(2_000)[:, 0, 0]) <= 1_500


def test_another_mix_of_prompts_is_not_a_change():
    """At most as many false alarms as are allowed without another mix: 10; .2 in 20,000 expect 2, so once in 10^4."""
    world = World(seed=8, repetitions=40, rate=1.0, batch=50)
    world.move(10_000)
    share = world.traffic.reshape(40, ARMS, TASKS).sum(-1, keepdims=True)
    mix = world.rng.dirichlet(np.full(TASKS, 1.5), (40, 1))
    world.traffic = (share * mix).reshape(40, -1)
    assert np.isfinite(world.move(5_000)).sum() <= 10


def test_a_drop_on_one_task_type_is_noticed_there():
    """Detectors per arm and task type. Nineteen in 20 repetitions need less than 150 labels after the drop."""
    rng = np.random.default_rng(9)
    quality = np.full((40, TASKS, 1), 0.7)
    detector = fresh((40, TASKS), 1)
    for step in range(105):
        if step == 90:
            quality[:, 3] -= 0.25
        new = Readings(np.full(quality.shape, 10.0), rng.binomial(10, quality).astype(float))
        detector = observe(detector, new, np.full((40, TASKS), 10.0), np.full((1, 1), 0.6))
    down = evidence(detector)[..., 0] >= 1.0
    assert down[:, 3].mean() >= 0.8
    assert np.delete(down, 3, axis=1).sum() <= 2
