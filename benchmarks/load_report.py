"""What the load test found, as one table: beside the passthrough, as ratios, and against the budgets."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

Table = dict[str, dict[str, dict[str, Any]]]  # kind of load -> target -> figures

GROWTH_MB = 10.0  # over a soak; less is what an allocator does on its own

FULL_CORE = 0.9  # of a core; a bottleneck that gets less shares it with others

# What is shown of each kind of load: (kind, label, figure, unit).
SHOWN = (
    ("plain, 1 connection", "p50", "p50_ms", "ms"),
    ("plain, 1 connection", "p99", "p99_ms", "ms"),
    ("plain, 16 connections", "requests", "per_second", "/s"),
    ("plain, 16 connections", "CPU a request", "cpu_ms", "ms"),
    ("plain, 16 connections", "p50", "p50_ms", "ms"),
    ("plain, 16 connections", "p99", "p99_ms", "ms"),
    ("stream in a burst, 1 connection", "first byte p50", "first_byte_p50_ms", "ms"),
    ("stream in a burst, 16 connections", "streams", "per_second", "/s"),
    ("stream in a burst, 16 connections", "CPU a stream", "cpu_ms", "ms"),
    ("stream paced 2 ms, 16 connections", "first byte p50", "first_byte_p50_ms", "ms"),
    ("stream paced 2 ms, 16 connections", "first byte p99", "first_byte_p99_ms", "ms"),
    ("stream paced 2 ms, 16 connections", "whole stream p50", "p50_ms", "ms"),
    ("stream paced 2 ms, 16 connections", "CPU a stream", "cpu_ms", "ms"),
)


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the table."""

    what: str
    unit: str
    direct: float | None = None  # to the mock, without a gateway
    passthrough: float | None = None
    armwise: float | None = None
    beside: float | None = None  # another version
    budget: str = ""
    within: bool | None = None  # None: there is no budget, or nothing was measured

    @property
    def ratio(self) -> float | None:
        """Armwise as a multiple of the passthrough."""
        return self.armwise / self.passthrough if self.armwise is not None and self.passthrough else None


def summary(results: Mapping[str, Any]) -> list[Line]:
    """The rows, from the figures of `benchmarks.load_test`."""
    cells: Table = results["cells"]
    lines = [
        Line(
            what=f"{kind}: {label}",
            unit=unit,
            **{target: row[figure] for target, row in cells[kind].items()},
        )
        for kind, label, figure, unit in SHOWN
    ]
    if "feedback" not in results:
        return lines

    def value(kind: str, target: str, figure: str) -> float:
        return cells[kind][target][figure]

    def added(kind: str, figure: str) -> float:
        return value(kind, "armwise", figure) - value(kind, "direct", figure)

    one, sixteen, burst = "plain, 1 connection", "plain, 16 connections", "stream in a burst, 1 connection"
    bursts, paced = "stream in a burst, 16 connections", "stream paced 2 ms, 16 connections"
    budgets = [
        at_least("requests at concurrency 16", "/s", value(sixteen, "armwise", "per_second"), 1500),
        at_most("CPU a request", "ms", value(sixteen, "armwise", "cpu_ms"), 0.6),
        at_most("p50 added at concurrency 1", "ms", added(one, "p50_ms"), 1.0),
        at_most("first byte of a stream added, burst", "ms", added(burst, "first_byte_p50_ms"), 1.5),
        at_most("first byte of a stream added, paced", "ms", added(paced, "first_byte_p50_ms"), 1.5),
        at_most("CPU a stream of 100 chunks, burst", "ms", value(bursts, "armwise", "cpu_ms"), 1.0),
        at_least("durable feedback at concurrency 64", "/s", results["feedback"]["per_second"], 3000),
        at_most("resident memory", "MB", results["rss_mb"]["armwise"], 250),
    ]
    if "soak" in results:
        requests = sum(part["requests"] for part in results["soak"]["parts"])
        budgets.append(at_most(f"growth over {requests:,.0f} requests", "MB", results["soak"]["growth_mb"], GROWTH_MB))
    return lines + budgets


def at_most(what: str, unit: str, value: float, limit: float) -> Line:
    """A budget that is kept by staying below."""
    return Line(what=f"budget: {what}", unit=unit, armwise=value, budget=f"<= {limit:,g}", within=value <= limit)


def at_least(what: str, unit: str, value: float, limit: float) -> Line:
    """A budget that is kept by reaching it."""
    return Line(what=f"budget: {what}", unit=unit, armwise=value, budget=f">= {limit:,g}", within=value >= limit)


def faults(results: Mapping[str, Any]) -> list[str]:
    """What makes the figures worthless: requests that failed, and acknowledged feedback that is not stored."""
    found = [
        f"{kind}, {target}: {row['failed']} of {row['requests']} requests failed, by status {row['statuses']}"
        for kind, targets in results["cells"].items()
        for target, row in targets.items()
        if row["failed"] or not row["requests"]
    ]
    if feedback := results.get("feedback"):
        if feedback["failed"]:
            found.append(f"feedback: {feedback['failed']} posts failed, by status {feedback['statuses']}")
        if feedback["stored"] < feedback["acknowledged"]:
            found.append(f"feedback: {feedback['acknowledged']} acknowledged, only {feedback['stored']} stored")
    if results.get("soak", {}).get("failed"):
        found.append(f"soak: {results['soak']['failed']} requests failed")
    return found


def doubts(results: Mapping[str, Any]) -> list[str]:
    """Signs that other work ran on the machine. CPU figures then still hold roughly; rates and latencies do not."""
    return [
        f"{target} had {row['core_share']:.0%} of its core while it was the bottleneck: other work ran on this machine."
        for target, row in results["cells"]["plain, 16 connections"].items()
        if target != "direct" and row["core_share"] < FULL_CORE
    ]


_BESIDE = 5  # the column is shown when another version was measured


def _number(value: float | None) -> str:
    if value is None or math.isnan(value):
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def table(lines: Sequence[Line]) -> str:
    """The rows as a Markdown table."""
    verdicts = {True: "kept", False: "NOT KEPT", None: ""}
    rows = [("", "direct", "passthrough", "Armwise", "ratio", "beside", "budget", "")]
    rows += [
        (
            f"{line.what} ({line.unit})",
            _number(line.direct),
            _number(line.passthrough),
            _number(line.armwise),
            _number(line.ratio),
            _number(line.beside),
            line.budget,
            verdicts[line.within],
        )
        for line in lines
    ]
    if not any(row[_BESIDE] for row in rows[1:]):
        rows = [(*row[:_BESIDE], *row[_BESIDE + 1 :]) for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    texts = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    texts.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(texts)
