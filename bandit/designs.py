"""The plan of an experiment between policies, checked when it is made."""

import math
from typing import Literal

import msgspec

Direction = Literal["up", "down"]  # which way is better

LEAST_UNITS = 50  # measured ones per variant before there is an interval
LARGEST_HORIZON = 1_000_000_000
LARGEST_MARGIN = 1e12

_SUM_TOLERANCE = 1e-6


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
    have makes the bets sharper, and stands for units that were not measured.
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
    guardrail_alpha: float = (
        0.01  # chance that any guardrail stops without cause; likewise that any holds; and feedback
    )
    minimum_s: float = 7 * 86_400.0  # before it nothing is shipped, nor given up
    maximum_s: float = 28 * 86_400.0
    horizon: int = 5_000  # measured units per variant at which the experiment ends; intervals are sharpest there
    least_units: int = LEAST_UNITS
    # By which the shares of units with feedback may differ, of the control's; None when no rating is compared.
    feedback_tolerance: float | None = 0.1

    def __post_init__(self) -> None:
        for refusal in (*_refusals_of_variants(self), *_refusals_of_rules(self)):
            raise ValueError(refusal)

    @property
    def others(self) -> tuple[str, ...]:
        """The variants but the control, in their order."""
        return tuple(name for name in self.variants if name != self.control)

    @property
    def alpha_each(self) -> float:
        """What one variant's comparison by the primary metric may err (Bonferroni)."""
        return self.alpha / len(self.others)

    @property
    def guardrail_alpha_each(self) -> float:
        """What one guardrail may err for one variant, on each side."""
        return self.guardrail_alpha / (len(self.others) * max(len(self.guardrails), 1))


def _refusals_of_variants(design: Design) -> list[str]:
    shares = design.variants.values()
    found = []
    if len(design.variants) < 2:
        found.append(f"found {len(design.variants)} variants, expected the control and at least one other")
    if design.control not in design.variants:
        found.append(f"found control {design.control!r}, expected one of {', '.join(design.variants)}")
    if not all(0.0 < share < 1.0 for share in shares) or abs(math.fsum(shares) - 1.0) > _SUM_TOLERANCE:
        told = ", ".join(f"{name} {share:g}" for name, share in design.variants.items())
        found.append(f"found shares {told}; expected each above 0 and the sum 1")
    return found


def _refusals_of_rules(design: Design) -> list[str]:
    found = [
        f"found {name} {value:g}, expected more than 0 and at most 0.5"
        for name, value in (("alpha", design.alpha), ("guardrail_alpha", design.guardrail_alpha))
        if not 0.0 < value <= 0.5
    ]
    if not abs(design.primary.margin) <= LARGEST_MARGIN:
        found.append(
            f"found margin {design.primary.margin:g} of {design.primary.name}, expected a number from "
            f"{-LARGEST_MARGIN:g} to {LARGEST_MARGIN:g}"
        )
    if not 0.0 <= design.minimum_s <= design.maximum_s < math.inf:
        found.append(
            f"found minimum_s {design.minimum_s:g} and maximum_s {design.maximum_s:g}; "
            "expected 0 <= minimum_s <= maximum_s"
        )
    if not 2 <= design.least_units <= design.horizon <= LARGEST_HORIZON:
        found.append(
            f"found least_units {design.least_units} and horizon {design.horizon}; expected 2 <= least_units <= "
            f"horizon <= {LARGEST_HORIZON:,}"
        )
    if design.feedback_tolerance is not None and not 0.0 < design.feedback_tolerance < 1.0:
        found.append(f"found feedback_tolerance {design.feedback_tolerance:g}, expected between 0 and 1, or null")
    found += [
        f"found guardrail {each.metric} with limit {each.limit:g}, largest {each.largest:g} and usual {each.usual:g}; "
        "expected 0 < limit < largest and usual from 0 to largest"
        for each in design.guardrails
        if not (0.0 < each.limit < each.largest < math.inf and 0.0 <= each.usual <= each.largest)
    ]
    if len({each.metric for each in design.guardrails}) < len(design.guardrails):
        found.append("found two guardrails on one metric, expected one on each")
    return found
