"""Which classifier the settings mean, given what is on this machine, and why."""

import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple

from service.errors import UnusableWeights
from service.settings import ClassifierSettings

WEIGHTS_VARIABLE = "ARMWISE_CLASSIFIER_WEIGHTS"
MODEL_FILES = ("config.json", "model.safetensors")

_DEFAULT_WEIGHTS = ClassifierSettings().weights
_PACKAGES = {"onnx": ("onnxruntime", "tokenizers"), "torch": ("torch", "tokenizers")}

Kind = Literal["nvidia", "embedding", "embedded", "rules"]


class Wanted(NamedTuple):
    """What the settings come to."""

    kind: Kind
    why: str  # in words, for the log and /ready


def wanted_classifier(settings: ClassifierSettings, environ: Mapping[str, str] = os.environ) -> Wanted:
    """The classifier that `settings` mean; `auto` looks for the weights of NVIDIA's."""
    match settings.kind:
        case "rules":
            return Wanted("rules", 'kind = "rules"')
        case "nvidia":
            return Wanted("nvidia", 'kind = "nvidia"')
        case "embedded":
            return Wanted(_embedded(settings), f'kind = "embedded", embedded = "{settings.embedded}"')
        case "auto":
            if lacking := nvidia_lacks(settings, environ):
                return Wanted(_embedded(settings), f'kind = "auto": {lacking}')
            return Wanted("nvidia", f'kind = "auto", and the weights are in {weights_folder(settings, environ)}')


def _embedded(settings: ClassifierSettings) -> Literal["embedding", "embedded"]:
    return "embedding" if settings.embedded == "embedding" else "embedded"


def weights_folder(settings: ClassifierSettings, environ: Mapping[str, str] = os.environ) -> Path:
    """The folder of NVIDIA's model, whether it is there or not: ARMWISE_CLASSIFIER_WEIGHTS, else `classifier.weights`.

    Either may be the hub name of a model that was fetched before.
    """
    named = environ.get(WEIGHTS_VARIABLE) or settings.weights
    folder = Path(named)
    if folder.is_dir() or named == _DEFAULT_WEIGHTS:
        return folder
    from service.classifiers.nvidia.fetch import locate  # noqa: PLC0415 - a folder needs nothing of it

    try:
        return locate(named, environ)
    except UnusableWeights:
        return folder


def nvidia_lacks(settings: ClassifierSettings, environ: Mapping[str, str] = os.environ) -> str:
    """What stands in the way of NVIDIA's model, in words with what to do; empty when it can be loaded.

    Looks at names only: what the files hold is checked when they are loaded.
    """
    folder = weights_folder(settings, environ)
    if not folder.is_dir():
        return f"there is no folder {folder}; `armwise classifier fetch` gets the weights"
    if missing := [name for name in MODEL_FILES if not (folder / name).exists()]:
        return f"{folder} has no {' and no '.join(missing)}; `armwise classifier fetch` gets the weights"
    if absent := [name for name in _PACKAGES[settings.backend] if find_spec(name) is None]:
        extra = "torch" if settings.backend == "torch" else "nvidia"
        return f"{' and '.join(absent)} cannot be imported; install `armwise[{extra}]`"
    return ""


def embedding_lacks() -> str:
    """What stands in the way of the sentence embedding, in words with what to do; empty when it can be loaded."""
    from service.classifiers.encoder import EXTRA, missing_packages  # noqa: PLC0415 - only when the settings name it

    missing = missing_packages()
    return f"{' and '.join(missing)} cannot be imported; install `armwise[{EXTRA}]`" if missing else ""
