"""What the detectors of change remember, and what they have not seen yet: one JSON value and a copy of the cells' sums.

Any replica may look. What it learned is kept only if nobody else looked since it began (`revision`), together with the
alarms it led to, so each reading is seen once and each alarm is given once, however many replicas there are.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Connection, and_, func, or_, select, update

from bandit.drift import Stream
from bandit.posteriors import CellKey
from bandit.vocabulary import EXPLICIT_CHANNELS, TASK_TYPES
from service.drift.alarms import AlarmRow, insert_alarm, upsert_of
from service.errors import UnusableData
from service.probes.canaries import Probe, mark_seen, unseen
from service.storage.tables import cells, decisions, watched, watches

DETECTORS, PRICES = "detectors", "prices"  # names of watches

_LOOK_BACK_S = 60.0  # how far clocks and long transactions of other processes may put a change into the past
_STORED_AFTER_S = 5.0  # a decision is counted when it is as old: by then it is stored, with who served it
_MOST_CELLS = 1_000  # in one look; the rest comes in the next
# Which detector a channel feeds. Not the channel "reading": it says of the same replies what "heuristic" says, in
# weights that are learned again each hour, so it may move for every model at once.
_STREAMS: Mapping[str, Stream] = {**dict.fromkeys(EXPLICIT_CHANNELS, "label"), "heuristic": "heuristic"}
_CELL_KEY = ("namespace", "arm", "task_type", "tier", "hour", "channel")


class ArmMemory(msgspec.Struct, frozen=True, kw_only=True):
    """One arm's detector in one stream: lists over task types, in the order of `TASK_TYPES`."""

    past_n: list[float]
    past_s: list[float]
    lately_n: list[float]
    lately_s: list[float]
    owed_n: list[float]  # readings taken back that are not made up for by new ones yet
    owed_s: list[float]
    log_stake: list[list[float | None]]  # (2, sizes); None: minus infinity


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """What the detectors remember of all arms."""

    looked_at: float = 0.0  # when somebody last looked; this and all times: seconds since 1970-01-01 UTC
    since: float = 0.0  # changes of cells before this are seen
    counted_until: float | None = None  # decisions before this are counted; None: there was no look yet
    caught_up: bool = False  # False: what was learned before the first look is still being read
    streams: dict[Stream, dict[str, ArmMemory]] = {}
    canaries: tuple[str, ...] = ()  # versions of the canaries whose answers are remembered
    suspected: dict[str, float] = {}  # arms that may have changed, and since when
    restarted: dict[str, int] = {}  # arms that changed: readings of decisions before this hour are passed over


class Change(NamedTuple):
    """A cell, as it is now and by how much it differs from what was seen, in millionths."""

    key: CellKey
    n: int
    s: int
    more_n: int
    more_s: int


class News(NamedTuple):
    """What is known since the last look."""

    revision: int  # of the memory; 0: none is stored
    memory: Memory
    changes: list[Change]
    damaged: int  # cells that cannot be read
    calls: dict[str, int]  # decisions by the arm that served
    since: float  # for the next look
    counted_until: float
    complete: bool  # False: there are more changes
    forgotten: bool = False  # what was stored could not be read
    probes: Sequence[Probe] = ()  # answers to canaries


def stream_of(channel: str) -> Stream:
    """Which detector a channel feeds; only those that `read_news` reads."""
    return _STREAMS[channel]


def read_memory(connection: Connection, *, lock: bool = False) -> tuple[int, Memory]:
    """The stored memory and its revision; an empty one and 0 when none is stored.

    Raises:
        UnusableData: what is stored cannot be read.
    """
    revision, content = read_watch(connection, DETECTORS, lock=lock)
    if not revision:
        return 0, Memory()
    try:
        return revision, msgspec.json.decode(content, type=Memory)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UnusableData(
            f"The row `{DETECTORS}` of the table `watches` cannot be read ({error}); expected what Armwise wrote. "
            "Delete the row: detection begins anew."
        ) from error


