"""The published table of learning: python -m benchmarks.learning_table, or make bench-learning.

Replays the sets that the folder ARMWISE_DATA has, writes benchmarks/results/learning.json and the tables between the
markers of docs/learning.md. Where there are none it replays outcomes simulated from the committed table of facts, says
so, and leaves the published figures alone.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.compare_policies import commit
from benchmarks.learning_runs import available, done, runs

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- tables: written by make bench-learning -->", "<!-- end of tables -->"

_QUALITY: dict[str, tuple[str, ...]] = {
    "random": ("random",),
    "best single": ("best single",),
    "best per task": ("best per task",),
    "static prior": ("static_prior",),
    "Beta per task": ("thompson",),
    "Beta per model": ("thompson_global",),
    "pooled": ("pooled_thompson",),
    "pooled, last quarter": ("pooled_thompson", "quality_last_quarter"),
    "gap closed": ("pooled_thompson", "gap_closed", ".0%"),
}
_BUDGET: dict[str, tuple[str, ...]] = {
    "cheapest": ("cheapest",),
    "best single": ("best single within budget",),
    "best mix of two": ("best mix within budget",),
    "best per task": ("best per task within budget",),
    "static prior": ("static_prior",),
    "pooled": ("pooled_thompson",),
    "overshoot": ("pooled_thompson", "overshoot", ".2%"),
    "worst from 1,000 on": ("pooled_thompson", "overshoot_worst", ".2%"),
}
# Tables of the page: title of a column, then policy, key and form of its figure.
COLUMNS: dict[str, dict[str, tuple[str, ...]]] = {
    "Quality": _QUALITY
    | {
        "LiteLLM, quality only": ("litellm_quality",),
        "LiteLLM, default": ("litellm_default",),
        "MABWiser": ("mabwiser",),
        "bayesian-router": ("bayesian_router",),
        "us a decision": ("pooled_thompson", "decision_us", ".0f"),
    },
    "Benchmark prior": _QUALITY,
    "Reversed prior": _QUALITY,
    "Tasks named by the classifier": _QUALITY,
    "Through the service": {
        "random": ("random",),
        "best single": ("best single",),
        "best per task": ("best per task",),
        "static prior": ("static_prior",),
        "pooled": ("pooled_thompson",),
        "pooled, through the service": ("pooled_thompson (service)",),
        "us a decision": ("pooled_thompson (service)", "decision_us", ".0f"),
    },
    "Published means": _QUALITY | {"static prior, last quarter": ("static_prior", "quality_last_quarter")},
    "Budget, 1,824 requests": _BUDGET | {"ParetoBandit": ("paretobandit",)},
    "Budget, 8,000 requests": _BUDGET,
    "Silent drop": {
        "to alarm": ("pooled_thompson", "requests_to_alarm", ",.0f"),
        "to half its share": ("pooled_thompson", "requests_to_halve", ",.0f"),
        "without detectors": ("pooled_unwatched", "requests_to_halve", ",.0f"),
        "Beta per task": ("thompson", "requests_to_halve", ",.0f"),
        "false alarms": ("pooled_thompson", "false_alarms", ".2f"),
        "quality, last quarter": ("pooled_thompson", "quality_last_quarter"),
        "of it without detectors": ("pooled_unwatched", "quality_last_quarter"),
        "of it best per task": ("best per task", "quality_last_quarter"),
    },
    "Readings": {"best single": ("best single",), "pooled": ("pooled_thompson",)},
    "New model": {
        "requests to adopt": ("pooled_thompson", "requests_to_adopt", ",.0f"),
        "pooled": ("pooled_thompson",),
        "best per task": ("best per task within budget",),
        "overshoot": ("pooled_thompson", "overshoot", ".2%"),
    },
}


def sections(rows: Sequence[dict[str, Any]]) -> str:
    """All tables in Markdown: one per section, with a line per setting."""
    parts = []
    for section, columns in COLUMNS.items():
        of_section = [one for one in rows if one["section"] == section]
        settings: dict[str, dict[str, dict[str, Any]]] = {}
        for one in of_section:
            settings.setdefault(_setting(one), {})[one["policy"]] = one
        if settings:
            lines = [f"| {' | '.join(['', *columns])} |", "| --- |" + " --- |" * len(columns)]
            lines += [
                f"| {' | '.join([setting, *(_cell(found, *column) for column in columns.values())])} |"
                for setting, found in settings.items()
            ]
            parts.append(f"### {section}\n\n" + "\n".join(lines))
    return "\n\n".join(parts)


def _setting(one: dict[str, Any]) -> str:
    """What a line was measured on, in words."""
    words = [one["data"], f"{one['feedback_rate']:.0%} rated", f"{one['prior']} prior"]
    words += [f"{one['heuristic']} readings"] if one["heuristic"] != "none" else []
    words += [f"${one['budget_usd']:.1e} a request"] if one["budget_usd"] is not None else []
    words += ["prices x 4"] if one["shock"] == "price" else []
    words += [f"a quiz of {one['quiz']}"] if one["quiz"] else []
    return ", ".join(words)


def _cell(found: dict[str, dict[str, Any]], policy: str, key: str = "quality", form: str = ".4f") -> str:
    """One figure; nothing where there is none. The quality of what learns has half its interval beside it."""
    one = found.get(policy, {})
    value = one.get(key)
    if value is None:
        return "not installed" if "not_installed" in one else ""
    half = (one["quality_high"] - one["quality_low"]) / 2
    return format(value, form) + (f" ± {half:.4f}" if key == "quality" and policy == "pooled_thompson" else "")


def between(page: str, tables: str) -> str:
    """The page with other tables between its markers.

    Raises:
        ValueError: a marker is missing.
    """
    if page.count(BEGIN) != 1 or page.count(END) != 1:
        raise ValueError(f"found no place for the tables; the page must have {BEGIN!r} and {END!r} once each")
    head, _, rest = page.partition(BEGIN)
    return f"{head}{BEGIN}\n\n{tables}\n\n{END}{rest.partition(END)[2]}"


def publish(results: dict[str, Any], root: Path, *, simulated: bool) -> Path:
    """Write the results and the page's tables under `root`; simulated ones go where git ignores them, and no page.

    Raises:
        ValueError: the page has no place for tables.
    """
    folder = root / "benchmarks" / "results"
    target = folder / "local" / "learning.json" if simulated else folder / "learning.json"
    if not simulated:
        page = root / "docs" / "learning.md"
        page.write_text(between(page.read_text(encoding="utf-8"), sections(results["rows"])), encoding="utf-8")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")
    return target


def main() -> None:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--processes", type=int, default=2, help="replays at a time (default: %(default)s)")
    made.add_argument("--only", choices=list(COLUMNS), help="one section; nothing is written")
    arguments = made.parse_args()
    sets = available()
    simulated = sets[0].startswith("simulated_")
    wanted = [run for run in runs(sets) if arguments.only in {None, run.section}]
    measured, started = commit(), time.perf_counter()
    with ProcessPoolExecutor(arguments.processes) as pool:
        found = list(pool.map(done, wanted))
    results: dict[str, Any] = {
        "commit": measured,
        "data": sets,
        "arguments": [[run.section, *run.arguments] for run in wanted],
        "rows": [one for rows, _ in found for one in rows],
        "curves": [one for _, curves in found for one in curves],
    }
    print(sections(results["rows"]))
    print(f"\n{len(wanted)} replays in {time.perf_counter() - started:.0f} s", file=sys.stderr)
    if simulated:
        print("ARMWISE_DATA names no folder with outcome files: these outcomes were simulated.", file=sys.stderr)
    if arguments.only is None:
        print(f"Written: {publish(results, ROOT, simulated=simulated)}", file=sys.stderr)


if __name__ == "__main__":
    main()
