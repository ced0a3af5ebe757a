"""Every query of decisions, rewards, cells and keys, one function each. Nothing is decided here.

All functions take the SQLAlchemy connection that `Database.write` and `Database.read` give to their work; ids and times
are arguments. Rows go in and out as dictionaries named like the columns of `service.storage.tables`.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, cast

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Insert,
    Result,
    Select,
    Table,
    bindparam,
    delete,
    func,
    insert,
    select,
    tuple_,
    update,
)  # fmt: skip
from sqlalchemy.dialects import postgresql, sqlite

from bandit.posteriors import CellKey, Counts, fold
from bandit.vocabulary import Channel, PromptTier, Reward, TaskType
from service.storage.driver import insert_rows
from service.storage.tables import attempts, beliefs, cells, configs, decisions, keys, prompts, rewards

RowDict = dict[str, object]
RewardKey = tuple[str, str, str, str]  # decision_id, metric, source, user
SumKey = tuple[str, str, str, str, Channel]  # namespace, arm, task_type, tier, channel

_REWARD_KEY = (rewards.c.decision_id, rewards.c.metric, rewards.c.source, rewards.c.user)
_CELL_KEY = (cells.c.namespace, cells.c.arm, cells.c.task_type, cells.c.tier, cells.c.hour, cells.c.channel)
_SUM_KEY = (cells.c.namespace, cells.c.arm, cells.c.task_type, cells.c.tier, cells.c.channel)
_LIST_SIZE = 500  # ids in one IN list


def _upsert(table: Table, dialect: str) -> sqlite.Insert | postgresql.Insert:
    return sqlite.insert(table) if dialect == "sqlite" else postgresql.insert(table)


@lru_cache
def _insert_or_ignore(table: Table, dialect: str) -> Insert:
    return _upsert(table, dialect).on_conflict_do_nothing()


@lru_cache
def _add_or_insert_cell(dialect: str) -> Insert:
    statement = _upsert(cells, dialect)
    new = statement.excluded
    return statement.on_conflict_do_update(
        index_elements=list(_CELL_KEY),
        set_={
            "n": cells.c.n + new.n,
            "s": cells.c.s + new.s,
            "s2": cells.c.s2 + new.s2,
            "updated_at": new.updated_at,
        },
    )


def _padded(values: Sequence[Any]) -> list[Any]:
    """The same set, its length rounded up to a power of two: few statements to prepare instead of hundreds."""
    size = 1 << (len(values) - 1).bit_length()
    return [*values, *[values[-1]] * (size - len(values))]


def slices(values: Sequence[Any]) -> Iterable[list[Any]]:
    """Lists short enough for one IN, and of few lengths."""
    for start in range(0, len(values), _LIST_SIZE):
        yield _padded(values[start : start + _LIST_SIZE])


# Decisions and attempts


def insert_decisions(connection: Connection, rows: Sequence[Mapping[str, object]]) -> None:
    """Store new decisions; an IntegrityError is raised when one of them is stored already."""
    insert_rows(connection, decisions, rows)


def insert_attempts(connection: Connection, rows: Sequence[Mapping[str, object]]) -> None:
    """Store new calls to providers; an IntegrityError is raised when one is stored already, or its decision is not."""
    insert_rows(connection, attempts, rows)


def insert_prompts(connection: Connection, rows: Sequence[Mapping[str, object]]) -> None:
    """Store prompts; those stored already are left as they are."""
    connection.execute(_insert_or_ignore(prompts, connection.dialect.name), list(rows))


def newest_prompts(connection: Connection, limit: int) -> list[str]:
    """The texts of the last `limit` prompts, oldest first."""
    newest = select(prompts.c.text).order_by(prompts.c.created_at.desc(), prompts.c.decision_id.desc()).limit(limit)
    return list(connection.scalars(newest))[::-1]


_set_served = (
    update(decisions).where(decisions.c.id == bindparam("decision_id")).values(served_arm=bindparam("served_arm"))
)


def set_served_arms(connection: Connection, served: Iterable[tuple[str, str]]) -> None:
    """Note which arm answered: pairs of decision id and arm."""
    connection.execute(_set_served, [{"decision_id": decision, "served_arm": arm} for decision, arm in sorted(served)])


def insert_beliefs(connection: Connection, contents: Mapping[str, str], at: float) -> None:
    """Store what decisions were taken on, version to content, each once."""
    _insert_contents(connection, beliefs, contents, at)


def insert_configs(connection: Connection, contents: Mapping[str, str], at: float) -> None:
    """Store settings, version to content, each once."""
    _insert_contents(connection, configs, contents, at)


def _insert_contents(connection: Connection, table: Table, contents: Mapping[str, str], at: float) -> None:
    rows = [{"version": version, "content": contents[version], "created_at": at} for version in sorted(contents)]
    connection.execute(_insert_or_ignore(table, connection.dialect.name), rows)


def belief_content(connection: Connection, version: str) -> str | None:
    """The stored content of a version of beliefs."""
    return connection.execute(select(beliefs.c.content).where(beliefs.c.version == version)).scalar()


def config_content(connection: Connection, version: str) -> str | None:
    """The stored content of a version of the settings."""
    return connection.execute(select(configs.c.content).where(configs.c.version == version)).scalar()


def decision(connection: Connection, decision_id: str) -> RowDict | None:
    """One decision."""
    return _first(connection, select(decisions).where(decisions.c.id == decision_id))


def attempts_of(connection: Connection, decision_ids: Sequence[str]) -> list[RowDict]:
    """Calls to providers of some decisions, in order."""
    statement = select(attempts).order_by(attempts.c.decision_id, attempts.c.step)
    return [
        row
        for ids in slices(decision_ids)
        for row in _rows(connection, statement.where(attempts.c.decision_id.in_(ids)))
    ]


def rewards_of(connection: Connection, decision_ids: Sequence[str]) -> list[RowDict]:
    """Rewards of some decisions, oldest first within each slice of ids."""
    statement = select(rewards).order_by(rewards.c.created_at, *_REWARD_KEY)
    return [
        row
        for ids in slices(decision_ids)
        for row in _rows(connection, statement.where(rewards.c.decision_id.in_(ids)))
    ]


def list_decisions(
    connection: Connection,
    *,
    limit: int,
    offset: int = 0,
    before: tuple[float, str] | None = None,
    key_id: str | None = None,
) -> list[RowDict]:
    """Decisions, newest first; `before` is (created_at, id) of the last one seen, `key_id` keeps those of one key."""
    statement = select(decisions).order_by(decisions.c.created_at.desc(), decisions.c.id.desc())
    if before is not None:
        statement = statement.where(tuple_(decisions.c.created_at, decisions.c.id) < before)
    if key_id is not None:
        statement = statement.where(decisions.c.key_id == key_id)
    return _rows(connection, statement.limit(limit).offset(offset))


def prune(connection: Connection, before: float) -> int:
    """Drop decisions older than a time, with their attempts, and older beliefs that none uses: at most 500 of each.

    Learning stays. Returns how many rows were dropped; call it until there are none, so that others may write between.
    """
    old = select(decisions.c.id).where(decisions.c.created_at < before).limit(_LIST_SIZE)
    dropped = connection.execute(delete(decisions).where(decisions.c.id.in_(old))).rowcount
    used = select(decisions.c.id).where(decisions.c.beliefs_version == beliefs.c.version).exists()
    unused = select(beliefs.c.version).where(beliefs.c.created_at < before, ~used).limit(_LIST_SIZE)
    return dropped + connection.execute(delete(beliefs).where(beliefs.c.version.in_(unused))).rowcount


def prune_prompts(connection: Connection, before: float) -> int:
    """Drop prompts older than a time, at most 500; returns how many."""
    old = select(prompts.c.decision_id).where(prompts.c.created_at < before).limit(_LIST_SIZE)
    return connection.execute(delete(prompts).where(prompts.c.decision_id.in_(old))).rowcount


# Rewards


class Rateable(NamedTuple):
    """What learning needs of a decision; `arm` is the one that served."""

    id: str
    created_at: float
    key_id: str
    namespace: str
    arm: str
    task_type: TaskType
    tier: PromptTier
    policy: str
    method: str


_decisions_by_id = select(
    decisions.c.id,
    decisions.c.created_at,
    decisions.c.key_id,
    decisions.c.namespace,
    func.coalesce(decisions.c.served_arm, decisions.c.arm),
    decisions.c.task_type,
    decisions.c.tier,
    decisions.c.policy,
    decisions.c.method,
).where(decisions.c.id.in_(bindparam("ids", expanding=True)))
_rewards_said = (
    select(rewards)
    .where(
        rewards.c.decision_id.in_(bindparam("ids", expanding=True)),
        rewards.c.user.in_(bindparam("users", expanding=True)),
    )
    .order_by(*_REWARD_KEY)  # locks are taken in this order, so two writers cannot block each other
    .with_for_update()
)


def decisions_to_rate(connection: Connection, decision_ids: Sequence[str]) -> dict[str, Rateable]:
    """By id, what learning needs of decisions; unknown ids are left out."""
    return {
        row[0]: Rateable(*row)
        for ids in slices(decision_ids)
        for row in connection.execute(_decisions_by_id, {"ids": ids})
    }


def rewards_by_key(connection: Connection, reward_keys: Sequence[RewardKey]) -> dict[RewardKey, RowDict]:
    """Stored rewards by their key, locked for this transaction; some that were not asked for may be among them."""
    found: dict[RewardKey, RowDict] = {}
    for start in range(0, len(reward_keys), _LIST_SIZE):
        part = reward_keys[start : start + _LIST_SIZE]
        # SQLite scans the whole table for a list of whole keys; for one of ids it uses the index.
        lists = {"ids": _padded(_distinct(part, 0)), "users": _padded(_distinct(part, 3))}
        for row in connection.execute(_rewards_said, lists).mappings():
            found[row["decision_id"], row["metric"], row["source"], row["user"]] = dict(row)
    return found


def _distinct(reward_keys: Sequence[RewardKey], index: int) -> list[str]:
    return sorted({key[index] for key in reward_keys})


def insert_rewards(connection: Connection, rows: Sequence[RowDict]) -> None:
    """Store new rewards.

    Raises:
        IntegrityError: one of them was stored meanwhile; the transaction must be repeated.
    """
    insert_rows(connection, rewards, rows)


_replace_reward = (
    update(rewards)
    .where(*(column == bindparam(f"key_{column.name}") for column in _REWARD_KEY))
    .values({column.name: bindparam(column.name) for column in rewards.c if column not in set(_REWARD_KEY)})
)


def replace_rewards(connection: Connection, rows: Sequence[RowDict]) -> None:
    """Give stored rewards new content."""
    key_names = [column.name for column in _REWARD_KEY]
    connection.execute(
        _replace_reward,
        [{(f"key_{name}" if name in key_names else name): value for name, value in row.items()} for row in rows],
    )


# Cells


def add_to_cells(connection: Connection, deltas: Mapping[CellKey, Counts], at: float) -> None:
    """Add counts to cells. Sums commute, so any number of processes may do so at once."""
    if not deltas:
        return
    rows = [{**key._asdict(), **deltas[key]._asdict(), "updated_at": at} for key in sorted(deltas)]
    connection.execute(_add_or_insert_cell(connection.dialect.name), rows)


def total(column: ColumnElement[int]) -> ColumnElement[int]:
    """The sum of a column of integers as an integer: Postgres sums them into decimals."""
    return func.coalesce(func.sum(column), 0).cast(BigInteger)


def sum_cells(
    connection: Connection, namespace: str | None = None, before_hour: int | None = None
) -> dict[SumKey, Counts]:
    """Counts over all hours, or those before one, by namespace, arm, task type, tier and channel."""
    sums = (total(column) for column in (cells.c.n, cells.c.s, cells.c.s2))
    statement = select(*_SUM_KEY, *sums).group_by(*_SUM_KEY)
    if namespace is not None:
        statement = statement.where(cells.c.namespace == namespace)
    if before_hour is not None:
        statement = statement.where(cells.c.hour < before_hour)
    return {
        (space, arm, task_type, tier, channel): Counts(n, s, s2)
        for space, arm, task_type, tier, channel, n, s, s2 in connection.execute(statement)
    }


_cells = select(*_CELL_KEY, cells.c.n, cells.c.s, cells.c.s2, cells.c.updated_at)


def cells_from_hour(connection: Connection, hour: int) -> dict[CellKey, Counts]:
    """The cells of an hour and later."""
    return _cells_of(_plain(connection.execute(_cells.where(cells.c.hour >= hour))))


def cells_changed_since(connection: Connection, since: float) -> tuple[dict[CellKey, Counts], float]:
    """Cells changed at or after a time, as they are now, and the time of the last change (`since` without one)."""
    rows = _plain(connection.execute(_cells.where(cells.c.updated_at >= since)))
    return _cells_of(rows), max((row[-1] for row in rows), default=since)


def _cells_of(rows: Iterable[Sequence[Any]]) -> dict[CellKey, Counts]:
    return {CellKey(*row[:6]): Counts(*row[6:9]) for row in rows}


def _folded_rewards(connection: Connection) -> dict[CellKey, Counts]:
    columns = (
        rewards.c.namespace, rewards.c.arm, rewards.c.task_type, rewards.c.tier, rewards.c.hour, rewards.c.channel,
        rewards.c.value, rewards.c.weight,
    )  # fmt: skip
    found = _plain(connection.execute(select(*columns)))
    return fold((CellKey(*row[:6]), Reward(value=row[6], weight=row[7], channel=row[5])) for row in found)


def compare_fold(connection: Connection) -> dict[CellKey, tuple[Counts, Counts]]:
    """Where cells and the log of rewards disagree: what is stored, and what the rewards add up to. Empty when sound.

    Must be called on one view of the database, `Database.read`, or what is learned meanwhile looks wrong.
    """
    stored, folded = cells_from_hour(connection, 0), _folded_rewards(connection)
    pairs = {key: (stored.get(key, Counts()), folded.get(key, Counts())) for key in stored.keys() | folded.keys()}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def correct_cells(connection: Connection, wrong: Mapping[CellKey, tuple[Counts, Counts]], at: float) -> None:
    """Correct what `compare_fold` found by adding, so that what was learned since stays.

    Wrong cells that no reward stands behind stay as zeros, so that other processes see them change.
    """
    add_to_cells(connection, {key: folded.minus(stored) for key, (stored, folded) in wrong.items()}, at)


# Keys


def insert_key(connection: Connection, row: Mapping[str, object]) -> None:
    """Store an API key's digest, name and scopes.

    Raises:
        IntegrityError: its id or digest is stored already.
    """
    connection.execute(insert(keys), [dict(row)])


def list_keys(connection: Connection) -> list[RowDict]:
    """All keys, oldest first."""
    return _rows(connection, select(keys).order_by(keys.c.created_at, keys.c.id))


def revoke_key(connection: Connection, key_id: str, at: float) -> bool:
    """Revoke a key; false when there is none of that id, or it was revoked before."""
    valid = (keys.c.id == key_id) & keys.c.revoked_at.is_(None)
    return connection.execute(update(keys).where(valid).values(revoked_at=at)).rowcount > 0


def _plain(result: Result[Any]) -> list[tuple[Any, ...]]:
    return cast("list[tuple[Any, ...]]", result.all())


def _rows(connection: Connection, statement: Select[Any]) -> list[RowDict]:
    return [dict(row) for row in connection.execute(statement).mappings()]


def _first(connection: Connection, statement: Select[Any]) -> RowDict | None:
    row = connection.execute(statement).mappings().first()
    return dict(row) if row is not None else None
