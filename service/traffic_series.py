"""Traffic over time, by model: what GET /v1/traffic answers."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Subquery, select

from service.store import total
from service.tables import TRAFFIC_LATENCY, traffic
from service.traffic import BOUNDS_S, HOUR_S, MICRO, NANO

_SUMS = ("decisions", "failures", "fallbacks", "cost_nano", "ratings", "rating_micro", *TRAFFIC_LATENCY)
_STEPS_AT_ONCE = 50  # on Postgres every row that is read is work for the event loop, which goes on between statements


def series(
    connection: Connection, first: int, steps: int, step_h: int, task_type: str | None = None
) -> Sequence[Sequence[Any]]:
    """Rows of step, model and its sums, for each of `steps` steps of `step_h` hours from the hour `first`."""
    found: list[Row[Any]] = []
    for start in range(0, steps, _STEPS_AT_ONCE):
        low, high = first + start * step_h, first + min(start + _STEPS_AT_ONCE, steps) * step_h
        within = [traffic.c.hour >= low, traffic.c.hour < high]
        if task_type is not None:
            within.append(traffic.c.task_type == task_type)
        hours = by_hour(_SUMS, within)
        step = ((hours.c.hour - first) // step_h).label("step")
        sums = (total(hours.c[name]) for name in _SUMS)
        found += connection.execute(select(step, hours.c.arm, *sums).group_by(step, hours.c.arm)).all()
    return found


def by_hour(names: Iterable[str], within: Iterable[ColumnElement[bool]]) -> Subquery:
    """Sums by hour and model. They come in the order in which they are stored; whole days would have to be sorted."""
    columns = (traffic.c.hour, traffic.c.arm)
    sums = (total(traffic.c[name]).label(name) for name in names)
    return select(*columns, *sums).where(*within).group_by(*columns).subquery()


def points(rows: Sequence[Sequence[Any]], first: int, steps: int, step_h: int) -> list[dict[str, Any]]:
    """Every step with its models, those without traffic left out; `at` is a step's beginning."""
    found: list[dict[str, Any]] = [
        {"at": (first + number * step_h) * HOUR_S, "models": {}} for number in range(steps)
    ]  # fmt: skip
    for number, model, *sums in sorted(rows, key=lambda row: (row[0], row[1])):
        if any(sums):
            found[number]["models"][model] = _told(dict(zip(_SUMS, sums, strict=True)))
    return found


def _told(sums: dict[str, int]) -> dict[str, Any]:
    classes = [sums[name] for name in TRAFFIC_LATENCY]
    return {
        "decisions": sums["decisions"],
        "failures": sums["failures"],
        "fallbacks": sums["fallbacks"],
        "cost_usd": sums["cost_nano"] / NANO,
        "ratings": sums["ratings"],
        "mean_rating": sums["rating_micro"] / MICRO / sums["ratings"] if sums["ratings"] > 0 else None,
        "p50_s": quantile(classes, 0.5),
        "p95_s": quantile(classes, 0.95),
    }


def quantile(classes: Sequence[int], share: float) -> float | None:
    """The latency below which a share of the calls stayed, in seconds; None without calls.

    Within a class the calls are taken to lie evenly on the scale of logarithms, so the error is below a class's width,
    41 %, and usually a tenth of it. Of the last class, which has no end, its beginning is told.
    """
    calls = sum(classes)
    if calls <= 0:
        return None
    left = share * calls
    for (low, high), count in zip(_bounds(), classes, strict=True):
        if count > 0 and left <= count:
            within = left / count
            return float(high * within if low == 0.0 else low * (high / low) ** within)
        left -= count
    return BOUNDS_S[-1]


def _bounds() -> Iterator[tuple[float, float]]:
    return zip((0.0, *BOUNDS_S), (*BOUNDS_S, BOUNDS_S[-1]), strict=True)
