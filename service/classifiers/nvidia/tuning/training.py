"""How heads, or heads and last layers, learn: one loop for both, which may be interrupted after any epoch."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import BinaryIO, Protocol

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from service.classifiers.nvidia.heads import SLICES
from service.classifiers.nvidia.torch_runtime import Model, pool
from service.classifiers.nvidia.tuning.examples import Parts
from service.classifiers.nvidia.tuning.loss import Objective

# Opened with what is done and in how many steps; what it gives is told how many more steps are done.
Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]

_WARM_UP = 0.1  # of all steps: the learning rate rises, then falls to 0 in a straight line
_WEIGHT_DECAY = 0.01
_LONGEST_GRADIENT = 1.0
_WINDOW = 16  # batches among which texts are sorted by length, so that little is padded
_READ_TOGETHER = 16  # texts, where nothing is learned


class Schedule(msgspec.Struct, frozen=True, kw_only=True):
    """How long and how fast to learn."""

    epochs: int  # at most
    learning_rate: float  # at its highest
    batch_size: int
    patience: int  # epochs without a lower loss on the stopping part, after which training ends
    seed: int


class Student(Protocol):
    """What learns: parameters, and the logits that they give."""

    @property
    def lengths(self) -> Tensor:
        """Tokens of each example, as far as they matter to the time a batch takes; shape (examples,)."""
        ...

    def parameters(self) -> list[nn.Parameter]:
        """What the optimiser moves."""
        ...

    def logits(self, rows: Tensor, *, learning: bool) -> Tensor:
        """Logits, shape (n, 32), of the examples `rows`, shape (n,)."""
        ...


class HeadStudent:
    """The heads that one kind of label speaks for, on pooled vectors that stay as they are.

    Learns the difference to the heads it began with, on standardised vectors: decay of weights then pulls to what the
    model knew, and neither scale nor mean of the vectors matters to the speed.
    """

    def __init__(self, pooled: Tensor, before: Tensor, training: Tensor, kind: str) -> None:
        self._before = before
        self._mean = pooled[training].mean(dim=0)
        spread = pooled[training].std(dim=0)
        self._factor = 1 / spread.clamp(min=max(1e-6, 0.01 * float(spread.max())))  # what hardly varies stays small
        self._standardised = (pooled - self._mean) * self._factor
        tasks = SLICES["task_type"]  # the first logits; those of the dimensions, which make a tier, are all others
        self._learned = tasks if kind == "task_type" else slice(tasks.stop, None)
        outputs = before[:, self._learned].shape[1]
        self._weight = nn.Parameter(torch.zeros(outputs, pooled.shape[1]))
        self._bias = nn.Parameter(torch.zeros(outputs))
        self.lengths = torch.ones(len(pooled), dtype=torch.int64)

    def parameters(self) -> list[nn.Parameter]:
        return [self._weight, self._bias]

    def logits(self, rows: Tensor, *, learning: bool) -> Tensor:
        logits = self._before[rows]
        logits[:, self._learned] += functional.linear(self._standardised[rows], self._weight, self._bias)
        return logits

    def change(self, model: Model) -> None:
        """Add what was learned to the heads of a model."""
        with torch.no_grad():
            weight = self._weight * self._factor
            model.heads.weight[self._learned] += weight.to(model.heads.weight)
            model.heads.bias[self._learned] += (self._bias - weight @ self._mean).to(model.heads.bias)


class LayerStudent:
    """The last layers of a model, which change with it, and all its heads."""

    def __init__(
        self, model: Model, embeddings: npt.NDArray[np.float32], ids: Sequence[Sequence[int]], layers: int
    ) -> None:
        self._model = model
        self._embeddings = embeddings
        self._ids = ids
        self._frozen = len(model.layers) - layers
        self._device = model.heads.weight.device
        model.requires_grad_(requires_grad=False)
        self.learned = nn.ModuleList([*list(model.layers)[self._frozen :], model.heads])
        self.learned.requires_grad_(requires_grad=True)
        model.project_positions(self._frozen)
        self.lengths = torch.tensor([len(text) for text in ids])

    def parameters(self) -> list[nn.Parameter]:
        return list(self.learned.parameters())

    def logits(self, rows: Tensor, *, learning: bool) -> Tensor:
        model = self._model
        self.learned.train(learning)
        words, padding = words_of([self._ids[row] for row in rows.tolist()], self._embeddings, self._device)
        half = learning and self._device.type == "cuda"
        with torch.autocast(self._device.type, torch.bfloat16, enabled=half):
            with torch.no_grad():
                hidden = model.through(model.embeddings(words), padding, 0, self._frozen)
            pooled = pool(model.through(hidden, padding, self._frozen, len(model.layers)), padding)
        return model.logits(pooled)


def words_of(
    ids: Sequence[Sequence[int]], embeddings: npt.NDArray[np.float32], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Embedding rows of texts, shape (n, L, hidden), and True at their padding, (n, 1, 1, L)."""
    padded = pad_sequence([torch.tensor(text) for text in ids], batch_first=True)
    lengths = torch.tensor([len(text) for text in ids])
    padding = torch.arange(padded.shape[1]) >= lengths[:, None]
    words = torch.from_numpy(np.asarray(embeddings[padded.numpy()]))
    return words.to(device), padding[:, None, None, :].to(device)


