"""What circuit breakers tell. Part of `service.metrics.catalogue.Metrics`."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from bandit.breakers import State
from bandit.eligibility import BREAKER_OPEN
from service.metrics.instruments import Instruments

if TYPE_CHECKING:  # only for types
    from service.decide import Decision

STATES: dict[State, int] = {"closed": 0, "half-open": 1, "open": 2}


class BreakerMetrics(Instruments):
    """Metrics of the circuit breakers, one for each model and process."""

    def __init__(self) -> None:
        super().__init__()
        self._breaker_state = self.gauge(
            "armwise_breaker_state", "0: closed, 1: half-open, 2: open; the worst of all workers.", "livemax", "model"
        )
        self._breaker_opened = self.counter(
            "armwise_breaker_opened", "Times a breaker opened; a trial that fails is none.", "model"
        )
        self._breaker_skipped = self.counter(
            "armwise_breaker_skipped", "Requests that a model could have served but for its breaker.", "model"
        )

    def breakers(self, models: Iterable[str]) -> None:
        """Which models have one: an alert sees the first opening as an increase."""
        for model in models:
            self._breaker_state[model].set(0)
            self._breaker_opened[model].inc(0)
            self._breaker_skipped[model].inc(0)

    def breaker_state(self, model: str, state: State) -> None:
        """How a breaker is."""
        self._breaker_state[model].set(STATES[state])

    def breaker_opened(self, model: str) -> None:
        """Count a breaker that opened."""
        self._breaker_opened[model].inc()

    def breaker_skipped(self, model: str) -> None:
        """Count a request that was not sent to a model because of its breaker."""
        self._breaker_skipped[model].inc()

    def breakers_kept_out(self, decision: "Decision") -> None:
        """Count the models that a decision passed over for their breaker alone."""
        for model in decision.limits.open_breakers:
            if decision.excluded.get(model) == BREAKER_OPEN:
                self._breaker_skipped[model].inc()
