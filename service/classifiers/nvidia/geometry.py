"""The shape of a DeBERTa-v3 encoder, and which tensors of which shapes that means.

`config.json` of this model has no geometry, and tools that guess one write wrong fields into it ("d_model", "n_layers",
"vocab_size" of another architecture). So only a backbone's own config is believed, or else the tensors themselves.
"""

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from service.classifiers.nvidia.heads import HEADS

Shapes = Mapping[str, tuple[int, ...]]

WORDS = "backbone.embeddings.word_embeddings.weight"
DISTANCES = "backbone.encoder.rel_embeddings.weight"
DISTANCES_NORM = "backbone.encoder.LayerNorm"
POSITIONS = 512  # tokens of the longest input, with [CLS] and [SEP]
_HEAD_WIDTH = 64  # true of every published DeBERTa-v3
_LAYER = re.compile(r"backbone\.encoder\.layer\.(\d{1,3})\.")


class Geometry(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes of the encoder."""

    vocabulary: int  # rows of the embedding table
    hidden: int
    layers: int
    heads: int  # of attention
    feed_forward: int
    buckets: int  # log buckets of distances, to each side
    positions: int = POSITIONS
    eps: float = 1e-7  # of every LayerNorm
    normalised_distances: bool = True  # a LayerNorm over the table of distances


DEBERTA_V3_BASE = Geometry(vocabulary=128_100, hidden=768, layers=12, heads=12, feed_forward=3072, buckets=256)

# What the mathematics of our runtimes takes for granted; a backbone's config that says otherwise is another model.
_TAKEN_FOR_GRANTED: dict[str, tuple[Any, ...]] = {
    "model_type": ("deberta-v2",),
    "hidden_act": ("gelu",),
    "relative_attention": (True,),
    "share_att_key": (True,),
    "position_biased_input": (False,),
    "type_vocab_size": (0,),
    "max_position_embeddings": (POSITIONS,),
    "max_relative_positions": (-1, 0, POSITIONS),
    "conv_kernel_size": (None, 0),
    "embedding_size": (None,),  # None: as wide as hidden
}
_LEFT_OUT: dict[str, Any] = {"hidden_act": "gelu", "max_position_embeddings": POSITIONS, "max_relative_positions": -1}


def geometry_of_config(config: Mapping[str, Any]) -> Geometry:
    """The geometry that a backbone's own config states. Raises ValueError for anything but a DeBERTa-v3 encoder."""
    for key, allowed in _TAKEN_FOR_GRANTED.items():
        found = config.get(key, _LEFT_OUT.get(key, allowed[0] if key == "model_type" else None))
        if key == "embedding_size" and found == config.get("hidden_size"):
            continue
        if found not in allowed:
            raise ValueError(f"{key} is {found!r}, expected {' or '.join(map(repr, allowed))}")
    terms = config.get("pos_att_type")
    listed = terms.split("|") if isinstance(terms, str) else terms
    if not isinstance(listed, list) or {str(term).strip().lower() for term in listed} != {"p2c", "c2p"}:
        raise ValueError(f"pos_att_type is {terms!r}, expected p2c and c2p")
    norm = config.get("norm_rel_ebd", "none")
    if norm not in ("none", "layer_norm"):
        raise ValueError(f"norm_rel_ebd is {norm!r}, expected 'none' or 'layer_norm'")
    eps = config.get("layer_norm_eps", 1e-7)
    if not isinstance(eps, float) or not 0 < eps < 1e-2:
        raise ValueError(f"layer_norm_eps is {eps!r}, expected a small positive number")
    geometry = Geometry(
        vocabulary=_size(config, "vocab_size"),
        hidden=_size(config, "hidden_size"),
        layers=_size(config, "num_hidden_layers", most=999),
        heads=_size(config, "num_attention_heads"),
        feed_forward=_size(config, "intermediate_size"),
        buckets=_size(config, "position_buckets"),
        eps=eps,
        normalised_distances=norm == "layer_norm",
    )
    if geometry.hidden % geometry.heads:
        raise ValueError(f"hidden_size {geometry.hidden} is no multiple of num_attention_heads {geometry.heads}")
    return geometry


def _size(config: Mapping[str, Any], key: str, *, most: int = 10_000_000) -> int:
    value = config.get(key)
    if type(value) is not int or not 1 <= value <= most:
        raise ValueError(f"{key} is {value!r}, expected a positive integer, at most {most}")
    return value


def geometry_of_shapes(shapes: Shapes) -> Geometry:
    """The geometry that the tensors show. Raises ValueError when they show none."""
    words, distances = _matrix(shapes, WORDS), _matrix(shapes, DISTANCES)
    feed_forward = _matrix(shapes, "backbone.encoder.layer.0.intermediate.dense.weight")
    if words[1] % _HEAD_WIDTH:
        raise ValueError(
            f"{WORDS} is {words[1]} wide, no multiple of {_HEAD_WIDTH}: the number of attention heads cannot be told. "
            "Add the backbone's config as backbone_config.json"
        )
    if distances[0] % 2:
        raise ValueError(f"{DISTANCES} has {distances[0]} rows, expected an even number")
    return Geometry(
        vocabulary=words[0],
        hidden=words[1],
        layers=1 + max(layers_in(shapes)),
        heads=words[1] // _HEAD_WIDTH,
        feed_forward=feed_forward[0],
        buckets=distances[0] // 2,
        normalised_distances=f"{DISTANCES_NORM}.weight" in shapes,
    )


def _matrix(shapes: Shapes, name: str) -> tuple[int, int]:
    shape = shapes.get(name)
    if shape is None:
        raise ValueError(f"tensor {name!r} is missing")
    if len(shape) != 2 or 0 in shape:
        raise ValueError(f"tensor {name!r} has shape {shape}, expected two dimensions, none of them empty")
    return shape[0], shape[1]


def layers_in(names: Mapping[str, Any]) -> set[int]:
    """Numbers of the encoder's layers that occur in names of tensors."""
    return {int(match[1]) for name in names if (match := _LAYER.match(name))}


def shapes_of(geometry: Geometry) -> dict[str, tuple[int, ...]]:
    """Every tensor of the model, in the order in which the hub's file was made, with its shape."""
    wide, inner = geometry.hidden, geometry.feed_forward
    shapes: dict[str, tuple[int, ...]] = {WORDS: (geometry.vocabulary, wide)}

    def linear(name: str, outputs: int, inputs: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (outputs, inputs), (outputs,)

    def norm(name: str) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (wide,), (wide,)

    norm("backbone.embeddings.LayerNorm")
    for number in range(geometry.layers):
        layer = f"backbone.encoder.layer.{number}"
        for projection in ("query", "key", "value"):
            linear(f"{layer}.attention.self.{projection}_proj", wide, wide)
        linear(f"{layer}.attention.output.dense", wide, wide)
        norm(f"{layer}.attention.output.LayerNorm")
        linear(f"{layer}.intermediate.dense", inner, wide)
        linear(f"{layer}.output.dense", wide, inner)
        norm(f"{layer}.output.LayerNorm")
    shapes[DISTANCES] = (2 * geometry.buckets, wide)
    if geometry.normalised_distances:
        norm(DISTANCES_NORM)
    for index, head in enumerate(HEADS):
        linear(f"head_{index}.fc", head.size, wide)
    return shapes
