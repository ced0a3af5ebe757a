"""What is stored of readings and labels on the same reply: their sums, kept with the rewards in one transaction.

A pair is one person's label (or a definite failure) and the heuristics' reading of the same reply of one model. Sums
are integers, so they are exact in any order, and a rebuild from the rewards gives the same.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Connection, Insert, bindparam, case, func, select, text
from sqlalchemy.dialects import postgresql, sqlite

from bandit.channels import Calibration, Pairs, influence, pairs_of
from bandit.posteriors import MICRO
from bandit.vocabulary import EXPLICIT_CHANNELS
from service.quality.readings import SOFT, ReadingDetail, Weights
from service.storage.store import RewardKey, RowDict, slices, total
from service.storage.tables import calibrations, decisions, reading_weights, rewards

log = logging.getLogger("armwise")

READING_METRIC = "reading"
HEURISTICS_SOURCE = "heuristics"
NEWEST = 20_000  # labelled calls that teach the weights; replies that reports look at

_DAY_S = 86_400.0
_WEIGHTS = 24  # newest ones among which the own are looked for
_LABELS = sorted(EXPLICIT_CHANNELS)
PEOPLES = ("thumb", "score")  # labels whose influence is capped; failures are not a person's word
JUDGE = "judge"
MACHINES = (JUDGE, "quiz")  # sources of marks that no person gave
_KEY = (calibrations.c.namespace, calibrations.c.task_type, calibrations.c.arm, calibrations.c.version)
_SUMS = (calibrations.c.n, calibrations.c.y, calibrations.c.h, calibrations.c.yy, calibrations.c.yh)

_detail = msgspec.json.Decoder(ReadingDetail)
_weights = msgspec.json.Decoder(Weights)


class CalibrationKey(NamedTuple):
    """Where a pair is counted."""

    namespace: str
    task_type: str
    arm: str
    version: str  # of the weights that made the reading


Deltas = dict[CalibrationKey, Pairs]


def reading_key(decision_id: str) -> RewardKey:
    """The key of the reading of a decision's reply."""
    return decision_id, READING_METRIC, HEURISTICS_SOURCE, ""


def pairs_in(rows: Iterable[RowDict]) -> Deltas:
    """The sums over all pairs of a label and a reading among rewards: same decision, same model."""
    readings: dict[tuple[object, object], RowDict] = {}
    labels = []
    for row in rows:
        if row["channel"] == "reading":
            readings[row["decision_id"], row["arm"]] = row
        elif row["channel"] in EXPLICIT_CHANNELS:
            labels.append(row)
    sums: Deltas = {}
    for label in labels:
        reading: Any = readings.get((label["decision_id"], label["arm"]))
        if reading is not None:
            said: Any = label
            _add(sums, _key_of(reading), pairs_of(said["value"], reading["value"], said["weight"]))
    return sums


def _key_of(reading: Mapping[str, Any]) -> CalibrationKey:
    version = _detail.decode(reading["detail"]).weights
    return CalibrationKey(reading["namespace"], reading["task_type"], reading["arm"], version)


def _add(sums: Deltas, key: CalibrationKey, pairs: Pairs) -> None:
    sums[key] = sums.get(key, Pairs()).plus(pairs)


def difference(new: Deltas, old: Deltas) -> Deltas:
    """What must be added to `old` to get `new`."""
    changes = {key: new.get(key, Pairs()).minus(old.get(key, Pairs())) for key in sorted(new.keys() | old.keys())}
    return {key: pairs for key, pairs in changes.items() if pairs != Pairs()}


# In the transaction of the rewards


def lock_decisions(connection: Connection, decision_ids: Sequence[str]) -> None:
    """Wait for whoever else rates these decisions: a label and a reading stored at the same moment must meet.

    Sorted, so that two writers cannot block each other. SQLite has one writer at a time and needs no lock.
    """
    if connection.dialect.name == "postgresql":
        wanted = select(decisions.c.id).where(decisions.c.id.in_(decision_ids)).order_by(decisions.c.id)
        connection.execute(wanted.with_for_update(key_share=True)).all()


def lock_users(connection: Connection, users: Iterable[str]) -> None:
    """Wait for whoever else stores labels of these users, so that two replicas do not both find room for one more."""
    if connection.dialect.name == "postgresql":
        for user in sorted(set(users)):
            digest = blake2b(user.encode(), digest_size=8, person=b"influence").digest()
            key = int.from_bytes(digest, "big", signed=True)
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": key})


def labels_of(connection: Connection, decision_ids: Sequence[str]) -> dict[RewardKey, RowDict]:
    """All labels of decisions, by their key."""
    return {
        (row["decision_id"], row["metric"], row["source"], row["user"]): dict(row)
        for ids in slices(decision_ids)
        for row in connection.execute(_labels_of, {"ids": ids}).mappings()
    }


