"""The life of an experiment: created, running, paused, stopped, decided, archived. Its steps are the audit log.

Where an experiment stands is a fold of its steps, so it is the same on every replica and after every restart. A step is
checked against all steps before it, and its number is one more than the last: of two that are taken at once, one meets
the other's number, and its transaction is repeated on what the other left.
"""

import logging
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
from msgspec.structs import replace
from sqlalchemy import Connection, func, insert, select

from service.errors import Conflict, NotFound, Unprocessable
from service.experiments.design import Design, Note, namespace_of
from service.experiments.seeds import plant
from service.mistakes import suggestion
from service.storage.tables import experiment_steps

log = logging.getLogger("armwise")

NextAction = Literal["start", "pause", "stop", "decide", "archive"]
Action = Literal["create"] | NextAction
State = Literal["created", "running", "paused", "stopped", "decided", "archived"]
Learning = Literal["merge", "drop"]

# From which state a step leads to which.
STEPS: Mapping[Action, Mapping[State, State]] = {
    "create": {},
    "start": {"created": "running", "paused": "running"},
    "pause": {"running": "paused"},
    "stop": {"running": "stopped", "paused": "stopped"},
    "decide": {"stopped": "decided"},
    "archive": {"created": "archived", "stopped": "archived", "decided": "archived"},
}


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the audit log."""

    id: int
    at: float  # seconds since 1970-01-01 UTC
    experiment: str
    action: Action
    who: str = ""  # id of an API key, or a person at the command line
    note: str = ""
    content: str = "{}"  # Made, Begun or Decided as JSON; nothing for other actions


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of `create`."""

    design: Design
    salt: str


