"""What is seen of experiments. Part of `service.metrics.catalogue.Metrics`."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from service.metrics.instruments import Instruments

if TYPE_CHECKING:  # only for types: the parts join these
    from service.experiments.holdout import Headline
    from service.experiments.looks import Look

MOST_EXPERIMENTS = 50  # told of by one process: their names are label values


class ExperimentMetrics(Instruments):
    """Metrics of experiments that are not decided yet; of one that is over they are no number."""

    def __init__(self) -> None:
        super().__init__()
        labels = ("experiment", "variant")
        self._experiment_units = self.gauge(
            "armwise_experiment_units", "Closed units that the primary metric was measured of, with the control's.",
            "livemostrecent", *labels,
        )  # fmt: skip
        self._experiment_estimate = self.gauge(
            "armwise_experiment_estimate", "The variant less the control in the primary metric.",
            "livemostrecent", *labels,
        )  # fmt: skip
        self._experiment_low = self.gauge(
            "armwise_experiment_low", "Lower end of the interval of that difference, valid at every look.",
            "livemostrecent", *labels,
        )  # fmt: skip
        self._experiment_high = self.gauge(
            "armwise_experiment_high", "Upper end of the interval of that difference, valid at every look.",
            "livemostrecent", *labels,
        )  # fmt: skip
        self._experiment_sample_ratio = self.gauge(
            "armwise_experiment_sample_ratio_evalue",
            "Evidence that units were not assigned by the planned shares; from 1,000 on an alarm.",
            "livemostrecent", "experiment",
        )  # fmt: skip
        self._experiments_stopped = self.counter(
            "armwise_experiments_stopped", "Experiments that were stopped by what was seen of them."
        )[()]
        self._worth = self.gauge(
            "armwise_holdout_difference",
            "What routing is worth: mean rating of routed users less that of the permanent holdout.",
            "livemostrecent", "what",
        )  # fmt: skip
        for what in ("estimate", "low", "high"):
            self._worth[what].set(math.nan)  # not known, which is not absent
        self._experiments_told: dict[str, set[str]] = {}

    def experiments(self, last: Mapping[str, "Look"]) -> None:
        """What was last seen of each experiment that is not decided yet."""
        for name in self._experiments_told.keys() - last.keys():
            for variant in self._experiments_told.pop(name):
                self._tell_variant(name, variant, 0, None, None, None)
            self._experiment_sample_ratio[name].set(math.nan)
        for name, look in last.items():
            if name not in self._experiments_told and len(self._experiments_told) >= MOST_EXPERIMENTS:
                continue
            told = self._experiments_told.setdefault(name, set())
            told.update(each.variant for each in look.compared)
            for each in look.compared:
                units = each.units + each.control_units
                self._tell_variant(name, each.variant, units, each.estimate, each.low, each.high)
            self._experiment_sample_ratio[name].set(look.sample_ratio_evidence)

    def experiment_stopped(self) -> None:
        """Count an experiment that was stopped by what was seen of it."""
        self._experiments_stopped.inc()

    def worth(self, seen: "Headline | None") -> None:
        """What routing is worth, with its interval."""
        if seen is not None:
            for what, value in (("estimate", seen.value), ("low", seen.low), ("high", seen.high)):
                self._worth[what].set(math.nan if value is None else value)

    def _tell_variant(
        self, name: str, variant: str, units: int, estimate: float | None, low: float | None, high: float | None
    ) -> None:
        self._experiment_units[name, variant].set(units)
        for gauge, value in (
            (self._experiment_estimate, estimate), (self._experiment_low, low), (self._experiment_high, high)
        ):  # fmt: skip
            gauge[name, variant].set(math.nan if value is None else value)
