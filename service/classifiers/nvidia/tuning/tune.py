"""Fine-tuning on the owner's labelled prompts: a new folder of weights, kept only when it is better than the old one.

First the heads learn on pooled vectors, which are computed once. With `layers`, the last layers and all heads then
learn together: beginning from heads that already fit keeps the layers from being torn away from what they know (Kumar
et al., "Fine-Tuning can Distort Pretrained Features", 2022). The loss: `loss`; the judgement: `figures`.

While it runs, `.tuning` in the result's folder holds what an interrupted run needs to go on: vectors and weights, never
a prompt. It is removed once the model is written.
"""

import contextlib
import hashlib
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import torch

from service.classifiers.nvidia.checkpoint import WEIGHTS_FILE, Checkpoint, open_checkpoint
from service.classifiers.nvidia.torch_runtime import Model, devices, find_device, named_tensors
from service.classifiers.nvidia.tuning.examples import Examples, Parts, learnable, read_examples, split
from service.classifiers.nvidia.tuning.figures import Figures, compare, complexities
from service.classifiers.nvidia.tuning.loss import Objective
from service.classifiers.nvidia.tuning.training import (
    HeadStudent,
    LayerStudent,
    Progress,
    Schedule,
    all_logits,
    fit,
    store,
    words_of,
)
from service.classifiers.nvidia.tuning.writing import check_written, put_in_place, write_model
from service.errors import ConfigurationError

Floats = npt.NDArray[np.float32]

_WORK = ".tuning"
_RULES = 1  # raise it when the same options and data would give other weights: older runs are then not continued
_CHUNK = 256  # texts whose vectors are stored together
_READ_TOGETHER = 16


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What decides the result. With `layers`, the three that may be None are those of the layers, not of the heads."""

    layers: int = 0  # how many of the last layers learn too
    epochs: int | None = None  # at most; None: 100 for heads, 5 for layers
    learning_rate: float | None = None  # None: 1e-3 for heads, 2e-5 for layers
    patience: int | None = None  # epochs; None: 10 for heads, 2 for layers
    batch_size: int = 32
    seed: int = 0
    validation_share: float = 0.2


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a tuning did. Holds no prompt."""

    began_with: str  # digest of the weights
    learned_from: int  # texts
    stopped_by: int
    judged_by: int
    repeated: int  # lines left out: another says the same of the same text
    truncated: int  # texts of more than 512 tokens, of which the model reads the beginning
    epochs: dict[str, int]  # after which training ended: of each kind's heads, and of the layers
    figures: tuple[Figures, ...]
    complexity_change: float  # mean absolute change over the judging texts
    better: bool
    kept: bool
    digest: str = ""  # of the weights that were kept


@contextlib.contextmanager
def silent(_doing: str, _steps: int) -> Iterator[Callable[[int], None]]:
    """Shows no progress."""
    yield lambda _done: None


def tune(
    weights: Path, data: Path, out: Path, options: Options, *,
    device: str = "auto", force: bool = False, progress: Progress = silent,
) -> Report:  # fmt: skip
    """Tune the model in `weights` on the lines of `data`, into the folder `out`.

    Without `force` the result is not kept unless it is better. An interrupted run goes on when called again.

    Raises:
        UnusableData: lines of `data` cannot be learned from, or are too few.
        UnusableWeights: `weights` holds no sound model.
        ConfigurationError: `out` holds a model or another tuning; the device or so many layers are not there.
    """
    place = find_device(devices()[0] if device == "auto" else device)
    checkpoint = open_checkpoint(weights)
    _check_folders(checkpoint, out, options, force=force)
    checkpoint.check_values()
    examples = read_examples(data, checkpoint.tokenizer)
    parts = split(examples.digests, validation_share=options.validation_share, seed=options.seed)
    kinds = learnable(examples, parts)
    work = _work_folder(out, checkpoint, examples, options)

    model = Model(checkpoint).requires_grad_(requires_grad=False).eval().to(place)
    tuned = _trained(model, checkpoint, _Data(examples, parts, kinds), options, work, progress)
    judging = parts.validation
    figures = tuple(
        compare(kind, examples.labels[kind][judging], tuned.before, tuned.after, seed=options.seed) for kind in kinds
    )
    better = any(kind.better for kind in figures) and not any(kind.worse for kind in figures)
    report = Report(
        began_with=checkpoint.digest,
        learned_from=len(parts.training),
        stopped_by=len(parts.stopping),
        judged_by=len(judging),
        repeated=examples.repeated,
        truncated=examples.truncated,
        epochs=tuned.epochs,
        figures=figures,
        complexity_change=float(np.abs(complexities(tuned.after) - complexities(tuned.before)).mean()),
        better=better,
        kept=better or force,
    )
    if not report.kept:
        return report
    written = work / "model"
    write_model(checkpoint, named_tensors(tuned.learned), _note(report, options), written)
    digest = check_written(written, [examples.ids[row] for row in judging[:_READ_TOGETHER]], tuned.after)
    put_in_place(written, out)
    shutil.rmtree(work)
    return msgspec.structs.replace(report, digest=digest)


def _note(report: Report, options: Options) -> dict[str, Any]:
    """What the new `config.json` says of where its weights are from."""
    return {
        "from": report.began_with,
        "layers": options.layers,
        "learned_from": report.learned_from,
        "judged_by": report.judged_by,
        "accuracy": {
            kind.label: {"before": row.before, "after": row.after, "change": [row.low, row.high]}
            for kind in report.figures
            for row in kind.comparisons
            if row.decides
        },
    }


