"""What the owner asks for, made into a control: what is believed now, what was counted, or what was believed once."""

import math
import re
import time
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from sqlalchemy import Connection, func, select

from bandit.channels import Calibration
from bandit.history import ArmRestart, faded
from bandit.linear import LinearThompson, counted, typical
from bandit.posteriors import Beliefs, Counts, Evidence, Regression
from bandit.vocabulary import CHANNELS, TASK_TYPES, Channel, PromptTier, TaskType
from service.drift.alarms import restarts
from service.errors import NotFound, Unprocessable
from service.experiments import lifecycle
from service.learning.beliefs import decode
from service.learning.calibrations import calibration
from service.learning.contexts import COMMON, FOREVER, dated_labels
from service.learning.controls import Action, ByTier, Control, InForce, Saved, current, insert_control
from service.learning.fitting import fitted, regressed
from service.learning.knowledge import Knowledge
from service.mistakes import suggestion
from service.setup import Setup
from service.storage import store
from service.storage.tables import beliefs, decisions

_DAY_S = 86_400.0
_LOOK_BACK_S = 30 * _DAY_S  # a cell that was not decided on for so long has no estimates to return to
_VERSION = re.compile(r"[0-9a-f]{32}")


class Asked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A control as it is asked for."""

    action: Action
    task_type: TaskType | None = None
    model: str | None = None
    to: Annotated[str, Meta(max_length=100)] = ""  # of a rollback: a version, or a time
    note: Annotated[str, Meta(max_length=1_000)] = ""

    @property
    def task_types(self) -> tuple[TaskType, ...]:
        """The task types that are meant."""
        return TASK_TYPES if self.task_type is None else (self.task_type,)


def check(asked: Asked, setup: Setup, in_force: InForce) -> None:
    """Stop what cannot be meant.

    Raises:
        NotFound: no such model is configured, or held.
        Unprocessable: a rollback without a time, or words that do not go with the action.
    """
    names = {model.name for model in setup.settings.models} | {arm for _, arm in in_force.since}
    if asked.model is not None and asked.model not in names:
        hint = suggestion(asked.model, sorted(names))
        raise NotFound(f"There is no model `{asked.model[:128]}`{hint}.", param="model", code="model_not_found")
    if asked.action == "rollback" and not asked.to:
        raise Unprocessable("A rollback needs `to`: a version, or a time such as 2026-01-31T12:00.", param="to")
    if asked.action != "rollback" and asked.to:
        raise Unprocessable(f"`to` goes with a rollback, not with {asked.action}: leave it out.", param="to")
    if asked.action in ("off", "on") and (asked.task_type or asked.model):
        raise Unprocessable(
            "The kill switch holds for all task types and models: leave `task_type` and `model` out, or freeze them.",
            param="task_type" if asked.task_type else "model",
        )
    if asked.action in ("disable", "enable", "close_breaker"):
        _check_service(asked, setup, in_force)


def _check_service(asked: Asked, setup: Setup, in_force: InForce) -> None:
    """Stop what names no model, or would take all of them out of service."""
    if asked.model is None or asked.task_type is not None:
        raise Unprocessable(
            f"The action `{asked.action}` takes one `model`, and no `task_type`: it holds for all of them.",
            param="model",
        )
    left = setup.models.keys() - in_force.disabled - {asked.model}
    if asked.action == "disable" and not left:
        raise Unprocessable(
            f"`{asked.model}` is the last model in service; enable another one first.", param="model"
        )  # fmt: skip


def believed_now(asked: Asked, setup: Setup, knowledge: Knowledge) -> Saved:
    """What every policy believes of the cells that are meant."""
    wanted = [asked.model] if asked.model is not None else [arm.name for arm in setup.arms]
    found = fitted_now(setup.policies, asked.task_types, wanted, knowledge)
    evidence = {}
    for task in asked.task_types:
        snapshot = knowledge.latest("", task)
        evidence[task] = {arm: snapshot.of(arm) for arm in wanted}
    return msgspec.structs.replace(found, evidence=evidence)


def fitted_now(
    policies: Iterable[str], task_types: Collection[TaskType], wanted: Sequence[str], knowledge: Knowledge
) -> Saved:
    """The last fits of policies, as far as they are of these task types and models."""
    held = _Held(wanted)
    for policy in policies:
        for (task, tier), believed in knowledge.fit("", policy).items():
            if task in task_types:
                held.add(policy, task, tier, believed)
    return held.saved()


class _Held:
    """Gathers estimates and regressions that are to be held; regressions, which are large, once each."""

    def __init__(self, wanted: Sequence[str] | None) -> None:
        self._wanted = wanted  # None: all models
        self.estimates: dict[str, dict[TaskType, ByTier]] = {}
        self.linear: dict[str, dict[TaskType, str]] = {}
        self._regressions: dict[str, dict[str, Regression]] = {}

    def add(self, policy: str, task: TaskType, tier: PromptTier, believed: Beliefs) -> None:
        """Take in what is believed in one cell."""
        wanted = {*believed.estimates, *believed.regressions} if self._wanted is None else set(self._wanted)
        if estimates := {arm: one for arm, one in believed.estimates.items() if arm in wanted}:
            self.estimates.setdefault(policy, {}).setdefault(task, {})[tier] = estimates
        if weights := {arm: one for arm, one in believed.regressions.items() if arm in wanted}:
            self._regressions[believed.version] = weights
            self.linear.setdefault(policy, {})[task] = believed.version

    def saved(self) -> Saved:
        """All that was gathered."""
        used = {version for tasks in self.linear.values() for version in tasks.values()}
        regressions = {version: weights for version, weights in self._regressions.items() if version in used}
        return Saved(estimates=self.estimates, regressions=regressions, linear=self.linear)


def counted_now(connection: Connection, asked: Asked, setup: Setup) -> Saved:
    """What was counted of the cells that are meant: from now on it counts no more."""
    forgotten: dict[TaskType, dict[str, dict[Channel, Counts]]] = {}
    common = ("", *lifecycle.merged(lifecycle.current(connection)))
    for (namespace, arm, task_name, _tier, channel), counts in store.sum_cells(connection).items():
        if namespace not in common:
            continue
        task = next((known for known in asked.task_types if known == task_name), None)
        if task is not None and channel in CHANNELS and asked.model in (None, arm):
            channels = forgotten.setdefault(task, {}).setdefault(arm, {})
            channels[channel] = channels.get(channel, Counts()).plus(counts)
    arms = {arm for of_task in forgotten.values() for arm in of_task} | {model.name for model in setup.settings.models}
    return Saved(forgotten=forgotten, arms=tuple(sorted(arms)) if asked.model is None else (asked.model,))


def moment(connection: Connection, to: str) -> float:
    """The time that a version (when it was first decided on) or a time in words stands for, in seconds since 1970 UTC.

    Raises:
        NotFound: no decision was taken on that version, or it is no longer stored.
        Unprocessable: neither a version nor a time.
    """
    if _VERSION.fullmatch(to):
        first = connection.scalar(select(func.min(decisions.c.created_at)).where(decisions.c.beliefs_version == to))
        if first is None:
            raise NotFound(
                f"The version {to} is not stored; `armwise posterior list` shows those that are.", param="to"
            )
        return float(first)
    try:
        at = float(to)
    except ValueError:
        try:
            said = datetime.fromisoformat(to)
        except ValueError:
            raise Unprocessable(
                f"`to` is {to[:80]!r}; expected a version (32 hexadecimal digits), a time such as 2026-01-31T12:00 "
                "(UTC unless it says otherwise), or seconds since 1970.",
                param="to",
            ) from None
        at = (said if said.tzinfo else said.replace(tzinfo=UTC)).timestamp()
    if not math.isfinite(at):
        raise Unprocessable(f"`to` is {to[:80]!r}; expected a finite number of seconds since 1970.", param="to")
    return float(at)


def believed_at(connection: Connection, asked: Asked, setup: Setup) -> Saved:
    """What the last decisions at or before a time were taken on, for the cells that are meant.

    Raises:
        NotFound: nothing is stored of that time.
        Unprocessable: as `moment`.
    """
    when = moment(connection, asked.to)
    contents = _contents_at(connection, when, asked.task_types)
    held = _Held(None if asked.model is None else (asked.model,))
    evidence: dict[TaskType, dict[str, Evidence]] = {}
    for policy, task, tier, content in contents:
        believed = decode(content)
        if believed.estimates or believed.regressions:
            held.add(policy, task, tier, believed)
        elif not content.startswith("["):
            wanted = {*believed.evidence, *(arm.name for arm in setup.arms)}
            evidence[task] = {arm: believed.of(arm) for arm in sorted(wanted) if asked.model in (None, arm)}
    saved = held.saved()
    if not saved.estimates and not saved.linear and not evidence:
        raise NotFound(
            f"No decision up to {shown(when)} is stored for these task types, so there is nothing to return to; "
            "`armwise posterior list` shows the versions that are.",
            param="to",
        )
    return msgspec.structs.replace(saved, evidence=evidence, to=asked.to)


def _contents_at(
    connection: Connection, when: float, task_types: Iterable[TaskType]
) -> list[tuple[str, TaskType, PromptTier, str]]:
    """Policy, task type, tier and content of the last decision of each at or before `when`; older ones first."""
    columns = (decisions.c.policy, decisions.c.task_type, decisions.c.tier)
    last = (
        select(*columns, func.max(decisions.c.created_at).label("at"))
        .where(decisions.c.namespace == "", decisions.c.method == "auto")
        .where(decisions.c.created_at <= when, decisions.c.created_at > when - _LOOK_BACK_S)
        .where(decisions.c.task_type.in_(list(task_types)))
        .group_by(*columns)
        .subquery()
    )
    same = (
        (decisions.c.policy == last.c.policy)
        & (decisions.c.task_type == last.c.task_type)
        & (decisions.c.tier == last.c.tier)
        & (decisions.c.created_at == last.c.at)
    )
    found = (
        select(*columns, beliefs.c.content)
        .select_from(decisions)
        .join(last, same)
        .join(beliefs, beliefs.c.version == decisions.c.beliefs_version)
        .order_by(decisions.c.created_at, decisions.c.id)
    )
    return [(policy, task, tier, content) for policy, task, tier, content in connection.execute(found)]


def versions(
    connection: Connection, since: float, limit: int, task_type: TaskType | None = None
) -> list[dict[str, Any]]:
    """What decisions since a time were taken on, newest first: version, policy, cell, first use and how many."""
    columns = (decisions.c.beliefs_version, decisions.c.policy, decisions.c.task_type, decisions.c.tier)
    first = func.min(decisions.c.created_at).label("first_at")
    statement = (
        select(*columns, first, func.count().label("decisions"))
        .where(decisions.c.created_at > since, decisions.c.method == "auto")
        .group_by(*columns)
        .order_by(first.desc())
        .limit(limit)
    )
    if task_type is not None:
        statement = statement.where(decisions.c.task_type == task_type)
    return [{str(name): value for name, value in row.items()} for row in connection.execute(statement).mappings()]


def shown(at: float) -> str:
    """A time as people read it."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at))
    except (OverflowError, OSError, ValueError):
        return f"{at:g} s"


