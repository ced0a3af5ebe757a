"""Prometheus' counters, gauges and histograms for one process or several, as cheap to use as they can be."""

from typing import Any, Literal, TypeVar

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase

# A `_created` series beside each counter and histogram would half again the scrape and tells nothing we use.
prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]

Child = TypeVar("Child", bound=MetricWrapperBase)
GaugeMode = Literal["livemin", "livemax", "livesum", "livemostrecent"]


class By(dict[Any, Child]):
    """The children of one metric by their label values: a dict look-up instead of `labels()`, four times as fast."""

    def __init__(self, metric: Child) -> None:
        super().__init__()
        self._metric = metric

    def __missing__(self, values: str | tuple[str, ...]) -> Child:
        child = self._metric.labels(*((values,) if isinstance(values, str) else values))
        self[values] = child
        return child


class Instruments:
    """Makes metrics and exposes them. What a process tells of itself is among them, unless there are several."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        if not _several_processes():
            prometheus_client.ProcessCollector(registry=self.registry)
            prometheus_client.PlatformCollector(registry=self.registry)
            prometheus_client.GCCollector(registry=self.registry)

    def counter(self, name: str, meaning: str, *labels: str) -> By[Counter]:
        """Something that only grows; its name gets `_total` when it is exposed."""
        return _children(Counter(name, meaning, labels, registry=self.registry))

    def gauge(self, name: str, meaning: str, mode: GaugeMode, *labels: str) -> By[Gauge]:
        """Something that is as it is now; `mode` says how the values of several workers become one."""
        return _children(Gauge(name, meaning, labels, registry=self.registry, multiprocess_mode=mode))

    def histogram(self, name: str, meaning: str, buckets: tuple[float, ...], *labels: str) -> By[Histogram]:
        """How often values fell under each of the upper bounds `buckets`."""
        return _children(Histogram(name, meaning, labels, registry=self.registry, buckets=buckets))

    def exposition(self) -> tuple[bytes, str]:
        """All metrics in Prometheus' text format, summed over the workers, and its content type. Run it in a thread."""
        registry = self.registry
        if _several_processes():
            from prometheus_client.multiprocess import MultiProcessCollector  # noqa: PLC0415 - only with several workers

            from service.metrics.multiprocess import forget_the_dead  # noqa: PLC0415 - likewise

            forget_the_dead()
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return prometheus_client.generate_latest(registry), prometheus_client.CONTENT_TYPE_LATEST


def _children(metric: Child) -> By[Child]:
    children = By(metric)
    if not metric._labelnames:  # noqa: SLF001 - without labels the metric is its own and only child
        children[()] = metric
    return children


def _several_processes() -> bool:
    """True when prometheus_client was told, at its import, to count in files."""
    return bool(prometheus_client.values.ValueClass._multiprocess)  # noqa: SLF001 - its only word on the matter
