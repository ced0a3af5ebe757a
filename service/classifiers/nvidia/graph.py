"""The lean graph of NVIDIA's model for ONNX Runtime: the library's mathematics, without what depends on weights alone.

Built from numpy tensors, without torch. Against the library's model:

- Projections of the relative positions are tables, computed here once. Only the 2 L - 1 distances that occur in L
  tokens are multiplied, and reach their place in the scores by reshaping (`_skewed`), without a gather.
- Query, key and value are one matmul, and so are the 32 logits.
- 1 / sqrt(3 * width) is folded into the weights.
- Rows of the embedding table are looked up outside: its 393 MB stay in the weights' own file.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper, numpy_helper

from service.classifiers.nvidia.checkpoint import Checkpoint
from service.classifiers.nvidia.geometry import DISTANCES, DISTANCES_NORM, Geometry
from service.classifiers.nvidia.heads import HEADS

Floats = npt.NDArray[np.float32]
Array = npt.NDArray[Any]
Tensors = dict[str, Array]

MASKED = -1e9  # added to the score of padding: its probability is exactly 0
_INLINE_BYTES = 4096  # smaller tensors stay in the graph itself
_OPSET, _IR_VERSION = 21, 10


def build_graph(checkpoint: Checkpoint, *, quantised: bool) -> tuple[bytes, Tensors]:
    """The graph as an ONNX model, and its large tensors by the names under which the graph refers to them.

    Inputs `rows` (n, L, hidden), rows of the embedding table, and `mask` (n, L), 1 at tokens and 0 at padding, L >= 2;
    outputs `logits` (n, 32) and `pooled` (n, hidden); all float32. `quantised` has the encoder's linear layers
    multiply in int8: weights by column, inputs by tensor at each call.
    """
    return _Builder(checkpoint, quantised=quantised).build()


class _Builder:
    def __init__(self, checkpoint: Checkpoint, *, quantised: bool) -> None:
        self.checkpoint = checkpoint
        self.geometry = checkpoint.geometry
        self.quantised = quantised
        self.tensors: Tensors = {}
        self.nodes: list[Any] = []
        self._count = 0

    def build(self) -> tuple[bytes, Tensors]:
        self._lengths()
        norm = "backbone.embeddings.LayerNorm"
        hidden = self.op("LayerNormalization", "rows", *self._norm(norm), epsilon=self.geometry.eps)
        distances = distance_embeddings(self.checkpoint)
        for number in range(self.geometry.layers):
            hidden = self._layer(hidden, f"backbone.encoder.layer.{number}", distances)
        self._outputs(hidden)
        return self._serialised(), self.tensors

    def op(self, kind: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Append a node; the name of its output."""
        self._count += 1
        name = f"v{self._count}"
        self.nodes.append(helper.make_node(kind, inputs, [name], domain=domain, **attributes))
        return name

    def split(self, values: str, *sizes: int) -> list[str]:
        """Parts along axis 1."""
        names = [f"{values}.{part}" for part in range(len(sizes))]
        self.nodes.append(helper.make_node("Split", [values, self.ints(*sizes)], names, axis=1))
        return names

    def fused(self, kind: str, *inputs: str, **attributes: Any) -> Any:
        """One of ONNX Runtime's own operators."""
        return self.op(kind, *inputs, domain="com.microsoft", **attributes)

    def constant(self, name: str, value: Array) -> str:
        self.tensors[name] = np.ascontiguousarray(value)
        return name

    def ints(self, *values: int) -> str:
        return self.constant(f"ints_{'_'.join(map(str, values))}", np.array(values, np.int64))

    def weights(self, *names: str) -> Floats:
        """Linear layers side by side, shape (inputs, outputs)."""
        stacked: Floats = np.concatenate([self.checkpoint.tensor(f"{name}.weight") for name in names])
        return stacked.T

    def biases(self, *names: str) -> Floats:
        stacked: Floats = np.concatenate([self.checkpoint.tensor(f"{name}.bias") for name in names])
        return stacked

    def _lengths(self) -> None:
        """What the slices of every layer need, from the number of tokens."""
        length = self.op("Shape", "rows", start=1, end=2)
        positions = self.ints(self.geometry.positions)
        self.first = self.op("Sub", positions, length)
        self.end = self.op("Sub", self.op("Add", positions, length), self.ints(1))
        self.skip = self.op("Sub", length, self.ints(1))
        width = self.op("Mul", self.skip, self.ints(2))
        self.skewed_shape = self.op("Concat", self.ints(0, 0), length, width, axis=0)
        self.length = length
        absent = self.op("Sub", self.constant("one", np.array(1, np.float32)), "mask")
        masked = self.op("Mul", absent, self.constant("masked", np.array(MASKED, np.float32)))
        self.padding = self.op("Unsqueeze", masked, self.ints(1, 2))

    def _layer(self, hidden: str, name: str, distances: Floats) -> str:
        attended = self._linear(self._attention(hidden, name, distances), f"{name}.attention.output.dense")
        hidden = self._added(attended, hidden, f"{name}.attention.output")
        wide = self.fused("Gelu", self._linear(hidden, f"{name}.intermediate.dense"))
        return self._added(self._linear(wide, f"{name}.output.dense"), hidden, f"{name}.output")

    def _attention(self, hidden: str, name: str, distances: Floats) -> str:
        """Content on content, content on position and position on content, then the mean of values they weigh."""
        heads, hidden_size = self.geometry.heads, self.geometry.hidden
        width = hidden_size // heads
        query, key, value = (f"{name}.attention.self.{kind}_proj" for kind in ("query", "key", "value"))
        weights, biases = self.weights(query, key, value), self.biases(query, key, value)
        scale = np.float32(1 / np.sqrt(3 * width))
        projected = (distances @ weights[:, : 2 * hidden_size] + biases[: 2 * hidden_size]) * scale
        position_queries, position_keys = projected.reshape(-1, 2, heads, width).transpose(1, 2, 0, 3)
        # Queries meet the positions' keys, keys their queries. From a key, the distance to a query rises.
        positions = np.concatenate([position_keys, position_queries[:, ::-1]])
        split = self.op(
            "Transpose",
            self.op("Reshape", self._product(hidden, name, weights, biases), self.ints(0, 0, 3 * heads, width)),
            perm=[0, 2, 1, 3],
        )
        queries_keys, values = self.split(split, 2 * heads, heads)
        queries, keys = self.split(queries_keys, heads, heads)
        near = self.op("Slice", self.constant(f"{name}.positions", positions), self.first, self.end, self.ints(1))
        skewed = self._skewed(self.fused("FusedMatMul", queries_keys, near, transB=1))
        on_position, by_position = self.split(skewed, heads, heads)
        scores = self.fused("FusedMatMul", queries, keys, transB=1, alpha=float(scale))
        by_position = self.op("Transpose", by_position, perm=[0, 1, 3, 2])
        scores = self.op("Add", self.op("Add", self.op("Add", scores, on_position), by_position), self.padding)
        context = self.op("MatMul", self.op("Softmax", scores, axis=-1), values)
        return self.op(
            "Reshape", self.op("Transpose", context, perm=[0, 2, 1, 3]), self.ints(0, 0, self.geometry.hidden)
        )

    def _skewed(self, scores: str) -> str:
        """Row i of (n, heads, L, 2 L - 1), from its column L - 1 - i on: shape (n, heads, L, L).

        Element (i, L - 1 - i + k) stands at (L - 1) + i (2 L - 2) + k of the flattened row-major matrix: without its
        first L - 1 elements it is a matrix of width 2 L - 2, whose first L columns are wanted.
        """
        flat = self.op("Reshape", scores, self.ints(0, 0, -1))
        rest = self.op("Slice", flat, self.skip, self.ints(-1), self.ints(2))
        wide = self.op("Reshape", rest, self.skewed_shape)
        return self.op("Slice", wide, self.ints(0), self.length, self.ints(3))

    def _linear(self, values: str, name: str) -> str:
        return self._product(values, name, self.weights(name), self.biases(name))

    def _product(self, values: str, name: str, weights: Floats, biases: Floats) -> str:
        """`values` @ `weights` + biases."""
        bias = self.constant(f"{name}.bias", biases)
        if not self.quantised:
            return self.op("Add", self.op("MatMul", values, self.constant(f"{name}.weight", weights)), bias)
        quantised, scales = quantised_by_column(weights)
        weight, scale = self.constant(f"{name}.weight", quantised), self.constant(f"{name}.scale", scales)
        return self.fused("DynamicQuantizeMatMul", values, weight, scale, "", bias)

    def _added(self, values: str, hidden: str, name: str) -> str:
        return self.fused(
            "SkipLayerNormalization", values, hidden, *self._norm(f"{name}.LayerNorm"), epsilon=self.geometry.eps
        )

    def _norm(self, name: str) -> tuple[str, str]:
        return (
            self.constant(f"{name}.weight", self.checkpoint.tensor(f"{name}.weight")),
            self.constant(f"{name}.bias", self.checkpoint.tensor(f"{name}.bias")),
        )

    def _outputs(self, hidden: str) -> None:
        """The mean over tokens, and the 32 logits of it."""
        total = self.op("MatMul", self.op("Unsqueeze", "mask", self.ints(1)), hidden)
        count = self.op("ReduceSum", "mask", self.ints(1), keepdims=1)
        pooled = self.op("Div", self.op("Squeeze", total, self.ints(1)), count)
        names = [f"head_{index}.fc" for index in range(len(HEADS))]
        weights, biases = (
            self.constant("heads.weight", self.weights(*names)),
            self.constant("heads.bias", self.biases(*names)),
        )
        logits = self.op("Gemm", pooled, weights, biases)
        self.nodes.append(helper.make_node("Identity", [pooled], ["pooled"]))
        self.nodes.append(helper.make_node("Identity", [logits], ["logits"]))

    def _serialised(self) -> bytes:
        large = {name: value for name, value in self.tensors.items() if value.nbytes >= _INLINE_BYTES}
        initialisers = [
            _placeholder(name, value) if name in large else numpy_helper.from_array(value, name)
            for name, value in self.tensors.items()
        ]
        self.tensors = large
        floats = TensorProto.FLOAT
        graph = helper.make_graph(
            self.nodes,
            "classifier",
            [
                helper.make_tensor_value_info("rows", floats, ["n", "L", self.geometry.hidden]),
                helper.make_tensor_value_info("mask", floats, ["n", "L"]),
            ],
            [
                helper.make_tensor_value_info("logits", floats, ["n", sum(head.size for head in HEADS)]),
                helper.make_tensor_value_info("pooled", floats, ["n", self.geometry.hidden]),
            ],
            initialisers,
        )
        opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid("com.microsoft", 1)]
        model: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION).SerializeToString()
        return model


