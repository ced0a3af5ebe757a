"""The table of docs/linear.md: python -m benchmarks.linear_table.

Replays the published sets of the folder ARMWISE_DATA beside `pooled_thompson` and writes what came out between the
page's markers, with the commit that was measured. Takes some minutes.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from benchmarks.compare_policies import commit, load, parser, played, rows_of, setting
from benchmarks.learning_runs import SETS
from benchmarks.linear import LINEAR

PAGE = Path(__file__).parent.parent / "docs" / "linear.md"
BEGIN, END = "<!-- table: written by python -m benchmarks.linear_table -->", "<!-- end of table -->"
CONDITIONS = {
    "5 % feedback": ("--feedback-rate", "0.05"),
    "5 %, embedded classifier": ("--feedback-rate", "0.05", "--classifier", "embedded"),
    "20 % feedback": ("--feedback-rate", "0.2"),
}
_COLUMNS = ("best single", "best per task", "static_prior", "pooled_thompson", *LINEAR)


def measured(sets: tuple[str, ...], more: tuple[str, ...] = ()) -> dict[str, dict[str, dict[str, Any]]]:
    """Rows by condition and set, then by policy. `more` are further arguments of `compare_policies`."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for title, words in CONDITIONS.items():
        for name in sets:
            given = ("--data", name, "--seeds", "3", *words, *more, "--policy", "pooled_thompson", *LINEAR)
            arguments = parser().parse_args(given)
            here = setting(load(name, arguments), arguments)
            rows = rows_of(here, played(here, arguments), arguments)
            found[f"{title} | {name}"] = {row["policy"]: row for row in rows}
            print(f"{title}, {name}", file=sys.stderr)
    return found


def table(found: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Markdown: mean quality, with half of its interval over seeds where it is learned."""
    titles = ["", "data", *_COLUMNS]
    lines = [f"| {' | '.join(titles)} |", "| --- " * len(titles) + "|"]
    return "\n".join([*lines, *(f"| {place} | {' | '.join(_cells(rows))} |" for place, rows in found.items())])


def _cells(rows: dict[str, dict[str, Any]]) -> list[str]:
    cells = []
    for name in _COLUMNS:
        row = rows[name]
        half = (row["quality_high"] - row["quality_low"]) / 2
        learns = name in LINEAR or name == "pooled_thompson"
        cells.append(f"{row['quality']:.4f}" + (f" ± {half:.4f}" if learns else ""))
    return cells


def between(page: str, content: str) -> str:
    """The page with other content between its markers.

    Raises:
        ValueError: a marker is missing.
    """
    if page.count(BEGIN) != 1 or page.count(END) != 1:
        raise ValueError(f"found no place for the table; the page must have {BEGIN!r} and {END!r} once each")
    head, _, rest = page.partition(BEGIN)
    return f"{head}{BEGIN}\n\n{content}\n\n{END}{rest.partition(END)[2]}"


def main() -> None:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.parse_args()
    at = commit()
    content = f"{table(measured(SETS))}\n\nMeasured at commit {at}."
    PAGE.write_text(between(PAGE.read_text(encoding="utf-8"), content), encoding="utf-8")
    print(content)


if __name__ == "__main__":
    main()
