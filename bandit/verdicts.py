"""What follows from the intervals of one variant against the control, in a word and in a sentence with its numbers.

The one rule of experiments: nothing but what is shown decides. The order says what matters more: harm to users before
doubt about the measurement, doubt before the calendar, the calendar before success, success before giving up.
"""

from collections.abc import Sequence
from typing import Literal

import msgspec

from bandit.designs import Design

Verdict = Literal["ship", "kill", "keep_going", "futile", "broken"]
State = Literal["holds", "breached", "open"]

FEEDBACK = "feedback_rate"  # the name of the difference in how many units give any feedback
_DAY = 86_400.0


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
    value: float  # the mean of the readings that are bet on: near the difference of the plain means
    low: float
    high: float
    evidence_beyond: float  # e-value that the difference is worse than the limit
    evidence_within: float  # e-value that it is better
    state: State  # breached or holds when one of them reaches 1 / `Design.guardrail_alpha_each`


def concluded(
    design: Design,
    primary: Difference,
    guardrails: Sequence[Guarded],
    feedback: Difference,
    control_feedback: float,
    elapsed_s: float,
) -> tuple[Verdict, str]:
    """The verdict on one variant and its sentence, which leaves out the variant's name.

    `control_feedback` is the share of the control's units that gave any feedback.
    """
    for each in guardrails:
        if each.state == "breached":
            told = _differs(each.metric, each.value, each.low, each.high)
            return "kill", f"{told}, beyond the limit of {each.limit:+.3g}{_over(each)}"
    lopsided = _lopsided(design, feedback, control_feedback)
    if lopsided is not None:
        return "broken", lopsided
    if primary.value is None or primary.low is None or primary.high is None:
        return _unknown(design, primary, elapsed_s)
    told = _differs(primary.metric, primary.value, primary.low, primary.high) + _over(primary)
    bounds = (primary.low, primary.high) if design.primary.direction == "up" else (-primary.high, -primary.low)
    ended = elapsed_s >= design.maximum_s or min(primary.units, primary.control_units) >= design.horizon
    unproven = [each for each in guardrails if each.state != "holds"]
    verdict, why = _by_primary(design, bounds, unproven, elapsed_s)
    if verdict == "keep_going" and elapsed_s >= design.minimum_s and ended:
        verdict, why = "futile", f"{why}, and the planned end is reached"
    return verdict, f"{told}: {why}"


def _by_primary(
    design: Design, bounds: tuple[float, float], unproven: Sequence[Guarded], elapsed_s: float
) -> tuple[Verdict, str]:
    """The verdict by the bounds of the gain, when no guardrail is breached."""
    (low, high), margin = bounds, design.primary.margin
    wanted = "better than the control" + (f" by more than {margin:.3g}" if margin > 0.0 else "")
    if margin < 0.0:
        wanted = f"as good as the control within {-margin:.3g}"
    if high < min(margin, 0.0):
        return "kill", f"worse than the control{f' by more than {-margin:.3g}' if margin < 0.0 else ''}"
    if elapsed_s < design.minimum_s:
        days = f"{design.minimum_s / _DAY:.3g} days, {elapsed_s / _DAY:.3g} have passed"
        return "keep_going", f"nothing is decided before {days}"
    if low > margin and not unproven:
        return "ship", wanted + (", and every guardrail holds" if design.guardrails else "")
    if low > margin:
        told = ", ".join(
            f"{each.metric} ({each.low:+.3g} to {each.high:+.3g}, limit {each.limit:+.3g})" for each in unproven
        )
        return "keep_going", f"{wanted}, but not yet surely within the limits of {told}"
    if high < margin:
        return "futile", f"not {wanted}"
    return "keep_going", f"not yet surely {wanted}"


def _lopsided(design: Design, feedback: Difference, control_feedback: float) -> str | None:
    """Why ratings of the two cannot be compared: the shares of units that rate are surely too far apart."""
    if design.feedback_tolerance is None or feedback.value is None or feedback.low is None or feedback.high is None:
        return None
    allowed = design.feedback_tolerance * control_feedback
    if feedback.low <= allowed and feedback.high >= -allowed:
        return None
    told = _differs("the share of units that give feedback", feedback.value, feedback.low, feedback.high)
    return (
        f"{told}{_over(feedback)}, more than {design.feedback_tolerance:.0%} of the control's {control_feedback:.3g}: "
        "it is not the same kind of user that rates, so ratings cannot be compared"
    )


def _unknown(design: Design, primary: Difference, elapsed_s: float) -> tuple[Verdict, str]:
    known = (
        f"{primary.metric} is known of {primary.units:,} and {primary.control_units:,} units; an interval needs "
        f"{design.least_units} of each, not all alike"
    )
    if elapsed_s >= design.maximum_s:
        return "futile", f"{known}, and the planned end is reached"
    return "keep_going", known


def _differs(what: str, value: float, low: float, high: float) -> str:
    return f"{what} differs from the control's by {value:+.3g} ({low:+.3g} to {high:+.3g} at every look)"


def _over(found: Difference | Guarded) -> str:
    return f", over {found.units:,} and {found.control_units:,} units"
