"""`armwise posterior`: what is believed, and holding, forgetting and rolling it back; switching it or a model off."""

import getpass
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bandit.vocabulary import PROMPT_TIERS, TASK_TYPES
from service.cli.options import Number, config_option, echo_json, json_option, note_option
from service.errors import NotFound

if TYPE_CHECKING:
    from bandit.vocabulary import PromptTier, TaskType
    from service.learning.control_actions import Asked
    from service.learning.controls import Action, Control
    from service.setup import Setup

_DAY_S = 86_400.0

task_option = click.option(
    "--task", "task_type", type=click.Choice(TASK_TYPES), help="Only this task type. Default: all."
)
model_option = click.option("--model", help="Only this model. Default: all.")


@click.group()
def posterior() -> None:
    """Look at what was learned, hold it, forget it, roll it back; switch a model or learned decisions off."""


@posterior.command("list")
@config_option
@task_option
@model_option
@click.option(
    "--tier", type=click.Choice(PROMPT_TIERS), help="Of prompts of this tier. Default: of all, by what was measured."
)
@click.option("--days", default=7.0, show_default=True, type=Number(min=0.0), help="Versions of so many days.")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(0, 10_000), help="Versions at most.")
@json_option
def list_posteriors(
    config: Path | None, task_type: "TaskType | None", model: str | None, tier: "PromptTier | None", *, as_json: bool,
    **of_versions: Any,
) -> None:  # fmt: skip
    """Show what is believed now, what is held, and the versions that decisions were taken on."""
    from service.cli.main import with_database
    from service.learning.control_actions import knowledge_of, shown, versions
    from service.learning.posteriors import posterior_cells
    from service.mistakes import suggestion
    from service.terminal import plots, show, table

    setup, now, days = _setup(config), time.time(), of_versions["days"]
    if model is not None and model not in setup.models:
        raise NotFound(f"There is no model `{model[:128]}`{suggestion(model, setup.models)}.")
    knowledge = with_database(config, lambda connection: knowledge_of(connection, setup, now))
    controls = knowledge.controls
    cells = [
        {**cell, "held_since": held.at if held else None, "held_by": held.action if held else None}
        for cell in posterior_cells(setup, knowledge, task_type=task_type, tier=tier)
        if model in (None, cell["model"])
        for held in [controls.since.get((cell["task_type"], cell["model"]))]
    ]
    found = with_database(
        config, lambda connection: versions(connection, now - days * _DAY_S, of_versions["limit"], task_type)
    )
    out = sorted(controls.disabled)
    if as_json:
        off = {"at": controls.off.at, "who": controls.off.who} if controls.off is not None else None
        echo_json({"cells": cells, "off": off, "disabled": out, "versions": [dict(row) for row in found]})
        return
    show(table([_row(cell, drawn=plots()) for cell in cells]))
    if controls.off is not None:
        click.echo(f"\nLearned decisions are switched off since {shown(controls.off.at)} by {controls.off.who}.")
    if out:
        click.echo(f"\nOut of service: {', '.join(out)}. `armwise posterior enable MODEL` brings one back.")
    click.echo("\nVersions, by when they were first decided on:")
    for row in found:
        click.echo(
            f"{row['beliefs_version']}  {shown(row['first_at'])}  {row['policy']}  {row['task_type']}, {row['tier']}  "
            f"{row['decisions']} decisions"
        )
    if not found:
        click.echo(f"none in the last {days:g} days")


def _row(cell: Mapping[str, Any], *, drawn: bool) -> tuple[str, ...]:
    """A posterior in a line; `drawn` with its 95 % interval from 0 to 1 as a plot."""
    from service.learning.control_actions import shown
    from service.terminal import interval_bar

    broken = cell["mean"] is None or None in cell["interval"]
    number = "-" if cell["mean"] is None else f"mean {cell['mean']:.3f}"
    spread = "-" if broken else f"Beta({cell['alpha']:.1f}, {cell['beta']:.1f})"
    bar = interval_bar(cell["interval"][0], cell["mean"], cell["interval"][1]) if drawn and not broken else ""
    held = f"held since {shown(cell['held_since'])} ({cell['held_by']})" if cell["held_by"] else ""
    return cell["task_type"], cell["model"], spread, number, *([bar] if drawn else []), held


