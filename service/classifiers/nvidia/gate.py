"""The precision gate: may int8 or bf16 serve in the place of fp32? Measured on prompts, recorded beside the artefact.

A verdict holds for the very weights, precision, runtime and kind of processor that it was measured with: the same int8
graph gives other numbers where the processor has no dot product for bytes.
"""

import contextlib
import hashlib
import platform
import re
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from service.classifiers.nvidia.heads import SLICES, answer_of, probabilities_of
from service.classifiers.nvidia.records import cache_folder, read_record, write_record
from service.errors import ArmwiseError, UnusableWeights

TASK_AGREEMENT = 0.99  # at least
MEAN_ERROR = 0.01  # of the complexity, at most
MARGIN = 0.02  # a tier may only change when the complexity was this near to the boundary
FEWEST_PROMPTS = 100
LOWER: dict[str, Literal["int8", "bf16"]] = {"onnx": "int8", "torch": "bf16"}  # the precision beside fp32, by backend
PROMPTS = Path(__file__).parent / "gate_prompts.json"

_RULES = 1  # raise it when what passes changes: older verdicts are then not followed


class _Read(Protocol):
    @property
    def logits(self) -> npt.NDArray[np.float32]:
        """Shape (32,)."""
        ...


class Model(Protocol):
    """A loaded model, as far as the gate uses it."""

    def read(self, texts: Sequence[str]) -> Sequence[_Read]:
        """Read several texts at once."""
        ...


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """How far a lower precision answers like fp32 on one set of prompts."""

    prompts: int
    task_agreement: float  # share of prompts with the same task type
    mean_complexity_error: float
    max_complexity_error: float
    tier_flips: int  # prompts whose tier changed though their complexity was not near the boundary
    near_flips: int  # prompts whose tier changed within the margin
    max_probability_error: float  # over all 32 probabilities
    prompt_set: str  # digest of the prompts; holds no text
    passed: bool

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it did not pass, in words; empty when it did."""
        found = []
        if self.task_agreement < TASK_AGREEMENT:
            found.append(f"task types agree on {self.task_agreement:.1%} of the prompts, needed {TASK_AGREEMENT:.0%}")
        if not self.mean_complexity_error <= MEAN_ERROR:
            found.append(f"the complexity is off by {self.mean_complexity_error:.4f} on average, allowed {MEAN_ERROR}")
        if self.tier_flips:
            found.append(f"{self.tier_flips} prompts further than {MARGIN} from a boundary changed their tier")
        return tuple(found)


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What is stored: all verdicts on one precision of one model, and what they hold for."""

    digest: str  # of the weights
    backend: str
    precision: str
    runtime: str  # its name and version
    processor: str
    verdicts: tuple[Verdict, ...]
    rules: int = _RULES
    decided_at: str = ""

    @property
    def passed(self) -> bool:
        """Whether every set of prompts passed."""
        return bool(self.verdicts) and all(verdict.passed for verdict in self.verdicts)


def packaged_prompts() -> list[str]:
    """The prompts that come with the package: every task type, from one word to more than 512 tokens."""
    by_type = msgspec.json.decode(PROMPTS.read_bytes(), type=dict[str, list[str]])
    return [prompt for prompts in by_type.values() for prompt in prompts]


def different(prompts: Sequence[str]) -> list[str]:
    """The prompts without repetitions; an ArmwiseError when fewer than 100 are left: the shares would say little."""
    found = list(dict.fromkeys(prompts))
    if len(found) < FEWEST_PROMPTS:
        raise ArmwiseError(
            f"The precision gate got {len(found)} different prompts, it needs at least {FEWEST_PROMPTS}: with fewer, "
            "one prompt more or less decides. Add prompts, or let the packaged ones decide."
        )
    return found


def run_gate(
    reference: Model,
    candidate: Model,
    prompts: Sequence[str],
    tiers: tuple[float, float],
    progress: Callable[[int], None] = lambda _: None,
) -> Verdict:
    """Compare a lower precision with fp32 of the same weights.

    `tiers` are the complexities from which a prompt is medium and complex. `progress` is told every prompt read, by
    either model.

    Raises:
        UnusableWeights: a logit is NaN or infinite.
        ArmwiseError: there are too few prompts.
    """
    prompts = different(prompts)
    expected, found = _logits(reference, prompts, progress), _logits(candidate, prompts, progress)
    complexity = np.array([answer_of(row).prompt_complexity_score for row in expected])
    shifted = np.array([answer_of(row).prompt_complexity_score for row in found])
    tasks = SLICES["task_type"]
    same_task = expected[:, tasks].argmax(axis=1) == found[:, tasks].argmax(axis=1)
    error = np.abs(complexity - shifted)
    flips, near = _flips(complexity, shifted, tiers)
    probabilities = np.abs(probabilities_of(expected) - probabilities_of(found))
    unjudged = Verdict(
        prompts=len(prompts),
        task_agreement=float(same_task.mean()),
        mean_complexity_error=float(error.mean()),
        max_complexity_error=float(error.max()),
        tier_flips=flips,
        near_flips=near,
        max_probability_error=float(probabilities.max()),
        prompt_set=hashlib.sha256("\0".join(prompts).encode("utf-8", "surrogatepass")).hexdigest()[:16],
        passed=False,
    )
    return msgspec.structs.replace(unjudged, passed=not unjudged.reasons)


