"""What NVIDIA's eight heads mean: from 32 logits to the eleven answers, rounded exactly as NVIDIA rounds them.

The order of the heads here is the contract of the weights (`head_0` to `head_7`). It is never read from `config.json`:
a JSON object loses its order whenever it is saved with sorted keys, and every head would move.
"""

from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from bandit.vocabulary import TASK_TYPES, Classification, DimensionScores

Floats = npt.NDArray[np.floating]


class Head(NamedTuple):
    """One linear layer on the pooled text, and how its probabilities become a score."""

    name: str  # NVIDIA's name of the target
    size: int  # classes
    weights: tuple[int, ...] = ()  # by class; empty for the task type, which is no number
    divisor: int = 1


HEADS = (
    Head("task_type", len(TASK_TYPES)),
    Head("creativity_scope", 3, (2, 1, 0), 2),  # High, Low, No
    Head("reasoning", 2, (0, 1)),  # No, Yes
    Head("contextual_knowledge", 2, (0, 1)),  # No, Yes
    Head("number_of_few_shots", 6, (0, 1, 2, 3, 4, 5)),
    Head("domain_knowledge", 4, (3, 1, 2, 0), 3),  # High, Low, Medium, No
    Head("no_label_reason", 1, (0,)),
    Head("constraint_ct", 2, (1, 0)),  # present, absent
)
N_LOGITS = sum(head.size for head in HEADS)
_ENDS = np.cumsum([head.size for head in HEADS])
SLICES = {
    head.name: slice(int(end) - head.size, int(end)) for head, end in zip(HEADS, _ENDS, strict=True)
}  # where the logits of a head stand

SECOND_TASK_FROM = 0.1  # a rounded probability under it makes the second task type "NA"
FEW_SHOTS_FROM = 0.05  # a rounded count under it is none


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """The eleven fields that NVIDIA's code returns, by its names and in its order.

    Scores lie in [0, 1], but `number_of_few_shots` in [0, 5], hence `prompt_complexity_score` in [0, 1.2].
    `no_label_reason` is always 0.
    """

    task_type_1: str
    task_type_2: str  # "NA" when the second likeliest type has less than 0.1
    task_type_prob: float
    creativity_scope: float
    reasoning: float
    contextual_knowledge: float
    number_of_few_shots: int | float
    domain_knowledge: float
    no_label_reason: float
    constraint_ct: float
    prompt_complexity_score: float


def probabilities_of(logits: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Logits, shape (..., 32), as probabilities of the same shape: a softmax within every head.

    Raises ValueError for another shape and for NaN or infinite logits.
    """
    values = np.asarray(logits, dtype=np.float32).astype(np.float64)
    if values.ndim == 0 or values.shape[-1] != N_LOGITS:
        raise ValueError(f"logits have shape {values.shape}, expected (..., {N_LOGITS})")
    if not np.isfinite(values).all():
        raise ValueError("logits hold NaN or infinity")
    result = np.empty_like(values)
    for part in SLICES.values():
        odds = np.exp(values[..., part] - values[..., part].max(axis=-1, keepdims=True))
        result[..., part] = odds / odds.sum(axis=-1, keepdims=True)
    return result


def answer_of(logits: npt.ArrayLike) -> Answer:
    """What NVIDIA's code answers for the logits of one text, shape (32,)."""
    return _answer(*_one(logits))


def _one(logits: npt.ArrayLike) -> tuple[tuple[int, int], npt.NDArray[np.float64]]:
    """The two likeliest task types of one text and all its probabilities.

    By logits, as NVIDIA does: probabilities may be equal where logits still differ.
    """
    if (shape := np.shape(logits)) != (N_LOGITS,):
        raise ValueError(f"logits have shape {shape}, expected ({N_LOGITS},): one text at a time")
    tasks = np.asarray(logits, dtype=np.float32)[SLICES["task_type"]]
    first, second = np.argsort(-tasks, kind="stable")[:2]
    return (int(first), int(second)), probabilities_of(logits)


def _answer(likeliest: tuple[int, int], exact: npt.NDArray[np.float64]) -> Answer:
    probabilities = exact.astype(np.float32)  # NVIDIA's softmax is in float32
    tasks = probabilities[SLICES["task_type"]]
    first, second = likeliest
    # NVIDIA rounds these as Python floats, but the scores as numpy floats: halves may fall to different sides.
    second_rounded = round(float(tasks[second]), 3)
    scores = {head.name: _score(head, probabilities) for head in HEADS[1:]}
    few_shots = scores["number_of_few_shots"]
    shots = few_shots if few_shots >= FEW_SHOTS_FROM else 0
    return Answer(
        task_type_1=TASK_TYPES[first],
        task_type_2=TASK_TYPES[second] if second_rounded >= SECOND_TASK_FROM else "NA",
        task_type_prob=round(float(tasks[first]), 3),
        creativity_scope=scores["creativity_scope"],
        reasoning=scores["reasoning"],
        contextual_knowledge=scores["contextual_knowledge"],
        number_of_few_shots=shots,
        domain_knowledge=scores["domain_knowledge"],
        no_label_reason=scores["no_label_reason"],
        constraint_ct=scores["constraint_ct"],
        prompt_complexity_score=_rounded(
            0.35 * scores["creativity_scope"]
            + 0.25 * scores["reasoning"]
            + 0.15 * scores["constraint_ct"]
            + 0.15 * scores["domain_knowledge"]
            + 0.05 * scores["contextual_knowledge"]
            + 0.05 * shots,
            5,
        ),
    )


def _score(head: Head, probabilities: npt.NDArray[np.float32]) -> float:
    """The expected value of a head, never its likeliest class."""
    expected = np.sum(probabilities[SLICES[head.name]] * np.array(head.weights)) / head.divisor
    return _rounded(expected, 4)


def _rounded(value: float, decimals: int) -> float:
    return float(np.round(np.float64(value), decimals))


def classification_of(logits: npt.ArrayLike, *, classifier: str, vector: tuple[float, ...] = ()) -> Classification:
    """The logits of one text, shape (32,), in the words of our contract.

    Task probabilities are not rounded; scores and complexity are NVIDIA's.
    """
    likeliest, probabilities = _one(logits)
    answer = _answer(likeliest, probabilities)
    return Classification(
        task_type=TASK_TYPES[likeliest[0]],
        task_probabilities=tuple(probabilities[SLICES["task_type"]].tolist()),
        scores=DimensionScores(
            creativity=answer.creativity_scope,
            reasoning=answer.reasoning,
            contextual_knowledge=answer.contextual_knowledge,
            domain_knowledge=answer.domain_knowledge,
            constraints=answer.constraint_ct,
            few_shots=float(answer.number_of_few_shots),
        ),
        complexity=answer.prompt_complexity_score,
        classifier=classifier,
        vector=vector,
    )