def read_news(connection: Connection, now: float) -> News:
    """The memory, and the cells and decisions that it does not know yet."""
    forgotten = False
    try:
        revision, memory = read_memory(connection)
    except UnusableData:  # told and counted by the caller; the next look has a memory again
        revision, memory, forgotten = read_watch(connection, DETECTORS)[0], Memory(), True
    rows = _unseen(connection, memory.since - _LOOK_BACK_S)
    changes = [change for row in rows if (change := _change(row)) is not None]
    complete = len(rows) < _MOST_CELLS or not changes
    latest = max((row[8] for row in rows if isinstance(row[8], float)), default=memory.since)
    until = now - _STORED_AFTER_S
    return News(
        revision=revision,
        memory=memory,
        changes=changes,
        damaged=len(rows) - len(changes),
        calls=_calls(connection, memory.counted_until, until),
        since=max(memory.since, min(latest, now)) if complete else memory.since,
        counted_until=max(until, memory.counted_until or until),
        complete=complete,
        forgotten=forgotten,
        probes=unseen(connection, now),
    )


_unseen_cells = (
    select(
        *(cells.c[name] for name in _CELL_KEY), cells.c.n, cells.c.s, cells.c.updated_at,
        func.coalesce(watched.c.n, 0), func.coalesce(watched.c.s, 0),
    )
    .select_from(cells.outerjoin(watched, and_(*(cells.c[name] == watched.c[name] for name in _CELL_KEY))))
    .where(cells.c.channel.in_(sorted(_STREAMS)))
    .where(or_(watched.c.n.is_(None), watched.c.n != cells.c.n, watched.c.s != cells.c.s))
    .order_by(cells.c.hour)
    .limit(_MOST_CELLS)
)  # fmt: skip


def _unseen(connection: Connection, since: float) -> list[Any]:
    return list(connection.execute(_unseen_cells.where(cells.c.updated_at >= since)))


def _change(row: Any) -> Change | None:
    """A row of `_unseen`; None when it cannot be one that we wrote."""
    key, (n, s, _, seen_n, seen_s) = CellKey(*row[:6]), row[6:11]
    if not all(isinstance(count, int) for count in (key.hour, n, s, seen_n, seen_s)):
        return None
    if key.task_type not in TASK_TYPES or not 0 <= s <= n:
        return None
    return Change(key, n, s, n - seen_n, s - seen_s)


def _calls(connection: Connection, since: float | None, until: float) -> dict[str, int]:
    if since is None:
        return {}
    arm = func.coalesce(decisions.c.served_arm, decisions.c.arm)
    counted = select(arm, func.count()).where(decisions.c.created_at >= since, decisions.c.created_at < until)
    return {str(name): int(count) for name, count in connection.execute(counted.group_by(arm))}


def keep(
    connection: Connection,
    *,
    revision: int,
    memory: Memory,
    changes: Sequence[Change],
    alarms: Iterable[AlarmRow],
    probes: Sequence[Probe] = (),
) -> bool:
    """Store what a look led to, all of it, unless somebody else looked meanwhile: then nothing, and False.

    May be repeated, when it is not known whether it was committed.
    """
    content = msgspec.json.encode(memory).decode()
    if not replace_watch(connection, DETECTORS, revision, content):
        return read_watch(connection, DETECTORS) == (revision + 1, content)
    if changes:
        upsert = upsert_of(connection, watched)
        new = {"n": upsert.excluded.n, "s": upsert.excluded.s}
        rows = [{**change.key._asdict(), "n": change.n, "s": change.s} for change in changes]
        connection.execute(upsert.on_conflict_do_update(index_elements=list(_CELL_KEY), set_=new), rows)
    mark_seen(connection, probes)
    for alarm in alarms:
        insert_alarm(connection, alarm)
    return True


def read_watch(connection: Connection, name: str, *, lock: bool = False) -> tuple[int, str]:
    """Revision and content of what is remembered under a name; 0 and "" without. `lock`: until the commit."""
    statement = select(watches.c.revision, watches.c.content).where(watches.c.name == name)
    row = connection.execute(statement.with_for_update() if lock else statement).first()
    return (int(row[0]), str(row[1])) if row is not None else (0, "")


def replace_watch(connection: Connection, name: str, revision: int, content: str) -> bool:
    """Store what is remembered under a name, if it is still of this revision (0: not stored); whether it was."""
    if revision:
        mine = (watches.c.name == name) & (watches.c.revision == revision)
        found = connection.execute(update(watches).where(mine).values(revision=revision + 1, content=content))
        return found.rowcount > 0
    row: Mapping[str, object] = {"name": name, "revision": 1, "content": content}
    return connection.execute(upsert_of(connection, watches).values(row).on_conflict_do_nothing()).rowcount > 0