def _logits(model: Model, prompts: Sequence[str], progress: Callable[[int], None]) -> npt.NDArray[np.float32]:
    """Shape (prompts, 32). Each prompt alone, as it is served: int8 rounds by what else is in the batch."""
    rows = []
    for prompt in prompts:
        rows.append(model.read([prompt])[0].logits)
        progress(1)
    logits = np.stack(rows)
    if not np.isfinite(logits).all():
        raise UnusableWeights("A logit is NaN or infinite: this precision cannot hold these weights.")
    return logits


def _flips(
    before: npt.NDArray[np.float64], after: npt.NDArray[np.float64], tiers: tuple[float, float]
) -> tuple[int, int]:
    """How many complexities changed their tier from further than the margin, and from within it."""
    boundaries = np.array(tiers)
    crossed = (before[:, None] < boundaries) != (after[:, None] < boundaries)
    far = crossed & (np.abs(before[:, None] - boundaries) > MARGIN)
    outside = far.any(axis=1)
    return int(outside.sum()), int((crossed.any(axis=1) & ~outside).sum())


# Instructions that decide which arithmetic a runtime uses for int8 and bf16, on x86 and on ARM.
_INSTRUCTIONS = {
    "avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "asimddp", "i8mm", "bf16",
}  # fmt: skip


@cache
def processor() -> str:
    """The kind of processor, as far as a verdict depends on it."""
    found: set[str] = set()
    with contextlib.suppress(OSError):
        flags = re.search(r"^(?:flags|Features)\s*:(.*)$", Path("/proc/cpuinfo").read_text("utf-8"), re.MULTILINE)
        found = set(flags[1].split()) & _INSTRUCTIONS if flags else set()
    return "+".join([platform.machine(), *sorted(found)])


class Subject(NamedTuple):
    """What a verdict is about, and where it is stored."""

    beside: Path  # the artefact, or where it would be
    digest: str
    backend: str
    precision: str
    runtime: str


def subject_of(folder: Path, digest: str, backend: Literal["onnx", "torch"], device: str) -> Subject:
    """The lower precision of a backend, with the weights of this digest in `folder`, on a device."""
    from service.classifiers.nvidia.artefact import RUNTIME, artefact_path  # noqa: PLC0415 - needs onnxruntime

    precision, runtime = LOWER[backend], RUNTIME
    if backend == "torch":
        import torch  # noqa: PLC0415 - only when used

        runtime = f"torch {torch.__version__} on {device}"
    place = precision if device == "cpu" else f"{precision}-{device}"
    return Subject(artefact_path(folder, digest, place), digest, backend, precision, runtime)


def record(subject: Subject, verdicts: Sequence[Verdict]) -> Record:
    """Store verdicts beside the artefact that they are about, in the place of older ones.

    Where the artefact's folder cannot be written to, as in a container, they are stored in the cache folder.
    """
    stored = Record(
        digest=subject.digest,
        backend=subject.backend,
        precision=subject.precision,
        runtime=subject.runtime,
        processor=processor(),
        verdicts=tuple(verdicts),
        decided_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )
    first, second = _places(subject.beside)
    try:
        write_record(first, stored)
    except OSError:
        second.parent.mkdir(parents=True, exist_ok=True)
        write_record(second, stored)
    return stored


def recorded(subject: Subject) -> Record | None:
    """The newest verdicts on a subject, as long as they hold for it and for this kind of processor."""
    asked = (*subject[1:], processor(), _RULES)
    found = [
        stored
        for place in _places(subject.beside)
        if (stored := read_record(place, Record)) is not None
        and (stored.digest, stored.backend, stored.precision, stored.runtime, stored.processor, stored.rules) == asked
    ]
    return max(found, key=lambda stored: stored.decided_at, default=None)


def _places(beside: Path) -> tuple[Path, Path]:
    name = f"{beside.name}.gate.json"
    return beside.with_name(name), cache_folder() / name
