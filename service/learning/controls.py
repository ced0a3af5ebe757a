"""What the owner switched: learning held as it is, forgotten or rolled back, and the kill switch. Rows are only added.

What is in force is a fold of all rows in their order, so it is the same on every replica and after every restart.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
import numpy as np
from sqlalchemy import Connection, func, insert, select

from bandit.drift import Restart
from bandit.history import ArmRestart, Cell
from bandit.linear import MOST_DIMS, PLAIN
from bandit.posteriors import Counts, Estimate, Evidence, Regression, evidence_from
from bandit.vocabulary import PROMPT_TIERS, TASK_TYPES, Channel, PromptTier, TaskType
from service.drift.alarms import restart_hour
from service.storage.tables import controls

log = logging.getLogger("armwise")

Action = Literal["freeze", "unfreeze", "reset", "rollback", "off", "on", "disable", "enable", "close_breaker"]

FORGET = Restart(label_keep=0.0, heuristic_keep=0.0)

_MOST = 100.0  # of a mean or a standard deviation of quality, however rough
_MOST_LABELS = 1e15
_HALF = "<f2"  # what a regression's factor is stored in

ByTier = dict[PromptTier, dict[str, Estimate]]


class Saved(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a control was made of, so that nothing else is needed to apply it."""

    estimates: dict[str, dict[TaskType, ByTier]] = {}  # held ones: policy, task type, tier, arm
    evidence: dict[TaskType, dict[str, Evidence]] = {}  # held: task type, arm
    regressions: dict[str, dict[str, Regression]] = {}  # held: version, arm
    linear: dict[str, dict[TaskType, str]] = {}  # policy, task type: the version of the regressions that are held
    forgotten: dict[TaskType, dict[str, dict[Channel, Counts]]] = {}  # what was counted when it was reset
    arms: tuple[str, ...] = ()  # that were reset
    to: str = ""  # what was rolled back to, as it was asked for


