"""Prior files: what is known of every model before any feedback. Read and written; prior_sources.py fills them."""

from pathlib import Path

import msgspec

from bandit.priors import EVERYWHERE, PriorTable
from bandit.vocabulary import TASK_TYPES
from service.errors import ArmwiseError, ConfigurationError
from service.mistakes import build, suggestion


def read_prior(path: Path) -> PriorTable:
    """The prior in a file that `armwise prior import` wrote.

    Raises:
        ConfigurationError: with every mistake in the file, each with its field.
    """
    try:
        raw = msgspec.json.decode(path.read_bytes())
    except FileNotFoundError:
        raise ConfigurationError([f"{path}: there is no such prior; `armwise prior import` makes one"]) from None
    except OSError as error:
        raise ConfigurationError([f"{path}: cannot be read: {error.strerror}"]) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError([f"{path}: is not JSON: {error}"]) from None
    mistakes: list[str] = []
    table = build(PriorTable, raw, "", mistakes)
    if not mistakes:
        mistakes = [] if table.quality else ["`quality` is empty: expected at least one model"]
        known = (*TASK_TYPES, EVERYWHERE)
        mistakes += [
            f"unknown task type `{task}` at `quality.{arm}`{suggestion(task, TASK_TYPES)}"
            for arm, row in table.quality.items()
            for task in row
            if task not in known
        ]
    if mistakes:
        raise ConfigurationError([f"{path}: {mistake}" for mistake in mistakes])
    return table


def write_prior(path: Path, table: PriorTable) -> None:
    """Write a prior; a service that reads the file meanwhile finds the old one or the new one, never half of it.

    Raises:
        ArmwiseError: the folder or file cannot be written.
    """
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            part.write_bytes(msgspec.json.format(msgspec.json.encode(table), indent=1) + b"\n")
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise ArmwiseError(f"{path}: the prior cannot be written: {error.strerror}. Name another file.") from error
