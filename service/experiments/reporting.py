"""An experiment's report as people read it: the sentence, the numbers behind it, and its course over time."""

import textwrap
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from bandit import experiments as plan
from service.experiments.holdout import Headline, headline
from service.experiments.lifecycle import Experiment, current, named, public
from service.experiments.looks import Look, drawn, list_looks
from service.experiments.measuring import counts
from service.experiments.verdicts import report_on
from service.storage.database import Database
from service.terminal import table as aligned

_DAY_S = 86_400.0
_WORDS: dict[plan.Verdict, str] = {
    "ship": "Ship",
    "kill": "Stop it",
    "keep_going": "Keep going",
    "futile": "Give it up",
    "broken": "Do not trust it",
}
_MODES = {
    "own": "each variant learns for itself, from what was known at the start",
    "shared": "all variants learn in common, so that what one finds out helps the others: the difference is blurred",
    "frozen": "all variants decide on what was known at the start",
}


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """All that is said of an experiment at one moment."""

    experiment: Experiment
    report: plan.Report
    closed: int  # units whose time is over
    still_open: int
    damaged: int  # units left out, as what is written of them cannot be read
    looks: tuple[Look, ...]
    holdout: Headline | None


async def tell(database: Database, name: str, now: float | None = None) -> Told:
    """The report on an experiment.

    Raises:
        NotFound: there is none of that name.
        StorageUnavailable: the database cannot be reached.
    """
    now = time.time() if now is None else now
    one = named(await database.read(current), name)
    report, damaged = await report_on(database, one, now)
    closed = report.units + damaged
    everybody = sum(await database.read(counts, one.name))  # some may have been closed since the report was read
    return Told(
        experiment=one,
        report=report,
        closed=closed,
        still_open=max(everybody - closed, 0),
        damaged=damaged,
        looks=tuple(await database.read(list_looks, one.name)),
        holdout=await database.read(headline),
    )


def answer(told: Told) -> dict[str, Any]:
    """A report as JSON."""
    report = told.report
    return {
        "experiment": public(told.experiment),
        "verdict": report.verdict,
        "variant": report.variant,
        "sentence": sentence(told),
        "mode": _MODES[told.experiment.design.mode],
        "closed_units": told.closed,
        "open_units": told.still_open,
        "damaged_units": told.damaged,
        "report": msgspec.to_builtins(report),
        "looks": drawn(told.looks),
        "holdout": None if told.holdout is None else told.holdout.public(),
    }


def sentence(told: Told) -> str:
    """What follows, first; then why."""
    one, report = told.experiment, told.report
    stopped = next((look.stopped for look in reversed(told.looks) if look.stopped), "")
    over = one.stopped_at is not None and report.verdict == "keep_going"
    words = "Undecided" if over else _WORDS[report.verdict]
    return " ".join(filter(None, [f"{words} ({one.state}).", stopped, report.sentence]))


def table(told: Told, width: int | None = None) -> list[str]:
    """A report in lines: the sentence, the variants, differences, guardrails. Sentences are broken at `width`."""
    one, report = told.experiment, told.report
    metrics = list(dict.fromkeys([one.design.primary.name, *(each.metric for each in one.design.guardrails)]))
    lines = [*_broken(sentence(told), width), ""]
    head = ["variant", "policy", "units", "planned", "requests", "with feedback", *metrics]
    rows = [
        [
            side.variant + (" (control)" if side.variant == one.design.control_name else ""),
            one.design.variant(side.variant).policy,
            f"{side.units:,}",
            f"{side.share:.1%}",
            f"{side.requests:,}",
            "-" if side.feedback_rate is None else f"{side.feedback_rate:.1%}",
            *(_shown(side.metrics.get(metric)) for metric in metrics),
        ]
        for side in report.sides
    ]
    lines += [*aligned([head, *rows]), ""]
    head = ["against the control", "difference", "interval", "p", "verdict"]
    rows = []
    for each in report.comparisons:
        first = each.primary
        rows.append([
            f"{each.variant}: {first.metric}", _signed(first.value), _interval(first.low, first.high),
            _shown(first.p), each.verdict,
        ])  # fmt: skip
        rows += [
            [
                f"{each.variant}: {guarded.metric}", _signed(guarded.value), _interval(guarded.low, guarded.high),
                f"limit {guarded.limit:+.3g}", guarded.state,
            ]
            for guarded in each.guardrails
        ]  # fmt: skip
    lines += [*aligned([head, *rows]), ""]
    return lines + [line for remark in _remarks(told) for line in _broken(remark, width)]


def _remarks(told: Told) -> list[str]:
    """What is to be known beside the numbers, in sentences."""
    report = told.report
    days, evidence = report.elapsed_s / _DAY_S, report.sample_ratio_evidence
    said = [
        f"{told.closed:,} units are closed, {told.still_open:,} are not yet; it ran for {days:,.1f} days.",
        f"Evidence against the planned shares: {evidence:.3g} (an alarm above 1,000).",
    ]
    if report.worst_day is not None:
        said[-1] += f" On single days: {report.days_evidence:.3g}, most of it on day {report.worst_day + 1}."
    mode = told.experiment.design.mode
    said.append(f"Mode {mode}: {_MODES[mode]}.")
    if report.ignored or told.damaged:
        said.append(f"Left out: {report.ignored:,} numbers that make no sense, {told.damaged:,} units unreadable.")
    if told.holdout is not None:
        said.append(told.holdout.sentence)
    return said


def course(looks: Sequence[Look], most: int = 12) -> list[str]:
    """How the interval went, in lines; of many looks some, with the last one."""
    known = [look for look in looks if any(each.low is not None for each in look.compared)]
    step = max(1, -(-len(known) // most))
    rows = [["at (UTC)", "variant", "units", "difference", "interval"]]
    for look in known[::-1][::step][::-1]:
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(look.at))
        rows += [
            [at, each.variant, f"{each.units + each.control_units:,}", _signed(each.estimate),
             _interval(each.low, each.high)]
            for each in look.compared
        ]  # fmt: skip
    return list(aligned(rows)) if len(rows) > 1 else []


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.4f}"


def _interval(low: float | None, high: float | None) -> str:
    return "-" if low is None or high is None else f"{low:+.4f} to {high:+.4f}"


def _broken(said: str, width: int | None) -> list[str]:
    return [said] if width is None else textwrap.wrap(said, width)
