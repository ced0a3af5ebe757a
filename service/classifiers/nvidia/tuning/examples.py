"""Labelled prompts for fine-tuning: every line checked before anything starts, and split by a hash of what is read."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from bandit.vocabulary import PROMPT_TIERS, TASK_TYPES
from service.classifiers.nvidia.tokens import Tokenizer
from service.errors import UnusableData

Integers = npt.NDArray[np.int64]

NO_LABEL = -1
LABELS = {"task_type": TASK_TYPES, "tier": PROMPT_TIERS}
STOPPING_SHARE = 0.1  # of what is not for validation: decides when training ends, so that validation can judge
FEWEST_VALIDATED = 20
FEWEST_STOPPING = 5
_LONGEST_LABEL = 40  # characters; what is longer may be a prompt, and is not shown
_JSON_TYPES: dict[type, str] = {
    dict: "an object",
    list: "an array",
    str: "a string",
    int: "a number",
    float: "a number",
    bool: "true or false",
    type(None): "null",
}


class Examples(NamedTuple):
    """Different texts, as the model reads them, in the order of their digests: that of the file does not matter."""

    ids: list[list[int]]
    labels: dict[str, Integers]  # for each kind of LABELS the index of its name, NO_LABEL without one; shape (n,)
    digests: list[str]  # of the ids
    repeated: int  # lines left out, as another says the same of the same text
    truncated: int  # texts of more than 512 tokens


class Parts(NamedTuple):
    """Rows of the examples: to learn from, to know when to stop, and to judge by."""

    training: Integers
    stopping: Integers
    validation: Integers


class _Line(NamedTuple):
    number: int
    ids: list[int]
    truncated: bool
    labels: dict[str, int]


def read_examples(path: Path, tokenizer: Tokenizer) -> Examples:
    """Read lines `{"prompt", "task_type"}` or `{"prompt", "tier"}`, or with both; other keys are ignored.

    Raises:
        UnusableData: names every line that cannot be used and why, without its prompt.
    """
    mistakes: dict[str, list[int]] = {}
    groups: dict[str, list[_Line]] = {}
    with path.open("rb") as lines:
        for number, raw in enumerate(lines, start=1):
            if not raw.strip():
                continue
            try:
                line = _line(number, raw, tokenizer)
            except (TypeError, ValueError) as error:
                mistakes.setdefault(str(error), []).append(number)
            else:
                groups.setdefault(_digest(np.array(line.ids, dtype="<i4").tobytes()), []).append(line)
    for group in groups.values():
        for kind, names in LABELS.items():
            given = {line.labels[kind] for line in group} - {NO_LABEL}
            if len(given) > 1:
                found = " and ".join(f'"{names[label]}"' for label in sorted(given))
                mistakes[f"the same text to the model, but {kind} is {found}"] = [line.number for line in group]
    if mistakes:
        count = len({number for numbers in mistakes.values() for number in numbers})
        listed = "\n".join(f"  {_lines(numbers)}: {mistake}" for mistake, numbers in mistakes.items())
        raise UnusableData(f"{path}: {count} line{'s' * (count > 1)} cannot be learned from:\n{listed}")
    digests = sorted(groups)
    return Examples(
        ids=[groups[digest][0].ids for digest in digests],
        labels={
            kind: np.array([max(line.labels[kind] for line in groups[digest]) for digest in digests], dtype=np.int64)
            for kind in LABELS
        },
        digests=digests,
        repeated=sum(map(len, groups.values())) - len(groups),
        truncated=sum(groups[digest][0].truncated for digest in digests),
    )


def _line(number: int, raw: bytes, tokenizer: Tokenizer) -> _Line:
    try:
        given = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"no JSON ({error})") from None
    if not isinstance(given, dict):
        raise TypeError(f"{_JSON_TYPES[type(given)]} where an object was expected")
    prompt = given.get("prompt")
    if prompt is None:
        raise ValueError("prompt is missing")
    if not isinstance(prompt, str):
        raise TypeError(f"prompt is {_JSON_TYPES[type(prompt)]}, expected a string")
    if not prompt.strip():
        raise ValueError("prompt is empty")
    labels = {}
    for kind, names in LABELS.items():
        value = given.get(kind)
        if value is not None and value not in names:
            shown = msgspec.json.encode(value).decode()
            found = shown if len(shown) <= _LONGEST_LABEL else f"{len(shown)} characters long"
            raise ValueError(f"{kind} is {found}, expected one of {', '.join(names)}")
        labels[kind] = NO_LABEL if value is None else names.index(value)
    if set(labels.values()) == {NO_LABEL}:
        raise ValueError(f"neither {' nor '.join(LABELS)} is given")
    encoded = tokenizer.encode(prompt)
    return _Line(number, encoded.ids, encoded.truncated, labels)


def _lines(numbers: Sequence[int]) -> str:
    """Line numbers in words.

    >>> _lines([3, 7, 8, 9])
    'lines 3, 7-9'
    """
    spans: list[list[int]] = []
    for number in sorted(numbers):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    listed = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)
    return f"line{'s' * (len(numbers) > 1)} {listed}"


def _digest(value: bytes) -> str:
    return hashlib.blake2b(value, digest_size=16).hexdigest()


def split(digests: Sequence[str], *, validation_share: float, seed: int) -> Parts:
    """Which texts are learned from, and which only judge: told by the seed and each text alone.

    A text stays on its side whatever else is in the file, so that a model tuned again on more data is judged by texts
    that neither tuning learned from.
    """
    drawn = np.array([int(_digest(f"{seed} {digest}".encode())[:13], 16) / 16**13 for digest in digests])
    judging = drawn < validation_share
    stopping = ~judging & (drawn < validation_share + (1 - validation_share) * STOPPING_SHARE)
    return Parts(*(np.flatnonzero(part) for part in (~judging & ~stopping, stopping, judging)))


def learnable(examples: Examples, parts: Parts) -> tuple[str, ...]:
    """The kinds of labels to learn: "task_type", "tier" or both.

    Raises:
        UnusableData: there are too few labels of a kind to learn from them or to judge what was learned.
    """
    for kind, labels in examples.labels.items():
        training, stopping, validation = (labels[part][labels[part] != NO_LABEL] for part in parts)
        count = len(training) + len(stopping) + len(validation)
        if count and (len(stopping) < FEWEST_STOPPING or len(validation) < FEWEST_VALIDATED):
            raise UnusableData(
                f"{count} different prompts have a {kind}: {len(validation)} of them would judge the result and "
                f"{len(stopping)} would end the training, needed are {FEWEST_VALIDATED} and {FEWEST_STOPPING}. "
                "Label more prompts, or raise the validation share."
            )
        if count and len(set(training.tolist())) < 2:
            named = ", ".join(LABELS[kind][label] for label in set(training.tolist()))
            raise UnusableData(
                f"The {len(training)} prompts to learn from have {f'one {kind}: {named}' if named else f'no {kind}'}. "
                "At least two different ones are needed."
            )
    kinds = tuple(kind for kind, labels in examples.labels.items() if (labels != NO_LABEL).any())
    if not kinds:
        raise UnusableData("There is no labelled prompt.")
    return kinds
