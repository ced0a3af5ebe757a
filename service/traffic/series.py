"""Traffic over time, by model: what GET /v1/traffic answers."""

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, Subquery, select, union_all

from service.storage.store import total
from service.storage.tables import TRAFFIC_LATENCY, traffic, traffic_days
from service.traffic.sums import BOUNDS_S, DAY_H, HOUR_S, MICRO, MILLI, NANO

_COUNTS = ("decisions", "calls", "failures", "fallbacks", "cost_nano", "ratings", "rating_micro", "lag_ms")
_SUMS = (*_COUNTS, *TRAFFIC_LATENCY)
_STEPS_AT_ONCE = 50  # on Postgres every row that is read is work for the event loop, which goes on between statements


def series(
    connection: Connection,
    first: int,
    steps: int,
    step_h: int,
    task_type: str | None = None,
    *,
    latency: bool = True,
) -> Sequence[Sequence[Any]]:
    """Rows of step, model and its sums, for each of `steps` steps of `step_h` hours from the hour `first`.

    Without `latency` its classes are left out, which are three quarters of the work.
    """
    names = _SUMS if latency else _COUNTS
    found: list[Row[Any]] = []
    for start in range(0, steps, _STEPS_AT_ONCE):
        low, high = first + start * step_h, first + min(start + _STEPS_AT_ONCE, steps) * step_h
        hours = counted(("hour", "arm"), names, low, high, days=step_h % DAY_H == 0, task_type=task_type)
        step = ((hours.c.hour - first) // step_h).label("step")
        sums = (total(hours.c[name]) for name in names)
        found += connection.execute(select(step, hours.c.arm, *sums).group_by(step, hours.c.arm)).all()
    return found


def counted(
    by: Sequence[str], names: Sequence[str], low: int, high: int, *, days: bool = True, task_type: str | None = None
) -> Subquery:
    """Sums of the hours from `low` to before `high`, by some of their key; they must be added up once more.

    With `days`, whole days are read from the sums of days, and stand under their first hour. The sums of a part come in
    the order in which they are stored; the whole would have to be sorted.
    """
    first, last = -(-low // DAY_H), high // DAY_H
    hour, day = traffic.c.hour, traffic_days.c.day
    if days and first < last:
        edges = [(low, first * DAY_H), (last * DAY_H, high)]
        parts = [(traffic_days.c, day * DAY_H, (day >= first, day < last))]
    else:
        edges, parts = [(low, high)], []
    parts += [(traffic.c, hour, (hour >= start, hour < end)) for start, end in edges if start < end]

    def sums(columns: Any, at: ColumnElement[int], within: tuple[ColumnElement[bool], ...]) -> Select[Any]:
        key = {name: at if name == "hour" else columns[name] for name in by}
        wanted = select(
            *(column.label(name) for name, column in key.items()), *(total(columns[name]).label(name) for name in names)
        )
        if task_type is not None:
            wanted = wanted.where(columns.task_type == task_type)
        return wanted.where(*within).group_by(*key.values())

    return union_all(*(sums(*part) for part in parts)).subquery()


def points(rows: Sequence[Sequence[Any]], first: int, steps: int, step_h: int) -> list[dict[str, Any]]:
    """Every step with its models, those without traffic left out; `at` is a step's beginning."""
    found: list[dict[str, Any]] = [
        {"at": (first + number * step_h) * HOUR_S, "models": {}} for number in range(steps)
    ]  # fmt: skip
    for number, model, *sums in sorted(rows, key=lambda row: (row[0], row[1])):
        if any(sums):
            found[number]["models"][model] = _told(dict(zip(_SUMS, sums, strict=False)))
    return found


def whole(
    connection: Connection, first: int, steps: int, step_h: int, task_type: str | None = None
) -> Sequence[Sequence[Any]]:
    """Rows of model and its sums over all of these steps."""
    hours = counted(("hour", "arm"), _SUMS, first, first + steps * step_h, task_type=task_type)
    wanted = select(hours.c.arm, *(total(hours.c[name]) for name in _SUMS))
    return connection.execute(wanted.group_by(hours.c.arm).order_by(hours.c.arm)).all()


def models(rows: Sequence[Sequence[Any]]) -> dict[str, dict[str, Any]]:
    """What is told of each model over the whole time."""
    return {model: _told(dict(zip(_SUMS, sums, strict=True))) for model, *sums in rows if any(sums)}


def _told(sums: dict[str, int]) -> dict[str, Any]:
    latency = {}
    if TRAFFIC_LATENCY[0] in sums:
        classes = [sums[name] for name in TRAFFIC_LATENCY]
        latency = {"p50_s": quantile(classes, 0.5), "p95_s": quantile(classes, 0.95)}
    return {
        "decisions": sums["decisions"],
        "calls": sums["calls"],
        "failures": sums["failures"],
        "fallbacks": sums["fallbacks"],
        "cost_usd": sums["cost_nano"] / NANO,
        "ratings": sums["ratings"],
        "mean_rating": sums["rating_micro"] / MICRO / sums["ratings"] if sums["ratings"] > 0 else None,
        "mean_lag_s": sums["lag_ms"] / MILLI / sums["ratings"] if sums["ratings"] > 0 else None,
        **latency,
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
