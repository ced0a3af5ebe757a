"""Labels with the prompts they are about, from the database: what regressions on a prompt's features learn from.

New labels are read at each look. Ratings that changed, labels of other processes that came late, and decisions past
their retention are heard of when everything is read again, each hour. A label whose decision is gone is not heard. A
mark of a quiz has no decision and carries the profile of its question itself.
"""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, Connection, or_, select, tuple_

from bandit.linear import MOST_DIMS, PLAIN, Labelled, features
from bandit.vocabulary import EXPLICIT_CHANNELS, PROMPT_TIERS, TASK_TYPES, PromptProfile
from service.storage.database import Database
from service.storage.tables import decisions, rewards

log = logging.getLogger("armwise")

MOST_LABELS = 20_000
_HALF_LIVES = 4.0  # older labels count less than a sixteenth and are not read
_READ_AGAIN_S = 3_600.0
_LOOK_BACK_S = 60.0  # how late a label may be committed, and other clocks may be, without waiting for the hour
_DAY_S = 86_400.0
_PAGE = 100  # rows in one read: on Postgres they are fetched on the event loop
_PROMPTS_PAGE = 50
_QUIZ = "quiz"  # source of the marks that carry a profile

_KEY = (rewards.c.created_at, rewards.c.decision_id, rewards.c.metric, rewards.c.source, rewards.c.user)
_newest = (
    select(
        *_KEY, rewards.c.arm, rewards.c.value, rewards.c.weight, rewards.c.hour, rewards.c.task_type, rewards.c.tier,
        rewards.c.updated_at,
    )
    .where(rewards.c.channel.in_(sorted(EXPLICIT_CHANNELS)))
    .order_by(*(column.desc() for column in _KEY))
    .limit(_PAGE)
)  # fmt: skip
_TASK: dict[str, int] = {name: index for index, name in enumerate(TASK_TYPES)}
_TIER: dict[str, int] = {name: index for index, name in enumerate(PROMPT_TIERS)}


Heard = tuple[tuple[str, float], ...]  # namespaces whose labels are learned from, and until when they were given
FOREVER = float("inf")
COMMON: Heard = (("", FOREVER),)


class Label(NamedTuple):
    """A row of `rewards`, as far as it matters here."""

    created_at: float
    decision_id: str
    metric: str
    source: str
    user: str
    arm: str
    value: float
    weight: float
    hour: int
    task_type: str
    tier: str
    updated_at: float


Labels = dict[tuple[str, ...], Label]  # by the key of a reward
Prompts = dict[str, NDArray[np.float64] | None]  # features by decision; None: not stored, or not to be read


class Dated(NamedTuple):
    """Labels, newest first, with the times at which they were given and from which on they stood as they do."""

    labelled: Labelled
    created_at: NDArray[np.float64]  # (n,)
    known_at: NDArray[np.float64]  # (n,): a corrected one from its correction on

    def before(self, now: float, half_life_days: float) -> Labelled:
        """What was to be learned from at a time."""
        since = now - _HALF_LIVES * half_life_days * _DAY_S
        rows = np.flatnonzero((self.known_at < now) & (self.created_at >= since))[:MOST_LABELS]
        columns = {name: getattr(self.labelled, name)[rows] for name in Labelled._fields if name != "arms"}
        return self.labelled._replace(**columns)


class _Told(msgspec.Struct):
    """What matters of a stored decision."""

    profile: PromptProfile


class Contexts:
    """The last 20,000 labels, with what was known of their prompts. Belongs to the event loop; one look at a time."""

    def __init__(self, database: Database, heard: Heard = COMMON) -> None:
        self._database = database
        self._heard = heard
        self._labels: Labels = {}
        self._prompts: Prompts = {}
        self._looked_at = self._read_at = float("-inf")

    async def labelled(self, now: float, half_life_days: float) -> Labelled:
        """Read what is new; returns all there is. `now` is in seconds since 1970 UTC.

        Raises:
            StorageUnavailable: the database could not be read; what is known stays.
        """
        whole = now - self._read_at >= _READ_AGAIN_S
        since = now - _HALF_LIVES * half_life_days * _DAY_S if whole else self._looked_at - _LOOK_BACK_S
        found = await self._newest(since)
        prompts = await self._prompts_of(await asyncio.to_thread(_unknown, found, self._prompts))
        before: Labels = {} if whole else self._labels
        self._labels, self._prompts = await asyncio.to_thread(_merged, before, found, self._prompts, prompts)
        self._looked_at = now
        if whole:
            self._read_at = now
        return await asyncio.to_thread(_columns, self._labels, self._prompts)

    async def _prompts_of(self, decision_ids: Sequence[str]) -> Prompts:
        prompts: Prompts = {}
        for start in range(0, len(decision_ids), _PROMPTS_PAGE):
            ids = decision_ids[start : start + _PROMPTS_PAGE]
            prompts |= await asyncio.to_thread(_read_prompts, ids, await self._database.read(_details, ids))
        return prompts

    async def _newest(self, since: float) -> list[Label]:
        """Labels from a time on, newest first, at most 20,000."""
        found: list[Label] = []
        before: Label | None = None
        while len(found) < MOST_LABELS:
            page = await self._database.read(_labels_page, since, before, self._heard)
            found += page
            if len(page) < _PAGE:
                break
            before = page[-1]
        return found


