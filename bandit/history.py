"""All that was measured of some arms, as it counts today: what policies learn from whose cells inform each other."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from bandit.channels import Calibration
from bandit.drift import Restart, kept
from bandit.pooling import Sums
from bandit.posteriors import MICRO, CellKey, Counts
from bandit.vocabulary import EXPLICIT_CHANNELS, PROMPT_TIERS, TASK_TYPES, PromptTier, TaskType

Cell = tuple[TaskType, PromptTier]
Vector = NDArray[np.float64]
Integers = NDArray[np.int64]

_HOURS_PER_DAY = 24.0
_TASK = {name: index for index, name in enumerate(TASK_TYPES)}
_TIER = {name: index for index, name in enumerate(PROMPT_TIERS)}


NOTHING_CALIBRATED = Calibration()


class Memory(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long measurements count. A late rating is as old as its reply."""

    label_half_life_days: float = 30.0
    reading_half_life_days: float = 7.0  # of what the heuristics say
    most_labels: float = 2_000.0  # of one model on one task type: more would make it deaf to change


class ArmRestart(NamedTuple):
    """An arm changed: what was measured of it before `hour` counts less."""

    arm: str
    hour: int  # since 1970-01-01 UTC
    restart: Restart
    task_type: TaskType | None = None  # None: on all; else only its counts of this one, the prior stays as it is


class History(NamedTuple):
    """What was measured of `arms`, in the order of the vocabulary's task types and tiers."""

    arms: tuple[str, ...]
    labels: Sums  # shape (n_arms, n_tasks, n_tiers) each: people's word and hard failures
    readings: Sums  # likewise: what the heuristics say
    calibration: Calibration  # how far readings may be trusted
    variance_factor: Vector  # (n_arms,): multiplies the prior's variance after a restart
    mean_shift: Vector  # (n_arms,): is added to the prior's mean after a restart
    output_tokens: Mapping[tuple[str, TaskType], float] = {}  # mean length of an arm's replies on a task type
    late: Mapping[tuple[str, TaskType], float] = {}  # share of them that came later than the policy's limit
    arrived: frozenset[str] = frozenset()  # arms that came when others were known already


class Table(NamedTuple):
    """Counts by cell and hour, in columns of equal length: faded quickly, also when there are many."""

    arms: tuple[str, ...]
    arm: Integers  # index in `arms`
    task: Integers  # in TASK_TYPES
    tier: Integers  # in PROMPT_TIERS
    labelled: NDArray[np.bool_]  # an explicit channel; else a reading
    hour: Integers  # of the decision
    counts: Integers  # (rows, 3): n, s, s2 in millionths


def row_of(cell: CellKey) -> tuple[int, int, bool, int] | None:
    """Task, tier, labelled and hour of a cell's row in a table; None where its channel does not stand in tables."""
    if cell.channel not in EXPLICIT_CHANNELS and cell.channel != "reading":
        return None
    return _TASK[cell.task_type], _TIER[cell.tier], cell.channel in EXPLICIT_CHANNELS, cell.hour


def table_of(cells: Mapping[CellKey, Counts]) -> Table:
    """The table of some cells."""
    arms = tuple(sorted({cell.arm for cell in cells}))
    found = [(arms.index(cell.arm), row, counts) for cell, counts in cells.items() if (row := row_of(cell)) is not None]
    columns = np.array([(arm, *row) for arm, row, _ in found], dtype=np.int64).reshape(-1, 5).T
    counts = np.array([counts for _, _, counts in found], dtype=np.int64).reshape(-1, 3)
    return Table(arms, columns[0], columns[1], columns[2], columns[3].astype(bool), columns[4], counts)


def faded(
    table: Table,
    arms: Sequence[str],
    now: float,
    memory: Memory,
    restarts: Sequence[ArmRestart] = (),
    calibration: Calibration = NOTHING_CALIBRATED,
) -> History:
    """What the rows of a table count at `now` (hours since 1970 UTC), for `arms`; rows of other arms are left out.

    Halved every half-life, less after a restart, and capped per arm and task type.
    """
    arms = tuple(arms)
    position = {arm: index for index, arm in enumerate(arms)}
    of_table = np.array([position.get(arm, -1) for arm in table.arms] + [-1], dtype=np.int64)
    arm = of_table[table.arm]
    known, hour = arm >= 0, table.hour.astype(np.float64)
    half_life = _HOURS_PER_DAY * np.where(table.labelled, memory.label_half_life_days, memory.reading_half_life_days)
    weight = np.exp2(-np.maximum(now - hour, 0.0) / half_life)
    for index, name in enumerate(arms):
        if mine := [restart for restart in restarts if restart.arm == name]:
            for task in dict.fromkeys(one.task_type for one in mine):
                some = [one for one in mine if one.task_type == task]
                rows = (arm == index) if task is None else (arm == index) & (table.task == _TASK[task])
                labels = kept(hour, [(one.hour, one.restart.label_keep) for one in some])
                readings = kept(hour, [(one.hour, one.restart.heuristic_keep) for one in some])
                weight = np.where(rows, weight * np.where(table.labelled, labels, readings), weight)

    def sums(rows: NDArray[np.bool_], most: float) -> Sums:
        places = (arm[rows], table.task[rows], table.tier[rows])
        parts = []
        for column in range(3):
            part = np.zeros((len(arms), len(TASK_TYPES), len(PROMPT_TIERS)))
            np.add.at(part, places, weight[rows] * table.counts[rows, column] / MICRO)
            parts.append(part)
        scale = np.minimum(1.0, most / np.maximum(parts[0].sum(axis=2, keepdims=True), 1e-9))
        return Sums(*(part * scale for part in parts))

    factor, shift = np.ones(len(arms)), np.zeros(len(arms))
    for one in restarts:
        if one.arm in position and one.task_type is None:  # the newest event of an arm says how wide its prior is now
            fading = 2.0 ** (-max(now - one.hour, 0.0) / (_HOURS_PER_DAY * memory.label_half_life_days))
            factor[position[one.arm]] = 1.0 + (one.restart.variance_factor - 1.0) * fading
            shift[position[one.arm]] = one.restart.mean_shift * fading
    return History(
        arms, sums(known & table.labelled, memory.most_labels), sums(known & ~table.labelled, np.inf), calibration,
        factor, shift, arrived=frozenset(one.arm for one in restarts if one.restart.new),
    )  # fmt: skip
