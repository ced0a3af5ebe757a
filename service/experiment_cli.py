"""`armwise experiment`: make experiments between policies, and take them from step to step."""
# ruff: noqa: PLC0415 - a command imports only what it runs

import getpass
import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bandit.vocabulary import TASK_TYPES
from service.options import config_option, seconds
from service.terminal import show as show_lines
from service.terminal import table

if TYPE_CHECKING:
    from service.experiments.lifecycle import Asked, Begun, Experiment, Step
    from service.setup import Setup

_DAY_S = 86_400.0

note_option = click.option("--note", default="", help="Why; kept in the audit log.")
json_option = click.option("--json", "as_json", is_flag=True, help="As JSON.")


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
@click.option(
    "--unit", type=click.Choice(["user", "session", "key", "request"]), default="user", show_default=True,
    help="Who keeps to one side.",
)  # fmt: skip
@click.option("--primary", default="quality", show_default=True, help="Metric that decides.")
@click.option("--direction", type=click.Choice(["up", "down"]), default="up", show_default=True, help="Better is.")
@click.option("--margin", type=float, default=0.0, show_default=True, help="A variant is better by more than this.")
@click.option(
    "--guardrail", "guardrails", multiple=True, metavar="METRIC:LIMIT[:up|down]",
    help="What must not get worse by more than the limit, such as failure:0.01.",
)  # fmt: skip
@click.option("--minimum", callback=seconds, default="7d", show_default=True, help="It is not shipped before.")
@click.option("--maximum", callback=seconds, default="28d", show_default=True, help="It is stopped then.")
@click.option("--window", callback=seconds, default="3d", show_default=True, help="How long a unit's outcomes count.")
@click.option("--horizon", type=click.IntRange(1), default=5_000, show_default=True, help="Units planned per variant.")
@click.option("--task", "tasks", multiple=True, type=click.Choice(TASK_TYPES), help="Only these task types.")
@click.option("--tag", "tags", multiple=True, metavar="NAME=VALUE", help="Only requests with these tags.")
@click.option(
    "--mode", type=click.Choice(["own", "shared", "frozen"]), default="own", show_default=True,
    help="Whose posteriors the sides decide on: their own, everybody's, or those of the start, held.",
)  # fmt: skip
@note_option
def create_experiment(config: Path | None, name: str, **said: Any) -> None:
    """Make an experiment. Nobody is in it before it is started."""
    import msgspec

    from service.cli import with_database
    from service.errors import Unprocessable
    from service.experiments.design import Design, check
    from service.experiments.lifecycle import create

    try:
        design = msgspec.convert(_design(name, **said), Design)
    except msgspec.ValidationError as error:
        raise Unprocessable(f"This is no experiment: {error}") from None
    setup = _setup(config)
    check(design, setup)
    _tell(config, with_database(config, lambda connection: create(connection, design, _who(), time.time())), setup)


def _design(name: str, **said: Any) -> dict[str, Any]:
    """The design in plain values."""
    return {
        "name": name,
        "variants": [_variant(one) for one in said["variants"]],
        "unit": said["unit"],
        "primary": {"name": said["primary"], "direction": said["direction"], "margin": said["margin"]},
        "guardrails": [_guardrail(one) for one in said["guardrails"]],
        "minimum_s": said["minimum"],
        "maximum_s": said["maximum"],
        "window_s": said["window"],
        "horizon": said["horizon"],
        "population": {"task_types": list(said["tasks"]), "tags": dict(_tag(one) for one in said["tags"])},
        "mode": said["mode"],
        "note": said["note"],
    }


def _variant(said: str) -> dict[str, Any]:
    found = re.fullmatch(r"([^=]+)=(.+):([0-9.]+)", said)
    if not found:
        raise click.BadParameter(f"{said!r}: expected NAME=POLICY:SHARE, such as control=thompson:0.5.")
    return {"name": found[1], "policy": found[2], "share": float(found[3])}


def _guardrail(said: str) -> dict[str, Any]:
    found = re.fullmatch(r"([^:]+):([0-9.eE+-]+)(?::(up|down))?", said)
    if not found:
        raise click.BadParameter(f"{said!r}: expected METRIC:LIMIT[:up|down], such as failure:0.01.")
    return {"metric": found[1], "limit": float(found[2]), "direction": found[3] or "down"}


