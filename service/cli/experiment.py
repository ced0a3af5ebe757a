"""`armwise experiment`: make experiments between policies, and take them from step to step."""

import getpass
import os
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bandit.vocabulary import TASK_TYPES
from service.cli.options import config_option, echo_json, json_option, note_option, seconds
from service.terminal import show as show_lines
from service.terminal import table

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from service.experiments.lifecycle import Asked, Begun, Experiment, NextAction, Step
    from service.setup import Setup

_NUMBER = r"[0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?"
_TRIES = 4  # of a step that meets another process's


@click.group()
def experiment() -> None:
    """Compare policies on real traffic: make experiments, start, pause, stop, decide and archive them."""


@experiment.command("create")
@config_option
@click.argument("name")
@click.option(
    "--variant", "variants", multiple=True, required=True, metavar="NAME=POLICY:SHARE",
    help="A side, such as control=thompson:0.5; at least two. The first is the control.",
)  # fmt: skip
@click.option("--control", default="", metavar="VARIANT", help="What the others are held against. Default: the first.")
@click.option(
    "--unit", type=click.Choice(["user", "session", "key", "request"]), default="user", show_default=True,
    help="Who keeps to one side.",
)  # fmt: skip
@click.option("--primary", default="quality", show_default=True, help="Metric that decides.")
@click.option("--direction", type=click.Choice(["up", "down"]), default="up", show_default=True, help="Better is.")
@click.option("--margin", type=float, default=0.0, show_default=True, help="A variant is better by more than this.")
@click.option(
    "--guardrail", "guardrails", multiple=True, metavar="METRIC:LIMIT[:up|down][:largest=X][:usual=X]",
    help="What must not get worse by more than the limit, such as failure:0.01. Where it is no share, say the largest "
    "value that counts (1) and the usual one (0), such as cost_usd:0.001:largest=0.05:usual=0.004.",
)  # fmt: skip
@click.option("--minimum", callback=seconds, default="7d", show_default=True, help="It is not shipped before.")
@click.option("--maximum", callback=seconds, default="28d", show_default=True, help="It is stopped then.")
@click.option("--window", callback=seconds, default="3d", show_default=True, help="How long a unit's outcomes count.")
@click.option("--grace", callback=seconds, default="10m", show_default=True, help="And then waits for what still runs.")
@click.option("--late-after", type=float, default=10.0, show_default=True, help="Seconds; a slower reply is `late`.")
@click.option("--horizon", type=int, default=5_000, show_default=True, help="Units planned per variant.")
@click.option("--task", "tasks", multiple=True, type=click.Choice(TASK_TYPES), help="Only these task types.")
@click.option("--tag", "tags", multiple=True, metavar="NAME=VALUE", help="Only requests with these tags.")
@click.option(
    "--mode", type=click.Choice(["own", "shared", "frozen"]), default="own", show_default=True,
    help="Whose posteriors the sides decide on: their own, everybody's, or those of the start, held.",
)  # fmt: skip
@click.option("--salt", default="", help="Where units fall. Default: drawn.")
@note_option
def create_experiment(config: Path | None, name: str, **said: Any) -> None:
    """Make an experiment. Nobody is in it before it is started."""
    import msgspec

    from service.errors import Unprocessable
    from service.experiments.design import Design, check
    from service.experiments.lifecycle import create

    try:
        design = msgspec.convert(_design(name, **said), Design)
    except msgspec.ValidationError as error:
        raise Unprocessable(f"This is no experiment: {error}") from None
    setup = _setup(config)
    check(design, setup)
    _tell(config, _written(config, lambda connection: create(connection, design, _who(), time.time())), setup)


def _design(name: str, **said: Any) -> dict[str, Any]:
    """The design in plain values."""
    return {
        "name": name,
        "variants": [_variant(one) for one in said["variants"]],
        "control": said["control"],
        "unit": said["unit"],
        "primary": {"name": said["primary"], "direction": said["direction"], "margin": said["margin"]},
        "guardrails": [_guardrail(one) for one in said["guardrails"]],
        "minimum_s": said["minimum"],
        "maximum_s": said["maximum"],
        "window_s": said["window"],
        "grace_s": said["grace"],
        "late_after_s": said["late_after"],
        "horizon": said["horizon"],
        "population": {"task_types": list(said["tasks"]), "tags": _tags(said["tags"])},
        "mode": said["mode"],
        "salt": said["salt"],
        "note": said["note"],
    }


def _variant(said: str) -> dict[str, Any]:
    found = re.fullmatch(rf"([^=]+)=(.+):({_NUMBER})", said)
    if not found:
        raise click.BadParameter(f"{said!r}: expected NAME=POLICY:SHARE, such as control=thompson:0.5.")
    return {"name": found[1], "policy": found[2], "share": float(found[3])}


def _guardrail(said: str) -> dict[str, Any]:
    found = re.fullmatch(rf"([^:]+):({_NUMBER})((?::(?:up|down|largest={_NUMBER}|usual={_NUMBER}))*)", said)
    if not found:
        raise click.BadParameter(
            f"{said!r}: expected METRIC:LIMIT[:up|down][:largest=X][:usual=X], such as failure:0.01."
        )
    plan: dict[str, Any] = {"metric": found[1], "limit": float(found[2])}
    for part in found[3].split(":")[1:]:
        name, equals, value = part.partition("=")
        plan |= {name: float(value)} if equals else {"direction": part}
    return plan