_labels_of = select(rewards).where(
    rewards.c.decision_id.in_(bindparam("ids", expanding=True)), rewards.c.channel.in_(_LABELS)
)


class Influence:
    """How much the labels of one transaction's users may still weigh: so many of each, for a model on a day.

    Starts from what is stored, and adds each label that is given a weight. A label that replaces another first takes
    the other's weight back, so that changing one's mind costs nothing.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._weights: dict[tuple[str, str, int], dict[RewardKey, int]] = {}  # user, arm, day: millionths by label

    def weight(self, row: RowDict, limit: float, factor: float) -> float:
        """The weight of a label that is about to be stored: its own times `factor`, as far as there is room.

        The limit shrinks by the same factor, or a user whose labels weigh less could give more of them.
        """
        created_at: Any = row["created_at"]
        user, arm, day = str(row["user"]), str(row["arm"]), int(created_at // _DAY_S)
        others = self._weights.get((user, arm, day))
        if others is None:
            others = self._weights[user, arm, day] = self._read(user, arm, day)
        key = (str(row["decision_id"]), str(row["metric"]), str(row["source"]), user)
        others.pop(key, None)
        own: Any = row["weight"]
        said = sum(others.values()) / MICRO
        weight = float(own) * factor * influence(said / factor, limit) if factor > 0.0 else 0.0
        others[key] = round(weight * MICRO)
        return weight

    def _read(self, user: str, arm: str, day: int) -> dict[RewardKey, int]:
        wanted = select(rewards.c.decision_id, rewards.c.metric, rewards.c.source, rewards.c.weight).where(
            rewards.c.user == user,
            rewards.c.arm == arm,
            rewards.c.created_at >= day * _DAY_S,
            rewards.c.created_at < (day + 1) * _DAY_S,
            rewards.c.channel.in_(PEOPLES),
            text("\"user\" <> '' AND weight > 0"),  # in the words of the index
        )
        return {
            (decision, metric, source, user): round(weight * MICRO)
            for decision, metric, source, weight in self._connection.execute(wanted)
        }


@lru_cache
def _add_or_insert(dialect: str) -> Insert:
    statement = sqlite.insert(calibrations) if dialect == "sqlite" else postgresql.insert(calibrations)
    new = statement.excluded
    sums = {column.name: column + new[column.name] for column in _SUMS}
    return statement.on_conflict_do_update(
        index_elements=list(_KEY), set_={**sums, "updated_at": new.updated_at}
    )  # fmt: skip


def add(connection: Connection, deltas: Mapping[CalibrationKey, Pairs], at: float) -> None:
    """Add pairs to the stored sums. Sums commute, so any number of processes may do so at once."""
    rows = [{**key._asdict(), **deltas[key]._asdict(), "updated_at": at} for key in sorted(deltas)]
    if rows:
        connection.execute(_add_or_insert(connection.dialect.name), rows)


# Reading and rebuilding


def stored_sums(connection: Connection) -> Deltas:
    """The sums as they stand."""
    rows = connection.execute(select(*_KEY, *_SUMS))
    return {CalibrationKey(*row[:4]): Pairs(*row[4:]) for row in rows if any(row[4:])}


def folded_sums(connection: Connection) -> Deltas:
    """The sums that the log of rewards adds up to."""
    reading, label = rewards.alias("reading"), rewards.alias("label")
    pairs = (
        select(
            reading.c.namespace, reading.c.task_type, reading.c.arm, reading.c.detail, reading.c.value.label("h"),
            label.c.value, label.c.weight,
        )
        .join(label, (label.c.decision_id == reading.c.decision_id) & (label.c.arm == reading.c.arm))
        .where(reading.c.channel == "reading", label.c.channel.in_(_LABELS))
    )  # fmt: skip
    sums: Deltas = {}
    for row in connection.execute(pairs).mappings():
        _add(sums, _key_of(dict(row)), pairs_of(row["value"], row["h"], row["weight"]))
    return {key: found for key, found in sums.items() if found != Pairs()}


def missing(connection: Connection) -> Deltas:
    """What must be added to the stored sums to get those of the log of rewards; empty when they are sound.

    Must be called on one view of the database, `Database.read`, or what is learned meanwhile looks wrong.
    """
    return difference(folded_sums(connection), stored_sums(connection))


def calibration(connection: Connection) -> Calibration:
    """All calls that have both, per task type, whichever weights made the readings, in experiments and outside.

    The cells of channel `reading` sum over all weights as well, so this is how well those sums tell quality. A few
    hundred rows: cheap enough to be read each second.
    """
    wanted = select(calibrations.c.task_type, *(total(column) for column in _SUMS)).group_by(calibrations.c.task_type)
    return Calibration({row[0]: Pairs(*row[1:]) for row in connection.execute(wanted)})


def labelled_calls(connection: Connection) -> list[tuple[tuple[str, ...], float]]:
    """Findings and label of the newest 20,000 pairs, like ones together; labels over the cap of influence left out."""
    reading, label = rewards.alias("reading"), rewards.alias("label")
    of_same_reply = (label.c.decision_id == reading.c.decision_id) & (label.c.arm == reading.c.arm)
    its_key = (reading.c.metric == READING_METRIC) & (reading.c.source == HEURISTICS_SOURCE) & (reading.c.user == "")
    newest = (
        select(reading.c.detail, label.c.value)
        .join(label, of_same_reply & its_key)
        .where(reading.c.channel == "reading", label.c.channel.in_(_LABELS), label.c.weight > 0.0)
        .order_by(label.c.created_at.desc(), label.c.decision_id, label.c.metric, label.c.source, label.c.user)
        .limit(NEWEST)
        .subquery()
    )
    # Counted by the database: on Postgres every row that is read is work for the event loop.
    kinds = (newest.c.detail, newest.c.value)
    counted = connection.execute(select(*kinds, func.count()).group_by(*kinds).order_by(*kinds))
    return [call for detail, value, n in counted for call in [(_detail.decode(detail).findings, value)] * n]


# Weights


def newest_weights(connection: Connection) -> Weights | None:
    """The weights of these heuristics that were learned last; None before any were.

    Passed over are those of other heuristics, which another version of Armwise learned, and what cannot be read.
    """
    columns = (reading_weights.c.version, reading_weights.c.content)
    newest = select(*columns).order_by(reading_weights.c.fitted_at.desc(), reading_weights.c.version).limit(_WEIGHTS)
    for version, content in connection.execute(newest):
        try:
            found = _weights.decode(content)
        except msgspec.DecodeError as error:
            log.error("the weights %s of the heuristics cannot be read and are passed over: %s", version, error)  # noqa: TRY400 - a sentence
            continue
        if set(found.effects) == set(SOFT):
            return found
    return None


def store_weights(connection: Connection, weights: Weights) -> None:
    """Put weights in force, for all replicas."""
    dialect = connection.dialect.name
    statement = sqlite.insert(reading_weights) if dialect == "sqlite" else postgresql.insert(reading_weights)
    row = {
        "version": weights.version,
        "content": msgspec.json.encode(weights).decode(),
        "labelled": weights.labelled,
        "fitted_at": weights.fitted_at,
    }
    changed = {name: statement.excluded[name] for name in ("content", "labelled", "fitted_at")}
    connection.execute(statement.on_conflict_do_update(index_elements=["version"], set_=changed), [row])


# Reports


class Answered(NamedTuple):
    """How many of a model's newest replies were rated by people."""

    calls: int
    labelled: int


