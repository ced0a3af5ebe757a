"""What became of an experiment's units: added up from the log once, when a unit's time is over, and never again.

A unit's time is the design's `window_s` from its first request. Its outcome is then written beside its exposure and
does not change any more: who looks sees closed units only, in the order in which they came in, however often the
service was restarted and whatever was pruned or rated since.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import msgspec
import numpy as np
from sqlalchemy import Connection, and_, bindparam, case, func, or_, select, text, update

from bandit import experiments as plan
from service.database import Database
from service.experiments.design import Design
from service.experiments.lifecycle import Experiment
from service.experiments.outcomes import Outcome, expected_quality, outcomes
from service.store import total
from service.tables import exposures

STORED_AFTER_S = 5.0  # what belongs to a unit's time is in the database when its end is as long ago

_PAGE = 500  # units closed in one transaction
_READ_PAGE = 10_000


_decoder = msgspec.json.Decoder(Outcome)


async def close_due(database: Database, one: Experiment, now: float) -> int:
    """Close all units whose time is over, page by page; how many there were.

    Safe to repeat, and when several do it at once: a unit is closed by whoever comes first.

    Raises:
        StorageUnavailable: the database cannot be reached; what is closed stays closed.
    """
    before = now - one.design.window_s - STORED_AFTER_S
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


async def closed_units(database: Database, design: Design) -> Closed:
    """Read what became of all closed units, in the order in which they came in.

    Raises:
        StorageUnavailable: the database cannot be reached.
    """
    index = {variant.name: number for number, variant in enumerate(design.variants)}
    variants: list[int] = []
    found: list[Outcome] = []
    damaged = 0
    after = (-math.inf, "")
    while True:
        rows = await database.read(_page, design.name, after)
        for variant, _, _, content in rows:
            try:
                outcome, number = _decoder.decode(content), index[variant]
            except (msgspec.DecodeError, KeyError):
                damaged += 1
            else:
                variants.append(number)
                found.append(outcome)
        if len(rows) < _READ_PAGE:
            break
        after = (rows[-1][2], rows[-1][1])
    return Closed(columns(design, variants, found), damaged)


def _page(connection: Connection, experiment: str, after: tuple[float, str]) -> list[Any]:
    first_at, unit = exposures.c.first_at, exposures.c.unit
    wanted = select(exposures.c.variant, unit, first_at, exposures.c.outcome).where(
        exposures.c.experiment == experiment, exposures.c.outcome.is_not(None)
    )
    if after[1]:
        wanted = wanted.where(first_at >= after[0], or_(first_at > after[0], unit > after[1]))
    return list(connection.execute(wanted.order_by(first_at, unit).limit(_READ_PAGE)))


def counts(connection: Connection, experiment: str) -> tuple[int, int]:
    """How many units are closed, and how many are not yet."""
    mine = exposures.c.experiment == experiment
    is_open = total(case((exposures.c.outcome.is_(None), 1), else_=0))
    everybody, still_open = connection.execute(select(func.count(), is_open).where(mine)).one()
    return int(everybody) - int(still_open or 0), int(still_open or 0)


def columns(design: Design, variants: Sequence[int], found: Sequence[Outcome]) -> plan.Units:
    """Outcomes in columns, for the metrics of the design."""
    names = dict.fromkeys([design.primary.name, *(guardrail.metric for guardrail in design.guardrails)])
    sums = {name: _sums(name, found) for name in names}
    return plan.Units(
        variant=np.array(variants, dtype=np.int64),
        requests=np.array([one.requests for one in found], dtype=np.int64),
        gave_feedback=np.array([one.rated > 0 for one in found], dtype=np.bool_),
        numerators={name: _vector([pair[0] for pair in pairs]) for name, pairs in sums.items()},
        denominators={name: _vector([pair[1] for pair in pairs]) for name, pairs in sums.items()},
        covariate=_vector([one.expected for one in found]),
    )


def _vector(values: Sequence[float | None]) -> plan.Vector:
    return np.array(values, dtype=np.float64)  # None becomes NaN


def _sums(metric: str, found: Sequence[Outcome]) -> list[tuple[float | None, float]]:
    match metric:
        case "failure":
            return [(one.failed, one.ended) for one in found]
        case "late":
            return [(one.late, one.ended) for one in found]
        case "refusal":
            return [(one.refused, one.ended) for one in found]
        case "cost_usd":
            return [(one.cost_usd, one.ended) for one in found]
        case "feedback":
            return [(one.rated, one.requests) for one in found]
    return [one.ratings.get(metric, (0.0, 0)) for one in found]
