"""What became of an experiment's units: added up from the log once, when a unit's time is over, and never again.

A unit's time is the design's `window_s` from its first request. After it, every unit waits `grace_s`: requests that
still run are those of slow or failing models, and without them such a model would look well. Its outcome is then
written beside its exposure and does not change any more: who looks sees closed units only, in the order in which they
came in, however often the service was restarted and whatever was pruned or rated since.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import msgspec
import numpy as np
from sqlalchemy import Connection, Select, Text, and_, bindparam, case, cast, func, select, text, update

from bandit import experiments as plan
from service.experiments.lifecycle import Experiment
from service.experiments.outcomes import Outcome, Rated, expected_quality, outcomes
from service.storage.database import Database
from service.storage.store import total
from service.storage.tables import exposures

_PAGE = 500  # units closed in one transaction
_READ_PAGE = 250  # what is done with a page in Python, a third of a millisecond, holds up the process' event loop
_DAY_S = 86_400.0
_LAST_DAY = 1e6  # further ones are damage


class _Read(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A closed unit as it is read."""

    variant: str
    first_at: float
    outcome: Outcome


_one, _many = msgspec.json.Decoder(_Read), msgspec.json.Decoder(list[_Read])


async def close_due(database: Database, one: Experiment, now: float) -> int:
    """Close all units whose time is over, page by page; how many there were.

    Safe to repeat, and when several do it at once: a unit is closed by whoever comes first.

    Raises:
        StorageUnavailable: the database cannot be reached; what is closed stays closed.
    """
    before = now - one.design.window_s - one.design.grace_s
    expected: dict[tuple[str, str], float] | None = None
    closed = 0
    while due := await database.read(_due, one.name, before):
        if expected is None:
            expected = await database.read(expected_quality, one.started_at or now)
        found = await database.read(outcomes, one, due, expected)
        await database.write(partial(_keep, experiment=one.name, found=found))
        closed += len(due)
    return closed


def _due(connection: Connection, experiment: str, before: float) -> list[str]:
    wanted = (
        select(exposures.c.unit)
        .where(exposures.c.experiment == experiment, text("outcome IS NULL"), exposures.c.first_at <= before)
        .order_by(exposures.c.first_at, exposures.c.unit)
        .limit(_PAGE)
    )
    return list(connection.scalars(wanted))


def _keep(connection: Connection, experiment: str, found: Mapping[str, Outcome]) -> None:
    mine = and_(
        exposures.c.experiment == experiment, exposures.c.unit == bindparam("its_unit"), exposures.c.outcome.is_(None)
    )
    rows = [{"its_unit": unit, "said": msgspec.json.encode(one).decode()} for unit, one in found.items()]
    connection.execute(update(exposures).where(mine).values(outcome=bindparam("said")), rows)


class Closed(NamedTuple):
    """All closed units of an experiment."""

    units: plan.Units
    damaged: int  # outcomes that cannot be read, left out


async def closed_units(database: Database, one: Experiment) -> Closed:
    """Read what became of all closed units, in the order of their names.

    Raises:
        StorageUnavailable: the database cannot be reached.
    """
    return await database.read(_closed, one)


def _closed(connection: Connection, one: Experiment) -> Closed:
    parts: list[plan.Units] = []
    damaged, after = 0, ""
    variants = {variant.name for variant in one.design.variants}
    while True:
        number, last, content = _page(connection, one.name, after)
        found = _decoded(content) if number else []
        known = [each for each in found if each.variant in variants]
        parts.append(columns(one, known))  # page by page: what is kept of a unit is a few numbers
        damaged += number - len(known)
        if number < _READ_PAGE:
            return Closed(parts[0] if len(parts) == 1 else _joined(parts), damaged)
        after = last


def _page(connection: Connection, experiment: str, after: str) -> tuple[int, str, str]:
    """The number of units in a page, its last one, and all as lines of JSON."""
    number, last, content = connection.execute(_page_of_units(), {"experiment": experiment, "after": after}).one()
    return int(number), last or "", content or ""


