"""`armwise classifier distil`: the embedded classifier learns from NVIDIA's on the owner's prompts."""

import os
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from service.cli.options import echo_json, json_option

if TYPE_CHECKING:
    from bandit.vocabulary import Classification
    from service.classifiers.distil import Agreement, Lesson, Report
    from service.settings import ClassifierSettings

_FILE = click.Path(path_type=Path, dir_okay=False)
_READ_TOGETHER = 8  # prompts of similar length


@click.command()
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="The settings file, for the database and what is not given here. Default: armwise.toml in this folder.",
)
@click.option(
    "--prompts",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help='Lines {"prompt"}. Default: those in the database, kept with `prompts = true` under [retention].',
)
@click.option("--newest", default=20_000, show_default=True, type=click.IntRange(1), help="Of these, at most so many.")
@click.option(
    "--weights", metavar="DIR", help="Folder with NVIDIA's weights, or their hub name. Default: as the settings say."
)
@click.option(
    "--out", default="data/embedded.safetensors", show_default=True, type=_FILE, help="File for the learned weights."
)
@json_option
def distil(
    config: Path | None, prompts: Path | None, newest: int, weights: str | None, out: Path, *, as_json: bool
) -> None:
    """Let the embedded classifier learn from NVIDIA's answers on your prompts.

    It is judged on prompts that it did not learn from. Exit status 1: too few prompts, or the packaged weights answer
    more like NVIDIA's; then nothing is written. What is written holds no text.
    """
    from service.classifiers.distil import STEPS, different  # noqa: PLC0415 - needs scipy
    from service.classifiers.distil import distil as run  # noqa: PLC0415 - likewise
    from service.configuration import read_settings  # noqa: PLC0415 - only when used

    settings = read_settings(config, os.environ).classifier
    texts = different(_from_file(prompts)[-newest:] if prompts else _from_database(config, newest))
    lesson = _lesson(texts, weights, settings)
    with click.progressbar(length=STEPS, label="Learning and judging", file=sys.stderr) as bar:
        report = run(lesson, out, partial(bar.update, 1))
    if as_json:
        echo_json(report)
    else:
        for line in told(report):
            click.echo(line)
    click.echo(f'{out} holds {report.classifier}. Next: embedded_weights = "{out}" under [classifier].', err=True)


def _from_file(path: Path) -> list[str]:
    from service.classifiers.lines import read_prompts  # noqa: PLC0415 - only when used

    return read_prompts(path)


def _from_database(config: Path | None, newest: int) -> list[str]:
    from service.cli.main import with_database  # noqa: PLC0415 - it imports this file
    from service.storage import store  # noqa: PLC0415 - only when used

    return with_database(config, lambda connection: store.newest_prompts(connection, newest))


def _lesson(texts: Sequence[str], weights: str | None, settings: "ClassifierSettings") -> "Lesson":
    """Ask NVIDIA's classifier, which reads what it would when serving; so does the embedded one."""
    from service.classifiers import excerpt  # noqa: PLC0415 - only when used
    from service.classifiers.choice import weights_folder  # noqa: PLC0415 - likewise
    from service.classifiers.distil import Lesson  # noqa: PLC0415 - likewise
    from service.classifiers.models import NvidiaModel  # noqa: PLC0415 - likewise
    from service.classifiers.nvidia import load_nvidia  # noqa: PLC0415 - likewise
    from service.classifiers.nvidia.fetch import locate  # noqa: PLC0415 - likewise

    nvidia = load_nvidia(
        locate(weights or str(weights_folder(settings))),
        backend=settings.backend,
        precision=settings.precision,
        device=settings.device,
        threads=os.cpu_count() or 1,
        token_budget=settings.token_budget,
    )
    cut = NvidiaModel(nvidia, keeps_tail=settings.token_budget > 0).cut
    order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
    said: dict[int, Classification] = {}
    with click.progressbar(length=len(texts), label=f"Asking {nvidia.name}", file=sys.stderr) as bar:
        for start in range(0, len(texts), _READ_TOGETHER):
            batch = order[start : start + _READ_TOGETHER]
            readings = nvidia.read([cut(texts[number]) for number in batch])
            said |= {number: nvidia.classification(found) for number, found in zip(batch, readings, strict=True)}
            bar.update(len(batch))
    return Lesson(
        [excerpt(text, settings.max_characters) for text in texts],
        [said[number] for number in range(len(texts))],
        nvidia,
    )


def told(report: "Report") -> Iterator[str]:
    """The report in words and a table."""
    yield f"{report.prompts:,} different prompts, {report.groups:,} groups of like ones, answered by {report.teacher}."
    yield "Agreement with it on prompts of groups that were not learned from (95 % interval):"
    yield f"  {'':20} {'packaged weights':26} learned weights"
    rows = {"same task type": "task_agreement", "complexity off by": "complexity_error", "same tier": "tier_agreement"}
    for words, name in rows.items():
        yield f"  {words:20} {_figure(report.before, name):26} {_figure(report.after, name)}"
    gain = report.task_gain
    yield f"  Task types agree in {gain.value:+.3f} ({gain.low:+.3f} to {gain.high:+.3f}) more of the prompts."


def _figure(agreement: "Agreement", name: str) -> str:
    return str(getattr(agreement, name))
