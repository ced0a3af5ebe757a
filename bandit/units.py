"""Closed units of an experiment in columns, and which of their numbers make sense."""

from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from bandit.designs import Design
from bandit.ratios import sensible

Vector = NDArray[np.float64]
Indices = NDArray[np.int64]


class Units(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """Closed units in columns, a row for each; the order of rows is of no importance.

    Metrics are named by `Metric.name` and `Guardrail.metric`; further ones are only shown. A guardrail's denominator
    should be the number of requests, which every unit has. Numbers that make no sense
    (not finite, a negative denominator) are left out and counted.
    """

    variant: Indices  # (n,), index into the names of `Design.variants`, in their order
    requests: Indices  # (n,)
    gave_feedback: NDArray[np.bool_]  # (n,), on any of its requests
    numerators: dict[str, Vector]  # (n,) by metric: sum over the unit's requests, such as of ratings
    denominators: dict[str, Vector]  # (n,) by metric: such as how many ratings; 0 where the unit was not measured
    covariate: Vector | None = None  # (n,), mean of what the variant could not change; NaN where unknown
    day: Indices | None = None  # (n,), of the experiment, from 0, on which the unit came in; None: not known


class Seen(NamedTuple):
    """The units of known variants, and which of their numbers make sense."""

    units: Units
    usable: dict[str, NDArray[np.bool_]]  # by metric
    ignored: int

    def measured(self, metric: str) -> NDArray[np.bool_]:
        """Which units have the metric: shape (n,)."""
        return np.asarray(self.usable[metric] & (self.units.denominators[metric] > 0.0))

    def ratio(self, metric: str, wide: int) -> Vector:
        """Sum over sum of each of `wide` variants; NaN where it was not measured."""
        rows, units = self.measured(metric), self.units
        total = np.bincount(units.variant[rows], units.numerators[metric][rows], wide)
        size = np.bincount(units.variant[rows], units.denominators[metric][rows], wide)
        return np.asarray(np.divide(total, size, out=np.full(wide, np.nan), where=size > 0.0))


def readable(design: Design, units: Units) -> Seen:
    """Columns of one length, without the units of no variant.

    Raises:
        ValueError: columns differ in length, or one of a metric of the design is missing.
    """
    n = len(units.variant)
    wanted = (design.primary.name, *(each.metric for each in design.guardrails))
    missing = [name for name in wanted if name not in units.numerators]
    missing += [name for name in units.numerators if name not in units.denominators]
    if missing:
        raise ValueError(f"found no numbers for {', '.join(missing)}; expected a numerator and a denominator for each")
    columns: dict[str, NDArray[Any]] = {"requests": units.requests, "gave_feedback": units.gave_feedback}
    columns |= {f"numerators of {name}": each for name, each in units.numerators.items()}
    columns |= {f"denominators of {name}": units.denominators[name] for name in units.numerators}
    columns |= {name: each for name, each in (("covariate", units.covariate), ("day", units.day)) if each is not None}
    for name, each in columns.items():
        if each.shape != (n,):
            raise ValueError(f"found {name} of shape {each.shape}, expected {(n,)}")
    keep = (units.variant >= 0) & (units.variant < len(design.variants))
    kept = Units(
        variant=units.variant[keep],
        requests=units.requests[keep],
        gave_feedback=units.gave_feedback[keep],
        numerators={name: each[keep] for name, each in units.numerators.items()},
        denominators={name: units.denominators[name][keep] for name in units.numerators},
        covariate=None if units.covariate is None else units.covariate[keep],
        day=None if units.day is None else units.day[keep],
    )
    usable = {name: sensible(each, kept.denominators[name]) for name, each in kept.numerators.items()}
    ignored = n - len(kept.variant) + sum(int((~each).sum()) for each in usable.values())
    return Seen(kept, usable, ignored)
