"""From 32 logits to NVIDIA's eleven answers: its rounding, its traps, and what holds for any logits."""

import json

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from bandit.vocabulary import TASK_TYPES
from benchmarks.random_classifier import GEOMETRIES
from service.classifiers.nvidia.heads import (
    HEADS,
    N_LOGITS,
    SLICES,
    answer_of,
    classification_of,
    probabilities_of,
)
from service.classifiers.rules import complexity
from tests.service.classifiers.nvidia.reference import reference_for

FIELDS = [
    "task_type_1", "task_type_2", "task_type_prob", "creativity_scope", "reasoning", "contextual_knowledge",
    "number_of_few_shots", "domain_knowledge", "no_label_reason", "constraint_ct", "prompt_complexity_score",
]  # fmt: skip
some_logits = arrays.arrays(np.float32, (N_LOGITS,), elements=st.floats(-60, 60, width=32))


def logits_for(**probabilities):
    """Logits that give heads these probabilities by class; other heads are certain of their first class."""
    logits = np.zeros(N_LOGITS)
    for head in HEADS:
        wanted = probabilities.get(head.name, [1.0] + [0.0] * (head.size - 1))
        assert len(wanted) == head.size
        logits[SLICES[head.name]] = np.log(np.maximum(wanted, 1e-30))
    return logits


def tasks(**by_name):
    """Probabilities of the task types; names have "_" for a space."""
    return [by_name.get(name.replace(" ", "_"), 0.0) for name in TASK_TYPES]


def test_the_heads_are_nvidias():
    assert [(head.name, head.size, head.weights, head.divisor) for head in HEADS] == [
        ("task_type", 12, (), 1),
        ("creativity_scope", 3, (2, 1, 0), 2),
        ("reasoning", 2, (0, 1), 1),
        ("contextual_knowledge", 2, (0, 1), 1),
        ("number_of_few_shots", 6, (0, 1, 2, 3, 4, 5), 1),
        ("domain_knowledge", 4, (3, 1, 2, 0), 3),
        ("no_label_reason", 1, (0,), 1),
        ("constraint_ct", 2, (1, 0), 1),
    ]
    assert N_LOGITS == 32
    assert TASK_TYPES == (
        "Brainstorming", "Chatbot", "Classification", "Closed QA", "Code Generation", "Extraction", "Open QA", "Other",
        "Rewrite", "Summarization", "Text Generation", "Unknown",
    )  # fmt: skip


def test_an_answer_has_the_eleven_fields_in_nvidias_order():
    encoded = json.loads(msgspec.json.encode(answer_of(np.arange(32.0))))
    assert list(encoded) == FIELDS
    assert isinstance(encoded["task_type_1"], str)


def test_answers_equal_the_plain_implementation(model_folders):
    reference = reference_for(model_folders["tiny"], GEOMETRIES["tiny"])
    rng = np.random.default_rng(0)
    logits = (rng.normal(size=(3000, 32)) * rng.uniform(0.1, 5, size=(3000, 1))).astype(np.float32)
    probabilities = probabilities_of(logits)
    np.testing.assert_allclose(probabilities, reference.probabilities(logits), rtol=0, atol=1e-6)
    different = 0
    for row, expected in zip(logits, reference.answers(logits), strict=True):
        answer = msgspec.to_builtins(answer_of(row))
        assert list(answer) == list(expected)
        for name, value in expected.items():
            if answer[name] != value:
                # The last bit of a float32 may decide on which side of a half a value falls, and no more than that.
                different += 1
                assert not isinstance(value, str)
                assert answer[name] == pytest.approx(value, abs=1.01e-4 if name != "task_type_prob" else 1.01e-3)
    assert different < 0.002 * logits.shape[0] * len(FIELDS)


# -- traps


def test_trap_argmax_scores_are_expected_values():
    answer = answer_of(logits_for(creativity_scope=[0.4, 0.35, 0.25], reasoning=[0.7, 0.3]))
    assert answer.creativity_scope == pytest.approx((2 * 0.4 + 0.35) / 2, abs=1e-4)  # the likeliest class gives 1
    assert answer.reasoning == pytest.approx(0.3, abs=1e-4)  # the likeliest class gives 0


def test_trap_a_score_uses_class_weights_not_indices():
    certain = {
        "creativity_scope": [1.0, 0.5, 0.0],  # High, Low, No
        "domain_knowledge": [1.0, 0.3333, 0.6667, 0.0],  # High, Low, Medium, No
        "constraint_ct": [1.0, 0.0],  # present, absent
        "number_of_few_shots": [0, 1, 2, 3, 4, 5],
    }
    for name, scores in certain.items():
        for index, score in enumerate(scores):
            chosen = [float(place == index) for place in range(len(scores))]
            assert getattr(answer_of(logits_for(**{name: chosen})), name) == score


@pytest.mark.parametrize(("second", "name"), [(0.0996, "Other"), (0.1004, "Other"), (0.0994, "NA"), (0.02, "NA")])
def test_trap_second_task_is_judged_after_rounding(second, name):
    answer = answer_of(logits_for(task_type=tasks(Rewrite=1 - second, Other=second)))
    assert (answer.task_type_1, answer.task_type_2) == ("Rewrite", name)
    assert answer.task_type_prob == round(1 - second, 3)


@pytest.mark.parametrize(("shots", "rounded"), [(0.04996, 0.05), (0.0501, 0.0501), (0.04994, 0), (0.01, 0), (0.0, 0)])
def test_trap_few_shots_are_cut_after_rounding(shots, rounded):
    answer = answer_of(logits_for(number_of_few_shots=[1 - shots, shots, 0, 0, 0, 0]))
    assert answer.number_of_few_shots == rounded
    assert isinstance(answer.number_of_few_shots, float if rounded else int)


