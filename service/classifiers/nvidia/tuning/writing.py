"""A tuned model as a folder of its own, with the files that the hub has: the old weights, but for what was learned."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from service.classifiers.nvidia.checkpoint import WEIGHTS_FILE, Checkpoint, open_checkpoint
from service.classifiers.nvidia.config_file import CONFIG_FILE
from service.classifiers.nvidia.fetch import NEEDED, OPTIONAL
from service.classifiers.nvidia.torch_runtime import TorchRuntime
from service.classifiers.nvidia.weights_file import WeightsFile
from service.errors import UnusableWeights

NOTE = "armwise_tuned"  # the key of `config.json` that says where the weights are from
_FILES = (*NEEDED, *OPTIONAL, "backbone_config.json", "backbone/config.json")
_SAME = 1e-3  # logits of the written model and of the one that was judged


def write_model(checkpoint: Checkpoint, learned: Mapping[str, Tensor], note: Mapping[str, Any], folder: Path) -> None:
    """Write a checkpoint with `learned` in the place of its tensors of the same names into a folder of its own."""
    shutil.rmtree(folder, ignore_errors=True)
    for name in _FILES:
        if (checkpoint.folder / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(checkpoint.folder / name, folder / name)
    config = json.loads((folder / CONFIG_FILE).read_bytes())
    config[NOTE] = dict(note)
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    weights = WeightsFile(folder / WEIGHTS_FILE)
    with weights.path.open("r+b") as file:
        for name, values in learned.items():
            file.seek(weights.entries[name].offset)
            file.write(values.float().cpu().contiguous().numpy().astype("<f4").tobytes())
        os.fsync(file.fileno())


def check_written(folder: Path, ids: Sequence[Sequence[int]], expected: npt.NDArray[np.float32]) -> str:
    """The digest of a written model, once it answers as the one in memory: logits, shape (n, 32), of the first texts.

    Raises:
        UnusableWeights: it cannot be opened or answers otherwise.
    """
    checkpoint = open_checkpoint(folder)
    checkpoint.check_values()
    runtime = TorchRuntime(checkpoint, threads=0)
    for text, wanted in zip(ids, expected, strict=False):
        found, _ = runtime.run(np.array([text]), np.ones((1, len(text)), dtype=np.int64))
        off = float(np.abs(found[0] - wanted).max())
        if not off <= _SAME:
            raise UnusableWeights(
                f"{folder}: the written model's logits differ by {off:.3g} from those it was judged by."
            )
    return checkpoint.digest


def put_in_place(written: Path, folder: Path) -> None:
    """Move a written model into a folder, in the place of one that is there: half moved, it would be refused."""
    for name in _FILES:
        (folder / name).unlink(missing_ok=True)
    for name in sorted(_FILES, key=WEIGHTS_FILE.__eq__):  # the weights last
        if (written / name).exists():
            (folder / name).parent.mkdir(exist_ok=True)
            (written / name).replace(folder / name)
