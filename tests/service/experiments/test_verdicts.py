"""What is shown and what stops an experiment are one: of any stream of units, in any order of closing, at any looks."""

from collections import Counter
from typing import NamedTuple

import msgspec
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from bandit.experiments import SAMPLE_RATIO_ALARM, Guardrail, Metric, Report, Units
from bandit.experiments import report as judged
from service.experiments.design import Design, Variant
from service.experiments.lifecycle import Experiment
from service.experiments.looks import look_of
from service.experiments.verdicts import reason_to_stop

NEAR = 1e-6  # bounds of guardrails are found by bisection
STOPPED = {
    "assigned": "Stopped: units are not assigned as planned.",
    "guardrail": "Stopped: a guardrail is breached.",
    "worse": "Stopped: a variant is worse than the control.",
    "over": "Stopped: the longest time it may last is over.",
}


class Story(NamedTuple):
    """An experiment, all units that will ever close, and when somebody looks."""

    one: Experiment
    units: Units  # in the order in which they close
    looks: list[tuple[int, float]]  # how many are closed then, and the seconds that have passed
    random: np.random.Generator


def story(seed: int) -> Story:
    """Variants of which some are better, worse, fail, are lost, or have other users rating them; or nothing of it."""
    random = np.random.default_rng(seed)
    names = ["old", "new", "newer"][: int(random.integers(2, 4))]
    guards = [
        Guardrail(metric="failure", limit=float(random.choice([0.02, 0.2]))),
        Guardrail(metric="cost_usd", limit=0.01, largest=0.1, usual=0.02),
        Guardrail(metric="feedback", limit=0.3, direction="up"),
    ]
    design = Design(
        name="story",
        variants=tuple(Variant(name=name, policy=name, share=1.0 / len(names)) for name in names),
        primary=Metric(
            name="quality",
            direction=str(random.choice(["up", "down"])),
            margin=float(random.choice([0.0, 0.0, 0.05, -0.05])),
        ),
        guardrails=tuple(guards[: int(random.integers(0, 4))]),
        minimum_s=float(random.choice([0.0, 5e5])),
        maximum_s=1e6,
        horizon=int(random.choice([100, 2_000])),
    )
    n, wide = int(random.integers(0, 3_000)), len(names)
    shares = random.dirichlet([20.0] * wide) if random.random() < 0.2 else np.full(wide, 1.0 / wide)
    variant = random.choice(wide, n, p=shares)
    quality = random.choice([0.3, 0.5, 0.5, 0.55, 0.7], wide)[variant]
    failing = random.choice([0.02, 0.02, 0.02, 0.1, 0.5], wide)[variant]
    rating = random.choice([0.8, 0.8, 0.8, 0.8, 0.3], wide)[variant]
    cost = random.choice([0.01, 0.02, 0.02, 0.06], wide)[variant]
    asked = random.integers(1, 6, n)
    rated = random.binomial(asked, rating)
    units = Units(
        variant=variant,
        requests=asked,
        gave_feedback=rated > 0,
        numerators={
            "quality": random.binomial(rated, quality).astype(float),
            "failure": random.binomial(asked, failing).astype(float),
            "cost_usd": asked * cost * random.random(n) * 2.0,
            "feedback": rated.astype(float),
        },
        denominators={
            "quality": rated.astype(float),
            **{name: asked.astype(float) for name in ("failure", "cost_usd", "feedback")},
        },
        covariate=random.random(n),
        day=random.integers(0, 12, n),
    )
    closed = np.sort(random.integers(0, n + 1, 4))
    passed = np.sort(random.uniform(0.0, 1.1e6, 4))
    one = Experiment(design=design, salt="s", state="running", created_at=0.0, started_at=0.0)
    return Story(one, units, list(zip(closed.tolist(), passed.tolist(), strict=True)), random)