def _tag(said: str) -> tuple[str, str]:
    name, equals, value = said.partition("=")
    if not equals:
        raise click.BadParameter(f"{said!r}: expected NAME=VALUE, such as team=search.")
    return name, value


@experiment.command("list")
@config_option
@json_option
def list_experiments(config: Path | None, as_json: bool) -> None:  # noqa: FBT001 - a flag of the command line
    """List all experiments and where they stand."""
    from service.cli import with_database
    from service.experiments.lifecycle import current, public

    found = sorted(with_database(config, current).values(), key=lambda one: (-one.created_at, one.name))
    if as_json:
        _echo_json([public(one) for one in found])
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
    from service.cli import with_database
    from service.control_actions import shown
    from service.experiments.lifecycle import current, list_steps, named, public, public_step

    one = named(with_database(config, current), name)
    steps = with_database(config, lambda connection: list_steps(connection, name))
    if as_json:
        _echo_json({**public(one), "log": [public_step(step) for step in steps]})
        return
    design = one.design
    click.echo(f"{one.name} is {one.state}; by {design.unit}, posteriors {design.mode}, primary {design.primary.name}")
    for side in design.variants:
        control = "  (control)" if side.name == design.control_name else ""
        click.echo(f"  {side.name:20} {side.policy:24} {side.share:g}{control}")
    for step in steps:
        click.echo(f"{shown(step.at)}  {step.action:8} by {step.who or 'nobody'}  {step.note}".rstrip())


@experiment.command()
@config_option
@click.argument("name")
@note_option
def start(config: Path | None, name: str, note: str) -> None:
    """Let it run, for the first time or after a pause."""
    _take(config, name, action="start", note=note)


@experiment.command()
@config_option
@click.argument("name")
@note_option
def pause(config: Path | None, name: str, note: str) -> None:
    """Let the policy of the settings serve until it is started again."""
    _take(config, name, action="pause", note=note)


@experiment.command()
@config_option
@click.argument("name")
@note_option
def stop(config: Path | None, name: str, note: str) -> None:
    """End it. The policy of the settings serves."""
    _take(config, name, action="stop", note=note)


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


@experiment.command()
@config_option
@click.argument("name")
@note_option
def archive(config: Path | None, name: str, note: str) -> None:
    """Put it away. What it shipped ends: set routing.policy before."""
    _take(config, name, action="archive", note=note)


def _take(config: Path | None, name: str, **said: Any) -> None:
    """One step, and what it did."""
    from service.cli import with_database
    from service.experiments.lifecycle import Asked, current, named, take

    setup, asked = _setup(config), Asked(**said)
    begun = _begun(config, named(with_database(config, current), name), asked, setup)
    done = with_database(config, lambda connection: take(connection, name, asked, begun, _who(), time.time()))
    _tell(config, done, setup)


def _begun(config: Path | None, one: "Experiment", asked: "Asked", setup: "Setup") -> "Begun":
    from service.cli import with_database
    from service.control_actions import knowledge_of
    from service.experiments.design import check
    from service.experiments.following import believed_at_start
    from service.experiments.lifecycle import Begun
    from service.experiments.lifecycle import check as check_step

    check_step(one, asked)
    if asked.action != "start":
        return Begun()
    check(one.design, setup)
    knowledge = with_database(config, lambda connection: knowledge_of(connection, setup, time.time()))
    return believed_at_start(one, knowledge)


def _tell(config: Path | None, done: "Step", setup: "Setup") -> None:
    from service.cli import with_database
    from service.experiments.lifecycle import current, told

    one = with_database(config, current)[done.experiment]
    click.echo(f"{told(done, one, setup.default_policy.name)} Running services follow within a second.")


def _setup(config: Path | None) -> "Setup":
    from service.configuration import read_settings
    from service.setup import create_setup

    return create_setup(read_settings(config, os.environ))


def _echo_json(value: Any) -> None:
    import msgspec

    click.echo(msgspec.json.format(msgspec.json.encode(value)).decode())


def _who() -> str:
    try:
        return getpass.getuser()
    except (ImportError, KeyError, OSError):  # no such user, as in some containers
        return "command line"
