"""Experiments between policies: what was planned, what its units did, and what may be concluded at this moment.

A report is a function of the design, of the units that are closed (their time for feedback is over) and of the time
that passed. It does not depend on the order of the units nor on earlier looks, and its errors hold for all looks
together. What is shown is what decides: a verdict follows from the intervals that stand beside it.
"""

import math
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from bandit.designs import Design, Direction, Guardrail, Metric
from bandit.ratios import Ratios, ratios
from bandit.sequential import (
    bounds_of_mean,
    farthest,
    log_evidence,
    log_ratio,
    log_sample_ratio,
    tallied,
    weighted,
)
from bandit.units import Seen, Units, readable
from bandit.verdicts import FEEDBACK, Difference, Guarded, State, Verdict, concluded

__all__ = [
    "SAMPLE_RATIO_ALARM",
    "Comparison",
    "Design",
    "Difference",
    "Direction",
    "Guarded",
    "Guardrail",
    "Metric",
    "Report",
    "Side",
    "State",
    "Units",
    "Verdict",
    "report",
]

Vector = NDArray[np.float64]
Indices = NDArray[np.int64]

SAMPLE_RATIO_ALARM = 1_000.0  # evidence from which on units were not assigned as planned
DAYS_WEIGHT = 0.1  # of the evidence of single days in that of the assignment
_URGENCY: tuple[Verdict, ...] = ("kill", "broken", "ship", "keep_going", "futile")
_DAY_S = 86_400.0
_MOST_DAYS = 1_000
_LARGEST_LOG = 690.0  # evidence stays a number


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """One variant: how much of it was seen, and the plain ratios of its metrics."""

    variant: str
    share: float  # planned
    units: int
    requests: int
    feedback_rate: float | None  # share of the units that gave any
    metrics: dict[str, float | None]  # None: not measured


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """One variant against the control, and what follows from it."""

    variant: str
    primary: Difference
    guardrails: tuple[Guarded, ...]
    feedback: Difference  # of the shares of units that gave any feedback
    verdict: Verdict
    sentence: str


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What an experiment says at this moment. Can be written as JSON: no number is infinite or NaN."""

    elapsed_s: float
    units: int
    ignored: int  # numbers left out because they make no sense
    sides: tuple[Side, ...]  # in the order of the design
    sample_ratio_evidence: float  # e-value that units were not assigned by the planned shares; an alarm above 1,000
    days_evidence: float  # the part of it that is about single days; 1 where days are not known
    worst_day: int | None  # from 0, the one with the most evidence; None where days are not known
    comparisons: tuple[Comparison, ...]  # every variant but the control
    verdict: Verdict
    variant: str | None  # that the verdict is about; None: all
    sentence: str


class _Outcomes(NamedTuple):
    """One variant's units under one guardrail."""

    tally: Vector
    measured: int


class _Assigned(NamedTuple):
    """What the numbers of units say of how they were assigned."""

    evidence: float
    days_evidence: float
    worst_day: int | None
    alarm: str | None  # why they were not assigned as planned; None: nothing says so


class _Measured(NamedTuple):
    """What comparisons are made of."""

    sides: tuple[Side, ...]
    primary: Ratios
    feedback: Ratios
    outcomes: list[list[_Outcomes]]  # by guardrail, then by variant
    alarm: str | None  # as of `_Assigned`


def report(design: Design, units: Units, elapsed_s: float) -> Report:
    """What the closed units say after the experiment has run for so many seconds.

    Raises:
        ValueError: columns differ in length, or one of a metric of the design is missing.
    """
    seen = readable(design, units)
    wide = len(design.variants)
    sides = _sides(design, seen)
    assigned = _assigned(design, seen)
    answered = seen.units.gave_feedback.astype(np.float64)
    measured = _Measured(
        sides=sides,
        primary=_ratios(seen, design.primary.name, wide),
        feedback=ratios(seen.units.variant, answered, np.ones(len(answered)), None, wide),
        outcomes=[_outcomes(seen, each, wide) for each in design.guardrails],
        alarm=assigned.alarm,
    )
    control = tuple(design.variants).index(design.control)
    comparisons = [_compared(design, measured, (here, control), elapsed_s) for here in range(wide) if here != control]
    urgent = min(comparisons, key=lambda each: (_URGENCY.index(each.verdict), -_gain(design, each)))
    return Report(
        elapsed_s=elapsed_s,
        units=len(seen.units.variant),
        ignored=seen.ignored,
        sides=sides,
        sample_ratio_evidence=assigned.evidence,
        days_evidence=assigned.days_evidence,
        worst_day=assigned.worst_day,
        comparisons=tuple(comparisons),
        verdict=urgent.verdict,
        variant=None if measured.alarm else urgent.variant,
        sentence=measured.alarm or urgent.sentence,
    )


