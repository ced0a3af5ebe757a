"""`armwise posterior`: what is believed, and holding, forgetting and rolling it back; the kill switch."""
# ruff: noqa: PLC0415 - a command imports only what it runs

import getpass
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bandit.vocabulary import TASK_TYPES
from service.options import config_option, echo_json, json_option

if TYPE_CHECKING:
    from bandit.vocabulary import TaskType
    from service.control_actions import Asked
    from service.controls import Control
    from service.setup import Setup

_DAY_S = 86_400.0

task_option = click.option(
    "--task", "task_type", type=click.Choice(TASK_TYPES), help="Only this task type. Default: all."
)
model_option = click.option("--model", help="Only this model. Default: all.")
note_option = click.option("--note", default="", help="Why; kept in the audit log.")


@click.group()
def posterior() -> None:
    """Look at what was learned, hold it as it is, forget it, roll it back, or switch learned decisions off."""


@posterior.command("list")
@config_option
@task_option
@model_option
@click.option(
    "--days", default=7.0, show_default=True, type=click.FloatRange(min=0.0), help="Versions of so many days."
)
@click.option("--limit", default=20, show_default=True, type=click.IntRange(0), help="Versions at most.")
@json_option
def list_posteriors(
    config: Path | None, task_type: "TaskType | None", model: str | None, days: float, limit: int, *, as_json: bool
) -> None:
    """Show what is believed now, what is held, and the versions that decisions were taken on."""
    from service.cli import with_database
    from service.control_actions import knowledge_of, shown, versions
    from service.posteriors import posterior_cells
    from service.terminal import plots, show, table

    setup, now = _setup(config), time.time()
    knowledge = with_database(config, lambda connection: knowledge_of(connection, setup, now))
    controls = knowledge.controls
    cells = [
        {**cell, "held_since": held.at if held else None, "held_by": held.action if held else None}
        for cell in posterior_cells(setup, knowledge, task_type=task_type)
        if model in (None, cell["model"])
        for held in [controls.since.get((cell["task_type"], cell["model"]))]
    ]
    found = with_database(config, lambda connection: versions(connection, now - days * _DAY_S, limit, task_type))
    if as_json:
        off = {"at": controls.off.at, "who": controls.off.who} if controls.off is not None else None
        echo_json({"cells": cells, "off": off, "versions": [dict(row) for row in found]})
        return
    show(table([_row(cell, drawn=plots()) for cell in cells]))
    if controls.off is not None:
        click.echo(f"\nLearned decisions are switched off since {shown(controls.off.at)} by {controls.off.who}.")
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
    from service.control_actions import shown
    from service.terminal import interval_bar

    broken = cell["mean"] is None or None in cell["interval"]
    number = "-" if cell["mean"] is None else f"mean {cell['mean']:.3f}"
    spread = "-" if broken else f"Beta({cell['alpha']:.1f}, {cell['beta']:.1f})"
    bar = interval_bar(cell["interval"][0], cell["mean"], cell["interval"][1]) if drawn and not broken else ""
    held = f"held since {shown(cell['held_since'])} ({cell['held_by']})" if cell["held_by"] else ""
    return cell["task_type"], cell["model"], spread, number, *([bar] if drawn else []), held


@posterior.command()
@config_option
@task_option
@model_option
@note_option
def freeze(config: Path | None, task_type: "TaskType | None", model: str | None, note: str) -> None:
    """Hold estimates as they are now. Feedback goes on being recorded."""
    _do(config, task_type=task_type, model=model, note=note, action="freeze")


@posterior.command()
@config_option
@task_option
@model_option
@note_option
def unfreeze(config: Path | None, task_type: "TaskType | None", model: str | None, note: str) -> None:
    """Decide on all that was learned again, also on what was recorded meanwhile."""
    _do(config, task_type=task_type, model=model, note=note, action="unfreeze")


@posterior.command()
@config_option
@task_option
@model_option
@note_option
def reset(config: Path | None, task_type: "TaskType | None", model: str | None, note: str) -> None:
    """Let what was learned until now count no more. The counts themselves are kept."""
    _do(config, task_type=task_type, model=model, note=note, action="reset")


@posterior.command()
@config_option
@click.option("--to", required=True, metavar="VERSION|TIME", help="A version of `list`, or a time: 2026-01-31T12:00.")
@task_option
@model_option
@note_option
def rollback(config: Path | None, to: str, task_type: "TaskType | None", model: str | None, note: str) -> None:
    """Serve the estimates of an earlier time, and hold them until `unfreeze`."""
    _do(config, task_type=task_type, model=model, note=note, action="rollback", to=to)


@posterior.command()
@config_option
@note_option
def off(config: Path | None, note: str) -> None:
    """Pull the kill switch: the safe policy decides. Feedback goes on being recorded."""
    _do(config, note=note, action="off")


@posterior.command()
@config_option
@note_option
def on(config: Path | None, note: str) -> None:
    """Let policies decide again."""
    _do(config, note=note, action="on")


def _setup(config: Path | None) -> "Setup":
    from service.cli import read
    from service.setup import create_setup

    return create_setup(read(config))


def _do(config: Path | None, **said: Any) -> None:
    """Add one control, and say what it holds."""
    from service.cli import with_database
    from service.control_actions import Asked, store_control
    from service.control_actions import reset as store_reset

    setup, now, who = _setup(config), time.time(), _who()
    asked = Asked(**said)
    saved = _saved(config, asked, setup, now)
    if asked.action == "reset":
        row = with_database(config, lambda connection: store_reset(connection, asked, setup, who, now))
    else:
        row = with_database(config, lambda connection: store_control(connection, asked, saved, who, now))
    click.echo(_told(row))


def _saved(config: Path | None, asked: "Asked", setup: "Setup", now: float) -> Any:
    from service.cli import with_database
    from service.control_actions import believed_at, believed_now, check, knowledge_of
    from service.controls import Saved, current

    check(asked, setup, with_database(config, current))
    if asked.action == "freeze":
        knowledge = with_database(config, lambda connection: knowledge_of(connection, setup, now))
        return believed_now(asked, setup, knowledge)
    if asked.action == "rollback":
        return with_database(config, lambda connection: believed_at(connection, asked, setup))
    return Saved()


def _told(row: "Control") -> str:
    """A control in words."""
    from service.controls import fold

    if row.action in ("off", "on"):
        return f"Learned decisions are switched {row.action}. Running services follow within a second."
    held = fold([row]).since
    what = f"{row.arm or 'all models'} on {row.task_type or 'all task types'}"
    words = {
        "freeze": f"{len(held)} posteriors are held as they are: {what}.",
        "unfreeze": f"What was learned decides again: {what}.",
        "reset": f"What was learned until now counts no more: {what}.",
        "rollback": f"{len(held)} posteriors are held as they were: {what}. Those without a decision then are not.",
    }
    return f"{words[row.action]} Running services follow within a second."


def _who() -> str:
    try:
        return getpass.getuser()
    except (ImportError, KeyError, OSError):  # no such user, as in some containers
        return "command line"
