"""A random model with exactly the file layout of NVIDIA's classifier, for tests and for measuring speed and memory.

    python -m benchmarks.random_classifier FOLDER --size full

The real weights may not be shipped. These have the same files, tensors, sizes and kinds of tokens, and answers that
differ from prompt to prompt; they know nothing.
"""

import argparse
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bandit.vocabulary import TASK_TYPES
from benchmarks.random_tokenizer import MASK, SPECIAL, pieces_for, write_tokenizer
from service.classifiers.nvidia.geometry import DEBERTA_V3_BASE, Geometry, geometry_of_shapes, shapes_of
from service.classifiers.nvidia.heads import HEADS, Head

GEOMETRIES = {
    # heads = hidden / 64: told from the tensors alone, as for the real model
    "tiny": Geometry(vocabulary=700, hidden=64, layers=2, heads=1, feed_forward=128, buckets=16),
    "small": Geometry(vocabulary=3_000, hidden=128, layers=3, heads=2, feed_forward=320, buckets=32),
    # not told from the tensors: needs a backbone_config
    "odd": Geometry(
        vocabulary=1_111, hidden=60, layers=4, heads=5, feed_forward=100, buckets=7, eps=1e-5,
        normalised_distances=False,
    ),
    "full": DEBERTA_V3_BASE,
}  # fmt: skip


def build(folder: Path, geometry: Geometry | str = "tiny", *, seed: int = 0) -> Path:
    """Write a random model of a geometry, or of one named in `GEOMETRIES`; the same seed writes the same files."""
    shape = GEOMETRIES[geometry] if isinstance(geometry, str) else geometry
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "config.json", config_of(shape))
    _write_weights(folder / "model.safetensors", shape, seed)
    pieces = pieces_for(shape.vocabulary)
    write_tokenizer(folder, pieces)
    _write_json(folder / "added_tokens.json", {MASK: len(pieces)})
    names = dict(zip(("pad_token", "cls_token", "sep_token", "unk_token"), SPECIAL, strict=True))
    special = {**names, "bos_token": SPECIAL[1], "eos_token": SPECIAL[2], "mask_token": MASK}
    _write_json(folder / "special_tokens_map.json", special)
    _write_json(
        folder / "tokenizer_config.json",
        {**special, "do_lower_case": False, "model_max_length": 512, "sp_model_kwargs": {}, "split_by_punct": False,
         "tokenizer_class": "DebertaV2Tokenizer", "vocab_type": "spm"},
    )  # fmt: skip
    return folder


def config_of(geometry: Geometry) -> dict[str, Any]:
    """NVIDIA's custom fields; the backbone's config only where tensors do not tell it."""
    targets = [
        "task_type_1", "task_type_2", "task_type_prob", "creativity_scope", "reasoning", "contextual_knowledge",
        "number_of_few_shots", "domain_knowledge", "no_label_reason", "constraint_ct", "prompt_complexity_score",
    ]  # fmt: skip
    config: dict[str, Any] = {
        "base_model": "microsoft/DeBERTa-v3-base" if geometry == DEBERTA_V3_BASE else "armwise/random",
        "fc_dropout": 0.2,
        "target_sizes": {head.name: head.size for head in HEADS},
        "task_type_map": {str(index): name for index, name in enumerate(TASK_TYPES)},
        "weights_map": {head.name: list(head.weights) for head in HEADS[1:]},
        "divisor_map": {head.name: head.divisor for head in HEADS[1:]},
        "targets": targets,
        "model_output_type": {name: "string" if name in targets[:2] else "numeric" for name in targets},
        "creativity_score_map": {"High": 0, "Low": 1, "No": 2},
        "reasoning_map": {"No": 0, "Yes": 1, "Unknown": -1},
        "contextual_knowledge_map": {"No": 0, "Yes": 1, "Unknown": -1},
        "number_of_few_shots_map": {str(count): count for count in range(6)},
        "domain_knowledge_map": {"High": 0, "Low": 1, "Medium": 2, "No": 3},
        "no_label_reason_map": {"Unknown": 0},
        "constraint_ct_map": {"1.0": 0, "Unknown": 1},
    }
    if not _told_by_tensors(geometry):
        config["backbone_config"] = backbone_config_of(geometry)
    return config


def _told_by_tensors(geometry: Geometry) -> bool:
    try:
        return geometry_of_shapes(shapes_of(geometry)) == geometry
    except ValueError:
        return False


def backbone_config_of(geometry: Geometry) -> dict[str, Any]:
    """The config of the encoder as the library writes it."""
    return {
        "model_type": "deberta-v2",
        "vocab_size": geometry.vocabulary,
        "hidden_size": geometry.hidden,
        "num_hidden_layers": geometry.layers,
        "num_attention_heads": geometry.heads,
        "intermediate_size": geometry.feed_forward,
        "position_buckets": geometry.buckets,
        "max_position_embeddings": geometry.positions,
        "layer_norm_eps": geometry.eps,
        "norm_rel_ebd": "layer_norm" if geometry.normalised_distances else "none",
        "relative_attention": True,
        "max_relative_positions": -1,
        "pos_att_type": "p2c|c2p",
        "share_att_key": True,
        "position_biased_input": False,
        "type_vocab_size": 0,
        "hidden_act": "gelu",
        "pad_token_id": 0,
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "initializer_range": 0.02,
    }


def tensors(geometry: Geometry, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    """Every tensor by name, in the order of the file. Scales keep tokens distinct and logits spread."""
    for name, shape in sorted(shapes_of(geometry).items()):
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        values = rng.standard_normal(shape, dtype=np.float32)
        if "LayerNorm" in name:
            values *= 0.1 if name.endswith("weight") else 0.02
            values += 1.0 if name.endswith("weight") else 0.0
        elif name.endswith("bias"):
            values *= 0.02
            if name.startswith("head_"):
                values += _lowering(HEADS[int(name[5])])
        elif name.startswith("head_"):
            values *= 8 / np.sqrt(geometry.hidden)
        elif len(shape) == 2 and "embeddings" not in name:
            values *= (1.5 if "query" in name or "key" in name else 1.0) / np.sqrt(shape[1])
        yield name, values


def _lowering(head: Head) -> np.ndarray:
    """A bias against classes of high weight, so that complexities of all tiers occur."""
    weights = np.array(head.weights or [0] * head.size, dtype=np.float32)
    return -3 * weights / max(1.0, weights.max())


def header_of(geometry: Geometry) -> bytes:
    """The start of a safetensors file: the length of the description of its tensors, and that description."""
    described: dict[str, Any] = {}
    end = 0
    for name, shape in sorted(shapes_of(geometry).items()):
        size = 4 * int(np.prod(shape))
        described[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    raw = json.dumps(described, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    return len(raw).to_bytes(8, "little") + raw


def _write_weights(path: Path, geometry: Geometry, seed: int) -> None:
    with path.open("wb") as file:
        file.write(header_of(geometry))
        for _, values in tensors(geometry, seed):
            file.write(values.data)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", choices=sorted(GEOMETRIES), default="full")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(build(arguments.folder, arguments.size, seed=arguments.seed))


if __name__ == "__main__":
    main()
