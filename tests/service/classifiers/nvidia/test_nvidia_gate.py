"""The precision gate: its arithmetic, its prompts, its record, and what the record decides."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bandit.vocabulary import TASK_TYPES
from benchmarks.random_classifier import build
from service.classifiers.nvidia import TIERS as NVIDIA_TIERS
from service.classifiers.nvidia import Reading, load_nvidia
from service.classifiers.nvidia.gate import (
    FEWEST_PROMPTS,
    MARGIN,
    MEAN_ERROR,
    PROMPTS,
    TASK_AGREEMENT,
    Subject,
    Verdict,
    packaged_prompts,
    record,
    recorded,
    run_gate,
    subject_of,
)
from service.classifiers.nvidia.heads import SLICES, answer_of
from service.errors import ArmwiseError, ConfigurationError, UnusableWeights

TIERS = (0.2, 0.4)
TEXTS = [f"prompt {number}" for number in range(200)]
SUBJECT = Subject(Path("armwise-d-int8.safetensors"), "d" * 64, "onnx", "int8", "onnxruntime 1.2.3")


class Fixed:
    """A model whose logits are given by text."""

    def __init__(self, logits):
        self.logits = logits
        self.batches = []

    def read(self, texts):
        self.batches.append(len(texts))
        return [Reading(self.logits[text], np.zeros(4, np.float32), 3, False) for text in texts]


def logits_of(complexity, task=0):
    """Logits that answer a task type and a complexity under 0.35, by their creativity alone."""
    values = np.zeros(32, np.float32)
    values[SLICES["task_type"]] = np.where(np.arange(12) == task, 5.0, 0.0)
    share = min(max(complexity / 0.35, 1e-6), 1 - 1e-6)
    values[SLICES["creativity_scope"]] = [np.log(share), -40.0, np.log(1 - share)]
    for name in ("reasoning", "contextual_knowledge"):
        values[SLICES[name]] = [20.0, -20.0]
    values[SLICES["number_of_few_shots"]] = [20.0, *[-20.0] * 5]
    values[SLICES["domain_knowledge"]] = [-20.0, -20.0, -20.0, 20.0]
    values[SLICES["constraint_ct"]] = [-20.0, 20.0]
    return values


def compare(pairs, tiers=TIERS):
    """The verdict on (complexity, task) before and after, one pair a prompt; the rest of 200 prompts agree."""
    before, after = {}, {}
    for number, text in enumerate(TEXTS):
        first, second = pairs[number] if number < len(pairs) else ((0.1, 3), (0.1, 3))
        before[text], after[text] = logits_of(*first), logits_of(*second)
    return run_gate(Fixed(before), Fixed(after), TEXTS, tiers)


def test_the_stand_in_answers_as_meant():
    found = answer_of(logits_of(0.21, 4))
    assert found.task_type_1 == "Code Generation"
    assert found.prompt_complexity_score == pytest.approx(0.21, abs=1e-4)


def test_equal_answers_pass_with_nothing_off():
    verdict = compare([])
    assert verdict.passed
    assert verdict.reasons == ()
    assert (verdict.prompts, verdict.task_agreement, verdict.tier_flips) == (200, 1.0, 0)
    assert verdict.mean_complexity_error == verdict.max_complexity_error == verdict.max_probability_error == 0.0


def test_two_of_two_hundred_task_types_may_differ_and_three_may_not():
    differs = ((0.1, 3), (0.1, 5))
    assert compare([differs] * 2).passed
    verdict = compare([differs] * 3)
    assert not verdict.passed
    assert verdict.task_agreement == pytest.approx(0.985)
    assert "98.5%" in verdict.reasons[0]


def test_the_mean_error_of_the_complexity_is_bounded_and_the_largest_told():
    assert compare([((0.05, 3), (0.0595, 3))] * 200).passed
    verdict = compare([((0.05, 3), (0.061, 3))] * 200)
    assert not verdict.passed
    assert verdict.mean_complexity_error == pytest.approx(0.011, abs=2e-4)
    one = compare([((0.01, 3), (0.19, 3))])
    assert one.passed, "a single prompt that moves within its tier does not move the mean"
    assert one.max_complexity_error == pytest.approx(0.18, abs=2e-4)


@pytest.mark.parametrize(
    ("before", "after", "flips", "near"),
    [
        (0.195, 0.205, 0, 1),
        (0.205, 0.195, 0, 1),
        (0.17, 0.205, 1, 0),
        (0.23, 0.19, 1, 0),
        (0.17, 0.19, 0, 0),
        (0.2001, 0.1999, 0, 1),
    ],
)
def test_a_tier_may_change_near_its_boundary_only(before, after, flips, near):
    verdict = compare([((before, 3), (after, 3))])
    assert (verdict.tier_flips, verdict.near_flips) == (flips, near)
    assert verdict.passed == (flips == 0)


def test_jumping_over_two_boundaries_is_a_flip_even_when_one_was_near():
    verdict = compare([((0.1 - MARGIN / 2, 3), (0.3, 3))], tiers=(0.1, 0.2))
    assert verdict.tier_flips == 1


@settings(max_examples=8, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 0.35), st.integers(0, 11), st.floats(0, 0.35), st.integers(0, 11)), max_size=8))
def test_a_verdict_passes_exactly_when_it_has_no_reason_not_to(rows):
    verdict = compare([((a, task), (b, other)) for a, task, b, other in rows])
    assert verdict.passed == (not verdict.reasons)
    assert 0 <= verdict.mean_complexity_error <= verdict.max_complexity_error <= 1.2
    assert verdict.tier_flips + verdict.near_flips <= len(rows)


def test_each_prompt_is_read_alone_as_it_is_served():
    model = Fixed({text: logits_of(0.1) for text in TEXTS})
    told = []
    run_gate(model, model, TEXTS, TIERS, told.append)
    assert set(model.batches) == {1}
    assert sum(told) == 400


def test_too_few_prompts_are_refused_and_repetitions_do_not_count():
    model = Fixed({text: logits_of(0.1) for text in TEXTS})
    assert run_gate(model, model, TEXTS[:100], TIERS).prompts == 100
    with pytest.raises(ArmwiseError, match="99 different prompts"):
        run_gate(model, model, [*TEXTS[:99], *TEXTS[:99]], TIERS)


def test_a_precision_that_overflows_is_refused():
    good = {text: logits_of(0.1) for text in TEXTS}
    bad = {**good, TEXTS[7]: np.full(32, np.nan, np.float32)}
    with pytest.raises(UnusableWeights, match="NaN"):
        run_gate(Fixed(good), Fixed(bad), TEXTS, TIERS)


def test_the_packaged_prompts_cover_types_and_lengths():
    by_type = json.loads(PROMPTS.read_text("utf-8"))
    assert set(by_type) == (set(TASK_TYPES) | {"Unusual"}) - {"Unknown"}
    assert min(map(len, by_type.values())) >= 12
    prompts = packaged_prompts()
    assert 150 <= len(prompts) == len(set(prompts)) <= 250
    words = sorted(len(prompt.split()) for prompt in prompts)
    assert words[0] == 0
    assert words[len(words) // 2] < 30
    assert words[-1] > 420, "one prompt must be longer than the 512 tokens that the model reads"


def test_the_page_tells_the_gates_figures():
    page = (Path(__file__).parents[4] / "docs/nvidia.md").read_text("utf-8")
    section = page.partition("\n## The precision gate\n")[2].partition("\n## ")[0]
    assert f"{len(packaged_prompts())} prompts" in section
    assert f"at least {TASK_AGREEMENT:.0%}".replace("%", " %") in section
    assert f"at most {MEAN_ERROR} on average" in section
    assert f"further than {MARGIN} from the boundary ({TIERS[0]} and {TIERS[1]})" in section
    assert f"at least {FEWEST_PROMPTS}" in section
    assert NVIDIA_TIERS == TIERS


def verdict(**changes):
    fields = {
        "prompts": 183, "task_agreement": 1.0, "mean_complexity_error": 0.001, "max_complexity_error": 0.01,
        "tier_flips": 0, "near_flips": 0, "max_probability_error": 0.02, "prompt_set": "abc", "passed": True,
    }  # fmt: skip
    return Verdict(**{**fields, **changes})


@pytest.fixture
def subject(tmp_path):
    return SUBJECT._replace(beside=tmp_path / SUBJECT.beside)


def test_a_record_is_read_back_for_what_it_holds_for_and_nothing_else(subject):
    assert recorded(subject) is None
    stored = record(subject, [verdict()])
    assert stored.passed
    assert recorded(subject) == stored
    for name, other in {"digest": "e" * 64, "backend": "torch", "precision": "bf16", "runtime": "1.2.4"}.items():
        assert recorded(subject._replace(**{name: other})) is None


def test_a_record_of_another_kind_of_processor_or_of_older_rules_is_not_followed(subject):
    record(subject, [verdict()])
    path = subject.beside.with_name(f"{subject.beside.name}.gate.json")
    stored = json.loads(path.read_text())
    for change in ({"processor": "abacus"}, {"rules": 0}):
        path.write_text(json.dumps(stored | change))
        assert recorded(subject) is None
    path.write_text("{")
    assert recorded(subject) is None


def test_one_failed_set_of_prompts_is_enough_to_fail(subject):
    failed = verdict(passed=False, tier_flips=2)
    assert not record(subject, [verdict(), failed]).passed
    assert not record(subject, []).passed
    assert "2 prompts" in failed.reasons[0]


def test_where_the_weights_cannot_be_written_the_cache_keeps_the_record(tmp_path, monkeypatch):
    monkeypatch.setenv("ARMWISE_CACHE", str(tmp_path / "cache"))
    subject = SUBJECT._replace(beside=Path("/proc/no-such-folder/a"))
    stored = record(subject, [verdict()])
    assert recorded(subject) == stored
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["a.gate.json"]


def test_devices_and_backends_are_subjects_of_their_own(tmp_path):
    subjects = {
        subject_of(tmp_path, "d" * 64, backend, device)
        for backend, device in (("onnx", "cpu"), ("torch", "cpu"), ("torch", "cuda"), ("torch", "mps"))
    }
    assert len({subject.beside for subject in subjects}) == len({subject[1:] for subject in subjects}) == 4


def test_auto_follows_the_record_and_an_ungated_precision_is_refused(tmp_path):
    folder = build(tmp_path / "weights", "tiny")
    nvidia = load_nvidia(folder)
    assert nvidia.precision == "fp32", "nothing is recorded yet"
    with pytest.raises(ConfigurationError, match=r"not passed its gate.*armwise classifier check"):
        load_nvidia(folder, precision="int8")
    assert load_nvidia(folder, precision="int8", gated=False).precision == "int8"
    subject = subject_of(folder, nvidia.digest, "onnx", "cpu")
    record(subject, [verdict(passed=False, tier_flips=3)])
    assert load_nvidia(folder).precision == "fp32"
    with pytest.raises(ConfigurationError, match="3 prompts"):
        load_nvidia(folder, precision="int8")
    record(subject, [verdict()])
    assert load_nvidia(folder).precision == "int8"
    assert load_nvidia(folder, precision="int8").precision == "int8"
    assert load_nvidia(folder, precision="fp32").precision == "fp32"