def some_of(units: Units, rows) -> Units:
    """Some units, in that order."""
    names = ("variant", "requests", "gave_feedback", "covariate", "day")
    return Units(
        **{name: getattr(units, name)[rows] for name in names},
        numerators={name: each[rows] for name, each in units.numerators.items()},
        denominators={name: each[rows] for name, each in units.denominators.items()},
    )


def gain(design: Design, each) -> tuple[float, float] | None:
    """The interval that is shown of the primary metric, so that more is better."""
    low, high = each.primary.low, each.primary.high
    if low is None:
        return None
    return (low, high) if design.primary.direction == "up" else (-high, -low)


def beyond(design: Design, each, by: float) -> list[str]:
    """Guardrails whose whole interval, as it is shown, lies beyond the limit, further than `by`."""
    ways = [1.0 if guardrail.direction == "down" else -1.0 for guardrail in design.guardrails]
    return [
        shown.metric
        for way, shown in zip(ways, each.guardrails, strict=True)
        if min(way * (shown.low - shown.limit), way * (shown.high - shown.limit)) > by
    ]


def agree(design: Design, shown: Report, why: str) -> None:
    """Raise where what is shown and what is done are not the same."""
    about = {each.variant: each for each in shown.comparisons}.get(shown.variant)
    alarm = shown.sample_ratio_evidence > SAMPLE_RATIO_ALARM
    assert alarm == (why == STOPPED["assigned"])
    if alarm:
        assert (shown.verdict, about) == ("broken", None)
        return
    assert (shown.verdict == "kill") == (why in {STOPPED["guardrail"], STOPPED["worse"]})
    if why == STOPPED["guardrail"]:
        assert beyond(design, about, -NEAR)
        assert "beyond the limit" in shown.sentence
    if why == STOPPED["worse"]:
        assert gain(design, about)[1] < min(design.primary.margin, 0.0)
        assert "worse than the control" in shown.sentence
    if why == STOPPED["over"]:
        assert shown.elapsed_s >= design.maximum_s
    if not why:
        assert shown.elapsed_s < design.maximum_s
        assert not [each for each in shown.comparisons if beyond(design, each, NEAR)]
    if shown.verdict == "ship":
        assert gain(design, about)[0] > design.primary.margin
        assert all(each.state == "holds" for each in about.guardrails)
        assert shown.elapsed_s >= design.minimum_s
    for each in shown.comparisons:
        bounds = gain(design, each)
        if each.verdict != "broken" and bounds is not None and bounds[1] < min(design.primary.margin, 0.0):
            assert each.verdict == "kill"
    assert shown.sentence.startswith(f"{shown.variant}: ")


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_what_is_shown_is_what_stops_it_at_every_look_and_in_every_order(seed):
    told = story(seed)
    plan = told.one.design.plan()
    for closed, elapsed_s in told.looks:
        rows = np.arange(closed)
        shown = judged(plan, some_of(told.units, rows), elapsed_s)
        why = reason_to_stop(shown, told.one)
        agree(told.one.design, shown, why)
        look = look_of(shown, elapsed_s, closed, why)
        assert (look.verdict, look.sentence, look.stopped) == (shown.verdict, shown.sentence, why)
        assert msgspec.json.decode(msgspec.json.encode(look), type=type(look)) == look
        told.random.shuffle(rows)
        again = judged(plan, some_of(told.units, rows), elapsed_s)
        assert (again.verdict, again.variant, reason_to_stop(again, told.one)) == (shown.verdict, shown.variant, why)


def test_the_streams_meet_every_verdict_and_every_reason():
    """Else the property above would say little."""
    verdicts, reasons = Counter(), Counter()
    for seed in range(150):
        told = story(seed)
        closed, elapsed_s = told.looks[-1]
        shown = judged(told.one.design.plan(), some_of(told.units, np.arange(closed)), elapsed_s)
        verdicts[shown.verdict] += 1
        reasons[reason_to_stop(shown, told.one)] += 1
    assert set(verdicts) == {"ship", "kill", "keep_going", "futile", "broken"}
    assert set(reasons) == {"", *STOPPED.values()}
