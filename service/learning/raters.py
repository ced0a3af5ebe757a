"""What each user says beside what everybody does, and which users' labels cannot be explained by it.

What people say is kept as sums by user, metric, model and task type, changed with the rewards in one transaction. They
are integers, so they are exact in any order, and a rebuild from the rewards gives the same. Who is an outlier is
decided on what was stored before a transaction, and acts on the weights of the labels in it.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Connection, Insert, and_, bindparam, delete, func, select
from sqlalchemy.dialects import postgresql, sqlite

from bandit.posteriors import MICRO, counts_of
from bandit.raters import Opinion, Standing, is_outlier, standing
from bandit.vocabulary import Reward
from service.learning.calibrations import MACHINES, PEOPLES
from service.storage.store import RowDict, slices
from service.storage.tables import opinions, outliers, rewards

_EVERYBODY = ""  # stands where a user does
_SHOWN = 100  # outliers, the newest ones


class OpinionKey(NamedTuple):
    """Of whom, by which metric, about what."""

    user: str  # "": everybody, those without a name too
    metric: str
    arm: str
    task_type: str


class Sums(NamedTuple):
    """What was said, in sums; all but the first two in millionths."""

    people: int = 0
    labels: int = 0
    said: int = 0
    n: int = 0
    s: int = 0

    def plus(self, other: "Sums") -> "Sums":
        """Both together."""
        return Sums(*(a + b for a, b in zip(self, other, strict=True)))

    def minus(self, other: "Sums") -> "Sums":
        """This without the other: how a corrected rating is taken back."""
        return Sums(*(a - b for a, b in zip(self, other, strict=True)))


Opinions = dict[OpinionKey, Sums]


def said_in(rows: Iterable[Mapping[str, Any]]) -> Opinions:
    """The sums over what people say among rewards. People with a name are not counted yet."""
    sums: Opinions = {}
    for row in rows:
        user: str = row["user"]
        if row["channel"] not in PEOPLES or (not user and row["source"] in MACHINES):
            continue
        counts = counts_of(Reward(value=row["value"], weight=row["weight"], channel=row["channel"]))
        one = Sums(0 if user else 1, 1, round(row["value"] * MICRO), counts.n, counts.s)
        for whose in {user, _EVERYBODY}:
            _add(sums, OpinionKey(whose, row["metric"], row["arm"], row["task_type"]), one)
    return sums


def _add(sums: Opinions, key: OpinionKey, one: Sums) -> None:
    sums[key] = sums.get(key, Sums()).plus(one)


def _difference(new: Opinions, old: Opinions) -> Opinions:
    changes = {key: new.get(key, Sums()).minus(old.get(key, Sums())) for key in new.keys() | old.keys()}
    return {key: one for key, one in changes.items() if one != Sums()}


def _with_people(sums: Opinions, known: Iterable[OpinionKey]) -> Opinions:
    """The same with those counted who say something for the first time."""
    counted = dict(sums)
    for key in sums.keys() - set(known):
        if key.user != _EVERYBODY:
            _add(counted, key, Sums(people=1))
            _add(counted, key._replace(user=_EVERYBODY), Sums(people=1))
    return counted


# In the transaction of the rewards

_mine, _all = opinions.alias("mine"), opinions.alias("everybody")
_of_the_same = and_(
    _all.c.user == _EVERYBODY,
    _all.c.metric == _mine.c.metric,
    _all.c.arm == _mine.c.arm,
    _all.c.task_type == _mine.c.task_type,
)
_beside = (
    select(
        _mine.c.user, _mine.c.metric, _mine.c.arm, _mine.c.task_type, _mine.c.labels, _mine.c.said,
        (_all.c.n - _mine.c.n), (_all.c.s - _mine.c.s), (_all.c.people - _mine.c.people), outliers.c.since,
    )
    .join(_all, _of_the_same)
    .outerjoin(outliers, outliers.c.user == _mine.c.user)
    .where(_mine.c.user.in_(bindparam("users", expanding=True)))
)  # fmt: skip


class Raters:
    """What the users of one transaction said before it, and which of them are outliers."""

    def __init__(self, connection: Connection, users: Iterable[str]) -> None:
        self._connection = connection
        self._before: defaultdict[str, list[Opinion]] = defaultdict(list)
        self._known: list[OpinionKey] = []
        self._outliers: set[str] = set()
        for some in slices(sorted(set(users))):
            for row in connection.execute(_beside, {"users": some}):
                key = OpinionKey(*row[:4])
                self._known.append(key)
                self._before[key.user].append(_opinion(*row[4:9]))
                if row[9] is not None:
                    self._outliers.add(key.user)
        self._judged: dict[str, bool] = {}
        self._found: dict[str, Standing] = {}
        self._new: list[str] = []

    def is_outlier(self, user: str) -> bool:
        """Whether a user's labels cannot be explained by what others say."""
        if user not in self._judged:
            found, before = standing(self._before[user]), user in self._outliers
            self._judged[user] = is_outlier(found, before=before)
            if self._judged[user] and not before:
                self._found[user] = found
                self._new.append(user)
        return self._judged[user]

    def newly_found(self, user: str) -> Standing | None:
        """How a user stands who became an outlier with this transaction; told once."""
        return self._found.pop(user, None)

    def add(self, new: Iterable[RowDict], old: Iterable[RowDict], now: float) -> None:
        """Add what the rewards `new` say beyond what `old` said, and keep who is an outlier."""
        add(self._connection, _with_people(_difference(said_in(new), said_in(old)), self._known))
        if self._new:
            rows = [{"user": user, "since": now} for user in sorted(self._new)]
            self._connection.execute(_insert(outliers, self._connection).on_conflict_do_nothing(), rows)
        left = sorted(user for user in self._outliers if self._judged.get(user) is False)
        if left:
            self._connection.execute(delete(outliers).where(outliers.c.user.in_(left)))