def _placeholder(name: str, value: Array) -> TensorProto:
    """A tensor whose values are given to the runtime at load."""
    tensor = TensorProto(
        name=name, data_type=helper.np_dtype_to_tensor_dtype(value.dtype), dims=value.shape,
        data_location=TensorProto.EXTERNAL,
    )  # fmt: skip
    tensor.external_data.add(key="location", value="given at load")
    return tensor


def quantised_by_column(weights: Floats) -> tuple[npt.NDArray[np.int8], Floats]:
    """Weights (inputs, outputs) as int8, and the scale of each output."""
    scales = np.maximum(np.abs(weights).max(axis=0), np.finfo(np.float32).tiny) / np.float32(127)
    return np.rint(weights / scales).astype(np.int8), scales


def distance_embeddings(checkpoint: Checkpoint) -> Floats:
    """Embeddings of query - key from positions - 1 down to -(positions - 1), shape (2 positions - 1, hidden)."""
    table = checkpoint.tensor(DISTANCES)
    if checkpoint.geometry.normalised_distances:
        centred = table - table.mean(axis=-1, keepdims=True)
        deviation = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + checkpoint.geometry.eps)
        table = centred / deviation * checkpoint.tensor(f"{DISTANCES_NORM}.weight")
        table += checkpoint.tensor(f"{DISTANCES_NORM}.bias")
    result: Floats = table[distance_rows(checkpoint.geometry)]
    return result


def distance_rows(geometry: Geometry) -> npt.NDArray[np.int64]:
    """Rows of the distance table for query - key from positions - 1 down to -(positions - 1).

    Distances below half the buckets have a row each, longer ones share rows in logarithmic steps. In float32, as the
    library computes it: a rounding to the next row would be a different model.
    """
    positions, buckets = geometry.positions, geometry.buckets
    distance = np.arange(positions - 1, -positions, -1)
    half = buckets // 2
    length = np.abs(distance).astype(np.float32)
    with np.errstate(divide="ignore"):
        steps = np.log(length / np.float32(half)) / np.log(np.float32((positions - 1) / half)) * (half - 1)
    far = np.where(length <= half, 0, np.ceil(steps) + half) * np.sign(distance)
    bucket = np.where(length <= half, distance, far).astype(np.int64)
    return np.clip(bucket + buckets, 0, 2 * buckets - 1)
