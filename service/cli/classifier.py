"""`armwise classify` and `armwise classifier`: prompts from a file, and everything about NVIDIA's weights."""

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from service.classifiers.distil_cli import distil
from service.classifiers.nvidia.tuning.command import tune
from service.cli.options import echo_json, json_option
from service.errors import ArmwiseError, ConfigurationError, DownloadFailed

if TYPE_CHECKING:
    from service.classifiers.lines import Answer
    from service.classifiers.nvidia.checking import Gated, Report
    from service.settings import ClassifierSettings

config_option = click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="The settings file, for what is not given here. Default: armwise.toml in this folder, if there is one.",
)
weights_option = click.option(
    "--weights",
    metavar="DIR",
    help="Folder with NVIDIA's weights, or the hub name of fetched ones. Default: the environment variable "
    "ARMWISE_CLASSIFIER_WEIGHTS, else classifier.weights of the settings, data/nvidia-classifier.",
)

_OF_NVIDIA = ("weights", "backend", "precision", "device", "token_budget", "threads", "logits", "probabilities")


def _settings(config: Path | None) -> "ClassifierSettings":
    from service.configuration import read_settings

    return read_settings(config, os.environ).classifier


def _folder(weights: str | None, settings: "ClassifierSettings") -> Path:
    from service.classifiers.choice import weights_folder
    from service.classifiers.nvidia.fetch import locate

    return locate(weights or str(weights_folder(settings)))


@contextlib.contextmanager
def _packages() -> Iterator[None]:
    """Say which extra has a package that is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        extra = {"torch": "torch", "onnx": "nvidia", "onnxruntime": "nvidia", "tokenizers": "nvidia"}.get(
            error.name or ""
        )
        if extra is None:
            raise
        raise ArmwiseError(f"{error.name} is not installed. `pip install 'armwise[{extra}]'` installs it.") from error


@click.command()
@config_option
@click.option("--classifier", type=click.Choice(["nvidia", "embedded", "rules"]), help="Default: as the settings say.")
@click.option("--embedded", type=click.Choice(["text", "embedding"]), help="Kind of the embedded classifier.")
@weights_option
@click.option("--backend", type=click.Choice(["onnx", "torch"]), help="What runs NVIDIA's model. Default: onnx.")
@click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "int8", "bf16"]),
    help="Of its numbers; int8 with onnx, bf16 with torch. Default: auto, fp32 unless the gate has passed.",
)
@click.option("--device", type=click.Choice(["cpu", "cuda", "mps"]), help="Where torch computes. Default: cpu.")
@click.option(
    "--token-budget", type=click.IntRange(0, 512), help="Read only so many tokens, head and tail. 0: all 512."
)
@click.option("--threads", type=click.IntRange(1), help="Prompts computed at the same time. Default: one a core.")
@click.option("--logits", is_flag=True, help="Add the 32 logits of NVIDIA's heads, in canonical order.")
@click.option("--probabilities", is_flag=True, help="Add their 32 probabilities.")
def classify(config: Path | None, **given: Any) -> None:
    r"""Classify prompts: lines {"id", "prompt"} on standard input, lines {"id", "result"} on standard output.

    The result has the eleven fields that NVIDIA's code returns, whatever classifier answers. A line that cannot be
    answered gets {"id", "error"}; the exit status is 0 all the same.
    """
    from service.classifiers.choice import wanted_classifier
    from service.classifiers.lines import classify_lines

    settings = _with_given(_settings(config), given)
    kind = wanted_classifier(settings, {} if given["weights"] else os.environ).kind
    if kind == "nvidia":
        name, answer = _nvidia(settings, given)
    else:
        name, answer = _small(settings, given)
    counts = classify_lines(_standard_input(), sys.stdout.buffer, answer)
    errors = f", {counts.errors} of them with an error" if counts.errors else ""
    click.echo(f"{counts.answered} lines answered by {name}{errors}.", err=True)


def _standard_input() -> BinaryIO:
    """Standard input, opened a second time: Python closes its own at exit, and dies when a thread still waits there."""
    try:
        return os.fdopen(os.dup(sys.stdin.fileno()), "rb")
    except io.UnsupportedOperation:  # it is no file, as in tests
        return sys.stdin.buffer


def _with_given(settings: "ClassifierSettings", given: dict[str, Any]) -> "ClassifierSettings":
    import msgspec

    fields = ("embedded", "backend", "precision", "device", "token_budget")
    changes = {field: given[field] for field in fields if given[field] is not None}
    if given["classifier"]:
        changes["kind"] = given["classifier"]
    if given["weights"]:
        changes["weights"] = str(_folder(given["weights"], settings))
        changes.setdefault("kind", "nvidia")
    return msgspec.structs.replace(settings, **changes)


def _nvidia(settings: "ClassifierSettings", given: dict[str, Any]) -> "tuple[str, Answer]":
    from service.classifiers.answers import nvidia_answers
    from service.classifiers.nvidia import load_nvidia

    offered = {"onnx": "int8", "torch": "bf16"}[settings.backend]
    if settings.precision not in {"auto", "fp32", offered}:
        other = {"onnx": "torch", "torch": "onnx"}[settings.backend]
        raise click.UsageError(
            f"--precision {settings.precision} is not offered with --backend {settings.backend}: take --precision "
            f"{offered} or fp32, or --backend {other}."
        )
    if settings.device != "cpu" and settings.backend != "torch":
        raise click.UsageError(f"--device {settings.device} needs --backend torch; onnx computes on the CPU.")
    with _packages():
        try:
            nvidia = load_nvidia(
                _folder(given["weights"], settings),
                backend=settings.backend,
                precision=settings.precision,
                device=settings.device,
                token_budget=settings.token_budget,
                gated=False,  # whoever asks for a precision here wants to see what it answers
            )
        except ConfigurationError as error:
            raise click.UsageError("; ".join(error.mistakes)) from error
    options = {"logits": given["logits"], "probabilities": given["probabilities"]}
    return nvidia.name, nvidia_answers(nvidia, **options, threads=given["threads"] or 0)


def _small(settings: "ClassifierSettings", given: dict[str, Any]) -> "tuple[str, Answer]":
    from service.classifiers import excerpt
    from service.classifiers.answers import small_answers
    from service.classifiers.models import plan_of

    refused = [f"--{name.replace('_', '-')}" for name in _OF_NVIDIA if given[name]]
    if refused:
        raise click.UsageError(f"{' and '.join(refused)} can only be used with --classifier nvidia.")
    plan = plan_of(settings)
    if plan.load is not None:
        with _packages():
            model = plan.load()
        return model.name, small_answers(lambda text: model.answer(model.cut(text)).classification)
    small = plan.small  # it reads head and tail, as when it serves
    return small.name, small_answers(lambda text: small.classify(excerpt(text, settings.max_characters)))


@click.group()
def classifier() -> None:
    """Get NVIDIA's classifier, export, check and fine-tune it, or let the embedded one learn from it."""


