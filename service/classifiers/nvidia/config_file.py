"""`config.json` of NVIDIA's classifier, read as plain JSON and held against what the model is known to mean.

A fine-tuned model may have other weights, never other classes, class weights or divisors: the scores would no longer be
NVIDIA's. The order of keys means nothing here, so a file saved with sorted keys gives the same answers.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bandit.vocabulary import TASK_TYPES
from service.classifiers.nvidia.geometry import DEBERTA_V3_BASE, Geometry, geometry_of_config
from service.classifiers.nvidia.heads import HEADS
from service.classifiers.nvidia.weights_file import refuse_pointer
from service.errors import UnusableWeights

CONFIG_FILE = "config.json"
BACKBONE_FILES = ("backbone_config.json", "backbone/config.json")

_MAPS: dict[str, dict[str, Any]] = {
    "target_sizes": {head.name: head.size for head in HEADS},
    "weights_map": {head.name: list(head.weights) for head in HEADS if head.weights},
    "divisor_map": {head.name: head.divisor for head in HEADS if head.weights},
    "task_type_map": {str(index): name for index, name in enumerate(TASK_TYPES)},
}


def read_config(folder: Path) -> dict[str, Any]:
    """The config, its four maps checked. Raises UnusableWeights."""
    path = folder / CONFIG_FILE
    config = _object(path)
    for name, expected in _MAPS.items():
        found = config.get(name)
        if not isinstance(found, dict):
            raise UnusableWeights(f"{path}: {name} is {_short(found)}, expected an object: not NVIDIA's classifier.")
        for key, value in expected.items():
            if key not in found:
                raise UnusableWeights(f"{path}: {name} lacks {key!r}, expected {key!r}: {value!r}.")
            if found[key] != value:
                raise UnusableWeights(
                    f"{path}: {name}[{key!r}] is {_short(found[key])}, expected {value!r}. NVIDIA's model has no "
                    "other, and a fine-tuned one may not change what its classes mean."
                )
        # More weights or divisors are read by nobody; more heads or types would be another model.
        extra = sorted(set(found) - set(expected)) if name in {"target_sizes", "task_type_map"} else []
        if extra:
            raise UnusableWeights(f"{path}: {name} has {extra[0]!r}, which NVIDIA's model does not know.")
    return config


def stated_geometry(folder: Path, config: Mapping[str, Any]) -> Geometry | None:
    """The geometry that a backbone's config states; None when there is none, and the tensors must tell.

    First `backbone_config` in the config, then a file of the folder, then the local folder that `base_model` names,
    if it does; at last the constants of DeBERTa-v3-base. A name is never looked up on a network.
    """
    for place, backbone in _backbone_configs(folder, config):
        try:
            geometry = geometry_of_config(backbone)
        except ValueError as error:
            raise UnusableWeights(f"{place}: {error}. Only the encoder of DeBERTa-v3 can be run.") from error
        if is_deberta_v3_base(config):
            _check_base(place, geometry)
        return geometry
    return DEBERTA_V3_BASE if is_deberta_v3_base(config) else None


def is_deberta_v3_base(config: Mapping[str, Any]) -> bool:
    """Whether the config says that the backbone is DeBERTa-v3-base, whose sizes are known."""
    base = config.get("base_model")
    return isinstance(base, str) and base.lower().rstrip("/").rpartition("/")[2] == "deberta-v3-base"


def _backbone_configs(folder: Path, config: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Where a backbone's config was found, and the config: at most one."""
    inline = config.get("backbone_config")
    if isinstance(inline, dict):
        return [(f"{folder / CONFIG_FILE}: backbone_config", inline)]
    paths = [folder / name for name in BACKBONE_FILES]
    base = config.get("base_model")
    if isinstance(base, str) and base:
        paths.append(folder / base / CONFIG_FILE)  # an absolute name stays as it is
    return [(str(path), _object(path)) for path in paths if path.is_file()][:1]


def _check_base(place: str, geometry: Geometry) -> None:
    for name in geometry.__struct_fields__:
        found, expected = getattr(geometry, name), getattr(DEBERTA_V3_BASE, name)
        if found != expected:
            raise UnusableWeights(
                f"{place} says {name} {found}, but base_model is DeBERTa-v3-base, which has {expected}."
            )


def _object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UnusableWeights(f"{path} is missing. Fetch the model again.")
    refuse_pointer(path)
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UnusableWeights(f"{path} is not JSON ({error}). Fetch the model again.") from error
    if not isinstance(value, dict):
        raise UnusableWeights(f"{path} holds {_short(value)}, expected a JSON object. Fetch the model again.")
    return value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
