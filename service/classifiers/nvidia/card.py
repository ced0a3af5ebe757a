"""The examples that NVIDIA prints on its model card, with the answers it prints: what the real weights must answer.

Source: https://huggingface.co/nvidia/prompt-task-and-complexity-classifier, sections "Examples" and "How to Use in
Transformers". The card does not say whether the first two were scored with the "Prompt: " that it shows before them, so
either is accepted.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import msgspec

from service.classifiers.nvidia.geometry import DEBERTA_V3_BASE, Geometry
from service.classifiers.nvidia.heads import Answer

BASE_MODEL = "microsoft/deberta-v3-base"
TOLERANCE = 0.002  # two tables on the card are rounded to three decimals
_OTHER_MODEL = 0.02  # further off than any rounding or precision: not a slip of ours, but other weights

Outcome = Literal["passed", "failed", "other weights"]


class Example(NamedTuple):
    """A prompt of the card."""

    prompt: str
    task_type: str
    printed: dict[str, float]  # NVIDIA's names of the fields
    second: str | None = None  # the second task type, where it is printed
    prefixes: tuple[str, ...] = ("Prompt: ", "")  # what may have stood in front


EXAMPLES = (
    Example(
        "Write a mystery set in a small town where an everyday object goes missing, causing a ripple of curiosity and "
        "suspicion. Follow the investigation and reveal the surprising truth behind the disappearance.",
        "Text Generation",
        {
            "prompt_complexity_score": 0.472,
            "creativity_scope": 0.867,
            "reasoning": 0.056,
            "contextual_knowledge": 0.048,
            "domain_knowledge": 0.226,
            "constraint_ct": 0.785,
            "number_of_few_shots": 0,
        },
    ),
    Example(
        "Antibiotics are a type of medication used to treat bacterial infections. They work by either killing the "
        "bacteria or preventing them from reproducing, allowing the body’s immune system to fight off the infection. "
        "Antibiotics are usually taken orally in the form of pills, capsules, or liquid solutions, or sometimes "
        "administered intravenously. They are not effective against viral infections, and using them inappropriately "
        "can lead to antibiotic resistance. Explain the above in one sentence.",
        "Summarization",
        {
            "prompt_complexity_score": 0.133,
            "creativity_scope": 0.003,
            "reasoning": 0.014,
            "contextual_knowledge": 0.003,
            "domain_knowledge": 0.644,
            "constraint_ct": 0.211,
            "number_of_few_shots": 0,
        },
    ),
    Example(
        "Write a Python script that uses a for loop.",
        "Code Generation",
        {
            "task_type_prob": 0.767,
            "creativity_scope": 0.0826,
            "reasoning": 0.0632,
            "contextual_knowledge": 0.056,
            "number_of_few_shots": 0,
            "domain_knowledge": 0.9803,
            "constraint_ct": 0.5578,
            "prompt_complexity_score": 0.27822,
        },
        second="Text Generation",
        prefixes=("Prompt: ",),  # as the card's code has it
    ),
)


class ExampleResult(msgspec.Struct, frozen=True, kw_only=True):
    """One example of the card, scored."""

    prompt: str
    with_prefix: bool  # which of the two readings came nearer
    worst_field: str
    difference: float | None  # of that field, from what is printed; None: a task type, which is another one
    passed: bool


class CardReport(msgspec.Struct, frozen=True, kw_only=True):
    """What the card's examples say of weights."""

    outcome: Outcome
    examples: tuple[ExampleResult, ...]


def could_be_released(geometry: Geometry, base_model: object) -> bool:
    """Whether weights can be NVIDIA's own at all: their backbone and its size are."""
    return geometry == DEBERTA_V3_BASE and str(base_model).lower() == BASE_MODEL


def check_card(answer: Callable[[str], Answer]) -> CardReport:
    """Score the card's examples.

    The outcome is "other weights" when an answer is far from what is printed: a fine-tuned model, or random weights.
    """
    results = tuple(_score(example, answer) for example in EXAMPLES)
    far = any(result.difference is None or result.difference > _OTHER_MODEL for result in results)
    outcome: Outcome = "other weights" if far else "failed"
    if all(result.passed for result in results):
        outcome = "passed"
    return CardReport(outcome=outcome, examples=results)


def _score(example: Example, answer: Callable[[str], Answer]) -> ExampleResult:
    readings = [(prefix, *_compare(example, answer(prefix + example.prompt))) for prefix in example.prefixes]
    prefix, field, difference = min(readings, key=lambda reading: reading[2])
    return ExampleResult(
        prompt=example.prompt[:60],
        with_prefix=prefix != "",
        worst_field=field,
        difference=difference if difference < float("inf") else None,
        passed=difference <= TOLERANCE,
    )


def _compare(example: Example, found: Answer) -> tuple[str, float]:
    """The field that is furthest off, and by how much."""
    if found.task_type_1 != example.task_type:
        return "task_type_1", float("inf")
    if example.second is not None and found.task_type_2 != example.second:
        return "task_type_2", float("inf")
    off = {field: abs(getattr(found, field) - printed) for field, printed in example.printed.items()}
    worst = max(off, key=off.__getitem__)
    return worst, off[worst]