def knowledge_of(connection: Connection, setup: Setup, now: float) -> Knowledge:
    """What a service on this database believes now, worked out from the counts; for the command line."""
    knowledge = Knowledge()
    knowledge.load(store.cells_from_hour(connection, 0))
    merged = lifecycle.merged(lifecycle.current(connection))
    knowledge.listen(merged)
    knowledge.control(current(connection))
    changes: tuple[ArmRestart, ...] = knowledge.controls.restarts(restarts(connection))
    known: Calibration = calibration(connection)
    names, memory = [arm.name for arm in setup.arms], setup.settings.learning.memory
    history = faded(knowledge.ledger.table(""), names, now / 3600.0, memory, changes, known)
    for policy in setup.policies.values():
        if isinstance(policy, LinearThompson):
            heard = (*COMMON, *((namespace, FOREVER) for namespace in merged))
            labelled = dated_labels(connection, now, memory.label_half_life_days, heard).labelled
            knowledge.typical = typical(labelled)
            weigh = partial(counted, labelled, names, now / 3600.0, memory, changes)
            knowledge.take_fit("", policy.name, regressed(policy, setup.arms, labelled, weigh, history))
        elif policy.fits:
            knowledge.take_fit("", policy.name, fitted(policy, setup.arms, history))
    return knowledge


def store_control(connection: Connection, asked: Asked, saved: Saved, who: str, at: float) -> Control:
    """Add the row. A reset's counts must be read in the same transaction."""
    row = Control(
        at=at,
        action=asked.action,
        task_type=asked.task_type,
        arm=asked.model,
        who=who[:128],
        note=asked.note,
        content=msgspec.json.encode(saved).decode(),
    )
    return insert_control(connection, row)


def reset(connection: Connection, asked: Asked, setup: Setup, who: str, at: float) -> Control:
    """Add the row of a reset: what is counted at this moment no longer counts."""
    return store_control(connection, asked, counted_now(connection, asked, setup), who, at)


def held_cells(in_force: InForce) -> list[dict[str, Any]]:
    """Cells that stay as they are, and since when."""
    return [
        {"task_type": task, "model": arm, "action": row.action, "at": row.at, "control": row.id}
        for (task, arm), row in sorted(in_force.since.items())
    ]
