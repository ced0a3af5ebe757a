"""What the demo shows, as plain text: shares of the models by round, and what was learned."""

import math
from collections import Counter
from collections.abc import Sequence

import msgspec

from bandit.vocabulary import TaskType
from service.terminal import sparkline

_NAMED_MODELS = 4  # with more, a cell shows the most used one only
_PLOTTED = 40  # rounds


class Tally(msgspec.Struct, kw_only=True):
    """What came of the calls of one task type in one round."""

    calls: Counter[str] = msgspec.field(default_factory=Counter)  # by model
    qualities: list[float] = []  # of those that told
    cost_usd: float = 0.0


Round = dict[TaskType, Tally]


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """The posterior of one model on one task type, as GET /v1/posteriors gives it."""

    task_type: TaskType
    model: str
    mean: float | None  # None: the cell is broken
    interval: tuple[float | None, float | None]
    n: float
    p_best: float | None


class Posteriors(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of GET /v1/posteriors."""

    cells: tuple[Cell, ...]


def known_best(tiers: Sequence[Sequence[Cell]]) -> tuple[Cell, ...]:
    """Of the same cells in each prompt tier, a task type's in the tier that is known best: that of its prompts."""
    chosen: dict[TaskType, tuple[float, list[Cell]]] = {}
    for cells in tiers:
        for task_type in dict.fromkeys(cell.task_type for cell in cells):
            found = [cell for cell in cells if cell.task_type == task_type]
            doubt = sum(_doubt(cell) for cell in found)
            if task_type not in chosen or doubt < chosen[task_type][0]:
                chosen[task_type] = doubt, found
    return tuple(cell for _, found in chosen.values() for cell in found)


def _doubt(cell: Cell) -> float:
    low, high = cell.interval
    return 1.0 if low is None or high is None else high - low


def rows(table: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table, columns aligned; the first row is its head.

    >>> rows([["a", "bc"], ["def", "g"]])
    ['a    bc', 'def  g']
    """
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in table]


def course_table(rounds: Sequence[Round], models: Sequence[str]) -> list[str]:
    """Shares and quality, round by round, as small plots from 0 to 1; with the newest numbers and all of it."""
    everything = [_sum(list(found.values())) for found in rounds]
    totals = [tally.calls.total() for tally in everything]
    shares = {
        model: [
            tally.calls[model] / total if total else math.nan for tally, total in zip(everything, totals, strict=True)
        ]
        for model in models[:_NAMED_MODELS]
    }
    qualities = [sum(tally.qualities) / len(tally.qualities) if tally.qualities else math.nan for tally in everything]
    table = [["course, from 0 to 1", "", "newest", "of all"]]
    for model, found in shares.items():
        overall = sum(tally.calls[model] for tally in everything) / max(sum(totals), 1)
        table.append([f"share of {model}", sparkline(found[-_PLOTTED:]), f"{found[-1]:.0%}", f"{overall:.0%}"])
    table.append(["quality", sparkline(qualities[-_PLOTTED:]), f"{qualities[-1]:.2f}", _ending(everything)[0]])
    return rows(table)


def shares_table(
    rounds: Sequence[Round], models: Sequence[str], task_types: Sequence[TaskType], newest: int | None = None
) -> list[str]:
    """Each task type's shares of the models in the newest rounds (all, if None), with their quality and cost."""
    first = 0 if newest is None else max(len(rounds) - newest, 0)
    rounds = rounds[first:]
    named = len(models) <= _NAMED_MODELS
    head = "share of " + (" / ".join(models) if named else "the most used model") + ", in percent"
    table = [["", *(f"round {number}" for number in range(first + 1, first + len(rounds) + 1)), "quality", "cost"]]
    for task_type in task_types:
        tallies = [found.get(task_type, Tally()) for found in rounds]
        table.append([task_type, *(_shares(tally.calls, models, named=named) for tally in tallies), *_ending(tallies)])
    everything = [_sum(list(found.values())) for found in rounds]
    shares = (_shares(tally.calls, models, named=named) for tally in everything)
    table.append(["all", *shares, *_ending(everything)])
    table.append(["quality of all", *(_quality(tally.qualities) for tally in everything), "", ""])
    table.append(["cost of all", *(f"${tally.cost_usd:.4f}" for tally in everything), "", ""])
    return [head, *rows(table)]


def posteriors_table(cells: Sequence[Cell], models: Sequence[str]) -> list[str]:
    """What was learned: the mean quality of each model by task type, where there is any feedback."""
    taught = list(dict.fromkeys(cell.task_type for cell in cells if cell.n > 0))
    if not taught:
        return ["Nothing was learned: there was no feedback."]
    by_place = {(cell.task_type, cell.model): cell for cell in cells}
    table = [["", *models]]
    for task_type in taught:
        found = [by_place.get((task_type, model)) for model in models]
        likely = max(cell.p_best or 0.0 for cell in found if cell)
        table.append([task_type, *(_posterior(cell, likely) for cell in found)])
    return ["posterior mean of quality [95 % interval] labels, * likeliest to be best", *rows(table)]


def _posterior(cell: Cell | None, likely: float) -> str:
    low, high = cell.interval if cell else (None, None)
    if cell is None or cell.mean is None or low is None or high is None:
        return "-"
    mark = "*" if cell.p_best == likely else ""
    return f"{cell.mean:.2f} [{low:.2f}, {high:.2f}] {cell.n:.0f}{mark}"


def _sum(tallies: Sequence[Tally]) -> Tally:
    return Tally(
        calls=sum((tally.calls for tally in tallies), Counter()),
        qualities=[quality for tally in tallies for quality in tally.qualities],
        cost_usd=sum(tally.cost_usd for tally in tallies),
    )


def _ending(tallies: Sequence[Tally]) -> tuple[str, str]:
    total = _sum(tallies)
    return _quality(total.qualities), f"${total.cost_usd:.4f}"


def _quality(qualities: Sequence[float]) -> str:
    return f"{sum(qualities) / len(qualities):.2f}" if qualities else "-"


def _shares(calls: Counter[str], models: Sequence[str], *, named: bool) -> str:
    total = calls.total()
    if not total:
        return "-"
    if named:
        return " / ".join(f"{100 * calls[model] / total:.0f}" for model in models)
    model, count = calls.most_common(1)[0]
    return f"{model} {100 * count / total:.0f}"