def _sides(design: Design, seen: Seen) -> tuple[Side, ...]:
    wide, variant = len(design.variants), seen.units.variant
    units, requests, answered = (
        np.bincount(variant, each, wide) for each in (None, seen.units.requests, seen.units.gave_feedback)
    )
    plain = {metric: seen.ratio(metric, wide) for metric in seen.usable}
    return tuple(
        Side(
            variant=name,
            share=share,
            units=int(units[index]),
            requests=int(requests[index]),
            feedback_rate=float(answered[index] / units[index]) if units[index] else None,
            metrics={
                metric: float(each[index]) if np.isfinite(each[index]) else None for metric, each in plain.items()
            },
        )
        for index, (name, share) in enumerate(design.variants.items())
    )


def _assigned(design: Design, seen: Seen) -> _Assigned:
    """Evidence against the shares over all units and, as a fault of some hours is lost among them, over single days.

    Both are e-values, and so is their mean by weight: there is one alarm. A unit that came in after the last planned
    day counts as of that day.
    """
    variant, wide = seen.units.variant, len(design.variants)
    shares = np.array(list(design.variants.values()))
    shares /= shares.sum()
    counts = np.bincount(variant, minlength=wide)
    overall = float(log_sample_ratio(counts.astype(np.float64), shares))
    if seen.units.day is None or not len(variant):
        evidence = _evidence(overall)
        return _Assigned(evidence, 1.0, None, _alarm(design, "Units", counts, evidence))
    planned = max(1, min(math.ceil(design.maximum_s / _DAY_S), _MOST_DAYS))
    day = np.clip(seen.units.day, 0, planned - 1)
    by_day = np.bincount(day * wide + variant, minlength=planned * wide).reshape(planned, wide)
    each = log_sample_ratio(by_day.astype(np.float64), shares)
    worst = int(each.argmax())
    days = float(np.logaddexp.reduce(each)) - math.log(planned)
    both = _evidence(float(np.logaddexp(overall + math.log1p(-DAYS_WEIGHT), days + math.log(DAYS_WEIGHT))))
    if overall >= days:
        alarm = _alarm(design, "Units", counts, both)
    else:
        alarm = _alarm(design, f"Units of day {worst + 1}", by_day[worst], both)
    return _Assigned(both, _evidence(days), worst, alarm)


def _alarm(design: Design, which: str, counts: Indices, evidence: float) -> str | None:
    if evidence <= SAMPLE_RATIO_ALARM:
        return None
    told = ", ".join(
        f"{name} has {number:,} ({share:.1%} planned)"
        for (name, share), number in zip(design.variants.items(), counts.tolist(), strict=True)
    )
    return (
        f"{which} were not assigned as planned: of {int(counts.sum()):,} {told}; the evidence is "
        f"{evidence:,.0f} to 1, an alarm above {SAMPLE_RATIO_ALARM:,.0f}. Nothing can be compared until that is mended."
    )


def _compared(design: Design, measured: _Measured, both: tuple[int, int], elapsed_s: float) -> Comparison:
    this, control = (measured.sides[index] for index in both)
    primary = _difference(design, measured.primary, both, design.primary, design.alpha_each)
    feedback = _difference(
        design, measured.feedback, both, Metric(name=FEEDBACK), design.guardrail_alpha / len(design.others)
    )
    guardrails = tuple(
        _guarded(design, each, outcomes, both)
        for each, outcomes in zip(design.guardrails, measured.outcomes, strict=True)
    )
    verdict, sentence = concluded(design, primary, guardrails, feedback, control.feedback_rate or 0.0, elapsed_s)
    if measured.alarm is not None:
        verdict, sentence = "broken", "units were not assigned as planned"
    return Comparison(
        variant=this.variant,
        primary=primary,
        guardrails=guardrails,
        feedback=feedback,
        verdict=verdict,
        sentence=f"{this.variant}: {sentence}.",
    )


