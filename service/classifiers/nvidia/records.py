"""Small JSON files beside a model's weights, what was fetched, accepted and measured; and where they go instead."""

import os
from pathlib import Path
from typing import TypeVar

import msgspec

T = TypeVar("T")

FETCHED = "fetched.json"  # beside the weights: where they are from


def cache_folder() -> Path:
    """Where files about weights lie when the weights' own folder cannot be written to."""
    ours, general = os.environ.get("ARMWISE_CACHE"), os.environ.get("XDG_CACHE_HOME")
    return Path(ours) if ours else (Path(general) if general else Path.home() / ".cache") / "armwise"


def write_record(path: Path, record: msgspec.Struct) -> None:
    """Write a record whole or not at all."""
    whole = path.with_name(f".{path.name}.{os.getpid()}")
    whole.write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n")
    whole.replace(path)


def read_record(path: Path, kind: type[T]) -> T | None:
    """A record; None when there is none, or one that we cannot read: then it has to be made again."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError):
        return None
