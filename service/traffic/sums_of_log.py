"""What the log adds up to by hour, read from the log itself: to make the sums of `service.traffic.sums` again.

Amounts are rounded as `service.traffic.sums.whole` does, so that both give the same to the last unit.
"""

from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    FromClause,
    Integer,
    and_,
    case,
    func,
    literal,
    select,
)  # fmt: skip

from bandit.vocabulary import PROMPT_TIERS
from service.learning.calibrations import MACHINES, PEOPLES
from service.storage.store import total
from service.storage.tables import (
    TRAFFIC_CALLED,
    TRAFFIC_DECIDED,
    TRAFFIC_KEY,
    TRAFFIC_LATENCY,
    TRAFFIC_RATED,
    attempts,
    decisions,
    rewards,
    traffic,
    traffic_days,
)  # fmt: skip
from service.traffic.sums import (
    BOUNDS_S,
    COUNTS,
    HOUR_S,
    MICRO,
    MILLI,
    MOST,
    NANO,
    Key,
    Rollup,
    Sums,
    by_day,
    hour_of,
)  # fmt: skip

_HOURS_AT_ONCE = 168  # compared with the log


def folded(connection: Connection, from_hour: int, to_hour: int) -> Sums:
    """What the log adds up to in some hours, from one to before another."""
    is_postgres = connection.dialect.name == "postgresql"

    def cut(value: ColumnElement[Any]) -> ColumnElement[Any]:
        return func.floor(value) if is_postgres else value  # SQLite's cast cuts off by itself

    def whole(amount: ColumnElement[Any], unit: float) -> ColumnElement[int]:
        used = case((amount < 0.0, 0.0), (amount > MOST, MOST), else_=amount)
        return cut(used * literal(unit) + literal(0.5)).cast(BigInteger)

    def one(condition: ColumnElement[bool]) -> ColumnElement[int]:
        return case((condition, 1), else_=0)

    d, a, r = decisions.c, attempts.c, rewards.c
    of_decisions = (
        literal(1), one(d.explored.is_(True)), one(func.coalesce(d.served_arm, d.arm) != d.arm),
        *(one(d.tier == tier) for tier in PROMPT_TIERS), whole(d.routing_s, MICRO),
    )  # fmt: skip
    answered = a.outcome == "ok"
    low, high = [a.latency_s >= bound for bound in BOUNDS_S], [a.latency_s < bound for bound in BOUNDS_S]
    between = [high[0], *(and_(*pair) for pair in zip(low, high[1:], strict=False)), low[-1]]
    of_calls = (
        literal(1), one(a.outcome != "ok"), a.prompt_tokens, a.completion_tokens, whole(a.cost_usd, NANO),
        whole(a.latency_s, MICRO), one(a.first_token_s.is_not(None)),
        whole(func.coalesce(a.first_token_s, 0.0), MICRO), *(one(and_(answered, bounds)) for bounds in between),
    )  # fmt: skip
    of_ratings = (literal(1), whole(r.value, MICRO), whole(r.created_at - d.created_at, MILLI))
    peoples = and_(r.channel.in_(PEOPLES), r.source.not_in(MACHINES))
    parts: tuple[tuple[tuple[str, ...], tuple[Any, ...], ColumnElement[Any], FromClause], ...] = (
        (TRAFFIC_DECIDED, of_decisions, func.coalesce(d.served_arm, d.arm), decisions),
        ((*TRAFFIC_CALLED, *TRAFFIC_LATENCY), of_calls, a.arm, attempts.join(decisions)),
        (TRAFFIC_RATED, of_ratings, r.arm, rewards.join(decisions, and_(d.id == r.decision_id, peoples))),
    )
    found = Rollup()
    for names, values, arm, source in parts:
        key = (
            cut(d.created_at / HOUR_S).cast(Integer).label("counted_hour"),
            arm.label("counted_arm"),
            d.task_type,
            d.policy,
            d.method,
        )
        wanted = (
            select(*key, *(total(value) for value in values))
            .select_from(source)
            .where(d.created_at >= from_hour * HOUR_S, d.created_at < to_hour * HOUR_S)
            .group_by(*key)
        )
        for row in connection.execute(wanted):
            found.add(Key(*row[:5]), dict(zip(names, row[5:], strict=True)))
    return found.sums


def missing(connection: Connection, since: float) -> Sums:
    """What must be added to the stored sums to get those of the log, in the whole hours after a time.

    The log is complete only after the time up to which it is pruned. Must be called on one view of the database,
    `Database.read`, or what is counted meanwhile looks wrong.
    """
    first = hour_of(since) + 1
    ends = [
        bound
        for column in (func.max(decisions.c.created_at) / HOUR_S, func.max(traffic.c.hour))
        if (bound := connection.scalar(select(column))) is not None
    ]
    starts = [
        bound
        for column in (func.min(decisions.c.created_at) / HOUR_S, func.min(traffic.c.hour))
        if (bound := connection.scalar(select(column))) is not None
    ]
    wrong: Sums = {}
    if not ends:
        return wrong
    for start in range(max(first, int(min(starts))), int(max(ends)) + 1, _HOURS_AT_ONCE):
        end = start + _HOURS_AT_ONCE
        difference = Rollup()
        for key, counts in folded(connection, start, end).items():
            difference.add(key, counts)
        for key, counts in stored(connection, start, end).items():
            difference.add(key, {name: -count for name, count in counts.items()})
        for key, counts in difference.sums.items():
            if any(counts.values()):
                wrong[key] = {name: count for name, count in counts.items() if count}
    return wrong


def missing_of_days(connection: Connection) -> Sums:
    """What must be added to the stored sums of days to get those of their hours. Call it as `missing`."""
    kept = connection.execute(select(*(traffic_days.c[name] for name in ("day", *TRAFFIC_KEY[1:], *COUNTS))))
    wrong = Rollup()
    for row in kept:
        wrong.add(Key(*row[:5]), {name: -count for name, count in zip(COUNTS, row[5:], strict=True)})
    hours = connection.execute(select(func.min(traffic.c.hour), func.max(traffic.c.hour))).one()
    if hours[0] is not None:
        for start in range(hours[0], hours[1] + 1, _HOURS_AT_ONCE):
            for key, counts in by_day(stored(connection, start, start + _HOURS_AT_ONCE)).items():
                wrong.add(key, counts)
    return {key: counts for key, counts in wrong.sums.items() if any(counts.values())}


def stored(connection: Connection, from_hour: int, to_hour: int) -> Sums:
    """The sums as they stand in some hours, from one to before another."""
    wanted = select(*(traffic.c[name] for name in (*TRAFFIC_KEY, *COUNTS)))
    rows = connection.execute(wanted.where(traffic.c.hour >= from_hour, traffic.c.hour < to_hour))
    return {Key(*row[:5]): dict(zip(COUNTS, row[5:], strict=True)) for row in rows}