def _of_cells(action: "Action", what: str) -> None:
    """A command about posteriors: of all task types and models, of one, or of both."""

    @posterior.command(action, help=what)
    @config_option
    @task_option
    @model_option
    @note_option
    def command(config: Path | None, **said: Any) -> None:
        _do(config, action=action, **said)


def _of_model(name: str, action: "Action", what: str) -> None:
    """A command about one model."""

    @posterior.command(name, help=what)
    @config_option
    @click.argument("model")
    @note_option
    def command(config: Path | None, **said: Any) -> None:
        _do(config, action=action, **said)


def _of_everything(action: "Action", what: str) -> None:
    """A command about all decisions."""

    @posterior.command(action, help=what)
    @config_option
    @note_option
    def command(config: Path | None, note: str) -> None:
        _do(config, action=action, note=note)


_of_cells("freeze", "Hold estimates as they are now. Feedback goes on being recorded.")
_of_cells("unfreeze", "Decide on all that was learned again, also on what was recorded meanwhile.")
_of_cells("reset", "Let what was learned until now count no more. The counts themselves are kept.")


@posterior.command()
@config_option
@click.option("--to", required=True, metavar="VERSION|TIME", help="A version of `list`, or a time: 2026-01-31T12:00.")
@task_option
@model_option
@note_option
def rollback(config: Path | None, **said: Any) -> None:
    """Serve the estimates of an earlier time, and hold them until `unfreeze`."""
    _do(config, action="rollback", **said)


_of_model("disable", "disable", "Take MODEL out of service. What was learned of it is kept.")
_of_model("enable", "enable", "Let MODEL serve again.")
_of_model("close-breaker", "close_breaker", "Try MODEL again at once, though its calls failed.")
_of_everything("off", "Pull the kill switch: the safe policy decides. Feedback goes on being recorded.")
_of_everything("on", "Let policies decide again.")


def _setup(config: Path | None) -> "Setup":
    from service.cli.main import read
    from service.setup import create_setup

    return create_setup(read(config))


def _do(config: Path | None, **said: Any) -> None:
    """Add one control, and say what it holds."""
    from service.cli.main import with_database
    from service.learning.control_actions import Asked, store_control
    from service.learning.control_actions import reset as store_reset

    setup, now, who = _setup(config), time.time(), _who()
    asked = Asked(**said)
    saved = _saved(config, asked, setup, now)
    if asked.action == "reset":
        row = with_database(config, lambda connection: store_reset(connection, asked, setup, who, now))
    else:
        row = with_database(config, lambda connection: store_control(connection, asked, saved, who, now))
    click.echo(_told(row))


def _saved(config: Path | None, asked: "Asked", setup: "Setup", now: float) -> Any:
    from service.cli.main import with_database
    from service.learning.control_actions import believed_at, believed_now, check, knowledge_of
    from service.learning.controls import Saved, current

    check(asked, setup, with_database(config, current))
    if asked.action == "freeze":
        knowledge = with_database(config, lambda connection: knowledge_of(connection, setup, now))
        return believed_now(asked, setup, knowledge)
    if asked.action == "rollback":
        return with_database(config, lambda connection: believed_at(connection, asked, setup))
    return Saved()


def _told(row: "Control") -> str:
    """A control in words."""
    from service.learning.controls import fold

    held = fold([row]).since
    what = f"{row.arm or 'all models'} on {row.task_type or 'all task types'}"
    words: dict[Action, str] = {
        "freeze": f"{len(held)} posteriors are held as they are: {what}.",
        "unfreeze": f"What was learned decides again: {what}.",
        "reset": f"What was learned until now counts no more: {what}.",
        "rollback": f"{len(held)} posteriors are held as they were: {what}. Those without a decision then are not.",
        "disable": f"{row.arm} is out of service.",
        "enable": f"{row.arm} serves again, unless the settings say `enabled = false`.",
        "close_breaker": f"{row.arm} is tried again.",
        "off": "Learned decisions are switched off.",
        "on": "Learned decisions are switched on.",
    }
    return f"{words[row.action]} Running services follow within a second."


def _who() -> str:
    try:
        return getpass.getuser()
    except (ImportError, KeyError, OSError):  # no such user, as in some containers
        return "command line"
