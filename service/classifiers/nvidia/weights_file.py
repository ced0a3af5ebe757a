"""A safetensors file, read without trust: every length is checked before a byte of a tensor is looked at."""

import json
import math
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from service.errors import UnusableWeights

Floats = npt.NDArray[np.float32]

_LENGTH_BYTES = 8  # of the header's length, little-endian, at the start of the file
_MOST_HEADER_BYTES = 100_000_000  # the format's own limit
_LFS_POINTER = b"version https://git-lfs"
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
    "U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64,
}  # fmt: skip
_BLOCK = 1 << 22  # numbers looked at together when all are checked


class Entry(NamedTuple):
    """Where one tensor stands."""

    dtype: str
    shape: tuple[int, ...]
    offset: int  # bytes from the start of the file


class WeightsFile:
    """Tensors of a safetensors file, all of float32 but the `ignored` ones, mapped into memory and never copied.

    Raises UnusableWeights, naming the fault, unless the header describes the file to its last byte.
    """

    def __init__(self, path: Path, *, ignored: Collection[str] = ()) -> None:
        self.path = path
        self.entries = {name: entry for name, entry in _entries(path).items() if name not in ignored}
        for name, entry in self.entries.items():
            if entry.dtype != "F32":
                raise UnusableWeights(
                    f"{path}: tensor {name!r} has dtype {entry.dtype}, expected F32. Save the model in float32."
                )

    def tensor(self, name: str) -> Floats:
        """A read-only view; its pages leave memory with the last view of the tensor."""
        entry = self.entries[name]
        if math.prod(entry.shape) == 0:
            return np.zeros(entry.shape, dtype=np.float32)
        return np.memmap(self.path, dtype="<f4", mode="r", offset=entry.offset, shape=entry.shape)

    def check_values(self) -> None:
        """Look at every number once; raises UnusableWeights when one is NaN or infinite."""
        for name in self.entries:
            numbers = self.tensor(name).reshape(-1)
            for start in range(0, numbers.size, _BLOCK):
                finite = np.isfinite(numbers[start : start + _BLOCK])
                if not finite.all():
                    at = start + int(finite.argmin())
                    place = [int(i) for i in np.unravel_index(at, self.entries[name].shape)]
                    raise UnusableWeights(
                        f"{self.path}: tensor {name!r} holds {numbers[at]} at {place}; weights must be finite. "
                        "Training went wrong, or the file is damaged: fetch it again."
                    )


def refuse_pointer(path: Path) -> None:
    """Raises UnusableWeights when Git stored the file elsewhere and left only a pointer to it."""
    with path.open("rb") as file:
        if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
            raise UnusableWeights(f"{path} is a Git LFS pointer, not the file: run `git lfs pull` or fetch the model.")


def _entries(path: Path) -> dict[str, Entry]:
    refuse_pointer(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(_LENGTH_BYTES)
        length = int.from_bytes(start, "little")
        if size < _LENGTH_BYTES or length > _MOST_HEADER_BYTES:
            raise _not_safetensors(path, "its first 8 bytes are not the length of a header")
        if _LENGTH_BYTES + length > size:
            raise UnusableWeights(
                f"{path} is truncated: {size} bytes, its header alone has {length}. Fetch the model again."
            )
        raw = file.read(length)
    header = _header(path, raw)
    begin = _LENGTH_BYTES + length
    entries: dict[str, Entry] = {}
    spans: list[tuple[int, int, str]] = []
    for name, described in header.items():
        dtype, shape, (first, last) = _described(path, name, described)
        entries[name] = Entry(dtype, shape, begin + first)
        spans.append((first, last, name))
    end = 0
    for first, last, name in sorted(spans):
        if first != end:
            raise _not_safetensors(path, f"tensor {name!r} starts at {first} where the one before it ends at {end}")
        end = last
    if begin + end != size:
        what = "is truncated" if size < begin + end else "has bytes that its header does not describe"
        raise UnusableWeights(
            f"{path} {what}: {size} bytes, its header describes {begin + end}. Fetch the model again."
        )
    return entries


def _header(path: Path, raw: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise _not_safetensors(path, "its header names a key twice")
        return found

    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise _not_safetensors(path, f"its header is not JSON ({error})") from error
    if not isinstance(header, dict):
        raise _not_safetensors(path, "its header is not a JSON object")
    header.pop("__metadata__", None)
    return header


def _described(path: Path, name: str, described: Any) -> tuple[str, tuple[int, ...], tuple[int, int]]:
    if not isinstance(described, dict):
        raise _not_safetensors(path, f"tensor {name!r} is described by {described!r}")
    dtype: Any = described.get("dtype")
    shape: Any = described.get("shape")
    span: Any = described.get("data_offsets")
    if str(dtype) not in _BITS or not (_are_sizes(shape) and _are_sizes(span) and len(span) == 2):
        raise _not_safetensors(path, f"tensor {name!r} has dtype {dtype!r}, shape {shape!r}, data_offsets {span!r}")
    first, last = span
    if 8 * (last - first) != _BITS[dtype] * math.prod(shape):
        raise _not_safetensors(path, f"tensor {name!r} of {dtype} and shape {shape} has {last - first} bytes")
    return dtype, tuple(shape), (first, last)


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _not_safetensors(path: Path, why: str) -> UnusableWeights:
    return UnusableWeights(f"{path} is not a safetensors file: {why}. Fetch the model again.")
