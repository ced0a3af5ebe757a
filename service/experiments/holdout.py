"""What routing is worth: users of the permanent holdout, whom one model always serves, against everybody else."""

from typing import Any

import msgspec
import numpy as np
from sqlalchemy import Connection, case, func, or_, select

from bandit import experiments as plan
from service.decide import HOLDOUT
from service.drift.alarms import upsert_of
from service.learning.calibrations import MACHINES, PEOPLES
from service.settings import Settings
from service.storage.database import Database
from service.storage.tables import attempts, decisions, looks, rewards, traffic

_NAME = "@holdout"  # of its looks; no experiment can have it
_EVERY_S = 600.0
_HOUR_S = 3600.0
_MORE_UNITS = 0.01  # a headline is kept when so many more units have rated than at the last one, as a share


class Headline(msgspec.Struct, frozen=True, kw_only=True):
    """Value over the best fixed model."""

    at: float  # seconds since 1970-01-01 UTC
    since: float  # when the holdout began
    model: str
    units: int = 0  # rated users, of both groups
    held_out_units: int = 0
    value: float | None = None  # mean rating of routed users less that of the holdout; None: too little is known
    low: float | None = None  # the interval holds whenever one looks
    high: float | None = None
    cost_usd: float | None = None  # of a routed request that was rated
    held_out_cost_usd: float | None = None  # of such a one in the holdout

    @property
    def sentence(self) -> str:
        """The headline in words.

        >>> known = Headline(at=0, since=0, model="large", units=900, held_out_units=45, value=.04, low=.01, high=.07)
        >>> known.sentence
        'Routing beats `large` by +0.040 in mean rating (+0.010 to +0.070, over 855 and 45 rated users).'
        """
        if self.value is None or self.low is None or self.high is None:
            return (
                f"What routing is worth against `{self.model}` is not known yet: {self.units - self.held_out_units:,} "
                f"routed and {self.held_out_units:,} held-out users have rated; an interval needs 50 of each."
            )
        told = "beats" if self.low > 0.0 else "is worse than" if self.high < 0.0 else "is not surely better than"
        return (
            f"Routing {told} `{self.model}` by {self.value:+.3f} in mean rating ({self.low:+.3f} to {self.high:+.3f}, "
            f"over {self.units - self.held_out_units:,} and {self.held_out_units:,} rated users){self._costs()}."
        )

    def _costs(self) -> str:
        if not self.cost_usd or not self.held_out_cost_usd:
            return ""
        change = self.cost_usd / self.held_out_cost_usd - 1.0
        return f", at {abs(change):.0%} {'less' if change < 0.0 else 'more'} cost per rated request"

    def public(self) -> dict[str, Any]:
        """The headline as JSON."""
        return {**msgspec.to_builtins(self), "sentence": self.sentence}


def headline(connection: Connection) -> Headline | None:
    """What was last seen of the holdout; None: there is none, or nothing was seen yet."""
    mine = looks.c.experiment == _NAME
    content = connection.scalar(select(looks.c.content).where(mine).order_by(looks.c.at.desc()).limit(1))
    try:
        return None if content is None else msgspec.json.decode(content, type=Headline)
    except msgspec.DecodeError:  # as a newer version wrote it; the next look writes another one
        return None


async def look_at_holdout(database: Database, settings: Settings, now: float) -> None:
    """Compare the holdout with everybody else, and keep what was seen, every ten minutes.

    Raises:
        StorageUnavailable: the database cannot be reached.
    """
    last = await database.read(headline)
    if last is not None and 0.0 <= now - last.at < min(_EVERY_S, settings.experiments.look_every_s):
        return
    since = await database.read(_since)
    if since is None:
        return
    metric = settings.rewards.metrics[0].name
    rated = await database.read(_rated, metric, since)
    seen = headline_of(rated, metric, settings.holdout.model, since, now)
    more = seen.units - (last.units if last is not None and last.model == seen.model else -1)
    if last is None or more > _MORE_UNITS * last.units or (more > 0 and now - last.at >= _HOUR_S):
        await database.write(lambda connection: _keep(connection, seen))


def _since(connection: Connection) -> float | None:
    """When the holdout began, to the hour."""
    hour = connection.scalar(select(func.min(traffic.c.hour)).where(traffic.c.method == HOLDOUT))
    return None if hour is None else float(hour) * _HOUR_S


def _rated(connection: Connection, metric: str, since: float) -> list[Any]:
    """By user (session, without one) and whether held out: the sum of ratings, their number, and what they cost."""
    unit = case((decisions.c.user != "", decisions.c.user), else_=decisions.c.session)
    held = decisions.c.method == HOLDOUT
    cost = select(func.sum(attempts.c.cost_usd)).where(attempts.c.decision_id == decisions.c.id).scalar_subquery()
    wanted = (
        select(unit, held, func.sum(rewards.c.value), func.count(), func.sum(func.coalesce(cost, 0.0)))
        .select_from(rewards.join(decisions, decisions.c.id == rewards.c.decision_id))
        .where(
            rewards.c.created_at >= since,
            rewards.c.metric == metric,
            rewards.c.channel.in_(PEOPLES),
            rewards.c.source.not_in(MACHINES),
            decisions.c.created_at >= since,
            decisions.c.method.in_((HOLDOUT, "auto")),
            decisions.c.experiment.is_(None),
            or_(decisions.c.user != "", decisions.c.session != ""),
        )
        .group_by(unit, held)
    )
    return list(connection.execute(wanted))


def headline_of(rated: list[Any], metric: str, model: str, since: float, now: float) -> Headline:
    """What ratings of both groups say: rows of unit, whether held out, sum, number and cost of rated requests."""
    held = np.array([bool(row[1]) for row in rated], dtype=np.bool_)
    sums, numbers, costs = (np.array([row[at] for row in rated], dtype=np.float64) for at in (2, 3, 4))
    share = min(max(float(held.mean()), 1e-6), 1.0 - 1e-6) if len(held) else 0.5
    design = plan.Design(
        variants={"holdout": share, "routed": 1.0 - share},
        control="holdout",
        primary=plan.Metric(name=metric),
        minimum_s=0.0,
        feedback_tolerance=None,
    )
    units = plan.Units(
        variant=np.where(held, 0, 1).astype(np.int64),
        requests=np.nan_to_num(numbers).astype(np.int64),
        gave_feedback=np.ones(len(held), dtype=np.bool_),
        numerators={metric: sums},
        denominators={metric: numbers},
    )
    found = plan.report(design, units, now - since).comparisons[0].primary
    return Headline(
        at=now,
        since=since,
        model=model,
        units=found.units + found.control_units,
        held_out_units=found.control_units,
        value=found.value,
        low=found.low,
        high=found.high,
        cost_usd=_mean(costs[~held], numbers[~held]),
        held_out_cost_usd=_mean(costs[held], numbers[held]),
    )


def _mean(costs: plan.Vector, numbers: plan.Vector) -> float | None:
    known = np.isfinite(costs) & (numbers > 0.0)
    total = float(numbers[known].sum())
    return float(costs[known].sum()) / total if total else None


def _keep(connection: Connection, seen: Headline) -> None:
    row = {"experiment": _NAME, "at": seen.at, "content": msgspec.json.encode(seen).decode()}
    connection.execute(upsert_of(connection, looks).on_conflict_do_nothing(), [row])