classifier.add_command(distil)
classifier.add_command(tune)


@classifier.command()
@click.option(
    "--to",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the files. Default: ARMWISE_CLASSIFIER_WEIGHTS, else data/nvidia-classifier.",
)
@click.option("--repository", help="Its name on the hub. Default: nvidia/prompt-task-and-complexity-classifier.")
@click.option("--revision", default="main", show_default=True, help="Branch, tag or commit.")
@click.option("--accept-licence", is_flag=True, help="Accept the licence without being asked, after reading it.")
@click.option("--endpoint", help="The hub's address. Default: HF_ENDPOINT, else https://huggingface.co.")
def fetch(
    folder: Path | None, repository: str | None, revision: str, *, accept_licence: bool, endpoint: str | None
) -> None:
    """Fetch NVIDIA's weights from the hub: 0.75 GB, resumed when broken off, verified.

    Their licence is shown and must be accepted once. A token for the hub is read from HF_TOKEN.
    """
    from service.classifiers.choice import WEIGHTS_VARIABLE
    from service.classifiers.nvidia.fetch import REPOSITORY, folder_for, plan_fetch
    from service.classifiers.nvidia.fetch import fetch as run
    from service.classifiers.nvidia.hub import ENDPOINT, Hub
    from service.classifiers.nvidia.licence import licence_of

    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        raise DownloadFailed("HF_HUB_OFFLINE is set, so nothing is fetched. Unset it for this command.")
    repository = repository or REPOSITORY
    named = os.environ.get(WEIGHTS_VARIABLE) if repository == REPOSITORY else None
    folder = folder or (Path(named) if named and named != repository else folder_for(repository))
    with Hub(endpoint or os.environ.get("HF_ENDPOINT") or ENDPOINT, os.environ.get("HF_TOKEN", "")) as hub:
        plan = plan_fetch(hub, folder, repository, revision)
        _accept(folder, licence_of(hub, plan), given=accept_licence)
        if plan.missing:
            label = f"Fetching {plan.bytes_missing / 1e6:,.1f} MB"
            with click.progressbar(length=plan.bytes_missing, label=label, file=sys.stderr) as bar:
                run(hub, plan, bar.update)
        else:
            click.echo("Every file was there.", err=True)
            run(hub, plan, lambda _: None)
    _open(folder)
    click.echo(f"{folder} holds {repository} at {plan.commit}, verified.\nNext: armwise classifier check", err=True)


def _accept(folder: Path, licence: Any, *, given: bool) -> None:
    from service.classifiers.nvidia.licence import accept, accepted, terms

    if accepted(folder, licence):
        return
    click.echo(terms(licence), err=True)
    if given:
        accept(folder, licence, "--accept-licence")
    elif sys.stdin.isatty():
        if not click.confirm("Do you accept these terms?", err=True):
            raise DownloadFailed("The licence was not accepted, so nothing was fetched.")
        accept(folder, licence, "terminal")
    else:
        raise DownloadFailed(
            "The licence must be accepted once, and there is no terminal to ask on. Read it, then add --accept-licence."
        )