def _tags(said: Sequence[str]) -> dict[str, str]:
    tags: dict[str, str] = {}
    for one in said:
        name, equals, value = one.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{one!r}: expected NAME=VALUE, such as team=search.")
        if tags.setdefault(name, value) != value:
            raise click.BadParameter(f"{one!r}: expected one value of {name}; a request has no two.")
    return tags


@experiment.command("list")
@config_option
@json_option
def list_experiments(config: Path | None, as_json: bool) -> None:  # noqa: FBT001 - a flag of the command line
    """List all experiments and where they stand."""
    from service.cli.main import with_database
    from service.experiments.lifecycle import current, public

    found = sorted(with_database(config, current).values(), key=lambda one: (-one.created_at, one.name))
    if as_json:
        echo_json([public(one) for one in found])
        return
    rows = []
    for one in found:
        sides = ", ".join(f"{side.name}: {side.policy} ({side.share:g})" for side in one.design.variants)
        rows.append((one.name, one.state, one.design.mode, f"by {one.design.unit}", sides))
    show_lines(table(rows))
    if not found:
        click.echo("There is no experiment. Make one with `armwise experiment create`.")


@experiment.command()
@config_option
@click.argument("name")
@json_option
def show(config: Path | None, name: str, as_json: bool) -> None:  # noqa: FBT001 - a flag of the command line
    """Show one experiment, and every step that was taken with it."""
    from service.cli.main import with_database
    from service.experiments.lifecycle import current, list_steps, named, public, public_step
    from service.learning.control_actions import shown

    one = named(with_database(config, current), name)
    steps = with_database(config, lambda connection: list_steps(connection, name))
    if as_json:
        echo_json({**public(one), "log": [public_step(step) for step in steps]})
        return
    design = one.design
    head = f"{one.name} is {one.state}; by {design.unit}, posteriors {design.mode}, primary {design.primary.name}"
    sides = [
        ("", side.name, side.policy, f"{side.share:g}", "(control)" if side.name == design.control_name else "")
        for side in design.variants
    ]
    show_lines([head, *table(sides)])
    show_lines(
        table(
            [(shown(step.at), step.action, f"by {step.who or 'nobody'}", " ".join(step.note.split())) for step in steps]
        )
    )


def _step_command(action: "NextAction", told: str) -> None:
    """Add the command of a step that needs no more than a name."""

    @experiment.command(action, help=told)
    @config_option
    @click.argument("name")
    @note_option
    def _(config: Path | None, name: str, note: str) -> None:
        _take(config, name, action=action, note=note)


_step_command("start", "Let it run, for the first time or after a pause.")
_step_command("pause", "Let the policy of the settings serve until it is started again.")
_step_command("stop", "End it. The policy of the settings serves.")
_step_command("archive", "Put it away. What it shipped ends: set routing.policy before.")


@experiment.command()
@config_option
@click.argument("name")
@click.option("--ship", default="", metavar="VARIANT", help="Its policy serves from now on.")
@click.option("--keep", is_flag=True, help="The policy of the settings goes on.")
@click.option(
    "--learning", type=click.Choice(["merge", "drop"]),
    help="What becomes of what the variants learned in posteriors of their own. Default: merge.",
)  # fmt: skip
@note_option
def decide(config: Path | None, name: str, *, ship: str, keep: bool, learning: str | None, note: str) -> None:
    """Say what follows from it: ship a variant, or keep things as they are."""
    if bool(ship) == keep:
        raise click.UsageError("Say one of --ship VARIANT and --keep.")
    _take(config, name, action="decide", ship=ship, learning=learning, note=note)


def _take(config: Path | None, name: str, **said: Any) -> None:
    """One step, and what it did."""
    from service.cli.main import with_database
    from service.experiments.lifecycle import Asked, current, named, take

    setup, asked = _setup(config), Asked(**said)
    begun = _begun(config, named(with_database(config, current), name), asked, setup)
    done = _written(config, lambda connection: take(connection, name, asked, begun, _who(), time.time()))
    _tell(config, done, setup)


def _written(config: Path | None, work: "Callable[[Connection], Step]") -> "Step":
    """Write a step; once more, checked again, where another process took one at the same moment."""
    from sqlalchemy.exc import DBAPIError

    from service.cli.main import with_database
    from service.storage.database import is_conflict

    for _ in range(_TRIES):
        try:
            return with_database(config, work)
        except DBAPIError as error:
            if not is_conflict(error):
                raise
    return with_database(config, work)


def _begun(config: Path | None, one: "Experiment", asked: "Asked", setup: "Setup") -> "Begun":
    from service.cli.main import with_database
    from service.experiments.design import check
    from service.experiments.following import believed_at_start
    from service.experiments.lifecycle import Begun
    from service.experiments.lifecycle import check as check_step
    from service.learning.control_actions import knowledge_of

    check_step(one, asked)
    if asked.action != "start":
        return Begun()
    check(one.design, setup)
    knowledge = with_database(config, lambda connection: knowledge_of(connection, setup, time.time()))
    return believed_at_start(one, knowledge)


def _tell(config: Path | None, done: "Step", setup: "Setup") -> None:
    from service.cli.main import with_database
    from service.experiments.lifecycle import current, told

    one = with_database(config, current)[done.experiment]
    click.echo(f"{told(done, one, setup.default_policy.name)} Running services follow within a second.")


def _setup(config: Path | None) -> "Setup":
    from service.configuration import read_settings
    from service.setup import create_setup

    return create_setup(read_settings(config, os.environ))


def _who() -> str:
    try:
        return getpass.getuser()
    except (ImportError, KeyError, OSError):  # no such user, as in some containers
        return "command line"
