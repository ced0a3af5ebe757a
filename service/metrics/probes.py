"""What calls of our own cost and tell: canary probes and the judge. Part of `service.metrics.catalogue.Metrics`."""

from service.metrics.instruments import Instruments

CANARY_OUTCOMES = ("right", "wrong", "failed")
VERDICTS = ("marked", "unreadable", "failed", "dropped")


class ProbeMetrics(Instruments):
    """Metrics of calls that no client asked for."""

    def __init__(self) -> None:
        super().__init__()
        self._canaries = self.counter("armwise_canaries", "Canary probes, by how they ended.", "model", "outcome")
        self._canary_cost = self.counter("armwise_canary_cost_usd", "Money spent on canary probes.", "model")
        self._verdicts = self.counter("armwise_judge_verdicts", "Replies to be judged, by how it ended.", "outcome")
        for outcome in VERDICTS:
            self._verdicts[outcome].inc(0)
        self._judge_cost = self.counter("armwise_judge_cost_usd", "Money spent on the judge.")[()]

    def canary(self, model: str, outcome: str, cost_usd: float) -> None:
        """Count a canary probe; `outcome` is one of `CANARY_OUTCOMES`."""
        self._canaries[model, outcome].inc()
        self._canary_cost[model].inc(cost_usd)

    def verdict(self, outcome: str, cost_usd: float = 0.0) -> None:
        """Count a reply that was to be judged; `outcome` is one of `VERDICTS`."""
        self._verdicts[outcome].inc()
        self._judge_cost.inc(cost_usd)
