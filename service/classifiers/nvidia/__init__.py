"""NVIDIA's prompt task and complexity classifier, answered exactly as NVIDIA's own code does.

`load_nvidia` opens a folder of weights, refuses anything damaged, tests itself and returns the classifier.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from bandit.vocabulary import TASK_TYPES, Classification
from service.classifiers.nvidia.heads import answer_of, classification_of, probabilities_of
from service.errors import ConfigurationError, UnusableWeights

if TYPE_CHECKING:
    from service.classifiers.nvidia.checkpoint import Checkpoint
    from service.classifiers.nvidia.tokens import Encoded, Tokenizer

Backend = Literal["onnx", "torch"]
Precision = Literal["fp32", "int8", "bf16"]
Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

TIERS = (0.2, 0.4)  # the three examples printed on NVIDIA's card fall one in each tier

_SELF_TEST = ("Write a Python script that uses a for loop.", "Why? " * 10, "")
_EXACT = 1e-3  # by which logits of one text may differ, alone and padded in a batch
# In lower precisions they differ by rounding, which depends on the batch: this share of their own spread may.
_ROUNDED = 0.5


class Runtime(Protocol):
    """Computes logits of tokens. Safe from several threads."""

    @property
    def precision(self) -> str: ...

    @property
    def device(self) -> str: ...

    def run(self, ids: Integers, mask: Integers) -> tuple[Floats, Floats]:
        """Logits (n, 32) and pooled vectors (n, hidden) of ids (n, L), padded on the right where `mask` is 0."""
        ...


class Reading(NamedTuple):
    """What the model says of one text."""

    logits: Floats  # (32,), heads in canonical order
    pooled: Floats  # (hidden,)
    tokens: int  # that were read, with [CLS] and [SEP]
    truncated: bool  # some tokens of the text were left out


class Nvidia:
    """NVIDIA's classifier on one runtime. Safe from several threads; made by `load_nvidia`."""

    tiers = TIERS

    def __init__(self, runtime: Runtime, tokenizer: "Tokenizer", digest: str, *, token_budget: int = 0) -> None:
        self.digest = digest
        self.name = f"nvidia/{digest[:8]}/{runtime.precision}"
        self._runtime = runtime
        self._tokenizer = tokenizer
        self._token_budget = token_budget

    @property
    def precision(self) -> str:
        """Of its numbers."""
        return self._runtime.precision

    @property
    def device(self) -> str:
        """Where it computes."""
        return self._runtime.device

    def classify(self, text: str) -> Classification:
        """Classify a text of any length and language; never raises on a str. Empty text is `Unknown`."""
        return self.classification(self.read([text])[0])

    def classification(self, reading: Reading) -> Classification:
        """A reading in the words of our contract. Its vector: the 32 probabilities, to three decimals."""
        vector = tuple(np.round(probabilities_of(reading.logits), 3).tolist())
        said = classification_of(reading.logits, classifier=self.name, vector=vector)
        if reading.tokens > 2:
            return said
        nothing = tuple(float(task == "Unknown") for task in TASK_TYPES)  # NVIDIA's model would guess
        return msgspec.structs.replace(said, task_type="Unknown", task_probabilities=nothing)

    def read(self, texts: Sequence[str]) -> list[Reading]:
        """Read texts together, padded to the longest of them: of similar length they cost least."""
        if not texts:
            return []
        encoded = [self._tokenizer.encode(text, budget=self._token_budget) for text in texts]
        logits, pooled = self._runtime.run(*_padded(encoded))
        return [Reading(logits[row], pooled[row], text.tokens, text.truncated) for row, text in enumerate(encoded)]


