"""What the sending of traces tells of itself. Part of `service.metrics.catalogue.Metrics`."""

from service.metrics.instruments import Instruments

SIGNALS = ("traces", "metrics")


class TracingMetrics(Instruments):
    """Metrics of what is sent to an OpenTelemetry collector."""

    def __init__(self) -> None:
        super().__init__()
        self._lost = self.counter(
            "armwise_telemetry_failures", "Batches that the collector did not take, or spans not written.", "what"
        )
        for what in SIGNALS:
            self._lost[what].inc(0)

    def telemetry_failed(self, what: str) -> None:
        """Count a loss; `what` is one of `SIGNALS`. From any thread."""
        self._lost[what].inc()