def _ratios(seen: Seen, metric: str, wide: int) -> Ratios:
    units, rows = seen.units, seen.measured(metric)
    covariate = None if units.covariate is None else units.covariate[rows]
    return ratios(
        units.variant[rows], units.numerators[metric][rows], units.denominators[metric][rows], covariate, wide
    )


def _difference(design: Design, found: Ratios, both: tuple[int, int], metric: Metric, alpha: float) -> Difference:
    """The asymptotic confidence sequence, told for pairs: n is the harmonic mean of the units on both sides."""
    here, there = both
    units, control_units = int(found.units[here]), int(found.units[there])
    known = Difference(metric=metric.name, units=units, control_units=control_units)
    if min(units, control_units) < design.least_units:
        return known
    n = 2.0 / (1.0 / units + 1.0 / control_units)
    variance = float(found.variance[here] / units + found.variance[there] / control_units) * n  # of one pair
    if variance <= 0.0:
        return known
    value, time = float(found.value[here] - found.value[there]), n / design.horizon
    deviation = math.sqrt(design.horizon * variance) / n  # of the difference, for one of the sum at the horizon
    half = float(farthest(time, alpha)) * deviation
    margin = metric.margin if metric.direction == "up" else -metric.margin
    return msgspec.structs.replace(
        known,
        value=value,
        low=value - half,
        high=value + half,
        p=float(np.exp(-np.clip(log_ratio((value - margin) / deviation, time, alpha), 0.0, _LARGEST_LOG))),
        explained=found.explained,
    )


def _outcomes(seen: Seen, guardrail: Guardrail, wide: int) -> list[_Outcomes]:
    """What the units of each variant did, in shares of `largest`; units that were not measured did what is usual."""
    units, usable, metric = seen.units, seen.usable[guardrail.metric], guardrail.metric
    measured = seen.measured(metric)
    shares = np.full(len(usable), guardrail.usual / guardrail.largest)
    np.divide(units.numerators[metric], units.denominators[metric] * guardrail.largest, out=shares, where=measured)
    shares = np.clip(shares, 0.0, 1.0)
    return [
        _Outcomes(tallied(shares[usable & here]), int((measured & here).sum()))
        for here in (units.variant == index for index in range(wide))
    ]


def _guarded(design: Design, guardrail: Guardrail, outcomes: list[_Outcomes], both: tuple[int, int]) -> Guarded:
    """Bets on the difference, exact at every look."""
    mine, others = (outcomes[index] for index in both)
    shares = tuple(design.variants.values())
    share = shares[both[0]] / (shares[both[0]] + shares[both[1]])
    bets = weighted(mine.tally, others.tally, share, guardrail.usual / guardrail.largest)
    alpha, total = design.guardrail_alpha_each, float(bets.counts.sum())
    bounds = bounds_of_mean(bets.values, bets.counts, alpha)
    mean = float(bets.values @ bets.counts) / total if total else bets.reading(0.0)
    low, value, high = np.clip([bets.difference(each) for each in (bounds[0], mean, bounds[1])], -1.0, 1.0)
    sign = 1.0 if guardrail.direction == "down" else -1.0
    at_limit = bets.reading(sign * guardrail.limit / guardrail.largest)
    above = float(log_evidence(bets.values, bets.counts, at_limit))
    below = float(log_evidence(1.0 - bets.values, bets.counts, 1.0 - at_limit))
    beyond, within = (above, below) if guardrail.direction == "down" else (below, above)
    return Guarded(
        metric=guardrail.metric,
        limit=sign * guardrail.limit,
        units=mine.measured,
        control_units=others.measured,
        value=float(value) * guardrail.largest,
        low=float(low) * guardrail.largest,
        high=float(high) * guardrail.largest,
        evidence_beyond=_evidence(beyond),
        evidence_within=_evidence(within),
        state="breached" if beyond >= -np.log(alpha) else "holds" if within >= -np.log(alpha) else "open",
    )


def _gain(design: Design, comparison: Comparison) -> float:
    value = comparison.primary.value or 0.0
    return value if design.primary.direction == "up" else -value


def _evidence(logarithm: float) -> float:
    return float(np.exp(min(logarithm, _LARGEST_LOG)))
