"""Experiments between policies: what was planned, what its units did, and what may be concluded at this moment.

A report is a function of the design, of the units that are closed (their time for feedback is over) and of the time
that passed. It does not depend on the order of the units nor on earlier looks, and its errors hold for all looks
together. What is shown is what decides: a verdict follows from the intervals that stand beside it.
"""

from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
Indices = NDArray[np.int64]
Direction = Literal["up", "down"]  # which way is better
Verdict = Literal["ship", "kill", "keep_going", "futile", "broken"]
State = Literal["holds", "broken", "open"]

SAMPLE_RATIO_ALARM = 1_000.0  # evidence from which on units were not assigned as planned


class Metric(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What variants are compared by: a ratio, such as the sum of ratings over their number.

    A variant is better when it beats the control by more than `margin`, in the metric's units. Below 0 the margin is
    what may be lost: a variant that is as good within it is shipped.
    """

    name: str
    direction: Direction = "up"
    margin: float = 0.0


class Guardrail(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What must not get worse by more than `limit`, in the metric's units: the mean over units of the unit's ratio.

    Ratios are at least 0; from `largest` on they count as `largest`. Any `usual` is valid; one near what units usually
    have makes the bets sharper.
    """

    metric: str
    limit: float
    direction: Direction = "down"
    largest: float = 1.0
    usual: float = 0.0


class Design(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An experiment as it was planned.

    Raises:
        ValueError: the numbers make no plan; the message says which.
    """

    variants: dict[str, float]  # share of the units by name, with the sum 1
    control: str  # the variant that the others are compared with
    primary: Metric
    guardrails: tuple[Guardrail, ...] = ()
    alpha: float = 0.05  # chance that any variant is found to differ when none does
    guardrail_alpha: float = 0.01  # chance that any guardrail stops, or holds, without cause
    minimum_s: float = 7 * 86_400.0  # before it nothing is shipped, nor given up
    maximum_s: float = 28 * 86_400.0
    horizon: int = 5_000  # closed units per variant at which intervals are sharpest, and the experiment ends
    least_units: int = 50  # measured ones per variant before there is an interval
    feedback_tolerance: float | None = 0.1  # by which shares of units with feedback may differ, of the control's share


class Units(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """Closed units in columns, a row for each; the order of rows is of no importance.

    Metrics are named by `Metric.name` and `Guardrail.metric`. Numbers that make no sense (not finite, a negative
    denominator) are left out and counted.
    """

    variant: Indices  # (n,), index into the names of `Design.variants`, in their order
    requests: Indices  # (n,)
    gave_feedback: NDArray[np.bool_]  # (n,), on any of its requests
    numerators: dict[str, Vector]  # (n,) by metric: sum over the unit's requests, such as of ratings
    denominators: dict[str, Vector]  # (n,) by metric: such as how many ratings; 0 where the unit was not measured
    covariate: Vector | None = None  # (n,), known of the unit before the variant could change it; NaN where unknown


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """One variant: how much of it was seen, and the plain ratios of its metrics."""

    variant: str
    share: float  # planned
    units: int
    requests: int
    feedback_rate: float | None  # share of the units that gave any
    metrics: dict[str, float | None]  # None: not measured


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """A variant less the control in one metric; None where too little is known."""

    metric: str
    units: int  # measured, of the variant
    control_units: int
    value: float | None = None  # with what the covariate explains taken off
    low: float | None = None  # the interval holds at every look, together with those of the other variants
    high: float | None = None
    p: float | None = None  # below the alpha of the interval exactly when the margin lies outside of it
    explained: float = 0.0  # share of the variance that the covariate took off


class Guarded(msgspec.Struct, frozen=True, kw_only=True):
    """A guardrail for one variant: the interval of the difference, and the evidence on both sides of the limit."""

    metric: str
    limit: float  # of the difference, with its sign
    units: int
    control_units: int
    value: float | None
    low: float
    high: float
    evidence_beyond: float  # e-value that the difference is worse than the limit
    evidence_within: float  # e-value that it is better
    state: State


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """One variant against the control, and what follows from it."""

    variant: str
    primary: Difference
    guardrails: tuple[Guarded, ...]
    feedback: Difference  # of the shares of units that gave any feedback
    verdict: Verdict
    sentence: str


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What an experiment says at this moment. Can be written as JSON: no number is infinite or unknown."""

    elapsed_s: float
    units: int
    ignored: int  # numbers left out because they make no sense
    sides: tuple[Side, ...]  # in the order of the design
    sample_ratio_evidence: float  # e-value that units were not assigned by the planned shares; an alarm above 1,000
    comparisons: tuple[Comparison, ...]  # every variant but the control
    verdict: Verdict
    variant: str | None  # that the verdict is about; None: all
    sentence: str


def report(design: Design, units: Units, elapsed_s: float) -> Report:
    """What the closed units say after the experiment has run for so many seconds.

    Raises:
        ValueError: columns differ in length, or one of a metric of the design is missing.
    """
    raise NotImplementedError
