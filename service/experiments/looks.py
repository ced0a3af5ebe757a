"""What was seen of an experiment, and when: the course of its intervals, and why it stopped."""

import logging
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import msgspec
from sqlalchemy import Connection, func, select, tuple_

from bandit import experiments as plan
from service.drift.alarms import upsert_of
from service.drift.watches import read_watch, replace_watch
from service.storage.tables import looks

log = logging.getLogger("armwise")

MOST_SHOWN = 500  # looks in one answer

_LEASE = "experiments"  # the watch that says when somebody last looked
_SOON = 0.8  # of the time between two looks: if another replica looked within it, we need not
_MORE_UNITS = 0.01  # a look is kept when there are so many more units than at the last one kept, as a share
_HOUR_S = 3600.0


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """One variant against the control at one look; None where too little was known."""

    variant: str
    units: int  # measured, of the variant
    control_units: int
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    verdict: plan.Verdict = "keep_going"


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen at one moment."""

    at: float  # seconds since 1970-01-01 UTC
    units: int  # closed
    compared: tuple[Compared, ...] = ()
    sample_ratio_evidence: float = 1.0
    verdict: plan.Verdict = "keep_going"
    sentence: str = ""
    stopped: str = ""  # why this look ended the experiment; empty: it did not


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """When somebody last began to look."""

    at: float = 0.0


def look_of(report: plan.Report, at: float, units: int, stopped: str = "") -> Look:
    """What of a report is kept."""
    return Look(
        at=at,
        units=units,
        compared=tuple(
            Compared(
                variant=each.variant,
                units=each.primary.units,
                control_units=each.primary.control_units,
                estimate=each.primary.value,
                low=each.primary.low,
                high=each.primary.high,
                verdict=each.verdict,
            )
            for each in report.comparisons
        ),
        sample_ratio_evidence=report.sample_ratio_evidence,
        verdict=report.verdict,
        sentence=report.sentence,
        stopped=stopped,
    )


def is_news(look: Look, last: Look | None) -> bool:
    """Whether a look is worth a row of its own: another verdict, or enough new units to move a drawn line."""
    if last is None or look.stopped or look.verdict != last.verdict:
        return True
    more = look.units - last.units
    return more > _MORE_UNITS * last.units or (more > 0 and look.at - last.at >= _HOUR_S)


def keep_look(connection: Connection, experiment: str, look: Look) -> None:
    """Store a look; one of the same moment is left as it is."""
    row = {"experiment": experiment, "at": look.at, "content": msgspec.json.encode(look).decode()}
    connection.execute(upsert_of(connection, looks).on_conflict_do_nothing(), [row])


def list_looks(connection: Connection, experiment: str) -> list[Look]:
    """All looks at an experiment, oldest first."""
    wanted = select(looks.c.experiment, looks.c.at, looks.c.content).where(looks.c.experiment == experiment)
    return [look for _, look in _readable(connection.execute(wanted.order_by(looks.c.at)))]


def last_looks(connection: Connection, experiments: Sequence[str]) -> dict[str, Look]:
    """The last look at each of these experiments, by name."""
    if not experiments:
        return {}
    newest = (
        select(looks.c.experiment, func.max(looks.c.at))
        .where(looks.c.experiment.in_(experiments))
        .group_by(looks.c.experiment)
    )
    wanted = select(looks.c.experiment, looks.c.at, looks.c.content).where(
        tuple_(looks.c.experiment, looks.c.at).in_(newest)
    )
    return dict(_readable(connection.execute(wanted)))


def claim(connection: Connection, now: float, every_s: float) -> bool:
    """Take the right to look now; False when another replica looked not long ago, or takes it at this moment."""
    revision, content = read_watch(connection, _LEASE, lock=True)
    try:
        last = msgspec.json.decode(content, type=Lease).at if revision else 0.0
    except msgspec.DecodeError:
        last = 0.0
    if 0.0 <= now - last < _SOON * every_s:
        return False
    return replace_watch(connection, _LEASE, revision, msgspec.json.encode(Lease(at=now)).decode())


def drawn(found: Sequence[Look]) -> list[dict[str, Any]]:
    """The course of every comparison as people draw it; of many looks some, with the last one."""
    step = max(1, -(-len(found) // MOST_SHOWN))
    shown = list(found[::-1][::step])[::-1]
    return [
        {
            "at": look.at,
            "variant": each.variant,
            "units": each.units + each.control_units,
            "estimate": each.estimate,
            "low": each.low,
            "high": each.high,
            "sample_ratio_evidence": look.sample_ratio_evidence,
            "verdict": each.verdict,
        }
        for look in shown
        for each in look.compared
    ]


def _readable(found: Iterable[Any]) -> list[tuple[str, Look]]:
    """Rows as looks. One that this version cannot read is passed over and told once."""
    rows = []
    for experiment, at, content in found:
        try:
            rows.append((experiment, msgspec.json.decode(content, type=Look)))
        except msgspec.DecodeError as error:
            _tell_unreadable(experiment, at, str(error))
    return rows


@lru_cache(maxsize=1024)
def _tell_unreadable(experiment: str, at: float, error: str) -> None:
    log.error("the look at %s of %s cannot be read and is passed over: %s", experiment, at, error)
