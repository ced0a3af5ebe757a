"""`armwise classifier check`: what a folder of weights is, whether it answers as it must, and in which precisions."""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import msgspec

from service.classifiers.nvidia import TIERS, Backend, Nvidia, Precision, load_nvidia
from service.classifiers.nvidia.card import CardReport, check_card, could_be_released
from service.classifiers.nvidia.checkpoint import open_checkpoint
from service.classifiers.nvidia.config_file import read_config
from service.classifiers.nvidia.fetch import REPOSITORY, holds_all, read_fetched
from service.classifiers.nvidia.gate import LOWER, Verdict, different, packaged_prompts, record, run_gate, subject_of
from service.classifiers.nvidia.geometry import Geometry
from service.classifiers.nvidia.heads import answer_of
from service.errors import UnusableWeights

Note = Callable[[str, int], Callable[[int], None]]  # (what is done now, in how many steps) -> told the steps done

CardOutcome = Literal["passed", "failed", "other weights", "not asked"]


class Gated(msgspec.Struct, frozen=True, kw_only=True):
    """One lower precision, compared with fp32."""

    backend: Backend
    device: str
    precision: Precision
    passed: bool
    verdicts: tuple[Verdict, ...] = ()  # on the packaged prompts, then on the owner's
    problem: str = ""  # why there is no verdict, or why it could not be recorded


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What was found."""

    folder: str
    digest: str
    source: str  # repository and commit when the files are, to the last bit, those that were fetched
    geometry: Geometry
    self_test: Literal["passed"]  # another outcome refuses the weights
    card: CardOutcome
    card_report: CardReport | None
    gates: tuple[Gated, ...]
    serves: dict[Backend, Precision]  # what precision "auto" means with each backend

    @property
    def passed(self) -> bool:
        """False when released weights do not answer as their card says. A gate that fails only means fp32."""
        return self.card != "failed"


def check(
    folder: Path, own_prompts: Sequence[str] = (), *, device: str = "cpu", note: Note = lambda *_: lambda _: None
) -> Report:
    """Open, load, test and gate the weights in a folder; the verdicts are recorded with the artefacts.

    torch, when it is installed, is gated on `device`.

    Raises:
        UnusableWeights: they are damaged or of another model, or fail the self-test.
        ArmwiseError: there are own prompts, but too few.
    """
    prompt_sets = [packaged_prompts(), *([different(own_prompts)] if own_prompts else [])]
    checkpoint = open_checkpoint(folder)
    note("Loading fp32, with the self-test", 0)
    reference = load_nvidia(folder, precision="fp32", gated=False)
    fetched = read_fetched(folder)
    intact = fetched is not None and holds_all(folder, fetched)
    card_report = _card(reference, checkpoint.geometry, folder)
    released = intact and fetched is not None and fetched.repository == REPOSITORY
    gates = [_gate(reference, folder, "onnx", "cpu", prompt_sets, note)]
    if find_spec("torch") is not None:
        gates.append(_gate(reference, folder, "torch", device, prompt_sets, note))
    return Report(
        folder=str(folder),
        digest=reference.digest,
        source=f"{fetched.repository} at {fetched.commit}" if fetched is not None and intact else "",
        geometry=checkpoint.geometry,
        self_test="passed",
        card=card_outcome(card_report, released=released),
        card_report=card_report,
        gates=tuple(gates),
        serves={gate.backend: gate.precision if gate.passed and not gate.problem else "fp32" for gate in gates},
    )


def card_outcome(report: CardReport | None, *, released: bool) -> CardOutcome:
    """What the card's examples mean; `released` when the files are surely NVIDIA's own, so that we must be wrong."""
    if report is None:
        return "not asked"
    return "failed" if released and report.outcome == "other weights" else report.outcome


def _card(reference: Nvidia, geometry: Geometry, folder: Path) -> CardReport | None:
    if not could_be_released(geometry, read_config(folder).get("base_model")):
        return None
    return check_card(lambda text: answer_of(reference.read([text])[0].logits))


def _gate(
    reference: Nvidia,
    folder: Path,
    backend: Backend,
    device: str,
    prompt_sets: Sequence[Sequence[str]],
    note: Note,
) -> Gated:
    precision = LOWER[backend]
    told = note(f"Comparing {precision} on {backend} with fp32", 2 * sum(map(len, prompt_sets)))
    try:
        candidate = load_nvidia(folder, backend=backend, precision=precision, device=device, gated=False)
        verdicts = tuple(run_gate(reference, candidate, prompts, TIERS, told) for prompts in prompt_sets)
    except UnusableWeights as error:
        return Gated(backend=backend, device=device, precision=precision, passed=False, problem=str(error))
    problem = ""
    try:
        record(subject_of(folder, reference.digest, backend, device), verdicts)
    except OSError as error:
        problem = f"the verdict cannot be recorded ({error}), so it will not be followed; set ARMWISE_CACHE"
    passed = all(verdict.passed for verdict in verdicts)
    return Gated(backend=backend, device=device, precision=precision, passed=passed, verdicts=verdicts, problem=problem)
