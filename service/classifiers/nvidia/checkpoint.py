"""A folder with NVIDIA's weights, opened without trust: what is damaged or another model is refused, never served."""

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Any

from service.classifiers.nvidia.geometry import (
    WORDS,
    Geometry,
    geometry_of_config,
    geometry_of_shapes,
    shapes_of,
)
from service.classifiers.nvidia.tokens import Tokenizer, load_tokenizer
from service.classifiers.nvidia.weights_file import Floats, WeightsFile
from service.errors import UnusableWeights

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"


class Checkpoint:
    """The weights of one model, checked. Made by `open_checkpoint`."""

    def __init__(self, folder: Path, geometry: Geometry, weights: WeightsFile, tokenizer: Tokenizer) -> None:
        self.folder = folder
        self.geometry = geometry
        self.tokenizer = tokenizer
        self._weights = weights

    def tensor(self, name: str) -> Floats:
        """A tensor by its name in the file: a read-only view of the file, whose pages leave memory with it."""
        return self._weights.tensor(name)

    @cached_property
    def embeddings(self) -> Floats:
        """The table of word embeddings, (vocabulary, hidden): read-only, mapped, only used rows take memory."""
        return self._weights.tensor(WORDS)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of config, tokenizer and all weights, in hex: equal digests answer equally."""
        total = hashlib.sha256()
        for path in (self.folder / CONFIG_FILE, self.tokenizer.path, self._weights.path):
            with path.open("rb") as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
        return total.hexdigest()

    def check_values(self) -> None:
        """Look at every number once; raises UnusableWeights when one is NaN or infinite."""
        self._weights.check_values()


def open_checkpoint(folder: Path) -> Checkpoint:
    """Open a folder with the hub's files. Raises UnusableWeights, naming file and fault, for every kind of damage."""
    config = _config(folder)
    weights = WeightsFile(folder / WEIGHTS_FILE)
    backbone = config.get("backbone_config")
    shapes = {name: entry.shape for name, entry in weights.entries.items()}
    geometry = geometry_of_config(backbone) if backbone else geometry_of_shapes(shapes)
    if shapes != shapes_of(geometry):
        raise UnusableWeights(f"{weights.path} has other tensors than its geometry needs.")
    return Checkpoint(folder, geometry, weights, load_tokenizer(folder, geometry.vocabulary))


def _config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise UnusableWeights(f"{path} is missing: fetch the model again.")
    config = json.loads(path.read_bytes())
    if not isinstance(config, dict):
        raise UnusableWeights(f"{path} is not a JSON object.")
    return config
