"""NVIDIA's model in ONNX Runtime, on the CPU: fp32, and int8 for short answers times."""

from typing import Literal

import numpy as np
import numpy.typing as npt
import onnxruntime

from service.classifiers.nvidia.artefact import Artefact

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


class OnnxRuntime:
    """Logits and pooled vectors of batches of tokens. Safe from several threads, which share the weights.

    `threads` work on one call; with one, calls from several threads run side by side.
    """

    device = "cpu"

    def __init__(
        self, artefact: Artefact, embeddings: Floats, *, precision: Literal["fp32", "int8"], threads: int = 1
    ) -> None:
        self.precision = precision
        self._embeddings = embeddings
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # The graph is written as it shall run; optimising it again would only cost time at load.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        values = [onnxruntime.OrtValue.ortvalue_from_numpy(value) for value in artefact.tensors.values()]
        options.add_external_initializers(list(artefact.tensors), values)
        self._artefact = artefact  # the session refers to its memory
        self._session = onnxruntime.InferenceSession(artefact.graph, options, providers=["CPUExecutionProvider"])
        artefact.release()

    def run(self, ids: Integers, mask: Integers) -> tuple[Floats, Floats]:
        """Logits, shape (n, 32), and pooled vectors, (n, hidden), of n texts padded on the right to L tokens.

        `ids` and `mask` have shape (n, L); `mask` is 1 at tokens and 0 at padding, whose id is 0.
        """
        if ids.shape[1] == 1:  # the graph needs two
            ids, mask = np.pad(ids, ((0, 0), (0, 1))), np.pad(mask, ((0, 0), (0, 1)))
        inputs = {"rows": np.asarray(self._embeddings[ids]), "mask": mask.astype(np.float32)}
        logits, pooled = self._session.run(["logits", "pooled"], inputs)
        return logits, pooled