def dated_labels(connection: Connection, since: float, half_life_days: float, heard: Heard = COMMON) -> Dated:
    """What could be learned from at `since` (seconds since 1970 UTC), and all labels that came later."""
    found: list[Label] = []
    oldest, before = since - _HALF_LIVES * half_life_days * _DAY_S, None
    while len(found) < MOST_LABELS or found[-MOST_LABELS].created_at >= since:
        page = _labels_page(connection, oldest, before, heard)
        found += page
        if len(page) < _PAGE:
            break
        before = page[-1]
    prompts: Prompts = {}
    ids = _unknown(found, {})
    for start in range(0, len(ids), _PROMPTS_PAGE):
        some = ids[start : start + _PROMPTS_PAGE]
        prompts |= _read_prompts(some, _details(connection, some))
    rows = [label for label in found if prompts[label.decision_id] is not None]
    return Dated(
        _columns({label[1:5]: label for label in rows}, prompts),
        np.array([label.created_at for label in rows], dtype=np.float64),
        np.array([max(label.created_at, label.updated_at) for label in rows], dtype=np.float64),
    )


def _labels_page(connection: Connection, since: float, before: Label | None, heard: Heard) -> list[Label]:
    statement = _newest.where(rewards.c.created_at >= since, or_(*(_is_heard(*one) for one in heard)))
    if before is not None:
        statement = statement.where(tuple_(*_KEY) < tuple(before[: len(_KEY)]))
    return [Label._make(row) for row in connection.execute(statement)]


def _is_heard(namespace: str, until: float) -> ColumnElement[bool]:
    of_it = rewards.c.namespace == namespace
    return of_it if until == FOREVER else of_it & (rewards.c.created_at < until)


def _details(connection: Connection, decision_ids: Sequence[str]) -> dict[str, str]:
    """By id, what was stored of the prompt: with the decision, or else with the mark of a quiz."""
    statement = select(decisions.c.id, decisions.c.detail).where(decisions.c.id.in_(decision_ids))
    found = {row.id: row.detail for row in connection.execute(statement)}
    others = [one for one in decision_ids if one not in found and one.startswith(f"{_QUIZ}-")]
    if others:
        marks = select(rewards.c.decision_id, rewards.c.detail).where(
            rewards.c.decision_id.in_(others),
            rewards.c.source == _QUIZ,
            rewards.c.detail.contains('"profile":', autoescape=True),  # older marks have none
        )
        found |= {row.decision_id: row.detail for row in connection.execute(marks)}
    return found


def _read_prompts(decision_ids: Iterable[str], details: dict[str, str]) -> Prompts:
    """The features of each decision's prompt."""
    decoder = msgspec.json.Decoder(_Told)
    found: Prompts = dict.fromkeys(decision_ids)
    for decision_id, detail in details.items():
        try:
            found[decision_id] = np.array(features(decoder.decode(detail).profile))
        except msgspec.DecodeError as error:
            log.warning("decision %s has no profile that can be read (%s); its labels are left out", decision_id, error)
    return found


def _unknown(found: Sequence[Label], prompts: Prompts) -> list[str]:
    return sorted({label.decision_id for label in found} - prompts.keys())


def _merged(before: Labels, found: Sequence[Label], known: Prompts, new: Prompts) -> tuple[Labels, Prompts]:
    """The newest 20,000 labels, a changed one as it was found now, and the prompts they need."""
    together: Labels = {**before, **{label[1:5]: label for label in found}}
    newest = dict(sorted(together.items(), key=lambda item: item[1], reverse=True)[:MOST_LABELS])
    prompts = {**known, **new}
    return newest, {label.decision_id: prompts[label.decision_id] for label in newest.values()}


def _columns(labels: Labels, prompts: Prompts) -> Labelled:
    rows = [(label, x) for label in labels.values() if (x := prompts[label.decision_id]) is not None]
    arms = sorted({label.arm for label, _ in rows})
    position = {arm: index for index, arm in enumerate(arms)}
    columns = np.array(
        [(position[one.arm], _TASK[one.task_type], _TIER[one.tier], one.hour) for one, _ in rows], dtype=np.int64
    ).reshape(-1, 4)
    said = np.array([(label.value, label.weight) for label, _ in rows], dtype=np.float64).reshape(-1, 2)
    return Labelled(
        arms=tuple(arms),
        arm=columns[:, 0],
        x=np.array([x for _, x in rows], dtype=np.float64).reshape(len(rows), PLAIN + MOST_DIMS),
        task=columns[:, 1],
        tier=columns[:, 2],
        value=said[:, 0],
        weight=said[:, 1],
        hour=columns[:, 3],
    )


NOTHING_DATED = Dated(_columns({}, {}), np.zeros(0), np.zeros(0))
