"""What any classifier says of prompts, in the eleven fields that NVIDIA's code returns."""

import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import msgspec

from bandit.vocabulary import TASK_TYPES, Classification
from service.classifiers.lines import Answer as Answers
from service.classifiers.lines import Said
from service.classifiers.nvidia.heads import (
    FEW_SHOTS_FROM,
    SECOND_TASK_FROM,
    Answer,
    answer_of,
    probabilities_of,
)

if TYPE_CHECKING:
    from service.classifiers.nvidia import Nvidia, Reading

_BATCH = 32  # on a GPU, where a batch costs little more than one text


def nvidia_answers(nvidia: "Nvidia", *, logits: bool, probabilities: bool, threads: int = 0) -> Answers:
    """Answers of NVIDIA's model, with the 32 logits and probabilities in canonical head order when asked for.

    On the CPU every text is computed alone, `threads` of them at a time (0: as many as there are cores), so that no
    answer depends on its neighbours. On a GPU texts of similar length share a batch, which moves a logit by about 1e-5.
    """

    def said(reading: "Reading") -> Said:
        return Said(
            result=answer_of(reading.logits),
            logits=reading.logits.tolist() if logits else msgspec.UNSET,
            probabilities=probabilities_of(reading.logits).tolist() if probabilities else msgspec.UNSET,
        )

    def batch(texts: Sequence[str]) -> list[Said]:
        try:
            return [said(reading) for reading in nvidia.read(texts)]
        except Exception as error:  # noqa: BLE001 - a text that cannot be computed stops no other
            if len(texts) == 1:
                return [Said(error=f"the classifier failed: {error}")]
            return [one for text in texts for one in batch([text])]

    pool = ThreadPoolExecutor(threads or cores())
    size = 1 if nvidia.device == "cpu" else _BATCH

    def answers(prompts: Sequence[str]) -> Sequence[Said]:
        longest_first = sorted(range(len(prompts)), key=lambda number: -len(prompts[number]))
        groups = [longest_first[start : start + size] for start in range(0, len(prompts), size)]
        texts = [[prompts[number] for number in group] for group in groups]
        found: dict[int, Said] = {}
        for group, answered in zip(groups, pool.map(batch, texts), strict=True):
            found.update(zip(group, answered, strict=True))
        return [found[number] for number in range(len(prompts))]

    return answers


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def small_answers(classify: Callable[[str], Classification]) -> Answers:
    """Answers of a classifier that only keeps our contract."""

    def said(prompt: str) -> Said:
        try:
            return Said(result=answer_from(classify(prompt)))
        except Exception as error:  # noqa: BLE001 - a text that cannot be read stops no other
            return Said(error=f"the classifier failed: {error}")

    return lambda prompts: list(map(said, prompts))


def answer_from(found: Classification) -> Answer:
    """A classification in NVIDIA's fields, rounded as NVIDIA rounds.

    The first task type is what the classifier says, `Unknown` when it is unsure; the second the likeliest other one.
    """
    by_type = dict(zip(TASK_TYPES, found.task_probabilities, strict=True))
    first = round(by_type.pop(found.task_type), 3)
    runner_up = max(by_type, key=by_type.__getitem__)
    scores = found.scores
    few_shots = round(scores.few_shots, 4)
    return Answer(
        task_type_1=found.task_type,
        task_type_2=runner_up if round(by_type[runner_up], 3) >= SECOND_TASK_FROM else "NA",
        task_type_prob=first,
        creativity_scope=round(scores.creativity, 4),
        reasoning=round(scores.reasoning, 4),
        contextual_knowledge=round(scores.contextual_knowledge, 4),
        number_of_few_shots=0 if few_shots < FEW_SHOTS_FROM else few_shots,
        domain_knowledge=round(scores.domain_knowledge, 4),
        no_label_reason=0.0,
        constraint_ct=round(scores.constraints, 4),
        prompt_complexity_score=round(found.complexity, 5),
    )