class Control(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the audit log."""

    id: int = 0  # in the order in which they were done; the database gives it
    at: float  # seconds since 1970-01-01 UTC
    action: Action
    task_type: TaskType | None = None  # None: all
    arm: str | None = None  # None: all
    who: str = ""
    note: str = ""
    content: str = "{}"  # Saved as JSON

    def meets(self, task_type: str, arm: str) -> bool:
        """Whether it is about this cell."""
        return self.task_type in (None, task_type) and self.arm in (None, arm)


class InForce(msgspec.Struct, frozen=True, kw_only=True):
    """What all controls together mean now."""

    mark: tuple[int, int] = (0, 0)  # how many rows it was made of, and the last one
    off: Control | None = None  # the kill switch
    disabled: frozenset[str] = frozenset()  # models that are out of service
    breakers_closed: Mapping[str, int] = {}  # model to the last control that closed its breaker
    estimates: Mapping[tuple[str, Cell], Mapping[str, Estimate]] = {}  # held ones, by policy and cell
    evidence: Mapping[str, Mapping[str, Evidence]] = {}  # held, by task type
    regressions: Mapping[tuple[str, TaskType], Mapping[str, Regression]] = {}  # held, by policy and task type
    forgotten: Mapping[str, Mapping[str, Mapping[Channel, Counts]]] = {}
    resets: tuple[ArmRestart, ...] = ()
    since: Mapping[tuple[TaskType, str], Control] = {}  # held cells, and what holds them
    unreadable: int = 0  # rows that could not be read, and are passed over

    def restarts(self, found: Sequence[ArmRestart]) -> tuple[ArmRestart, ...]:
        """Changes of models, and what the owner reset, oldest first."""
        return tuple(sorted([*found, *self.resets], key=lambda one: one.hour))

    def held_cells(self, policy: str) -> set[Cell]:
        """Cells of a policy in which something is held."""
        tasks = {task for name, task in self.regressions if name == policy}
        return {cell for name, cell in self.estimates if name == policy} | {
            (task, tier) for task in tasks for tier in PROMPT_TIERS
        }

    def held_in(self, policy: str, cell: Cell) -> Mapping[str, Estimate]:
        """Held estimates of one cell of a policy."""
        return self.estimates.get((policy, cell), {})

    def evidence_of(self, task_type: str, found: Mapping[str, Mapping[Channel, Counts]]) -> dict[str, Evidence]:
        """What counts of all that was measured on a task type: less what was reset, and what is held as it was held."""
        held = self.evidence.get(task_type, {})
        counted = self.remembered(task_type, found)
        return {arm: evidence_from(counts) for arm, counts in counted.items()} | dict(held)

    def remembered(
        self, task_type: str, found: Mapping[str, Mapping[Channel, Counts]]
    ) -> dict[str, Mapping[Channel, Counts]]:
        """All that was measured on a task type, less what was reset."""
        forgotten = self.forgotten.get(task_type, {})
        return {arm: _less(counts, forgotten[arm]) if arm in forgotten else counts for arm, counts in found.items()}


def _less(found: Mapping[Channel, Counts], forgotten: Mapping[Channel, Counts]) -> dict[Channel, Counts]:
    """Counts since a reset. A rating from before that was corrected since must not make them less than nothing."""
    less = {channel: counts.minus(forgotten.get(channel, Counts())) for channel, counts in found.items()}
    return {
        channel: Counts(one.n, min(max(one.s, 0), one.n), min(max(one.s2, 0), one.n))
        for channel, one in less.items()
        if one.n > 0
    }


def fold(rows: Sequence[Control], mark: tuple[int, int] = (0, 0)) -> InForce:
    """What rows, in their order, mean together. A row that cannot be read is passed over, and counted."""
    state, unreadable = _State(), 0
    for row in rows:
        try:
            saved = _read(row)
        except (msgspec.MsgspecError, ValueError):
            log.exception("the control %s (%s) cannot be read and is passed over", row.id, row.action)
            unreadable += 1
        else:
            state.add(row, saved)
    return InForce(
        mark=mark,
        off=state.off,
        disabled=frozenset(state.disabled),
        breakers_closed=state.breakers_closed,
        estimates=state.estimates,
        evidence=state.evidence,
        regressions=state.regressions,
        forgotten=state.forgotten,
        resets=tuple(state.resets),
        since=state.since,
        unreadable=unreadable,
    )


def _read(row: Control) -> Saved:
    """What a row saved.

    Raises:
        ValueError: it is none, or its numbers can be no quality.
    """
    saved = msgspec.json.decode(row.content, type=Saved)
    for tiers in (tiers for tasks in saved.estimates.values() for tiers in tasks.values()):
        for arm, one in ((arm, one) for by_arm in tiers.values() for arm, one in by_arm.items()):
            if not (abs(one.mean) <= _MOST and 0.0 <= one.sd <= _MOST):
                raise ValueError(f"found {one} for {arm}, expected a quality near 0 to 1")
    for arm, seen in ((arm, seen) for of_task in saved.evidence.values() for arm, seen in of_task.items()):
        if not all(abs(number) <= _MOST_LABELS for number in msgspec.structs.astuple(seen)):
            raise ValueError(f"found {seen} for {arm}, expected at most {_MOST_LABELS:g} labels")
    for by_arm in saved.regressions.values():
        for arm, regression in by_arm.items():
            if not _sound(regression):
                raise ValueError(f"found weights for {arm} that are no regression's, expected {PLAIN} or more numbers")
    if missing := {key for tasks in saved.linear.values() for key in tasks.values()} - saved.regressions.keys():
        raise ValueError(f"found no regressions of the versions {sorted(missing)}")
    return saved


def _sound(regression: Regression) -> bool:
    size = len(regression.mean)
    if not PLAIN <= size <= PLAIN + MOST_DIMS or len(regression.factor) != size * (size + 1):
        return False
    if len(regression.output_tokens) not in (0, len(TASK_TYPES)) or len(regression.late) not in (0, len(TASK_TYPES)):
        return False
    return all(abs(weight) <= _MOST for weight in regression.mean) and bool(
        np.isfinite(np.frombuffer(regression.factor, dtype=_HALF)).all()
    )


class _State:
    """What the rows so far mean."""

    def __init__(self) -> None:
        self.off: Control | None = None
        self.disabled: set[str] = set()
        self.breakers_closed: dict[str, int] = {}
        self.estimates: dict[tuple[str, Cell], dict[str, Estimate]] = {}
        self.evidence: dict[str, dict[str, Evidence]] = {}
        self.regressions: dict[tuple[str, TaskType], dict[str, Regression]] = {}
        self.forgotten: dict[str, dict[str, dict[Channel, Counts]]] = {}
        self.since: dict[tuple[TaskType, str], Control] = {}
        self.resets: list[ArmRestart] = []

    def add(self, row: Control, saved: Saved) -> None:
        """One row more."""
        match row.action:
            case "off" | "on":
                self.off = row if row.action == "off" else None
            case "disable" | "enable" if row.arm is not None:
                (self.disabled.add if row.action == "disable" else self.disabled.discard)(row.arm)
            case "close_breaker" if row.arm is not None:
                self.breakers_closed[row.arm] = row.id
            case "unfreeze":
                self._release(row)
            case "reset":
                for task, known in saved.forgotten.items():
                    self.forgotten.setdefault(task, {}).update(known)
                self.resets += [ArmRestart(arm, restart_hour(row.at), FORGET, row.task_type) for arm in saved.arms]
            case "freeze" | "rollback":
                self._hold(row, saved)

    def _hold(self, row: Control, saved: Saved) -> None:
        for policy, tasks in saved.estimates.items():
            for task, tiers in tasks.items():
                for tier, by_arm in tiers.items():
                    self.estimates.setdefault((policy, (task, tier)), {}).update(by_arm)
                    self.since |= {(task, arm): row for arm in by_arm}
        for task, of_task in saved.evidence.items():
            self.evidence.setdefault(task, {}).update(of_task)
            self.since |= {(task, arm): row for arm in of_task}

        for policy, versions in saved.linear.items():
            for task, key in versions.items():
                self.regressions.setdefault((policy, task), {}).update(saved.regressions[key])
                self.since |= {(task, arm): row for arm in saved.regressions[key]}

    def _release(self, row: Control) -> None:
        self.since = {cell: held for cell, held in self.since.items() if not row.meets(*cell)}
        for (policy, cell), by_arm in list(self.estimates.items()):
            self.estimates[policy, cell] = {arm: one for arm, one in by_arm.items() if not row.meets(cell[0], arm)}
            if not self.estimates[policy, cell]:
                del self.estimates[policy, cell]
        for (policy, task), weights in list(self.regressions.items()):
            self.regressions[policy, task] = {arm: one for arm, one in weights.items() if not row.meets(task, arm)}
            if not self.regressions[policy, task]:
                del self.regressions[policy, task]
        for task_name, of_task in self.evidence.items():
            self.evidence[task_name] = {arm: one for arm, one in of_task.items() if not row.meets(task_name, arm)}


def newer(connection: Connection, mark: tuple[int, int]) -> tuple[list[Control], tuple[int, int]] | None:
    """All rows and their mark; None when none was added since `mark`."""
    count, last = connection.execute(select(func.count(), func.max(controls.c.id))).one()
    if (count, last or 0) == mark:
        return None
    return list_controls(connection), (count, last or 0)


def current(connection: Connection) -> InForce:
    """What is in force in the database."""
    found = newer(connection, (0, 0))
    return InForce() if found is None else fold(*found)


def insert_control(connection: Connection, control: Control) -> Control:
    """Store a control; returns it with its number."""
    row = msgspec.structs.asdict(control)
    del row["id"]
    number = connection.execute(insert(controls).values(row).returning(controls.c.id)).scalar_one()
    return msgspec.structs.replace(control, id=number)


def list_controls(connection: Connection) -> list[Control]:
    """All controls, oldest first. A row whose action this version does not know is left out."""
    found = connection.execute(select(controls).order_by(controls.c.id)).mappings()
    rows = []
    for row in found:
        try:
            rows.append(msgspec.convert({str(name): value for name, value in row.items()}, Control))
        except msgspec.ValidationError:
            log.exception("the control %s cannot be read and is passed over", row["id"])
    return rows


def public(control: Control) -> dict[str, Any]:
    """A control as the owner reads it: without what it saved, and the arm is called model."""
    told = {("model" if name == "arm" else name): value for name, value in msgspec.structs.asdict(control).items()}
    del told["content"]
    return told