@lru_cache
def _page_of_units() -> Select[int, Any, str]:
    """As one text, since a row for each unit takes the database's driver several times as long."""
    page = (
        select(exposures.c.unit, exposures.c.variant, exposures.c.first_at, exposures.c.outcome)
        .where(
            exposures.c.experiment == bindparam("experiment"),
            exposures.c.outcome.is_not(None),
            exposures.c.unit > bindparam("after"),
        )
        .order_by(exposures.c.unit)
        .limit(_READ_PAGE)
        .subquery()
    )
    said = '["' + page.c.variant + '",' + cast(page.c.first_at, Text) + "," + page.c.outcome + "]"
    return select(func.count(), func.max(page.c.unit), func.aggregate_strings(said, "\n"))


def _decoded(content: str) -> list[_Read]:
    """The units of a page, without those that cannot be read."""
    lines = content.split("\n")
    try:
        return _many.decode("[" + ",".join(lines) + "]")
    except msgspec.DecodeError:
        return [found for line in lines if (found := _read(line)) is not None]


def _read(line: str) -> _Read | None:
    try:
        return _one.decode(line)
    except msgspec.DecodeError:
        return None


def _joined(parts: Sequence[plan.Units]) -> plan.Units:
    names = list(parts[0].numerators)
    covariates, days = [part.covariate for part in parts], [part.day for part in parts]
    return plan.Units(
        variant=np.concatenate([part.variant for part in parts]),
        requests=np.concatenate([part.requests for part in parts]),
        gave_feedback=np.concatenate([part.gave_feedback for part in parts]),
        numerators={name: np.concatenate([part.numerators[name] for part in parts]) for name in names},
        denominators={name: np.concatenate([part.denominators[name] for part in parts]) for name in names},
        covariate=np.concatenate([each for each in covariates if each is not None]),
        day=np.concatenate([each for each in days if each is not None]),
    )


def counts(connection: Connection, experiment: str) -> tuple[int, int]:
    """How many units are closed, and how many are not yet."""
    mine = exposures.c.experiment == experiment
    is_open = total(case((exposures.c.outcome.is_(None), 1), else_=0))
    everybody, still_open = connection.execute(select(func.count(), is_open).where(mine)).one()
    return int(everybody) - int(still_open or 0), int(still_open or 0)


def columns(one: Experiment, read: Sequence[_Read]) -> plan.Units:
    """Units of the experiment's variants in columns, for the metrics of its design."""
    design, found = one.design, [each.outcome for each in read]
    index = {variant.name: number for number, variant in enumerate(design.variants)}
    names = dict.fromkeys([design.primary.name, *(guardrail.metric for guardrail in design.guardrails)])
    sums = {name: _sums(name, found) for name in names}
    since = np.array([each.first_at for each in read], dtype=np.float64) - (one.started_at or 0.0)
    return plan.Units(
        variant=np.array([index[each.variant] for each in read], dtype=np.int64),
        requests=np.array([each.requests for each in found], dtype=np.int64),
        gave_feedback=np.array([each.rated > 0 for each in found], dtype=np.bool_),
        numerators={name: _vector(totals) for name, (totals, _) in sums.items()},
        denominators={name: _vector(numbers) for name, (_, numbers) in sums.items()},
        covariate=_vector([each.expected for each in found]),
        day=np.clip(since // _DAY_S, 0.0, _LAST_DAY).astype(np.int64),
    )


def _vector(values: Sequence[float | None]) -> plan.Vector:
    return np.array(values, dtype=np.float64)  # None becomes NaN


_NONE = Rated(0.0, 0)


def _sums(metric: str, found: Sequence[Outcome]) -> tuple[list[float | None], list[int]]:
    """A metric's numerators and denominators."""
    ended = [one.ended for one in found]
    match metric:
        case "failure":
            return [one.failed for one in found], ended
        case "late":
            return [one.late for one in found], ended
        case "refusal":
            return [one.refused for one in found], ended
        case "cost_usd":
            return [one.cost_usd for one in found], ended
        case "feedback":
            return [one.rated for one in found], [one.requests for one in found]
    rated = [one.ratings.get(metric, _NONE) for one in found]
    return [one.total for one in rated], [one.number for one in rated]
