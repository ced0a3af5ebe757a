"""NVIDIA's model in torch, the same mathematics as the library's, re-arranged: for a GPU, and for fine-tuning.

What depends on the weights alone is computed once at load: the projections of the relative positions, of which a text
of L tokens then needs only the 2 L that occur in it. Query, key and value are one matmul, the 32 logits another, and
attention is torch's fused kernel with the position scores as additive mask.
"""

import math
from typing import Literal, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from service.classifiers.nvidia.checkpoint import Checkpoint
from service.classifiers.nvidia.geometry import DISTANCES, DISTANCES_NORM, Geometry
from service.classifiers.nvidia.heads import HEADS
from service.errors import ConfigurationError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

Device = Literal["cpu", "cuda", "mps"]
Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


class TorchRuntime:
    """Logits and pooled vectors of batches of tokens. Safe from several threads.

    `threads` is set for the calling thread at each call: torch keeps the number of threads of one operation by calling
    thread, and what was set last is what new threads begin with. 0 leaves torch as it is. On a GPU it has no effect.
    Raises ConfigurationError for a precision that is not offered and a device that is not there.
    """

    def __init__(
        self, checkpoint: Checkpoint, *, precision: str = "fp32", device: str = "cpu", threads: int = 1
    ) -> None:
        if precision not in DTYPES:
            offered = " or ".join(DTYPES)
            raise ConfigurationError(
                [f'precision "{precision}" is not offered with backend "torch", only {offered}; "onnx" offers int8']
            )
        self.precision = precision
        self.device = device
        self.threads = threads
        self._device = find_device(device)
        self._dtype = DTYPES[precision]
        self._embeddings = checkpoint.embeddings
        model = Model(checkpoint).requires_grad_(requires_grad=False).eval()
        model.project_positions(len(model.layers))
        model.embeddings.to(self._dtype)
        model.layers.to(self._dtype)
        self._model = model.to(self._device)

    def run(self, ids: Integers, mask: Integers) -> tuple[Floats, Floats]:
        """Logits, shape (n, 32), and pooled vectors, (n, hidden), of n texts padded on the right to L tokens.

        `ids` and `mask` have shape (n, L); `mask` is 1 at tokens and 0 at padding, whose id is 0.
        """
        if self.threads and torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)
        with torch.inference_mode():
            rows = torch.from_numpy(np.asarray(self._embeddings[ids])).to(self._device, self._dtype)
            pooled = self._model(rows, padding_of(mask, self._device))
            logits = self._model.logits(pooled)
        return logits.cpu().numpy(), pooled.cpu().numpy()


def find_device(name: str) -> torch.device:
    """The device of this name; a `ConfigurationError` names those that are there."""
    there = devices()
    if name not in there:
        raise ConfigurationError(
            [f'device "{name}" is not there: torch {torch.__version__} finds {" and ".join(there)} on this machine']
        )
    return torch.device(name)


def devices() -> list[Device]:
    """The devices that torch can compute on here, the fastest first."""
    there: list[Device] = []
    if torch.cuda.is_available():
        there.append("cuda")
    if torch.backends.mps.is_available():
        there.append("mps")
    return [*there, "cpu"]


def padding_of(mask: Integers, device: torch.device) -> Tensor | None:
    """True at padding, shape (n, 1, 1, L); None when there is none."""
    return None if mask.all() else torch.from_numpy(mask == 0)[:, None, None, :].to(device)