def test_trap_complexity_reaches_1_2():
    most = answer_of(
        logits_for(
            creativity_scope=[1, 0, 0], reasoning=[0, 1], contextual_knowledge=[0, 1], constraint_ct=[1, 0],
            domain_knowledge=[1, 0, 0, 0], number_of_few_shots=[0, 0, 0, 0, 0, 1],
        )
    )  # fmt: skip
    assert most.prompt_complexity_score == 1.2
    assert classification_of(logits_for(), classifier="nvidia").complexity < 1


@given(some_logits)
def test_trap_no_label_reason_is_always_0(logits):
    assert answer_of(logits).no_label_reason == 0.0


def test_complexity_of_the_example_on_nvidias_card():
    # The one whose prompt asks for a loop in Python, printed with all its scores.
    answer = answer_of(
        logits_for(
            task_type=tasks(Code_Generation=0.767, Text_Generation=0.233),
            creativity_scope=[0.0826, 0, 0.9174], reasoning=[0.9368, 0.0632], contextual_knowledge=[0.944, 0.056],
            domain_knowledge=[0.9803, 0, 0, 0.0197], constraint_ct=[0.5578, 0.4422],
        )
    )  # fmt: skip
    assert msgspec.to_builtins(answer) == {
        "task_type_1": "Code Generation", "task_type_2": "Text Generation", "task_type_prob": 0.767,
        "creativity_scope": 0.0826, "reasoning": 0.0632, "contextual_knowledge": 0.056, "number_of_few_shots": 0,
        "domain_knowledge": 0.9803, "no_label_reason": 0.0, "constraint_ct": 0.5578,
        "prompt_complexity_score": 0.27822,
    }  # fmt: skip


def test_complexity_is_of_rounded_scores():
    # Unrounded, 0.35 * 0.00004 + 0.25 * 0.00004 would show in the fifth place.
    answer = answer_of(logits_for(creativity_scope=[0.00004, 0, 0.99996], reasoning=[0.99996, 0.00004],
                                  domain_knowledge=[0, 0, 0, 1], constraint_ct=[0, 1]))  # fmt: skip
    assert answer.prompt_complexity_score == 0.0


def test_equal_probabilities_are_told_apart_by_logits():
    logits = logits_for()
    logits[SLICES["task_type"]] = 0
    logits[2] = 1e-7
    assert answer_of(logits).task_type_1 == TASK_TYPES[2]
    assert classification_of(logits, classifier="nvidia").task_type == TASK_TYPES[2]


# -- any logits


@given(some_logits)
def test_probabilities_of_every_head_sum_to_1(logits):
    probabilities = probabilities_of(logits)
    assert probabilities.shape == (N_LOGITS,)
    assert (probabilities >= 0).all()
    for part in SLICES.values():
        assert probabilities[part].sum() == pytest.approx(1, abs=1e-12)


@given(some_logits)
def test_answers_keep_their_bounds_and_digits(logits):
    answer = answer_of(logits)
    assert answer.task_type_2 in {"NA", *TASK_TYPES} - {answer.task_type_1}
    assert 1 / 12 - 0.001 <= answer.task_type_prob <= 1
    scores = msgspec.to_builtins(answer)
    for name in FIELDS[3:]:
        most = {"number_of_few_shots": 5, "prompt_complexity_score": 1.2}.get(name, 1)
        digits = 5 if name == "prompt_complexity_score" else 4
        assert 0 <= scores[name] <= most
        assert scores[name] == pytest.approx(round(scores[name], digits), abs=1e-12)


@given(some_logits, st.floats(-30, 30, width=32))
def test_rounding_is_stable_where_only_the_last_bits_move(logits, shift):
    """The same number on all logits of a head changes nothing but last bits: at most one step of rounding."""
    moved = logits.astype(np.float64)
    for place, part in enumerate(SLICES.values()):
        moved[part] += shift if place % 2 else -shift
    before, after = answer_of(logits), answer_of(moved)
    assert after.task_type_prob == pytest.approx(before.task_type_prob, abs=1.1e-3)
    for name in FIELDS[3:]:
        steps = {"number_of_few_shots": 0.05, "prompt_complexity_score": 0.003}.get(name, 2e-4)  # 0.05 may become 0
        assert getattr(after, name) == pytest.approx(getattr(before, name), abs=steps)


@given(some_logits)
def test_a_classification_says_what_the_answer_says(logits):
    answer = answer_of(logits)
    classification = classification_of(logits, classifier="nvidia/x", vector=(1.0,))
    assert classification.task_type == answer.task_type_1
    assert classification.task_probabilities == tuple(probabilities_of(logits)[:12])
    assert round(max(classification.task_probabilities), 3) == pytest.approx(answer.task_type_prob, abs=1.1e-3)
    assert classification.complexity == answer.prompt_complexity_score
    assert classification.complexity == pytest.approx(complexity(classification.scores), abs=1.1e-5)
    assert (classification.classifier, classification.vector) == ("nvidia/x", (1.0,))


def test_logits_of_a_batch_are_read_row_by_row():
    logits = np.random.default_rng(1).normal(size=(2, 5, 32))
    assert (probabilities_of(logits)[1, 3] == probabilities_of(logits[1, 3])).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_no_numbers_are_refused(value):
    logits = np.zeros(32)
    logits[7] = value
    with pytest.raises(ValueError, match="NaN or infinity"):
        answer_of(logits)


@pytest.mark.parametrize("shape", [(), (31,), (33,), (32, 8)])
def test_logits_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"expected \(..., 32\)"):
        probabilities_of(np.zeros(shape))


def test_an_answer_is_of_one_text():
    with pytest.raises(ValueError, match=r"expected \(32,\)"):
        answer_of(np.zeros((2, 32)))
