"""The lean graph of NVIDIA's model for ONNX Runtime: the library's mathematics, without what depends on weights alone.

Built from numpy tensors, without torch. Against the library's model:

- Projections of the relative positions are tables, computed here once, of which only the distances that occur in a text
  are multiplied. Their scores reach their place by reshaping, without a gather (`_position_scores`).
- Query, key and value are one matmul, and so are the 32 logits.
- 1 / sqrt(3 * width), the scale of the scores, is in the tables and in the matmul of queries and keys.
- Rows of the embedding table are looked up outside: its 393 MB stay in the weights' own file.

Operators are chosen by measurement; ONNX Runtime's own SkipLayerNormalization, MultiHeadAttention and MatMulNBits were
slower than what stands here.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper, numpy_helper

from service.classifiers.nvidia.checkpoint import Checkpoint
from service.classifiers.nvidia.geometry import DISTANCES, DISTANCES_NORM, Geometry
from service.classifiers.nvidia.heads import HEADS, N_LOGITS
from service.classifiers.nvidia.quantisation import Inputs, quantised

Floats = npt.NDArray[np.float32]
Array = npt.NDArray[Any]
Tensors = dict[str, Array]

MASKED = -1e9  # added to the scores of padding: its probability is exactly 0
INPUT = "input of "  # before the name of a linear layer: its observed input
_INLINE_BYTES = 4096  # smaller tensors stay in the graph itself
_OPSET, _IR_VERSION = 21, 10


def build_graph(
    checkpoint: Checkpoint, *, quantise: Mapping[str, Inputs] | None = None, observe: bool = False
) -> tuple[bytes, Tensors]:
    """The graph as an ONNX model, and its large tensors by the names under which the graph refers to them.

    Inputs `rows` (n, L, hidden), rows of the embedding table, and `mask` (n, L), 1 at tokens and 0 at padding; outputs
    `logits` (n, 32) and `pooled` (n, hidden); all float32. `quantise` has the encoder's linear layers multiply in int8,
    and says what their inputs are like; `observe` adds these inputs, (n L, channels), to the outputs, by name.
    """
    return _Builder(checkpoint, quantise).build(observe=observe)


class _Builder:
    """Names of values are strings; hidden states are flat, (n L, hidden), but in attention."""

    def __init__(self, checkpoint: Checkpoint, quantise: Mapping[str, Inputs] | None = None) -> None:
        self.checkpoint = checkpoint
        self.geometry = checkpoint.geometry
        self.width = self.geometry.hidden // self.geometry.heads  # of one attention head
        self.distances = distance_embeddings(checkpoint)
        self.quantise = quantise
        self.inputs: dict[str, str] = {}  # of the linear layers
        self.tensors: Tensors = {}
        self.nodes: list[Any] = []

    def build(self, *, observe: bool = False) -> tuple[bytes, Tensors]:
        self._shapes()
        flat = self.op("Reshape", "rows", self.ints(-1, self.geometry.hidden))
        hidden = self._norm(flat, "backbone.embeddings.LayerNorm")
        for number in range(self.geometry.layers):
            hidden = self._layer(hidden, f"backbone.encoder.layer.{number}")
        self._outputs(self.op("Reshape", hidden, self.hidden_shape))
        outputs = {"logits": ["n", N_LOGITS], "pooled": ["n", self.geometry.hidden]}
        if observe:
            outputs |= {self._named(values, f"{INPUT}{name}"): ["n L", None] for name, values in self.inputs.items()}
        return self._serialised(outputs)

    def op(self, kind: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Append a node; the name of its output."""
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], domain=domain, **attributes))
        return name

    def fused(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """One of ONNX Runtime's own operators."""
        return self.op(kind, *inputs, domain="com.microsoft", **attributes)

    def constant(self, name: str, value: Array) -> str:
        self.tensors[name] = np.ascontiguousarray(value)
        return name

    def ints(self, *values: int) -> str:
        return self.constant(f"ints {values}", np.array(values, np.int64))

    def floats(self, value: float) -> str:
        return self.constant(f"float {value}", np.array(value, np.float32))

    def _shapes(self) -> None:
        """What depends on n and L, once for all layers."""
        heads, positions = self.geometry.heads, self.geometry.positions
        self.one = self.ints(1)
        n, length = self.op("Shape", "rows", end=1), self.op("Shape", "rows", start=1, end=2)
        after = self.op("Add", length, self.one)
        twice = self.op("Add", length, length)
        columns = self.op("Add", twice, self.one)
        self.hidden_shape = self.op("Concat", n, length, self.ints(self.geometry.hidden), axis=0)
        self.heads_shape = self.op("Concat", n, length, self.ints(3 * heads, self.width), axis=0)
        self.pairs_shape = self.op("Concat", n, self.ints(heads), columns, twice, axis=0)
        self.first_of_pair = (
            self.op("Concat", self.ints(0), length, axis=0),
            self.op("Concat", length, twice, axis=0),
        )
        self.second_of_pair = (
            self.op("Concat", after, self.ints(0), axis=0),
            self.op("Concat", columns, length, axis=0),
        )
        begin = self.op("Sub", self.ints(positions), length)
        end = self.op("Add", self.ints(positions), after)
        self.near = self.op("Slice", self.constant("rows of distances", distance_rows(self.geometry)), begin, end)
        absent = self.op("Mul", self.op("Sub", self.floats(1), "mask"), self.floats(MASKED))
        self.padding = self.op("Unsqueeze", absent, self.ints(1, 2))

    def _layer(self, hidden: str, name: str) -> str:
        attended = self._linear(self._attention(hidden, name), f"{name}.attention.output.dense")
        hidden = self._norm(self.op("Add", attended, hidden), f"{name}.attention.output.LayerNorm")
        wide = self.fused("Gelu", self._linear(hidden, f"{name}.intermediate.dense"))
        narrow = self._linear(wide, f"{name}.output.dense")
        return self._norm(self.op("Add", narrow, hidden), f"{name}.output.LayerNorm")

    def _attention(self, hidden: str, name: str) -> str:
        """The mean of values by three kinds of scores: content on content, content on position, and back."""
        heads, axis = self.geometry.heads, self.one
        queries_keys, values = self._heads(hidden, name)
        queries = self.op("Slice", queries_keys, self.ints(0), self.ints(2 * heads), axis, self.ints(2))
        keys = self.op("Slice", queries_keys, self.one, self.ints(2 * heads), axis, self.ints(2))
        scores = self.fused("FusedMatMul", queries, keys, transB=1, alpha=self._scale)
        for more in (*self._position_scores(queries_keys, name), self.padding):
            scores = self.op("Add", scores, more)
        context = self.op("MatMul", self.op("Softmax", scores, axis=-1), values)
        return self.op("Reshape", self.op("Transpose", context, perm=[0, 2, 1, 3]), self.ints(-1, self.geometry.hidden))

    @property
    def _scale(self) -> float:
        return 1 / float(np.sqrt(3 * self.width))

    def _heads(self, hidden: str, name: str) -> tuple[str, str]:
        """Queries and keys in turn, (n, 2 heads, L, width), and values, (n, heads, L, width)."""
        heads = self.geometry.heads
        names = [f"{name}.attention.self.{kind}_proj" for kind in ("query", "key", "value")]
        # Output o of this one matmul is output order[o] of query, key and value side by side.
        order = np.arange(3 * self.geometry.hidden).reshape(3 * heads, self.width)
        order[: 2 * heads] = order[: 2 * heads].reshape(2, heads, -1).swapaxes(0, 1).reshape(2 * heads, -1)
        weights, biases = self._weights(*names)[:, order.ravel()], self._biases(*names)[order.ravel()]
        together = self._product(hidden, f"{name}.attention.self", weights, biases)
        by_head = self.op("Transpose", self.op("Reshape", together, self.heads_shape), perm=[0, 2, 1, 3])
        parts = [f"{name}.queries_keys", f"{name}.values"]
        self.nodes.append(helper.make_node("Split", [by_head, self.ints(2 * heads, heads)], parts, axis=1))
        return parts[0], parts[1]

    def _position_scores(self, queries_keys: str, name: str) -> tuple[str, str]:
        """Scores of content on position and of position on content, both (n, heads, L, L).

        A query i is multiplied with the keys of the distances L to -L. Its score with key k stands in column
        L - i + k of these 2 L + 1, so at L + 2 L i + k in the flattened matrix: in a matrix of width 2 L it is row i,
        column L + k. That width divides two flattened matrices, of which the second then lies in the rows from L + 1
        and the columns from 0. So queries and keys are multiplied in turn, and each are one slice.
        """
        heads, width = self.geometry.heads, self.width
        projected = [self._projected_distances(f"{name}.attention.self.{kind}_proj") for kind in ("key", "query")]
        # From a key, the distance to the query is the other way round.
        mirrored = np.minimum(2 * self.geometry.buckets - np.arange(2 * self.geometry.buckets), len(self.distances) - 1)
        tables = np.stack([projected[0], projected[1][:, mirrored]], axis=1).reshape(2 * heads, -1, width)
        near = self.op(
            "Gather", self.constant(f"{name}.distances", tables * np.float32(self._scale)), self.near, axis=1
        )
        pairs = self.op("Reshape", self.fused("FusedMatMul", queries_keys, near, transB=1), self.pairs_shape)
        content_on_position = self.op("Slice", pairs, *self.first_of_pair, self.ints(2, 3))
        position_on_content = self.op("Slice", pairs, *self.second_of_pair, self.ints(2, 3))
        return content_on_position, self.op("Transpose", position_on_content, perm=[0, 1, 3, 2])

    def _projected_distances(self, name: str) -> Floats:
        """Shape (heads, 2 buckets, width)."""
        projected = self.distances @ self._weights(name) + self._biases(name)
        return projected.reshape(-1, self.geometry.heads, self.width).swapaxes(0, 1)

    def _weights(self, *names: str) -> Floats:
        """Linear layers side by side, shape (inputs, outputs)."""
        stacked: Floats = np.concatenate([self.checkpoint.tensor(f"{name}.weight") for name in names])
        return stacked.T

    def _biases(self, *names: str) -> Floats:
        stacked: Floats = np.concatenate([self.checkpoint.tensor(f"{name}.bias") for name in names])
        return stacked

    def _linear(self, values: str, name: str) -> str:
        return self._product(values, name, self._weights(name), self._biases(name))

    def _product(self, values: str, name: str, weights: Floats, biases: Floats) -> str:
        """`values` @ `weights` + `biases`."""
        self.inputs[name] = values
        if self.quantise is None:
            weight, bias = self.constant(f"{name}.weight", weights), self.constant(f"{name}.bias", biases)
            return self.op("Gemm", values, weight, bias)
        # Only normed values have channels that are far wider than the others, and take a factor at little cost.
        normed = name.endswith(("attention.self", "intermediate.dense"))
        linear = quantised(weights, biases, self.quantise[name], equalised=normed)
        weight, bias = self.constant(f"{name}.weight", linear.weights), self.constant(f"{name}.bias", linear.biases)
        if linear.factors is not None:
            values = self.op("Mul", values, self.constant(f"{name}.factors", linear.factors))
        step, zero = (
            self.constant(f"{name}.step", np.array(linear.step)),
            self.constant(f"{name}.zero", np.array(linear.zero)),
        )
        scales = self.constant(f"{name}.scales", linear.scales)
        levels = self.op("QuantizeLinear", values, step, zero)
        return self.fused("MatMulIntegerToFloat", levels, weight, step, scales, zero, "", bias)

    def _norm(self, values: str, name: str) -> str:
        weight = self.constant(f"{name}.weight", self.checkpoint.tensor(f"{name}.weight"))
        bias = self.constant(f"{name}.bias", self.checkpoint.tensor(f"{name}.bias"))
        return self.op("LayerNormalization", values, weight, bias, epsilon=self.geometry.eps)

    def _outputs(self, hidden: str) -> None:
        """The mean over tokens of (n, L, hidden), and the 32 logits of it."""
        total = self.op("MatMul", self.op("Unsqueeze", "mask", self.one), hidden)
        count = self.op("ReduceSum", "mask", self.one, keepdims=1)
        pooled = self.op("Div", self.op("Squeeze", total, self.one), count)
        names = [f"head_{index}.fc" for index in range(len(HEADS))]
        weights, biases = self._weights(*names), self._biases(*names)
        logits = self.op("Gemm", pooled, self.constant("heads.weight", weights), self.constant("heads.bias", biases))
        self._named(pooled, "pooled")
        self._named(logits, "logits")

    def _named(self, values: str, name: str) -> str:
        self.nodes.append(helper.make_node("Identity", [values], [name]))
        return name

    def _serialised(self, outputs: Mapping[str, list[Any]]) -> tuple[bytes, Tensors]:
        floats, hidden = TensorProto.FLOAT, self.geometry.hidden
        large = {name: value for name, value in self.tensors.items() if value.nbytes >= _INLINE_BYTES}
        graph = helper.make_graph(
            self.nodes,
            "classifier",
            [
                helper.make_tensor_value_info("rows", floats, ["n", "L", hidden]),
                helper.make_tensor_value_info("mask", floats, ["n", "L"]),
            ],
            [helper.make_tensor_value_info(name, floats, shape) for name, shape in outputs.items()],
            [
                _placeholder(name, value) if name in large else numpy_helper.from_array(value, name)
                for name, value in self.tensors.items()
            ],
        )
        opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)
        return model.SerializeToString(), large


