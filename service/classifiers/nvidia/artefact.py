"""What is exported once from the weights and cached: the graph and its tensors, in one safetensors file.

It lies beside the weights. Where those cannot be written to, it lies in the folder that ARMWISE_CACHE names, or else in
`armwise` under XDG_CACHE_HOME (by default ~/.cache). Its name has the digest of the weights, the precision, the version
of the exporter and that of ONNX Runtime; other versions of any of them leave it alone and make their own.
"""

import hashlib
import json
import mmap
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from service.classifiers.nvidia.checkpoint import Checkpoint
from service.classifiers.nvidia.records import cache_folder
from service.errors import UnusableWeights

EXPORTER = 4  # raise it when the graph or its tensors change
RUNTIME = f"onnxruntime {onnxruntime.__version__}"

_LENGTH_BYTES = 8
_GRAPH = "graph"
_KINDS = {"F32": np.float32, "I64": np.int64, "I8": np.int8, "U8": np.uint8, "F16": np.float16}
_NAMES = {np.dtype(kind): name for name, kind in _KINDS.items()}

Array = npt.NDArray[Any]


class Artefact:
    """An exported model, mapped into memory. Raises UnusableWeights when the file cannot be one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            length = int.from_bytes(self._map[:_LENGTH_BYTES], "little")
            header = json.loads(self._map[_LENGTH_BYTES : _LENGTH_BYTES + length])
            self._metadata: dict[str, str] = header.pop("__metadata__")
            self._begin = _LENGTH_BYTES + length
            self._tensors = {name: self._view(entry) for name, entry in header.items()}
            self.digest: str = self._metadata["digest"]  # of the weights that it was made from
            self.graph = self._tensors.pop(_GRAPH).tobytes()
            self._entries = header
        except (ValueError, KeyError, TypeError) as error:
            raise UnusableWeights(f"{path} is damaged ({error!r}): delete it, it will be exported again.") from error

    def _view(self, entry: dict[str, Any]) -> Array:
        kind, shape = np.dtype(_KINDS[entry["dtype"]]), tuple(entry["shape"])
        start, stop = entry["data_offsets"]
        size = int(np.prod(shape))
        if stop - start != size * kind.itemsize:
            raise ValueError(f"offsets {start} to {stop} do not hold shape {shape}")
        return np.frombuffer(self._map, kind, size, self._begin + start).reshape(shape)

    @property
    def tensors(self) -> dict[str, Array]:
        """The graph's large tensors: read-only views of the file."""
        return self._tensors

    def intact(self) -> bool:
        """Whether it holds what was written. Reads it all; other threads run meanwhile."""
        found = _checksum(self._entries, self._file_blocks())
        return found == self._metadata.get("checksum")

    def _file_blocks(self) -> Iterator[bytes]:
        with self.path.open("rb") as file:  # read, not mapped: pages of a mapping would count as our memory
            file.seek(self._begin)
            while block := file.read(1 << 22):
                yield block

    def release(self) -> None:
        """Drop the pages that were read so far; they come back when they are used again."""
        if hasattr(self._map, "madvise"):  # not on Windows
            self._map.madvise(mmap.MADV_DONTNEED)


def _checksum(entries: dict[str, Any], blocks: Iterable[Any]) -> str:
    total = hashlib.sha256(json.dumps(entries, sort_keys=True).encode())
    for block in blocks:
        total.update(block)
    return total.hexdigest()


def artefact_name(digest: str, precision: str) -> str:
    """The name of the file, without its folder."""
    return f"armwise-{digest[:16]}-{precision}-{EXPORTER}-ort{onnxruntime.__version__}.safetensors"


def artefact_path(folder: Path, digest: str, precision: str) -> Path:
    """Where the artefact of weights in `folder` is; where it would be written first, when there is none."""
    places = _places(folder, artefact_name(digest, precision))
    there = next((path for path in places if path.is_file()), None)
    return there or (places[0] if os.access(folder, os.W_OK) else places[1])


def _places(folder: Path, name: str) -> tuple[Path, Path]:
    return folder / name, cache_folder() / name


def latest_digest(folder: Path) -> str | None:
    """The digest of the weights that the newest artefact was made from: very probably those of today."""
    for place in (folder, cache_folder()):
        found = [path for path in place.glob(artefact_name("?" * 16, "*")) if path.is_file()]
        for path in sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True):
            try:
                return Artefact(path).digest
            except UnusableWeights:
                continue
    return None


def load_artefact(checkpoint: Checkpoint, digest: str, precision: str) -> Artefact | None:
    """The cached artefact of weights with this digest; None when there is none, or when it is no artefact at all."""
    path = artefact_path(checkpoint.folder, digest, precision)
    if not path.is_file():
        return None
    try:
        artefact = Artefact(path)
    except UnusableWeights:
        return None
    return artefact if artefact.digest == digest else None


def export(checkpoint: Checkpoint, precision: str) -> Artefact:
    """Build the artefact of these weights and store it, in the place of an older one.

    Raises:
        UnusableWeights: a weight is NaN or infinite, or there is no room.
    """
    from service.classifiers.nvidia.calibration import observed_inputs  # noqa: PLC0415 - needs onnx, only here
    from service.classifiers.nvidia.graph import build_graph  # noqa: PLC0415 - likewise

    checkpoint.check_values()
    graph, tensors = build_graph(checkpoint, quantise=observed_inputs(checkpoint) if precision == "int8" else None)
    arrays = {_GRAPH: np.frombuffer(graph, np.uint8), **tensors}
    failures = []
    for path in _places(checkpoint.folder, artefact_name(checkpoint.digest, precision)):
        try:
            _write(path, arrays, checkpoint.digest)
        except OSError as error:  # a read-only or full file system
            failures.append(str(error))
        else:
            return Artefact(path)
    size = sum(value.nbytes for value in arrays.values()) / 1e6
    raise UnusableWeights(
        f"The export of {checkpoint.folder} can be stored nowhere ({'; '.join(failures)}): it needs {size:,.0f} MB. "
        "The environment variable ARMWISE_CACHE may name another folder."
    )


def _write(path: Path, arrays: dict[str, Array], digest: str) -> None:
    # Wide elements first: then all are aligned, whatever their sizes.
    ordered = sorted(arrays.items(), key=lambda item: (-item[1].itemsize, item[0]))
    entries: dict[str, Any] = {}
    end = 0
    for name, value in ordered:
        entries[name] = {
            "dtype": _NAMES[value.dtype], "shape": list(value.shape), "data_offsets": [end, end + value.nbytes]
        }  # fmt: skip
        end += value.nbytes
    data = [np.ascontiguousarray(value) for _, value in ordered]
    metadata = {"digest": digest, "checksum": _checksum(entries, (value.data for value in data))}
    header = json.dumps({"__metadata__": metadata, **entries}, separators=(",", ":")).encode()
    header += b" " * (-(_LENGTH_BYTES + len(header)) % 64)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        with part.open("wb") as file:
            file.write(len(header).to_bytes(_LENGTH_BYTES, "little") + header)
            for value in data:
                file.write(value.data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
