"""A folder with NVIDIA's weights, opened without trust: what is damaged or another model is refused, never served.

Every tensor must be there, by its name and in its shape, and no other: a loader that forgives a wrong name leaves that
part of the model random, and answers all the same.
"""

import hashlib
import re
from collections.abc import Collection, Mapping
from functools import cached_property
from pathlib import Path

import msgspec

from service.classifiers.nvidia.config_file import CONFIG_FILE, read_config, stated_geometry
from service.classifiers.nvidia.geometry import WORDS, Geometry, geometry_of_shapes, layers_in, shapes_of
from service.classifiers.nvidia.tokens import Tokenizer, load_tokenizer
from service.classifiers.nvidia.weights_file import Floats, WeightsFile
from service.errors import UnusableWeights

WEIGHTS_FILE = "model.safetensors"
_IGNORED = ("backbone.embeddings.position_ids", "embeddings.position_ids")  # numbers 0, 1, 2... of old versions
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_ANY_HEAD = re.compile(r"head\D*(\d)\D*\.(weight|bias)$")
_FEW = 4  # names listed in a message


class Checkpoint:
    """The weights of one model, checked. Made by `open_checkpoint`; safe from several threads."""

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
        """SHA-256 of config, geometry, tokenizer and all weights, in hex: equal digests answer equally.

        All weights are read, about half a second for the real model; other threads run meanwhile.
        """
        total = hashlib.sha256(msgspec.json.encode(self.geometry))
        for path in (self.folder / CONFIG_FILE, self.tokenizer.path, self._weights.path):
            with path.open("rb") as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
        return total.hexdigest()

    def check_values(self) -> None:
        """Look at every number once; raises UnusableWeights when one is NaN or infinite."""
        self._weights.check_values()


def open_checkpoint(folder: Path) -> Checkpoint:
    """Open a folder with the hub's files. Raises UnusableWeights, naming file and fault, for every kind of damage.

    Only names, shapes and sizes are looked at; `Checkpoint.check_values` looks at the numbers.
    """
    if not folder.is_dir():
        raise UnusableWeights(f"{folder} is not a folder: expected one with the model's files. Fetch the model.")
    try:
        config = read_config(folder)
        weights = WeightsFile(_weights_path(folder), ignored=_IGNORED)
        shapes = {name: entry.shape for name, entry in weights.entries.items()}
        geometry = stated_geometry(folder, config) or _shown_geometry(weights.path, shapes)
        _check_tensors(weights.path, shapes, geometry)
        tokenizer = load_tokenizer(folder, geometry.vocabulary)
    except OSError as error:
        raise UnusableWeights(f"{error.filename or folder} cannot be read: {error.strerror}.") from error
    return Checkpoint(folder, geometry, weights, tokenizer)


def _weights_path(folder: Path) -> Path:
    path = folder / WEIGHTS_FILE
    if path.is_file():
        return path
    if (folder / f"{WEIGHTS_FILE}.index.json").is_file():
        raise UnusableWeights(f"{path} is missing: the weights are split over several files, expected one.")
    if pickles := sorted(found.name for pattern in _PICKLES for found in folder.glob(pattern)):
        raise UnusableWeights(
            f"{path} is missing. {_listed(pickles)} can run code when opened and is never read: safetensors is needed."
        )
    raise UnusableWeights(f"{path} is missing. Fetch the model again.")


def _shown_geometry(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> Geometry:
    if WORDS not in shapes:
        raise UnusableWeights(f"{path}: {_misnamed(shapes, {WORDS}) or f'tensor {WORDS!r} is missing'}.")
    try:
        return geometry_of_shapes(shapes)
    except ValueError as error:
        raise UnusableWeights(f"{path}: {error}.") from error


def _check_tensors(path: Path, shapes: Mapping[str, tuple[int, ...]], geometry: Geometry) -> None:
    expected = shapes_of(geometry)
    missing = [name for name in expected if name not in shapes]
    unexpected = [name for name in shapes if name not in expected]
    if missing or unexpected:
        faults = [_misnamed(unexpected, set(missing)) or _missing_layers(shapes, geometry)]
        if not faults[0]:
            faults = [f"missing {_listed(missing)}"] if missing else []
            faults += [f"unexpected {_listed(unexpected)}"] if unexpected else []
        raise UnusableWeights(f"{path} is not this model: {'; '.join(faults)}.")
    wrong = [name for name, shape in expected.items() if shapes[name] != shape]
    if wrong:
        found = [f"{name!r} has shape {shapes[name]}, expected {expected[name]}" for name in wrong[:_FEW]]
        more = f"; {len(wrong) - _FEW} more" if len(wrong) > _FEW else ""
        raise UnusableWeights(f"{path}: tensor {'; '.join(found)}{more}.")


def _misnamed(unexpected: Collection[str], missing: Collection[str]) -> str:
    """What renaming the unexpected names show; empty when none is known."""
    for name in unexpected:
        for wanted in missing:
            if name.endswith(f".{wanted}"):
                return f"keys start with {name.removesuffix(wanted)!r}, as in {name!r}, expected {wanted!r}"
            if name.endswith(bare := wanted.removeprefix("backbone.")) and bare != wanted:
                start = f"start with {name.removesuffix(bare)!r}" if name != bare else "lack a prefix"
                return f"keys {start}, as in {name!r}, expected {wanted!r}"
        if (head := _ANY_HEAD.search(name)) and (wanted := f"head_{head[1]}.fc.{head[2]}") in missing:
            return f"a head is named {name!r}, expected {wanted!r}"
    return ""


def _missing_layers(shapes: Mapping[str, tuple[int, ...]], geometry: Geometry) -> str:
    found = layers_in(shapes)
    missing = [number for number in range(geometry.layers) if number not in found]
    beyond = sorted(number for number in found if number >= geometry.layers)
    if missing:
        return (
            f"of {geometry.layers} layers {', '.join(map(str, missing))} {'is' if len(missing) == 1 else 'are'} missing"
        )
    if beyond:
        return f"it has a layer {beyond[-1]}, expected layers 0 to {geometry.layers - 1}"
    return ""


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _FEW} more" if len(names) > _FEW else ""
    return ", ".join(names[:_FEW]) + more
