"""`armwise classifier tune`: NVIDIA's classifier learns from labelled prompts of the owner."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from service.cli.options import Number, echo_json, json_option
from service.errors import ArmwiseError, NotBetter

if TYPE_CHECKING:
    from service.classifiers.nvidia.tuning.figures import Figures
    from service.classifiers.nvidia.tuning.tune import Report

_FOLDER = click.Path(path_type=Path, file_okay=False)


@click.command()
@click.option(
    "--weights",
    metavar="DIR",
    help="Folder of the weights to begin with, or the hub name of fetched ones. Default: as the settings say.",
)
@click.option(
    "--data",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help='Lines {"prompt", "task_type"} or {"prompt", "tier"}, or with both; tier is simple, medium or complex.',
)
@click.option("--out", required=True, type=_FOLDER, help="Folder for the new weights.")
@click.option("--layers", default=0, show_default=True, type=click.IntRange(0), help="Last layers that learn too.")
@click.option("--epochs", type=click.IntRange(1), help="At most. Default: 100 for heads, 5 with layers.")
@click.option(
    "--learning-rate",
    type=Number(0, 1, min_open=True),
    help="At its highest. Default: 1e-3 for heads, 2e-5 with layers.",
)
@click.option("--batch-size", default=32, show_default=True, type=click.IntRange(1), help="Prompts for one step.")
@click.option(
    "--patience",
    type=click.IntRange(1),
    help="Epochs without improvement that end the training. Default: 10 for heads, 2 with layers.",
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Of the split and of the order.")
@click.option(
    "--device",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "cpu", "cuda", "mps"]),
    help="Where to compute; auto: on a GPU when there is one.",
)
@click.option(
    "--validation-share",
    default=0.2,
    show_default=True,
    type=Number(0, 0.9, min_open=True),
    help="Of the prompts, to judge both models by.",
)
@click.option("--force", is_flag=True, help="Keep the result even when it is not better; replace a model in --out.")
@json_option
def tune(
    weights: str | None, data: Path, out: Path, device: str, *, force: bool, as_json: bool, **options: Any
) -> None:
    """Fine-tune NVIDIA's classifier on labelled prompts, and keep the result when it is better.

    Heads alone learn within minutes on a CPU; layers want a GPU. Interrupted, the same command goes on. Exit status 1:
    the result is not better, and was not kept.
    """
    if find_spec("torch") is None:
        raise ArmwiseError("torch is not installed. `pip install 'armwise[torch]'` installs it.")
    from service.classifiers.nvidia.tuning.tune import Options  # noqa: PLC0415 - needs torch
    from service.classifiers.nvidia.tuning.tune import tune as run  # noqa: PLC0415 - likewise

    try:
        report = run(_folder(weights), data, out, Options(**options), device=device, force=force, progress=_bar)
    except KeyboardInterrupt:
        click.echo("\nInterrupted. The same command goes on after the last finished epoch.", err=True)
        raise SystemExit(1) from None
    if as_json:
        echo_json(report)
    else:
        for line in told(report):
            click.echo(line)
    if not report.kept:
        raise NotBetter(
            "The tuned model is not better than the one it began with, so it was not kept. With --force, the same "
            "command keeps it without learning again."
        )
    click.echo(
        f"{out} holds the tuned weights, {report.digest[:8]}. Next: armwise classifier check --weights {out}", err=True
    )


def _folder(weights: str | None) -> Path:
    from service.classifiers.choice import weights_folder  # noqa: PLC0415 - only when used
    from service.classifiers.nvidia.fetch import locate  # noqa: PLC0415 - likewise
    from service.configuration import read_settings  # noqa: PLC0415 - likewise

    return locate(weights or str(weights_folder(read_settings(None, os.environ).classifier)))


@contextlib.contextmanager
def _bar(doing: str, steps: int) -> Iterator[Callable[[int], None]]:
    with click.progressbar(length=steps, label=doing, file=sys.stderr) as bar:
        yield bar.update


def told(report: "Report") -> Iterator[str]:
    """The report in words and tables."""
    yield (
        f"{report.learned_from} prompts learned from, {report.stopped_by} to end the training, {report.judged_by} to "
        f"judge by; {report.repeated} repeated lines left out, {report.truncated} prompts cut at 512 tokens"
    )
    yield "epochs: " + ", ".join(f"{part} {count}" for part, count in report.epochs.items())
    for figures in report.figures:
        yield ""
        yield from _table(figures)
    yield ""
    yield f"complexity of the judging prompts changed by {report.complexity_change:.3f} on average"
    yield "better" if report.better else "not better: the change of an accuracy may be chance, or one became worse"


def _table(figures: "Figures") -> Iterator[str]:
    yield f"{f'{figures.label}, {figures.texts} prompts':38} before   after   change (95 %)"
    for row in figures.comparisons:
        name, mark = row.measure.replace("_", " "), "  decides" if row.decides else ""
        yield f"  {name:36} {row.before:6.3f}  {row.after:6.3f}   {row.low:+.3f} to {row.high:+.3f}{mark}"
    for named in figures.by_name:
        yield f"  {f'F1 of {named.name}, {named.texts} prompts':36} {named.before:6.3f}  {named.after:6.3f}"
