"""NVIDIA's model in ONNX Runtime, on the CPU: fp32, and int8 in a third of the time and half of the memory."""

import ctypes
import mmap
import sys
import time
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnxruntime

from service.classifiers.nvidia.artefact import Artefact

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

_LONG = 256 * 256  # texts times square of tokens: a call with more takes tens of megabytes
_KEPT_S = 10.0  # at least, before memory that long texts took is given back: taking it again costs a tenth of the time
_KEPT_ROWS = 1024  # of the embedding table; a row used keeps up to 64 KiB of its file in our memory


class OnnxRuntime:
    """Logits and pooled vectors of batches of tokens. Safe from several threads, which share the weights.

    `threads` work on one call; with one, calls from several threads run side by side.
    """

    device = "cpu"

    def __init__(
        self, artefact: Artefact, embeddings: Floats, *, precision: Literal["fp32", "int8"], threads: int = 1
    ) -> None:
        self.precision = precision
        self._rows = _Rows(embeddings)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Threads that wait for work in a loop would take a core from others between two calls.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        # The graph is written as it shall run; optimising it again would only cost time at load.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 3
        values = [onnxruntime.OrtValue.ortvalue_from_numpy(value) for value in artefact.tensors.values()]
        options.add_external_initializers(list(artefact.tensors), values)
        self._artefact = artefact  # the memory that the session may refer to
        self._session = onnxruntime.InferenceSession(artefact.graph, options, providers=["CPUExecutionProvider"])
        artefact.release()
        give_back_freed_memory()
        self._long_at = 0.0
        self._giving_back = onnxruntime.RunOptions()
        self._giving_back.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")

    def run(self, ids: Integers, mask: Integers) -> tuple[Floats, Floats]:
        """Logits, shape (n, 32), and pooled vectors, (n, hidden), of n texts padded on the right to L tokens.

        `ids` and `mask` have shape (n, L); `mask` is 1 at tokens and 0 at padding, whose id is 0.
        """
        inputs = {"rows": self._rows.at(ids), "mask": mask.astype(np.float32)}
        options = None
        if ids.size * ids.shape[1] > _LONG:
            self._long_at = time.monotonic()
        elif self._long_at and time.monotonic() > self._long_at + _KEPT_S:
            self._long_at, options = 0.0, self._giving_back
        logits, pooled = self._session.run(["logits", "pooled"], inputs, options)
        return logits, pooled


def give_back_freed_memory() -> None:
    """Return to the system what was freed: glibc keeps it, tens of megabytes after a load, hundreds after an export."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc alone has it
        if trim is not None:
            trim(0)


class _Rows:
    """Rows of the embedding table in its file, of which only what was used of late takes memory."""

    def __init__(self, table: Any) -> None:
        with open(table.filename, "rb") as file:  # noqa: PTH123 - numpy names it, whatever it was opened by
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._table = np.frombuffer(self._map, np.float32, table.size, table.offset).reshape(table.shape)
        self._taken = 0

    def at(self, ids: Integers) -> Floats:
        """Shape (..., hidden)."""
        rows: Floats = self._table[ids]
        self._taken += ids.size
        if self._taken > _KEPT_ROWS and hasattr(self._map, "madvise"):  # not on Windows
            self._taken = 0
            self._map.madvise(mmap.MADV_DONTNEED)
        return rows
