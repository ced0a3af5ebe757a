"""What a person sees in a terminal: lines cut to its width, tables, small plots.

Where the output is no terminal nothing is cut or drawn over: another program reads it.
"""

import math
import shutil
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

import click

_LEVELS = "▁▂▃▄▅▆▇█"
_NARROWEST = 20  # columns below which cutting would leave nothing to read


def width() -> int | None:
    """Columns of the terminal that standard output is; None where it is none."""
    if not sys.stdout.isatty():
        return None
    return max(shutil.get_terminal_size((100, 24)).columns, _NARROWEST)


def columns(text: str) -> int:
    """Columns that `text` takes: Chinese characters take two.

    >>> columns("ab"), columns("分析")
    (2, 4)
    """
    return sum(0 if unicodedata.combining(one) else 1 + (unicodedata.east_asian_width(one) in "WF") for one in text)


def cut(text: str, limit: int | None) -> str:
    """`text`, or as much of it as fits into `limit` columns with a mark that there is more.

    >>> cut("a long line", 6), cut("short", 6), cut("a long line", None)
    ('a lon…', 'short', 'a long line')
    """
    if limit is None or columns(text) <= limit:
        return text
    kept, used = "", 1
    for one in text:
        used += columns(one)
        if used > limit:
            break
        kept += one
    return kept + "…"


def table(rows: Sequence[Sequence[str]], *, right: Iterable[int] = ()) -> Iterator[str]:
    """The lines of a table, its columns aligned: to the left, but those numbered in `right`.

    >>> list(table([["model", "n"], ["a", "10"]], right=[1]))
    ['model   n', 'a      10']
    """
    if not rows:
        return
    to_right = frozenset(right)
    widths = [max(columns(row[number]) for row in rows) for number in range(len(rows[0]))]
    for row in rows:
        padded = [" " * (size - columns(cell)) for cell, size in zip(row, widths, strict=True)]
        cells = (
            pad + cell if n in to_right else cell + pad for n, (cell, pad) in enumerate(zip(row, padded, strict=True))
        )
        yield "  ".join(cells).rstrip()


def sparkline(values: Sequence[float], *, low: float = 0.0, high: float = 1.0) -> str:
    """One character for each value, the higher the fuller; a space for one that is no number.

    >>> sparkline([0.0, 0.5, 1.0, float("nan")])
    '▁▅█ '
    """
    span = (high - low) or 1.0
    steps = len(_LEVELS)
    found = (
        min(max(int((value - low) / span * steps), 0), steps - 1) if math.isfinite(value) else None for value in values
    )
    return "".join(" " if level is None else _LEVELS[level] for level in found)


def interval_bar(
    low: float, value: float, high: float, *, span: tuple[float, float] = (0.0, 1.0), size: int = 30
) -> str:
    """An interval with its value on a scale of `size` characters from `span[0]` to `span[1]`.

    An arrow stands at an end that lies beyond the scale. A scale with 0 inside shows where that is.

    >>> interval_bar(0.25, 0.5, 0.75, size=9)
    '··├─●─┤··'
    >>> interval_bar(-2.0, 0.5, 0.9, span=(-1.0, 1.0), size=9)
    '◀───│─●─┤'
    """
    if not (math.isfinite(low) and math.isfinite(value) and math.isfinite(high)):
        return " " * size
    start, length = span[0], (span[1] - span[0]) or 1.0

    def place(at: float) -> int:
        return min(max(round((at - start) / length * (size - 1)), 0), size - 1)

    drawn = ["·"] * size
    drawn[place(low) : place(high) + 1] = "─" * (place(high) - place(low) + 1)
    if span[0] < 0.0 < span[1]:
        drawn[place(0.0)] = "│"
    drawn[place(low)] = "◀" if low < span[0] else "├"
    drawn[place(high)] = "▶" if high > span[1] else "┤"
    drawn[place(value)] = "●"
    return "".join(drawn)


def scale(intervals: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """A scale on which all intervals fit, a little wider than they are.

    >>> scale([(0.0, 1.0), (0.5, 2.0)])
    (-0.1, 2.1)
    """
    finite = [end for interval in intervals for end in interval if math.isfinite(end)]
    if not finite:
        return 0.0, 1.0
    low, high = min(finite), max(finite)
    margin = 0.05 * (high - low) or 0.05
    return low - margin, high + margin


def interval_plot(rows: Sequence[tuple[str, float, float, float]]) -> Iterator[str]:
    """Named intervals (name, low, value, high) below each other on one scale, whose ends the last line tells."""
    span = scale([(low, high) for _, low, _, high in rows])
    drawn = [[name, interval_bar(low, value, high, span=span)] for name, low, value, high in rows]
    left, to_right = f"{span[0]:.3g}", f"{span[1]:.3g}"
    size = len(drawn[0][1]) if drawn else 0
    yield from table([*drawn, ["", left + to_right.rjust(size - len(left))]]) if drawn else ()


def encodable(text: str) -> bool:
    """Whether standard output can hold `text`: under a locale that is not UTF-8 it may not."""
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def plots() -> bool:
    """Whether small plots are drawn: only where a person looks, and the terminal has the characters."""
    return width() is not None and encodable(_LEVELS + interval_bar(-1.0, 0.0, 1.0))


def show(lines: Iterable[str]) -> None:
    """Print lines, on a terminal each cut to its width."""
    limit = width()
    for line in lines:
        click.echo(cut(line, limit))
