"""What fine-tuning minimises: the right task type, complexities in the order of the tiers, and otherwise no change.

For a text with logits l, p(l) being the softmax within every head:

    task     -w[t] log p_task[t]                                              for a text with task type t
    tier     w[r] sum over k in {0, 1} of softplus(-s_k (c(l) - b_k) / T)     for a text with tier r
    anchor   sum over heads of KL(p_head before || p_head)                    for every text

c(l) is NVIDIA's complexity without its rounding: the weighted sum of the heads' expected values, and so has a gradient.
b_0 < b_1 are the complexities where medium and complex begin; s_k is +1 when r lies above boundary k and -1 below.
This is the all-threshold ordinal logistic loss (Rennie and Srebro, 2005) with fixed thresholds, as routing has them: a
complex prompt scored as simple costs both terms. T sets how far from a boundary is far enough.

w weighs a class of n examples by n ** -0.5, scaled to a mean of 1 over the examples: rare types count more than their
number, common ones still more than rare ones, so that probabilities stay near what traffic shows.

Many scores give the same complexity, and a tier says nothing of a single one. So the anchor holds every head to its
former answers where no label speaks for it: the six dimensions on every text, the task type on texts without one.

The loss is the mean of `task` and of `tier` over the texts that have such a label, plus ANCHOR times the mean of the
anchor over all texts.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from service.classifiers.nvidia import TIERS
from service.classifiers.nvidia.heads import HEADS, N_LOGITS, SLICES
from service.classifiers.nvidia.tuning.examples import NO_LABEL, Examples, Integers

TEMPERATURE = 0.05  # T, in units of complexity
ANCHOR = 0.1
BALANCE = 0.5

_COMPLEXITY_WEIGHTS = {
    "creativity_scope": 0.35,
    "reasoning": 0.25,
    "constraint_ct": 0.15,
    "domain_knowledge": 0.15,
    "contextual_knowledge": 0.05,
    "number_of_few_shots": 0.05,
}


def complexity(logits: Tensor) -> Tensor:
    """NVIDIA's complexity before any rounding, shape (n,), of logits, shape (n, 32); it has a gradient."""
    weights = torch.zeros(N_LOGITS, dtype=logits.dtype, device=logits.device)
    odds = []
    for head in HEADS:
        part = SLICES[head.name]
        odds.append(logits[:, part].softmax(dim=1))
        if head.name in _COMPLEXITY_WEIGHTS:
            values = torch.tensor(head.weights, dtype=logits.dtype) * _COMPLEXITY_WEIGHTS[head.name] / head.divisor
            weights[part] = values.to(logits.device)
    return torch.cat(odds, dim=1) @ weights


class Objective:
    """The loss of batches of examples. `before` are the logits of all examples, (n, 32), when tuning began."""

    def __init__(self, examples: Examples, training: Integers, before: Tensor) -> None:
        self._before = before.detach()
        self._labels = {kind: torch.from_numpy(labels) for kind, labels in examples.labels.items()}
        self._weights = {
            kind: torch.from_numpy(class_weights(labels, training)) for kind, labels in examples.labels.items()
        }

    def __call__(self, logits: Tensor, rows: Tensor) -> Tensor:
        """The mean loss over the examples `rows`, shape (n,), whose logits are given, shape (n, 32)."""
        device = logits.device
        labels = {kind: labels[rows].to(device) for kind, labels in self._labels.items()}
        weights = {kind: weights[rows].to(device) for kind, weights in self._weights.items()}
        without_task = labels["task_type"] == NO_LABEL
        task = functional.cross_entropy(
            logits[:, SLICES["task_type"]], labels["task_type"], ignore_index=NO_LABEL, reduction="none"
        )
        boundaries = torch.tensor(TIERS, dtype=logits.dtype, device=device)
        above = labels["tier"][:, None] > torch.arange(len(TIERS), device=device)
        steps = (complexity(logits)[:, None] - boundaries) / TEMPERATURE
        tier = functional.binary_cross_entropy_with_logits(steps, above.to(steps.dtype), reduction="none").sum(dim=1)
        anchor = logits.new_zeros(len(rows))
        before = self._before[rows.to(self._before.device)].to(device)
        for head in HEADS:
            part = SLICES[head.name]
            kept, found = before[:, part].log_softmax(dim=1), logits[:, part].log_softmax(dim=1)
            moved = functional.kl_div(found, kept, reduction="none", log_target=True).sum(dim=1)
            anchor = anchor + (moved * without_task if head.name == "task_type" else moved)
        return (task * weights["task_type"] + tier * weights["tier"] + ANCHOR * anchor).mean()


def class_weights(labels: Integers, training: Integers) -> npt.NDArray[np.float32]:
    """The weight of each example: 0 without a label, else by its class; the mean over `training` is 1.

    So the mean over a batch estimates the mean over the labelled examples, however few they are.
    """
    learned = labels[training]
    counts = np.bincount(learned[learned != NO_LABEL], minlength=labels.max() + 2)
    # A class that training lacks weighs like one with a single example; the last place is for NO_LABEL, index -1.
    weights = np.maximum(counts, 1.0) ** -BALANCE
    weights[NO_LABEL] = 0.0
    mean = weights[learned].mean()
    return (weights[labels] / (mean or 1.0)).astype(np.float32)