def _placeholder(name: str, value: Array) -> TensorProto:
    """A tensor whose values are given to the runtime at load."""
    kind = helper.np_dtype_to_tensor_dtype(value.dtype)
    tensor = TensorProto(name=name, data_type=kind, dims=value.shape, data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="given at load")
    return tensor


def distance_embeddings(checkpoint: Checkpoint) -> Floats:
    """Embeddings of the buckets of distances, shape (2 buckets, hidden)."""
    table = checkpoint.tensor(DISTANCES)
    if not checkpoint.geometry.normalised_distances:
        return table
    centred = table - table.mean(axis=-1, keepdims=True)
    deviation = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + np.float32(checkpoint.geometry.eps))
    weight, bias = (checkpoint.tensor(f"{DISTANCES_NORM}.{kind}") for kind in ("weight", "bias"))
    result: Floats = centred / deviation * weight + bias
    return result


def distance_rows(geometry: Geometry) -> npt.NDArray[np.int64]:
    """The bucket of query - key, for query - key from `positions` down to -`positions`.

    Distances below half the buckets have one each, longer ones share them in logarithmic steps. In float32, as the
    library computes it: a rounding to the next bucket would be a different model.
    """
    positions, buckets = geometry.positions, geometry.buckets
    distance = np.arange(positions, -positions - 1, -1)
    half = buckets // 2
    length = np.abs(distance).astype(np.float32)
    with np.errstate(divide="ignore"):
        steps = np.log(length / np.float32(half)) / np.log(np.float32((positions - 1) / half)) * (half - 1)
    far = np.where(length <= half, 0, np.ceil(steps) + half) * np.sign(distance)
    bucket = np.where(length <= half, distance, far).astype(np.int64)
    return np.clip(bucket + buckets, 0, 2 * buckets - 1)