class Begun(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is kept of the first `start`, for the mode `frozen`: what policies believed then."""

    contents: dict[str, str] = {}  # beliefs by version
    fits: dict[str, dict[str, str]] = {}  # policy, "task type|tier": version
    evidence: dict[str, str] = {}  # task type: version


class Decided(msgspec.Struct, frozen=True, kw_only=True):
    """What the owner decided."""

    ship: str = ""  # the variant whose policy serves from now on; empty: nothing changes
    learning: Learning = "merge"  # what becomes of what the variants learned in posteriors of their own


class Asked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A step as it is asked for."""

    action: NextAction
    note: Note = ""
    ship: str = ""  # with `decide`: a variant; empty: nothing changes
    learning: Learning | None = None  # with `decide`, of posteriors of its own; left out: merge


class Experiment(msgspec.Struct, frozen=True, kw_only=True):
    """An experiment as it stands."""

    design: Design
    salt: str
    state: State = "created"
    created_at: float
    started_at: float | None = None  # for the first time
    stopped_at: float | None = None
    paused_at: float | None = None  # while it is paused
    paused_s: float = 0.0  # seconds of the pauses that are over
    begun: Begun = Begun()
    decided: Decided | None = None
    decided_at: float | None = None

    @property
    def name(self) -> str:
        """Its name."""
        return self.design.name

    def ran_s(self, now: float) -> float:
        """Seconds that it ran, without its pauses; it ends when it is stopped."""
        if self.started_at is None:
            return 0.0
        ends = [at for at in (self.paused_at, self.stopped_at, now) if at is not None]
        return max(min(ends) - self.started_at - self.paused_s, 0.0)

    @property
    def standing(self) -> bool:
        """Whether it holds its population: it runs, or may run on."""
        return self.state in ("running", "paused")


def fold(steps: Sequence[Step]) -> tuple[dict[str, Experiment], int]:
    """All experiments after these steps, by name, and how many steps could not be read and were passed over."""
    found: dict[str, Experiment] = {}
    unreadable = 0
    for step in steps:
        try:
            found[step.experiment] = _after(found.get(step.experiment), step)
        except (msgspec.MsgspecError, ValueError, KeyError):
            log.exception(
                "the step %s (%s of %s) cannot be read and is passed over", step.id, step.action, step.experiment
            )
            unreadable += 1
    return found, unreadable


def _after(one: Experiment | None, step: Step) -> Experiment:
    """An experiment after one more step.

    Raises:
        ValueError: the step cannot follow, or its content is none.
        KeyError: likewise, from this state.
    """
    if step.action == "create":
        if one is not None:
            raise ValueError(f"the experiment {step.experiment} exists already")
        made = msgspec.json.decode(step.content, type=Made)
        return Experiment(design=made.design, salt=made.salt, created_at=step.at)
    if one is None:
        raise ValueError(f"no experiment {step.experiment} was created")
    paused_s = one.paused_s if one.paused_at is None else one.paused_s + max(step.at - one.paused_at, 0.0)
    after = replace(one, state=STEPS[step.action][one.state], paused_at=None, paused_s=paused_s)
    match step.action:
        case "pause":
            return replace(after, paused_at=step.at)
        case "start" if one.started_at is None:
            return replace(after, started_at=step.at, begun=msgspec.json.decode(step.content, type=Begun))
        case "stop":
            return replace(after, stopped_at=step.at)
        case "decide":
            decided = msgspec.json.decode(step.content, type=Decided)
            if decided.ship and decided.ship not in {variant.name for variant in one.design.variants}:
                raise ValueError(f"found the variant {decided.ship}, expected one of the design's")
            return replace(after, decided=decided, decided_at=step.at)
    return after


def newer(connection: Connection, mark: int) -> list[Step] | None:
    """All steps; None when none was added after the one numbered `mark`."""
    if (connection.scalar(select(func.max(experiment_steps.c.id))) or 0) == mark:
        return None
    return list_steps(connection)


def list_steps(connection: Connection, experiment: str | None = None) -> list[Step]:
    """All steps, or those of one experiment, oldest first. One that this version does not know is left out."""
    wanted = select(experiment_steps).order_by(experiment_steps.c.id)
    if experiment is not None:
        wanted = wanted.where(experiment_steps.c.experiment == experiment)
    steps = []
    for row in connection.execute(wanted).mappings():
        try:
            steps.append(msgspec.convert({str(name): value for name, value in row.items()}, Step))
        except msgspec.ValidationError:
            log.exception("the step %s of an experiment cannot be read and is passed over", row["id"])
    return steps


def current(connection: Connection) -> dict[str, Experiment]:
    """All experiments as they stand in the database."""
    return fold(list_steps(connection))[0]


def named(experiments: Mapping[str, Experiment], name: str) -> Experiment:
    """The experiment of that name.

    Raises:
        NotFound: there is none.
    """
    if name not in experiments:
        raise NotFound(f"There is no experiment `{name[:64]}`{suggestion(name, experiments)}.", code="not_found")
    return experiments[name]


def create(connection: Connection, design: Design, who: str, at: float) -> Step:
    """Write a new experiment down. Its design must have been checked.

    Raises:
        Conflict: there is one of that name, or was: what was measured is found by it.
    """
    number = _next_number(connection)
    used = select(func.count()).where(experiment_steps.c.experiment == design.name)
    if connection.scalar(used):  # also by one that cannot be read
        raise Conflict(
            f"There is an experiment `{design.name}` already, and names are not used twice: choose another one.",
            param="name",
        )
    made = Made(design=design, salt=design.salt or secrets.token_hex(16))
    content = msgspec.json.encode(made).decode()
    step = Step(
        id=number, at=at, experiment=design.name, action="create", who=who[:128], note=design.note, content=content
    )
    return _add(connection, step)


def take(connection: Connection, name: str, asked: Asked, begun: Begun, who: str, at: float) -> Step:
    """Take an experiment one step on.

    `begun` is kept when it starts for the first time. Posteriors of its own are given what is known at that moment.

    Raises:
        NotFound: no such experiment, or no such variant to ship.
        Conflict: it stands where this cannot be done, or another one holds the same requests.
        Unprocessable: words that do not go with the action.
    """
    number = _next_number(connection)
    experiments = current(connection)
    one = named(experiments, name)
    check(one, asked)
    content: Begun | Decided | None = None
    if asked.action == "start":
        _refuse_overlap(one, experiments)
        if one.started_at is None:
            content = begun
            if one.design.mode == "own":
                plant(connection, name, merged(experiments), at)
    elif asked.action == "decide":
        content = Decided(ship=asked.ship, learning=asked.learning or "merge")
    told = "{}" if content is None else msgspec.json.encode(content).decode()
    step = Step(id=number, at=at, experiment=name, action=asked.action, who=who[:128], note=asked.note, content=told)
    return _add(connection, step)


def step(
    connection: Connection,
    name: str,
    action: Literal["pause", "stop", "archive"],
    who: str,
    at: float,
    *,
    note: str = "",
) -> Step:
    """Take an experiment one step on that needs no more than its name; as `take`."""
    return take(connection, name, Asked(action=action, note=note), Begun(), who, at)


def check(one: Experiment, asked: Asked) -> None:
    """Stop a step that cannot follow.

    Raises:
        NotFound: no such variant to ship.
        Conflict: the experiment stands where this cannot be done.
        Unprocessable: words that do not go with the action.
    """
    if asked.action != "decide" and (asked.ship or asked.learning):
        raise Unprocessable(
            f"`ship` and `learning` go with `decide`, not with `{asked.action}`: leave them out.",
            param="ship" if asked.ship else "learning",
        )
    if one.state not in STEPS[asked.action]:
        raise Conflict(_cannot(one, asked.action), param="action")
    if asked.ship:
        one.design.variant(asked.ship)
    if asked.learning and one.design.mode != "own":
        raise Unprocessable(
            f"The variants of `{one.name}` taught the common posterior (mode {one.design.mode}): there is nothing to "
            f"{asked.learning}. Leave `learning` out.",
            param="learning",
        )


def merged(experiments: Mapping[str, Experiment], before: float = float("inf")) -> tuple[str, ...]:
    """Namespaces that the common posterior listens to: of experiments whose learning was kept, decided `before`."""
    return tuple(
        namespace_of(one.design, variant)
        for one in experiments.values()
        if one.design.mode == "own" and one.decided is not None and one.decided.learning == "merge"
        if (one.decided_at or 0.0) < before
        for variant in one.design.variants
    )


def _cannot(one: Experiment, action: Action) -> str:
    """Why a step cannot be taken, and what can."""
    possible = [other for other, states in STEPS.items() if one.state in states]
    expected = " or ".join(STEPS[action])
    hint = f"; now it can: {', '.join(possible)}" if possible else ", which is the end"
    return f"`{action}` needs an experiment that is {expected}, but `{one.name}` is {one.state}{hint}."


def _refuse_overlap(one: Experiment, experiments: Mapping[str, Experiment]) -> None:
    for other in experiments.values():
        if other.name != one.name and other.standing and one.design.population.meets(other.design.population):
            raise Conflict(
                f"`{one.name}` and `{other.name}`, which is {other.state}, would both hold the same requests. Stop "
                "it, or give them populations that keep them apart: other task types, or another value of one tag.",
                param="population",
            )


def _next_number(connection: Connection) -> int:
    """The number of the next step. Taken before what it is decided on is read: who comes between takes it too."""
    return (connection.scalar(select(func.max(experiment_steps.c.id))) or 0) + 1


def _add(connection: Connection, step: Step) -> Step:
    """Write a step down.

    Raises:
        IntegrityError: another process took a step at the same moment; the transaction must be repeated.
    """
    connection.execute(insert(experiment_steps), [msgspec.structs.asdict(step)])
    return step


def public(one: Experiment) -> dict[str, Any]:
    """An experiment as people read it: without its salt, which the digests of its units hang on."""
    decided = None if one.decided is None else {**msgspec.to_builtins(one.decided), "at": one.decided_at}
    return {
        **{name: value for name, value in msgspec.to_builtins(one.design).items() if name != "salt"},
        "control": one.design.control_name,
        "state": one.state,
        "created_at": one.created_at,
        "started_at": one.started_at,
        "stopped_at": one.stopped_at,
        "decided": decided,
    }


def told(done: Step, one: Experiment, default_policy: str) -> str:
    """What a step did, in a sentence. `one` is the experiment after it."""
    if done.action == "archive":
        shipped = one.decided is not None and one.decided.ship and one.design.variant(one.decided.ship).policy
        if shipped and shipped != default_policy:
            return (
                f"`{one.name}` is archived, and what it shipped ends: {default_policy}, the policy of the settings, "
                f"serves, not {shipped}. Set routing.policy to {shipped} if it is to stay."
            )
        return f"`{one.name}` is archived."
    if done.action == "decide" and one.decided is not None:
        kept = {
            "merge": " What its variants learned counts in common.",
            "drop": " What its variants learned is dropped.",
        }
        learning = kept[one.decided.learning] if one.design.mode == "own" else ""
        if not one.decided.ship:
            return f"`{one.name}` is decided: the policy of the settings goes on.{learning}"
        policy = one.design.variant(one.decided.ship).policy
        return (
            f"`{one.name}` is decided: {policy} serves its population from now on.{learning} Set routing.policy to it "
            "before you archive the experiment."
        )
    words = {
        "create": "is created. Nobody is in it before it is started.",
        "start": f"runs: units are {one.design.unit}s, posteriors are {one.design.mode}.",
        "pause": "is paused: the policy of the settings serves. It keeps its population and may be started again.",
        "stop": "is stopped: the policy of the settings serves. Decide it when the report is complete.",
    }
    return f"`{one.name}` {words[done.action]}"


def public_step(row: Step) -> dict[str, Any]:
    """A step as people read it: without what it kept for machines."""
    told = msgspec.structs.asdict(row)
    del told["content"]
    return told