class Model(nn.Module):
    """From rows of the embedding table to logits. The table itself stays in its memory-mapped file."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        geometry = checkpoint.geometry
        self.embeddings = Norm(checkpoint, "backbone.embeddings.LayerNorm")
        self.layers = nn.ModuleList(
            Layer(checkpoint, f"backbone.encoder.layer.{number}") for number in range(geometry.layers)
        )
        self.heads = Linear(checkpoint, *(f"head_{number}.fc" for number in range(len(HEADS))))
        distances = tensor(checkpoint, DISTANCES)
        if geometry.normalised_distances:
            distances = Norm(checkpoint, DISTANCES_NORM)(distances).detach()
        self.distances: Tensor
        self.register_buffer("distances", distances[distance_rows(geometry)], persistent=False)

    def forward(self, rows: Tensor, padding: Tensor | None) -> Tensor:
        """Pooled vectors, shape (n, hidden), of embedding rows, (n, L, hidden); `padding` as `padding_of` makes it."""
        return pool(self.through(self.embeddings(rows), padding, 0, len(self.layers)), padding)

    def through(self, hidden: Tensor, padding: Tensor | None, first: int, end: int) -> Tensor:
        """Hidden states, shape (n, L, hidden), after the layers from `first` up to and without `end`."""
        for number in range(first, end):
            hidden = self.layers[number](hidden, padding, self.distances)
        return hidden

    def logits(self, pooled: Tensor) -> Tensor:
        """All heads in canonical order, shape (n, 32)."""
        logits: Tensor = self.heads(pooled)
        return logits

    def project_positions(self, layers: int) -> None:
        """Compute the position projections of the first `layers` layers now; those of the others at each call."""
        for number, layer in enumerate(cast("list[Layer]", self.layers)):
            with torch.no_grad():
                projected = layer.projected_positions(self.distances) if number < layers else (None, None)
            layer.position_keys, layer.position_queries = projected


def pool(hidden: Tensor, padding: Tensor | None) -> Tensor:
    """The mean of hidden states over the tokens, in fp32: shape (n, L, hidden) to (n, hidden)."""
    if padding is None:
        return hidden.float().mean(dim=1)
    mask = (~padding)[:, 0, 0, :, None].float()
    return (hidden.float() * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1e-9)


class Layer(nn.Module):
    """Disentangled self-attention and feed-forward of DeBERTa, each followed by the norm of the sum with its input."""

    dropout = 0.1  # while training, as DeBERTa was

    def __init__(self, checkpoint: Checkpoint, name: str) -> None:
        super().__init__()
        self.heads = checkpoint.geometry.heads
        attention = f"{name}.attention.self"
        self.qkv = Linear(checkpoint, *(f"{attention}.{kind}_proj" for kind in ("query", "key", "value")))
        self.attended = Linear(checkpoint, f"{name}.attention.output.dense")
        self.attended_norm = Norm(checkpoint, f"{name}.attention.output.LayerNorm")
        self.wide = Linear(checkpoint, f"{name}.intermediate.dense")
        self.narrow = Linear(checkpoint, f"{name}.output.dense")
        self.narrow_norm = Norm(checkpoint, f"{name}.output.LayerNorm")
        # Three kinds of scores are summed: content on content, content on position, position on content.
        self.scale = 1 / math.sqrt(3 * checkpoint.geometry.hidden // self.heads)
        self.position_keys: Tensor | None
        self.position_queries: Tensor | None
        # None: projected at each call, so that gradients reach the weights.
        self.register_buffer("position_keys", None, persistent=False)
        self.register_buffer("position_queries", None, persistent=False)

    def projected_positions(self, distances: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and queries of the distances, both (heads, 2 m, width), scaled.

        `distances` has shape (2 m, hidden), from query - key = m - 1 down to -m. So have the keys, while the queries
        rise from -(m - 1) to m: `skewed` then is the same for both.
        """
        count, size = distances.shape
        projected = functional.linear(distances, self.qkv.weight[: 2 * size], self.qkv.bias[: 2 * size]) * self.scale
        queries, keys = projected.view(count, 2, self.heads, size // self.heads).permute(1, 2, 0, 3)
        return keys, queries.flip(1).roll(-1, dims=1)

    def forward(self, hidden: Tensor, padding: Tensor | None, distances: Tensor) -> Tensor:
        """Hidden states, shape (n, L, hidden), after this layer."""
        attended = self.attended(self._attention(hidden, padding, distances))
        hidden = self.attended_norm(hidden + functional.dropout(attended, self.dropout, self.training))
        narrow = self.narrow(functional.gelu(self.wide(hidden)))
        result: Tensor = self.narrow_norm(hidden + functional.dropout(narrow, self.dropout, self.training))
        return result

    def _attention(self, hidden: Tensor, padding: Tensor | None, distances: Tensor) -> Tensor:
        n, length, size = hidden.shape
        qkv = self.qkv(hidden).view(n, length, 3, self.heads, size // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each (n, heads, L, width)
        position_keys, position_queries = self.position_keys, self.position_queries
        if position_keys is None or position_queries is None:
            position_keys, position_queries = self.projected_positions(distances)
        middle = len(distances) // 2
        near = slice(middle - length, middle + length)
        scores = skewed(query @ position_keys[:, near].mT) + skewed(key @ position_queries[:, near].mT).mT
        if padding is not None:
            scores = scores.masked_fill(padding, -torch.inf)
        context = functional.scaled_dot_product_attention(query, key, value, attn_mask=scores, scale=self.scale)
        return context.transpose(1, 2).reshape(n, length, size)


def skewed(scores: Tensor) -> Tensor:
    """Row i of (..., L, 2 L), from its column L - 1 - i on: shape (..., L, L), without copying.

    >>> skewed(torch.tensor([[10, 11, 12, 13], [20, 21, 22, 23]])).tolist()
    [[11, 12], [20, 21]]
    """
    length = scores.shape[-2]
    flat = scores.flatten(-2)[..., length - 1 : length - 1 + length * (2 * length - 1)]
    return flat.view(*scores.shape[:-2], length, 2 * length - 1)[..., :length]


def distance_rows(geometry: Geometry) -> Tensor:
    """Rows of the distance table for query - key = positions - 1 down to -positions.

    Distances below half the buckets have a row each, longer ones share rows in logarithmic steps. In float32, as the
    library computes it: a rounding to the next row would be a different model.
    """
    positions, buckets = geometry.positions, geometry.buckets
    distance = torch.arange(positions - 1, -positions - 1, -1)
    half = buckets // 2
    length = distance.abs()
    steps = torch.log(length / half) / torch.log(torch.tensor((positions - 1) / half)) * (half - 1)
    bucket = torch.where(length <= half, length.float(), torch.ceil(steps) + half).long() * distance.sign()
    return (bucket + buckets).clamp(0, 2 * buckets - 1)


class Linear(nn.Module):
    """One or several linear layers of the checkpoint side by side, as one matmul."""

    def __init__(self, checkpoint: Checkpoint, *names: str) -> None:
        super().__init__()
        self.names = names
        weights = [tensor(checkpoint, f"{name}.weight") for name in names]
        self.sizes = [len(weight) for weight in weights]
        self.weight = nn.Parameter(torch.cat(weights))
        self.bias = nn.Parameter(torch.cat([tensor(checkpoint, f"{name}.bias") for name in names]))

    def forward(self, values: Tensor) -> Tensor:
        return functional.linear(values, self.weight, self.bias)

    def tensors(self) -> dict[str, Tensor]:
        """The weights under the names of the checkpoint."""
        weights, biases = torch.split(self.weight.detach(), self.sizes), torch.split(self.bias.detach(), self.sizes)
        named = zip(self.names, weights, biases, strict=True)
        return {f"{name}.{kind}": value for name, w, b in named for kind, value in (("weight", w), ("bias", b))}


class Norm(nn.Module):
    """A layer norm of the checkpoint."""

    def __init__(self, checkpoint: Checkpoint, name: str) -> None:
        super().__init__()
        self.name = name
        self.eps = checkpoint.geometry.eps
        self.weight = nn.Parameter(tensor(checkpoint, f"{name}.weight"))
        self.bias = nn.Parameter(tensor(checkpoint, f"{name}.bias"))

    def forward(self, values: Tensor) -> Tensor:
        return functional.layer_norm(values, self.weight.shape, self.weight, self.bias, self.eps)

    def tensors(self) -> dict[str, Tensor]:
        """The weights under the names of the checkpoint."""
        return {f"{self.name}.weight": self.weight.detach(), f"{self.name}.bias": self.bias.detach()}


def named_tensors(module: nn.Module) -> dict[str, Tensor]:
    """All weights in a module under the names of the checkpoint."""
    parts = (part for part in module.modules() if isinstance(part, Linear | Norm))
    return {name: value for part in parts for name, value in part.tensors().items()}


def tensor(checkpoint: Checkpoint, name: str) -> Tensor:
    """A copy of a tensor of the checkpoint: its own memory may be a read-only file."""
    return torch.tensor(checkpoint.tensor(name))