def answered(connection: Connection) -> dict[str, Answered]:
    """By model, of the newest 20,000 readings: how many there are, and how many of those replies people rated."""
    newest = (
        select(rewards.c.decision_id, rewards.c.arm)
        .where(rewards.c.channel == "reading")
        .order_by(rewards.c.created_at.desc())
        .limit(NEWEST)
        .subquery()
    )
    label = rewards.alias("label")
    rated = (
        select(label.c.decision_id)
        .where(
            label.c.decision_id == newest.c.decision_id,
            label.c.channel.in_(PEOPLES),
            label.c.source.not_in(MACHINES),  # a suspected model is judged more often
        )
        .exists()
    )
    wanted = select(newest.c.arm, func.count(), total(case((rated, 1), else_=0))).group_by(newest.c.arm)
    return {arm: Answered(calls, labelled) for arm, calls, labelled in connection.execute(wanted)}


def fired(connection: Connection) -> tuple[int, dict[str, int]]:
    """How many of the newest 20,000 examined replies there are, and on how many of them each heuristic fired."""
    newest = (
        select(rewards.c.user, rewards.c.detail)
        .where(rewards.c.source == HEURISTICS_SOURCE, rewards.c.metric != READING_METRIC)
        .order_by(rewards.c.created_at.desc())
        .limit(NEWEST)
        .subquery()
    )
    # Counted by the database, as above: most replies have the same detail, which says that nothing was found.
    kinds = (newest.c.user, newest.c.detail)
    replies, counts = 0, dict[str, int]()
    for user, detail, n in connection.execute(select(*kinds, func.count()).group_by(*kinds)):
        replies += n * (user != "repeat")  # that one is said of a reply that was counted already
        if detail != "{}":
            for name in msgspec.json.decode(detail, type=dict[str, str]):
                counts[name] = counts.get(name, 0) + n
    return replies, counts
