"""What a prior is made from: files of outcomes, and the labels in the own log."""

import gzip
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, and_, func, select, tuple_

from bandit.priors import EVERYWHERE, Outcome, Rating
from bandit.vocabulary import EXPLICIT_CHANNELS, TASK_TYPES, TaskType
from service.errors import UnusableData
from service.storage.tables import decisions, rewards

LONGEST_LINE_BYTES = 16 << 20
_TICK_LINES = 500
_PAGE = 10_000  # ratings read by one query

Tick = Callable[[int], object]


@dataclass
class Found:
    """What was met while reading: by arm and task type, what was used; by model, what was left out."""

    used: Counter[tuple[str, str]] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    without_score: int = 0
    prompts: dict[tuple[str, str], TaskType | None] = field(default_factory=dict)  # data set and id -> task type


class _Line(msgspec.Struct, frozen=True):
    """The fields that are read of a line; others may stand beside them."""

    prompt_id: str | int
    model: str
    score: float | None = None
    prompt: str | None = None
    category: str | None = None
    dataset: str | None = None


def outcomes_in(
    path: Path, arm_of: Mapping[str, str], task_type_of: Callable[[str], TaskType], found: Found, tick: Tick
) -> Iterator[Outcome]:
    """The outcomes in a file of JSON lines, plain or gzip; models that are not in `arm_of` are left out.

    A prompt is told from others by `dataset` and `prompt_id`, without the first by the file and the second. `tick` is
    told the bytes of the file that were read.

    Raises:
        UnusableData: a line is not an outcome, or the file is damaged; names file and line.
    """
    decoder = msgspec.json.Decoder(_Line)
    for number, raw in _lines(path, tick):
        try:
            line = decoder.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise _unusable(path, number, f"not an outcome: {error}") from None
        if line.score is None:
            found.without_score += 1
            continue
        if not 0.0 <= line.score <= 1.0:
            raise _unusable(path, number, f"`score` is {line.score:g}, expected a number from 0 to 1")
        arm = arm_of.get(line.model)
        if arm is None:
            found.left_out[line.model] += 1
            continue
        prompt = line.dataset or path.name, str(line.prompt_id)
        if prompt not in found.prompts:
            found.prompts[prompt] = _task_type(line, task_type_of)
        task_type = found.prompts[prompt]
        found.used[arm, task_type or EVERYWHERE] += 1
        yield Outcome("\n".join(prompt), arm, task_type, line.score)


def _task_type(line: _Line, task_type_of: Callable[[str], TaskType]) -> TaskType | None:
    """The category where it is one of ours, else what the classifier says of the prompt."""
    ours = next((name for name in TASK_TYPES if name == line.category), None)
    if ours is not None:
        return ours
    return task_type_of(line.prompt) if line.prompt else None


def _lines(path: Path, tick: Tick) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, with their numbers from 1."""
    number = seen = 0
    try:
        with path.open("rb") as file:
            packed = file.peek(2)[:2] == b"\x1f\x8b"
            source: gzip.GzipFile | BufferedReader = gzip.GzipFile(fileobj=file) if packed else file
            while raw := source.readline(LONGEST_LINE_BYTES + 1):
                number += 1
                if len(raw) > LONGEST_LINE_BYTES:
                    raise _unusable(path, number, f"the line is longer than {LONGEST_LINE_BYTES >> 20} MB")
                if raw.strip():
                    yield number, raw
                if number % _TICK_LINES == 0:
                    tick(file.tell() - seen)
                    seen = file.tell()
            tick(file.tell() - seen)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _unusable(path, number + 1, f"the gzip file is damaged or cut off: {error}") from None
    except OSError as error:
        raise UnusableData(f"{path}: cannot be read: {error.strerror}.") from None


def _unusable(path: Path, number: int, fault: str) -> UnusableData:
    return UnusableData(f"{path}, line {number}: {fault}.")


_RATING_KEY = (rewards.c.decision_id, rewards.c.metric, rewards.c.source, rewards.c.user)


def _of_drawn_arms(since: float) -> ColumnElement[bool]:
    """Labels of replies by the arm that a policy drew: of the others nobody knows how likely they were."""
    return and_(
        decisions.c.method == "auto",
        rewards.c.arm == decisions.c.arm,
        rewards.c.channel.in_(sorted(EXPLICIT_CHANNELS)),
        rewards.c.weight > 0,
        rewards.c.created_at >= since,
    )


def count_ratings(connection: Connection, since: float) -> int:
    """How many ratings `ratings_in` finds, models that are left out among them."""
    joined = rewards.join(decisions, rewards.c.decision_id == decisions.c.id)
    return connection.scalar(select(func.count()).select_from(joined).where(_of_drawn_arms(since))) or 0


def ratings_in(
    connection: Connection, arms: frozenset[str], since: float, found: Found, tick: Tick = lambda _: None
) -> Iterator[Rating]:
    """The labels given since a time (seconds since 1970 UTC) to replies of the arm that a policy drew."""
    statement = (
        select(
            *_RATING_KEY, rewards.c.arm, rewards.c.task_type, rewards.c.value, rewards.c.weight, decisions.c.propensity
        )
        .join(decisions, rewards.c.decision_id == decisions.c.id)
        .where(_of_drawn_arms(since))
        .order_by(*_RATING_KEY)
        .limit(_PAGE)
    )
    page: Any = connection.execute(statement).all()
    while page:
        for *_, arm, task_type, value, weight, propensity in page:
            if arm in arms:
                found.used[arm, task_type] += 1
                yield Rating(arm, task_type, value, weight, propensity)
            else:
                found.left_out[arm] += 1
        tick(len(page))
        page = connection.execute(statement.where(tuple_(*_RATING_KEY) > tuple(page[-1][:4]))).all()
