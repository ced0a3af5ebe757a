"""What was known when: all that was learned, and switched, with the time from which on it was known."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, case, select

from bandit.channels import Calibration, Pairs, pairs_of
from bandit.history import ArmRestart
from bandit.posteriors import CellKey, Counts, counts_of
from bandit.vocabulary import EXPLICIT_CHANNELS, Reward
from service.drift.alarms import list_alarms, restart_of
from service.learning.calibrations import calibration
from service.learning.contexts import NOTHING_DATED, Dated
from service.learning.controls import Control
from service.storage import store
from service.storage.tables import rewards

_DAY_S = 86_400.0
_EVERY_ALARM = 1_000_000


class Arrival(NamedTuple):
    """A reward, and when it became known. One that was corrected is known from its correction on: the first is gone."""

    at: float
    cell: CellKey
    counts: Counts


class Past(NamedTuple):
    """All that was learned, with the time from which on it was known. Arrivals and restarts are in order of time."""

    cells: Mapping[CellKey, Counts]  # before the first arrival
    calibration: Calibration  # likewise
    arrivals: Sequence[Arrival]
    pairs: Sequence[tuple[float, str, Pairs]]  # time, task type
    restarts: Sequence[tuple[float, ArmRestart]]
    controls: Sequence[Control] = ()  # what the owner switched, in their order; empty when it is not to be followed
    prompts: Dated = NOTHING_DATED  # labels with their prompts, for linear policies


NOTHING_KNOWN = Past({}, Calibration(), (), (), ())


def read_past(connection: Connection, since: float, window_s: float) -> Past:
    """What was known at `since`, and what came after; feedback was taken for `window_s` after a decision.

    The cells are sums of all rewards, so those before are the cells less what came after.
    """
    arrived = _arrived(rewards)
    # A correction comes within the window; by `created_at` there is an index. A day more than needed does no harm.
    recent = rewards.c.created_at >= since - window_s - _DAY_S
    columns = (
        arrived, rewards.c.namespace, rewards.c.arm, rewards.c.task_type, rewards.c.tier, rewards.c.hour,
        rewards.c.channel, rewards.c.value, rewards.c.weight,
    )  # fmt: skip
    wanted = select(*columns).where(recent, arrived >= since, rewards.c.namespace == "", rewards.c.weight > 0)
    known: dict[Any, Any] = {}  # equal cells and counts are kept once: most readings are like others
    arrivals = []
    for at, *names, value, weight in connection.execute(wanted.order_by(arrived, rewards.c.decision_id)):
        key, counts = CellKey(*names), counts_of(Reward(value=value, weight=weight))
        arrivals.append(Arrival(at, known.setdefault(key, key), known.setdefault(counts, counts)))
    cells = {cell: counts for cell, counts in store.cells_from_hour(connection, 0).items() if cell.namespace == ""}
    for _, cell, counts in arrivals:
        cells[cell] = cells.get(cell, Counts()).minus(counts)
    pairs = _pairs(connection, since, window_s)
    before = calibration(connection)
    for _, task, pair in pairs:
        before = Calibration({**before.pairs, task: before.pairs.get(task, Pairs()).minus(pair)})
    changes = sorted(list_alarms(connection, limit=_EVERY_ALARM), key=lambda row: (row.hour, row.at, row.id))
    return Past(
        cells={cell: counts for cell, counts in cells.items() if counts != Counts()},
        calibration=before,
        arrivals=arrivals,
        pairs=pairs,
        restarts=[(row.at, ArmRestart(row.arm, row.hour, restart_of(row))) for row in changes],
    )


def _arrived(table: Any) -> Any:
    return case((table.c.updated_at > table.c.created_at, table.c.updated_at), else_=table.c.created_at)


def _pairs(connection: Connection, since: float, window_s: float) -> list[tuple[float, str, Pairs]]:
    """Labels and readings of the same reply, of which one came after `since`; a label comes after its reply."""
    reading, label = rewards.alias("reading"), rewards.alias("label")
    wanted = (
        select(
            _arrived(reading), _arrived(label), reading.c.task_type, label.c.value, reading.c.value, label.c.weight
        )
        .join(label, (label.c.decision_id == reading.c.decision_id) & (label.c.arm == reading.c.arm))
        .where(
            label.c.created_at >= since - window_s - _DAY_S,
            reading.c.channel == "reading",
            label.c.channel.in_(sorted(EXPLICIT_CHANNELS)),
        )
    )  # fmt: skip
    found = [
        (max(read_at, said_at), str(task), pairs_of(y, h, weight))
        for read_at, said_at, task, y, h, weight in connection.execute(wanted)
    ]
    return sorted(pair for pair in found if pair[0] >= since)