class _Data(NamedTuple):
    examples: Examples
    parts: Parts
    kinds: tuple[str, ...]


class _Tuned(NamedTuple):
    learned: torch.nn.Module  # of the model, what is other than it was
    before: Floats  # logits of the judging texts, (n, 32)
    after: Floats
    epochs: dict[str, int]


def _trained(
    model: Model, checkpoint: Checkpoint, data: _Data, options: Options, work: Path, progress: Progress
) -> _Tuned:
    examples, parts, kinds = data
    pooled = torch.from_numpy(_pooled_vectors(model, checkpoint, examples, work, progress))
    with torch.no_grad():
        before = model.logits(pooled.to(model.heads.weight)).cpu()
    objective = Objective(examples, parts.training, before)
    judging = torch.from_numpy(parts.validation)
    epochs = {}
    for kind in kinds:  # their heads have nothing in common, so each ends when it has learned enough
        heads = HeadStudent(pooled, before, torch.from_numpy(parts.training), kind)
        epochs[kind] = fit(heads, objective, parts, _schedule(options, 0), work / f"{kind}.pt", progress)
        heads.change(model)
    learned: torch.nn.Module = model.heads
    if options.layers:
        layers = LayerStudent(model, checkpoint.embeddings, examples.ids, options.layers)
        schedule = _schedule(options, options.layers)
        epochs["layers"] = fit(layers, objective, parts, schedule, work / "layers.pt", progress)
        learned = layers.learned
        after = all_logits(layers, judging)
    else:
        with torch.no_grad():
            after = model.logits(pooled[judging].to(model.heads.weight)).cpu()
    return _Tuned(learned, before[judging].numpy(), after.numpy(), epochs)


def _schedule(options: Options, layers: int) -> Schedule:
    usual = (5, 2e-5, 2) if layers else (100, 1e-3, 10)
    asked = (options.epochs, options.learning_rate, options.patience) if layers == options.layers else (None,) * 3
    epochs, learning_rate, patience = (
        default if given is None else given for given, default in zip(asked, usual, strict=True)
    )
    return Schedule(
        epochs=int(epochs),
        learning_rate=learning_rate,
        patience=int(patience),
        batch_size=options.batch_size,
        seed=options.seed,
    )


def _check_folders(checkpoint: Checkpoint, out: Path, options: Options, *, force: bool) -> None:
    mistakes = []
    if options.layers > checkpoint.geometry.layers:
        mistakes.append(f"--layers is {options.layers}, but the model has {checkpoint.geometry.layers}")
    if out.exists() and out.samefile(checkpoint.folder):
        mistakes.append(f"--out is the folder of the weights to begin with ({out}); name another one")
    elif (out / WEIGHTS_FILE).exists() and not force:
        mistakes.append(f"{out} holds a model already; name another folder, or replace it with --force")
    if mistakes:
        raise ConfigurationError(mistakes)


def _work_folder(out: Path, checkpoint: Checkpoint, examples: Examples, options: Options) -> Path:
    """Where an interrupted run with the same weights, data and options left off, or an empty folder."""
    labels = [values.tolist() for values in examples.labels.values()]
    decides = [_RULES, checkpoint.digest, examples.digests, labels, options]
    key = hashlib.sha256(msgspec.json.encode(decides)).hexdigest()
    work = out / _WORK
    work.mkdir(parents=True, exist_ok=True)
    named = work / "key"
    if not named.exists():
        store(named, lambda file: file.write(key.encode()))
    elif named.read_bytes() != key.encode():
        mistake = f"{work} holds an interrupted tuning of other weights, or with other data or options"
        raise ConfigurationError([f"{mistake}: continue it with those, or remove that folder"])
    return work


def _pooled_vectors(model: Model, checkpoint: Checkpoint, examples: Examples, work: Path, progress: Progress) -> Floats:
    """What the heads see of all texts, shape (n, hidden). Stored in chunks, so that none is computed twice."""
    chunks = []
    with progress("Reading", len(examples.ids)) as advance:
        for start in range(0, len(examples.ids), _CHUNK):
            path = work / f"vectors-{start}.npy"
            ids = examples.ids[start : start + _CHUNK]
            if path.exists():
                vectors = np.load(path, allow_pickle=False)
                advance(len(ids))
            else:
                vectors = _vectors(model, checkpoint, ids, advance)
                store(path, partial(np.save, arr=vectors))
            chunks.append(vectors)
    return np.concatenate(chunks)


def _vectors(model: Model, checkpoint: Checkpoint, ids: list[list[int]], advance: Callable[[int], None]) -> Floats:
    model.project_positions(len(model.layers))
    order = sorted(range(len(ids)), key=lambda row: len(ids[row]))
    vectors = np.empty((len(ids), checkpoint.geometry.hidden), dtype=np.float32)
    for start in range(0, len(order), _READ_TOGETHER):
        rows = order[start : start + _READ_TOGETHER]
        words, padding = words_of([ids[row] for row in rows], checkpoint.embeddings, model.heads.weight.device)
        with torch.no_grad():
            vectors[rows] = model(words, padding).cpu().numpy()
        advance(len(rows))
    return vectors