def _padded(encoded: Sequence["Encoded"]) -> tuple[Integers, Integers]:
    length = max(text.tokens for text in encoded)
    ids = np.zeros((len(encoded), length), dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, text in enumerate(encoded):
        ids[row, : text.tokens] = text.ids
        mask[row, : text.tokens] = 1
    return ids, mask


def load_nvidia(
    folder: Path,
    *,
    backend: Backend = "onnx",
    precision: Precision | Literal["auto"] = "auto",
    device: str = "cpu",
    threads: int = 1,
    token_budget: int = 0,
    gated: bool = True,
) -> Nvidia:
    """Load the classifier and test it.

    Args:
        folder: With the hub's files; the first time, the exported model is stored beside them.
        backend: "onnx" computes on the CPU, without torch.
        precision: "auto" is int8 (torch: bf16) once its gate has passed, else fp32.
        device: For torch: "cpu", "cuda" or "mps".
        threads: That work on one text together.
        token_budget: Read at most so many tokens of a text, head and tail: not what NVIDIA's code would answer.
        gated: False computes in any precision, whatever NVIDIA's card says, to look at it.

    Raises:
        UnusableWeights: the weights are missing, damaged or of another model, or fail the test; or there is no room to
            export them.
        ConfigurationError: the precision is not offered, or its gate has not passed.
    """
    from service.classifiers.nvidia.checkpoint import open_checkpoint  # noqa: PLC0415 - needs tokenizers

    if backend == "onnx" and device != "cpu":
        raise ConfigurationError([f'device "{device}" is not offered with backend "onnx", only with backend "torch"'])
    checkpoint = open_checkpoint(Path(folder))

    def load(digest: str) -> Nvidia:
        chosen = _precision(checkpoint.folder, digest, backend, device, precision, gated=gated)
        runtime: Runtime
        if backend == "torch":
            from service.classifiers.nvidia.torch_runtime import TorchRuntime  # noqa: PLC0415 - needs torch

            checkpoint.check_values()
            runtime = TorchRuntime(checkpoint, precision=chosen, device=device, threads=threads)
        else:
            runtime = _onnx_runtime(checkpoint, digest, chosen, threads)
        nvidia = Nvidia(runtime, checkpoint.tokenizer, digest, token_budget=token_budget)
        _test(nvidia, checkpoint.folder)
        if gated and nvidia.precision == "fp32":  # lower ones are held against it by the gate
            _test_on_card(nvidia, checkpoint.folder)
        return nvidia

    # The digest takes longest, so the weights are taken for those of the last time while it is computed.
    with ThreadPoolExecutor(1) as pool:
        actual = pool.submit(lambda: checkpoint.digest)
        claimed = _claimed_digest(checkpoint.folder) if backend == "onnx" else None
        if claimed is not None:
            try:
                nvidia = load(claimed)
            except Exception:
                if claimed == actual.result():
                    raise
            else:
                if claimed == actual.result():
                    return nvidia
                del nvidia
        return load(actual.result())


def _claimed_digest(folder: Path) -> str | None:
    from service.classifiers.nvidia.artefact import latest_digest  # noqa: PLC0415 - needs onnxruntime

    return latest_digest(folder)


def _precision(
    folder: Path, digest: str, backend: Backend, device: str, asked: Precision | Literal["auto"], *, gated: bool
) -> Precision:
    from service.classifiers.nvidia.gate import LOWER, recorded, subject_of  # noqa: PLC0415 - only when used

    low = LOWER[backend]
    if asked == "fp32" or (asked == low and not gated):
        return asked
    if asked not in {"auto", low}:
        raise ConfigurationError([f'precision "{asked}" is not offered with backend "{backend}", only fp32 and {low}'])
    record = recorded(subject_of(folder, digest, backend, device))
    if record is not None and record.passed:
        return low
    if asked == "auto":
        return "fp32"
    verdicts = record.verdicts if record else ()
    reasons = "; ".join(reason for verdict in verdicts for reason in verdict.reasons) or "not run yet"
    message = f'precision "{low}" has not passed its gate ({reasons}): run `armwise classifier check`, or set "auto"'
    raise ConfigurationError([message])


def _onnx_runtime(checkpoint: "Checkpoint", digest: str, precision: Precision, threads: int) -> Runtime:
    from service.classifiers.nvidia.artefact import export, load_artefact  # noqa: PLC0415 - needs onnxruntime
    from service.classifiers.nvidia.onnx_runtime import OnnxRuntime  # noqa: PLC0415 - likewise

    if precision == "bf16":
        raise ConfigurationError(['precision "bf16" is not offered with backend "onnx", only fp32 and int8'])
    artefact = load_artefact(checkpoint, digest, precision)
    if artefact is not None:
        with ThreadPoolExecutor(1) as pool:
            intact = pool.submit(artefact.intact)
            try:
                runtime = OnnxRuntime(artefact, checkpoint.embeddings, precision=precision, threads=threads)
            except Exception:  # a damaged graph is refused by ONNX Runtime with any kind of error
                if intact.result():
                    raise
            if intact.result():
                return runtime
    if digest != checkpoint.digest:
        raise UnusableWeights(f"{checkpoint.folder} has changed since it was exported.")
    return OnnxRuntime(export(checkpoint, precision), checkpoint.embeddings, precision=precision, threads=threads)


def _test(nvidia: Nvidia, folder: Path) -> None:
    """One text must get the same logits alone and padded in a batch."""
    together = nvidia.read(_SELF_TEST)
    for text, padded in zip(_SELF_TEST, together, strict=True):
        alone = nvidia.read([text])[0].logits
        off = float(np.abs(alone - padded.logits).max())
        allowed = _EXACT if nvidia.precision == "fp32" else _ROUNDED * float(alone.std())
        if not off <= allowed:  # NaN is refused too
            raise UnusableWeights(
                f"{folder}: the self-test fails in {nvidia.precision}: logits of one text differ by {off:.3g} when it "
                f"is padded in a batch, allowed is {allowed:.3g}. Fetch the weights again, or report this."
            )


def _test_on_card(nvidia: Nvidia, folder: Path) -> None:
    """What is surely NVIDIA's own must answer as NVIDIA's model card prints."""
    from service.classifiers.nvidia.records import FETCHED  # noqa: PLC0415 - only when used

    if not (folder / FETCHED).is_file():
        return
    from service.classifiers.nvidia.card import check_card  # noqa: PLC0415 - only when used
    from service.classifiers.nvidia.fetch import REPOSITORY, holds_all, read_fetched  # noqa: PLC0415 - likewise

    fetched = read_fetched(folder)
    if fetched is None or fetched.repository != REPOSITORY:
        return
    report = check_card(lambda text: answer_of(nvidia.read([text])[0].logits))
    if report.outcome != "passed" and holds_all(folder, fetched):
        worst = next(example for example in report.examples if not example.passed)
        raise UnusableWeights(
            f"{folder} holds {REPOSITORY} as it was fetched, but `{worst.worst_field}` of the example "
            f'"{worst.prompt}" is not what their card prints. Report this, with what `armwise classifier check` says.'
        )