def _opinion(labels: int, said: int, others: int, others_said: int, people: int) -> Opinion:
    return Opinion(labels, said / MICRO, others / MICRO, others_said / MICRO, people)


def _insert(table: Any, connection: Connection) -> Any:
    return sqlite.insert(table) if connection.dialect.name == "sqlite" else postgresql.insert(table)


@lru_cache
def _add_or_insert(dialect: str) -> Insert:
    statement = sqlite.insert(opinions) if dialect == "sqlite" else postgresql.insert(opinions)
    return statement.on_conflict_do_update(
        index_elements=list(OpinionKey._fields),
        set_={name: opinions.c[name] + statement.excluded[name] for name in Sums._fields},
    )


def add(connection: Connection, sums: Opinions) -> None:
    """Add to the stored sums. Sums commute, so any number of processes may do so at once."""
    rows = [{**key._asdict(), **sums[key]._asdict()} for key in sorted(sums)]
    if rows:
        connection.execute(_add_or_insert(connection.dialect.name), rows)


# Rebuilding


def missing(connection: Connection) -> Opinions:
    """What must be added to the stored sums to get those of the log of rewards; empty when they are sound.

    Must be called on one view of the database, `Database.read`, or what is learned meanwhile looks wrong.
    """
    columns = (
        rewards.c.user, rewards.c.source, rewards.c.metric, rewards.c.arm, rewards.c.task_type, rewards.c.channel,
        rewards.c.value, rewards.c.weight,
    )  # fmt: skip
    said = (dict(row) for row in connection.execute(select(*columns).where(rewards.c.channel.in_(PEOPLES))).mappings())
    kept = select(*(opinions.c[name] for name in (*OpinionKey._fields, *Sums._fields)))
    stored = {OpinionKey(*row[:4]): Sums(*row[4:]) for row in connection.execute(kept)}
    return _difference(_with_people(said_in(said), ()), stored)


# Reports


class Outlier(msgspec.Struct, frozen=True, kw_only=True):
    """A user who rates unlike everybody else, and whose labels count in part."""

    user: str
    since: float  # seconds since 1970-01-01 UTC
    labels: int  # that can be compared
    mean_said: float
    mean_expected: float  # by what others say of the same models and task types
    deviations: float  # standard deviations between the two


def outlier_count(connection: Connection) -> int:
    """How many users are outliers."""
    return connection.scalar(select(func.count()).select_from(outliers)) or 0


def newest_outliers(connection: Connection) -> list[Outlier]:
    """The last hundred users who were found to be outliers, newest first, as they stand now."""
    newest = select(outliers.c.user, outliers.c.since).order_by(outliers.c.since.desc(), outliers.c.user).limit(_SHOWN)
    since: dict[str, float] = {row.user: row.since for row in connection.execute(newest)}
    before: defaultdict[str, list[Opinion]] = defaultdict(list)
    if since:
        for row in connection.execute(_beside, {"users": list(since)}):
            before[row[0]].append(_opinion(*row[4:9]))
    return [_shown(user, at, standing(before[user])) for user, at in since.items()]


def _shown(user: str, since: float, found: Standing) -> Outlier:
    return Outlier(
        user=user,
        since=since,
        labels=round(found.labels),
        mean_said=found.said,
        mean_expected=found.expected,
        deviations=found.deviations,
    )
