"""`armwise prior`: what is known of the models before any feedback, from public outcomes or from the own log."""

import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from service.cli.options import Number, config_option, echo_json, json_option, look, seconds
from service.errors import ArmwiseError, ConfigurationError, UnusableData

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from bandit.priors import PriorTable
    from bandit.vocabulary import TaskType
    from service.learning.prior_sources import Found
    from service.settings import Settings

_LISTED = 20  # models that are named when they are left out

_OUTCOMES_MASS = 300.0  # best in replays of five public sets (docs/decisions/0013)


@click.group()
def prior() -> None:
    """Tell the learning policy what is known of the models before any feedback."""


@prior.command("import")
@config_option
@click.argument("outcomes", nargs=-1, type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option("--from-log", is_flag=True, help="Learn from the own decisions and their ratings instead of files.")
@click.option(
    "--since", metavar="TIME", callback=seconds, help="With --from-log: ratings of the last 30d, 12h ... Default: all."
)
@click.option(
    "--model",
    "mapped",
    multiple=True,
    metavar="FILE_NAME=CONFIGURED_NAME",
    help="What a model of the files is called in the settings. Give several.",
)
@click.option(
    "--classifier",
    type=click.Choice(["embedded", "rules"]),
    default="embedded",
    show_default=True,
    help="Who names the task type of prompts whose category is none of ours.",
)
@click.option(
    "--mass",
    type=Number(0.0, 1e9),
    help="Labels that the prior is worth; 0: the policy's own spread decides. Default: 300 for outcomes, 0 for a log.",
)
@click.option(
    "--out",
    default="data/prior.json",
    show_default=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="File for the prior.",
)
def import_prior(config: Path | None, outcomes: tuple[Path, ...], out: Path, mass: float | None, **given: Any) -> None:
    r"""Make a prior from OUTCOMES, or with --from-log from the own log.

    OUTCOMES are files of JSON lines, plain or gzip, one line for each prompt and model:
    {"prompt_id", "model", "score" in [0, 1]} and where known "prompt", "category". What is written holds no prompt.
    """
    import msgspec

    from service.configuration import read_settings
    from service.learning.prior_sources import Found
    from service.learning.priors import write_prior

    from_log, since, mapped = given["from_log"], given["since"], given["mapped"]
    if from_log == bool(outcomes):
        raise click.UsageError("Give files of outcomes or --from-log, one of both.")
    if from_log and mapped:
        raise click.UsageError("--model maps names in files; the log has the names of the settings already.")
    if since is not None and not from_log:
        raise click.UsageError("--since is for --from-log.")
    settings = read_settings(config, os.environ)
    configured = [model.name for model in settings.models]
    found = Found()
    if from_log:
        table = _from_log(settings, 0.0 if since is None else time.time() - since, found)
    else:
        table = _from_files(settings, outcomes, _names(mapped, configured), given["classifier"], found)
    if mass is None:
        mass = 0.0 if from_log else _OUTCOMES_MASS
    write_prior(out, msgspec.structs.replace(table, mass=mass))
    for line in told(table, found.used):
        click.echo(line)
    for line in _remarks(found, [name for name in configured if name not in table.quality], from_log=from_log):
        click.echo(line, err=True)
    click.echo(f'{out} holds the prior. Next: prior_file = "{out}" at a policy of kind "pooled_thompson".', err=True)


def _names(mapped: Sequence[str], configured: Sequence[str]) -> dict[str, str]:
    """Name in the files -> name in the settings."""
    from service.mistakes import suggestion

    names = {name: name for name in configured}
    for pair in mapped:
        theirs, equals, ours = pair.rpartition("=")
        if not equals or not theirs:
            raise click.UsageError(f"--model {pair}: expected FILE_NAME=CONFIGURED_NAME.")
        if ours not in configured:
            raise click.UsageError(f"--model {pair}: no model `{ours}` is configured{suggestion(ours, configured)}.")
        names[theirs] = ours
    return names


def _from_files(
    settings: "Settings", files: Sequence[Path], names: Mapping[str, str], kind: str, found: "Found"
) -> "PriorTable":
    import msgspec

    from bandit.priors import prior_table
    from service.classifiers import create_classifier, excerpt
    from service.learning.prior_sources import outcomes_in

    small = create_classifier(msgspec.structs.replace(settings.classifier, kind=kind))

    def task_type_of(prompt: str) -> "TaskType":
        return small.classify(excerpt(prompt, settings.classifier.max_characters)).task_type

    size = sum(file.stat().st_size for file in files)
    with click.progressbar(length=size, label="Reading outcomes", file=sys.stderr) as bar:
        lines = (line for file in files for line in outcomes_in(file, names, task_type_of, found, bar.update))
        try:
            table = prior_table(lines)
        except ValueError as error:
            raise UnusableData(_nothing_of(found) or f"{error}.") from error
    source = f"{', '.join(file.name for file in files)}: {len(found.prompts):,} prompts, {small.name}"
    return msgspec.structs.replace(table, source=source)


def _nothing_of(found: "Found") -> str:
    """Why no outcome was left; empty when some were."""
    if found.used:
        return ""
    if not found.left_out:
        return f"No line has a score ({found.without_score:,} lines without); expected outcomes with `score`."
    return (
        f"None of the models in the files is configured: {_counted(found.left_out)}. "
        "Say what they are called here with --model FILE_NAME=CONFIGURED_NAME."
    )


def _from_log(settings: "Settings", since: float, found: "Found") -> "PriorTable":
    import msgspec

    from bandit.priors import prior_from_ratings
    from service.learning.prior_sources import count_ratings, ratings_in

    arms = frozenset(model.name for model in settings.models)

    def work(connection: "Connection") -> "PriorTable":
        count = count_ratings(connection, since)
        with click.progressbar(length=count, label="Reading ratings", file=sys.stderr) as bar:
            return prior_from_ratings(ratings_in(connection, arms, since, found, bar.update))

    try:
        table = look(settings, work)
    except ValueError as error:
        left = f" Ratings of models that are not configured: {_counted(found.left_out)}." if found.left_out else ""
        raise UnusableData(f"The log: {error}.{left} Labels come by POST /v1/feedback.") from error
    return msgspec.structs.replace(table, source=f"own log: {found.used.total():,} ratings")


def _remarks(found: "Found", missing: Sequence[str], *, from_log: bool) -> Iterator[str]:
    if found.left_out:
        advice = "" if from_log else " --model FILE_NAME=CONFIGURED_NAME takes them in."
        yield f"Left out, not configured: {_counted(found.left_out)}.{advice}"
    if missing:
        yield f"Nothing is known of: {', '.join(missing)}. They keep the prior of their tier."
    if from_log:
        yield "The posteriors hold these ratings already: use the prior where they do not, or ratings count twice."
    if found.without_score:
        yield f"{found.without_score:,} lines without a score were skipped."


def _counted(models: Mapping[str, int]) -> str:
    most = sorted(models.items(), key=lambda pair: (-pair[1], pair[0]))
    more = f" and {len(most) - _LISTED} more" if len(most) > _LISTED else ""
    return ", ".join(f"{name} ({count:,})" for name, count in most[:_LISTED]) + more


def told(table: "PriorTable", counts: Mapping[tuple[str, str], int], width: int | None = None) -> Iterator[str]:
    """The table: task types in rows, models in columns, as many beside each other as fit; in brackets the counts."""
    from bandit.priors import EVERYWHERE
    from bandit.vocabulary import TASK_TYPES

    width = width or shutil.get_terminal_size((100, 24)).columns
    known = {task for row in table.quality.values() for task in row}
    tasks = [task for task in (*TASK_TYPES, EVERYWHERE) if task in known]
    first = max(len(task or "everywhere") for task in tasks)
    models = sorted(table.quality, key=lambda model: (-table.quality[model].get(EVERYWHERE, 0.0), model))

    def cell(model: str, task: str) -> str:
        quality = table.quality[model].get(task)
        own = (count for (arm, where), count in counts.items() if arm == model and task in (where, EVERYWHERE))
        return "-" if quality is None else f"{quality:.3f}" + (f" ({sum(own):,})" if counts else "")

    columns = {model: [cell(model, task) for task in tasks] for model in models}
    widths = {model: max(map(len, [model, *cells])) for model, cells in columns.items()}
    while models:
        block = [models.pop(0)]
        while models and first + sum(widths[model] + 2 for model in [*block, models[0]]) <= width:
            block.append(models.pop(0))
        yield "  ".join([" " * first, *(model.rjust(widths[model]) for model in block)])
        for row, task in enumerate(tasks):
            cells = (columns[model][row].rjust(widths[model]) for model in block)
            yield "  ".join([(task or "everywhere").ljust(first), *cells])
        if models:
            yield ""


@prior.command()
@config_option
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@json_option
def show(config: Path | None, file: Path, *, as_json: bool) -> None:
    """Show a prior, and for which configured models it says nothing."""
    from service.configuration import read_settings
    from service.learning.priors import read_prior

    settings = read_settings(config, os.environ)
    try:
        table = read_prior(file)
    except ConfigurationError as error:
        raise ArmwiseError("; ".join(error.mistakes)) from error
    if as_json:
        echo_json(table)
        return
    for line in told(table, {}):
        click.echo(line)
    click.echo(f"Made from {table.source or 'an unnamed source'}.")
    click.echo(f"Worth {table.mass:g} labels." if table.mass else "The policy's own spread decides what it is worth.")
    configured = [model.name for model in settings.models]
    missing = [name for name in configured if name not in table.quality]
    if missing:
        click.echo(f"Nothing is known of: {', '.join(missing)}. They keep the prior of their tier.")
    unused = sorted(table.quality.keys() - set(configured))
    if unused:
        click.echo(f"Not configured, so without use here: {', '.join(unused)}.")
    if not missing and not unused:
        click.echo("It knows every configured model.")