def _open(folder: Path) -> None:
    """Refuse what is whole but not a classifier; without the packages for it, `check` has to do it later."""
    from importlib.util import find_spec

    if find_spec("tokenizers") is None:
        click.echo("Not opened yet: `pip install 'armwise[nvidia]'` installs what that needs.", err=True)
        return
    from service.classifiers.nvidia.checkpoint import open_checkpoint

    open_checkpoint(folder)


@classifier.command()
@config_option
@weights_option
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    type=click.Choice(["fp32", "int8"]),
    help="Give one or both. Default: both.",
)
def export(config: Path | None, weights: str | None, precisions: tuple[str, ...]) -> None:
    """Export the weights to what ONNX Runtime loads, beside them. Serving does this by itself the first time."""
    folder = _folder(weights, _settings(config))
    with _packages():
        from service.classifiers.nvidia import artefact
        from service.classifiers.nvidia.checkpoint import open_checkpoint

        checkpoint = open_checkpoint(folder)
        for precision in precisions or ("fp32", "int8"):
            made = artefact.load_artefact(checkpoint, checkpoint.digest, precision)
            there = made is not None and made.intact()
            if made is None or not there:
                made = artefact.export(checkpoint, precision)
            size = made.path.stat().st_size / 1e6
            click.echo(f"{precision}: {made.path} ({size:,.1f} MB{', was there' if there else ''})")


@classifier.command()
@config_option
@weights_option
@click.option(
    "--prompts",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help='Prompts of your own for the precision gate, lines {"prompt"}; at least 100.',
)
@click.option(
    "--device",
    default="cpu",
    show_default=True,
    type=click.Choice(["cpu", "cuda", "mps"]),
    help="Where torch is gated.",
)
@json_option
def check(config: Path | None, weights: str | None, prompts: Path | None, device: str, *, as_json: bool) -> None:
    """Check the weights: self-test, the examples on NVIDIA's model card, and which precisions agree with fp32.

    The precisions' verdicts are recorded beside the weights; the setting precision = "auto" follows them.
    """
    from service.classifiers.lines import read_prompts

    folder = _folder(weights, _settings(config))
    own = read_prompts(prompts) if prompts else ()
    with _packages():
        from service.classifiers.nvidia.checking import check as run

        with _bars() as note:
            report = run(folder, own, device=device, note=note)
    if as_json:
        echo_json(report)
    else:
        for line in _told(report):
            click.echo(line)
    if not report.passed:
        raise SystemExit(1)


@contextlib.contextmanager
def _bars() -> Iterator[Callable[[str, int], Callable[[int], None]]]:
    """Progress bars on standard error, one after the other."""
    with contextlib.ExitStack() as open_bar:

        def note(what: str, steps: int) -> Callable[[int], None]:
            open_bar.close()
            if steps == 0:
                click.echo(what, err=True)
                return lambda _: None
            return open_bar.enter_context(click.progressbar(length=steps, label=what, file=sys.stderr)).update

        yield note


def _told(report: "Report") -> Iterator[str]:
    shape = report.geometry
    card = {
        "passed": "passed: the three printed examples are met",
        "failed": "FAILED: these look like NVIDIA's weights, but do not answer as its card prints",
        "other weights": "not met: these are not NVIDIA's released weights (fine-tuned, or random)",
        "not asked": "not asked: this is a model of another size",
    }[report.card]
    yield f"weights    {report.folder}" + (f", {report.source}" if report.source else "")
    yield f"digest     {report.digest}"
    yield f"size       {shape.layers} layers, hidden {shape.hidden}, vocabulary {shape.vocabulary}"
    yield f"self-test  {report.self_test}: a text alone answers like the same text in a batch"
    yield f"card       {card}"
    for example in report.card_report.examples if report.card_report else ():
        off = "is another one" if example.difference is None else f"is off by {example.difference:.4g}"
        yield f"           {example.worst_field} {off}: {example.prompt}..."
    for gate in report.gates:
        outcome = "passed" if gate.passed else "not passed: fp32 is served"
        yield f"{gate.precision:10} {outcome} ({gate.backend}, {gate.device})"
        yield from _verdicts(gate)
    served = ", ".join(f"{precision} with {backend}" for backend, precision in report.serves.items())
    yield f'serves     {served}, by precision = "auto"'


def _verdicts(gate: "Gated") -> Iterator[str]:
    for name, verdict in zip(("packaged prompts", "your prompts"), gate.verdicts, strict=False):
        yield (
            f"           {verdict.prompts} {name}: {verdict.task_agreement:.1%} same task type, complexity off by "
            f"{verdict.mean_complexity_error:.4f} on average and {verdict.max_complexity_error:.4f} at most,"
        )
        yield (
            f"           {verdict.tier_flips} changed their tier, {verdict.near_flips} more near a boundary; "
            f"a probability is off by {verdict.max_probability_error:.3f} at most"
        )
        yield from (f"           - {reason}" for reason in verdict.reasons)
    if gate.problem:
        yield f"           {gate.problem}"
