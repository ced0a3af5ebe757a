"""Prompts in, one a line; answers out, in the same order: streaming, in bounded memory, with errors in their place."""

import contextlib
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from queue import Empty, Queue
from typing import Any, BinaryIO, NamedTuple

import msgspec

from service.errors import ArmwiseError

LONGEST_LINE_BYTES = 16 << 20
WINDOW = 64  # prompts that are read ahead, and answered together


class Said(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is said of one prompt."""

    result: msgspec.Struct | msgspec.UnsetType = msgspec.UNSET
    logits: list[float] | msgspec.UnsetType = msgspec.UNSET
    probabilities: list[float] | msgspec.UnsetType = msgspec.UNSET
    error: str | msgspec.UnsetType = msgspec.UNSET


class Counts(NamedTuple):
    """How many lines were answered, and how many of them with an error."""

    answered: int
    errors: int


Answer = Callable[[Sequence[str]], Sequence[Said]]  # of as many prompts, in their order


class _Line(NamedTuple):
    id: bytes  # as JSON
    prompt: str | None
    error: str = ""


def classify_lines(source: BinaryIO, sink: BinaryIO, answer: Answer, window: int = WINDOW) -> Counts:
    """Answer every line `{"id", "prompt"}` of `source` with one of `sink`.

    What has arrived is answered and flushed without waiting for more, so that a slow writer gets answers too. A line
    that cannot be answered gets `{"id", "error"}`; an absent id is the line's number, from 1. Blank lines are skipped.
    """
    answered = errors = 0
    for lines in _windows(_lines(source), window):
        prompts = [line.prompt for line in lines if line.prompt is not None]
        said = iter(answer(prompts) if prompts else ())
        for line in lines:
            out = Said(error=line.error) if line.prompt is None else next(said)
            errors += out.error is not msgspec.UNSET
            sink.write(b'{"id":' + line.id + b"," + msgspec.json.encode(out)[1:] + b"\n")
        sink.flush()
        answered += len(lines)
    return Counts(answered, errors)


def read_prompts(path: Path) -> list[str]:
    """The prompts of a file of such lines. Raises ArmwiseError for the first line that has none."""
    prompts = []
    with path.open("rb") as source:
        for line in _lines(source):
            if line.prompt is None:
                raise ArmwiseError(f"{path}, line with id {line.id.decode()}: {line.error}.")
            prompts.append(line.prompt)
    return prompts


def _lines(source: BinaryIO) -> Iterator[_Line]:
    number = 0
    while raw := source.readline(LONGEST_LINE_BYTES + 1):
        number += 1
        if len(raw) > LONGEST_LINE_BYTES:
            while raw and not raw.endswith(b"\n"):
                raw = source.readline(LONGEST_LINE_BYTES)
            yield _Line(b"%d" % number, None, f"the line is longer than {LONGEST_LINE_BYTES >> 20} MB")
        elif raw.strip():
            yield _parsed(raw, number)


def _parsed(raw: bytes, number: int) -> _Line:
    identity = b"%d" % number
    try:
        given = _object(raw)
        if given.get("id") is not None:
            identity = json.dumps(given["id"]).encode()
        if "prompt" not in given:
            raise ValueError('"prompt" is missing')  # noqa: TRY301 - one place that answers
        prompt = given["prompt"]
        if not isinstance(prompt, str):
            raise ValueError(f'"prompt" is {_kind(prompt)}, expected a string')  # noqa: TRY004, TRY301 - likewise
    except ValueError as error:
        return _Line(identity, None, str(error))
    return _Line(identity, prompt)


def _object(raw: bytes) -> dict[str, Any]:
    """The object on a line; a ValueError says why there is none."""
    try:
        # The standard library also reads half of a surrogate pair, which some programs write.
        given = json.loads(raw.decode("utf-8-sig"), parse_constant=_refuse)
    except UnicodeDecodeError as error:
        raise ValueError(f"the line is not valid UTF-8: {error.reason} at byte {error.start}") from error
    except RecursionError as error:
        raise ValueError("the line is nested too deeply") from error
    except ValueError as error:
        raise ValueError(f"the line is not valid JSON: {error}") from error
    if not isinstance(given, dict):
        raise ValueError(f'the line is {_kind(given)}, expected an object with "id" and "prompt"')  # noqa: TRY004
    return given


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _kind(value: object) -> str:
    """The name of a JSON value's type, with its article."""
    names: dict[type, str] = {
        type(None): "null",
        bool: "a boolean",
        str: "a string",
        list: "an array",
        dict: "an object",
    }
    return names.get(type(value), "a number")


def _windows(lines: Iterator[_Line], size: int) -> Iterator[list[_Line]]:
    """The lines that are there, at most `size` at a time: waits for the first of a window only."""
    waiting: Queue[_Line | BaseException | None] = Queue(size)

    def read() -> None:
        end: BaseException | None = None
        try:
            for line in lines:
                waiting.put(line)
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            end = error
        waiting.put(end)

    threading.Thread(target=read, daemon=True, name="read lines").start()
    while True:
        window = [waiting.get()]
        with contextlib.suppress(Empty):
            while len(window) < size:
                window.append(waiting.get_nowait())
        found = [item for item in window if isinstance(item, _Line)]
        if found:
            yield found
        if len(found) < len(window):  # the end came last
            if isinstance(window[-1], BaseException):
                raise window[-1]
            return