def fit(
    student: Student, objective: Objective, parts: Parts, schedule: Schedule, kept: Path, progress: Progress
) -> int:
    """Train to the lowest loss on the stopping part; returns after how many epochs training ended.

    After every epoch all that the next one depends on is kept in a file. When it is there, training goes on from it
    and ends with the same weights as if it had never been interrupted (on a GPU: with almost the same).
    """
    parameters = student.parameters()
    optimiser = torch.optim.AdamW(parameters, lr=0.0, weight_decay=_WEIGHT_DECAY)
    steps = -(-len(parts.training) // schedule.batch_size)
    if kept.exists():
        state = torch.load(kept, map_location=parameters[0].device, weights_only=True)
        optimiser.load_state_dict(state["optimiser"])
        _set(parameters, state["parameters"])
    else:
        loss = mean_loss(student, objective, torch.from_numpy(parts.stopping))
        state = {"epoch": 0, "waited": 0, "lowest": loss, "best": _copied(parameters)}
    with progress(f"Learning {kept.stem}", schedule.epochs * steps) as advance:
        advance(state["epoch"] * steps)
        while state["epoch"] < schedule.epochs and state["waited"] < schedule.patience:
            _epoch(student, objective, torch.from_numpy(parts.training), optimiser, schedule, state["epoch"], advance)
            loss = mean_loss(student, objective, torch.from_numpy(parts.stopping))
            lower = loss < state["lowest"]
            state = {
                "epoch": state["epoch"] + 1,
                "waited": 0 if lower else state["waited"] + 1,
                "lowest": loss if lower else state["lowest"],
                "best": _copied(parameters) if lower else state["best"],
            }
            whole = {**state, "parameters": _copied(parameters), "optimiser": optimiser.state_dict()}
            store(kept, partial(torch.save, whole))
    _set(parameters, state["best"])
    ended: int = state["epoch"]
    return ended


def _epoch(
    student: Student, objective: Objective, training: Tensor, optimiser: torch.optim.Optimizer, schedule: Schedule,
    epoch: int, advance: Callable[[int], None],
) -> None:  # fmt: skip
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        # What an epoch draws depends on its number alone, so that a resumed one draws the same.
        torch.manual_seed(int(np.random.SeedSequence([schedule.seed, epoch]).generate_state(1)[0]))
        batches = list(shuffled(training, student.lengths, schedule.batch_size))
        for number, rows in enumerate(batches):
            rate = pace(epoch * len(batches) + number, schedule.epochs * len(batches))
            for group in optimiser.param_groups:
                group["lr"] = schedule.learning_rate * rate
            optimiser.zero_grad()
            torch.autograd.backward(objective(student.logits(rows, learning=True), rows))
            nn.utils.clip_grad_norm_(student.parameters(), _LONGEST_GRADIENT)
            optimiser.step()
            advance(1)


def pace(step: int, steps: int) -> float:
    """The share of the highest learning rate at a step.

    >>> [round(pace(step, 20), 2) for step in (0, 1, 2, 11, 19)]
    [0.5, 1.0, 1.0, 0.5, 0.06]
    """
    warm = max(1, int(steps * _WARM_UP))
    return min((step + 1) / warm, (steps - step) / max(1, steps - warm), 1.0)


def shuffled(rows: Tensor, lengths: Tensor, batch_size: int) -> Iterator[Tensor]:
    """All rows in random batches of texts of similar length, by torch's generator."""
    mixed = rows[torch.randperm(len(rows))]
    batches: list[Tensor] = []
    for window in torch.split(mixed, _WINDOW * batch_size):
        batches += torch.split(window[lengths[window].argsort(stable=True)], batch_size)
    for number in torch.randperm(len(batches)).tolist():
        yield batches[number]


@torch.no_grad()
def all_logits(student: Student, rows: Tensor) -> Tensor:
    """Logits, shape (n, 32), of the examples `rows`, shape (n,), with what was learned so far."""
    order = student.lengths[rows].argsort(stable=True)
    batches = torch.split(rows[order], _READ_TOGETHER)
    found = [student.logits(batch, learning=False).float().cpu() for batch in batches]
    return torch.cat(found)[order.argsort()]


@torch.no_grad()
def mean_loss(student: Student, objective: Objective, rows: Tensor) -> float:
    """The loss over all examples `rows`."""
    return float(objective(all_logits(student, rows), rows))


def _copied(parameters: Sequence[Tensor]) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in parameters]


@torch.no_grad()
def _set(parameters: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)


def store(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file whole or not at all."""
    whole = path.with_name(f"{path.name}.{os.getpid()}")
    with whole.open("wb") as file:
        write(file)
    whole.replace(path)
