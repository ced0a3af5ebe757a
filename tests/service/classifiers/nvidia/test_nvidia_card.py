"""The model card's printed examples: met, missed by a little, or not NVIDIA's weights at all."""

import pytest

from benchmarks.random_classifier import GEOMETRIES
from service.classifiers.nvidia.card import EXAMPLES, TOLERANCE, check_card, could_be_released
from service.classifiers.nvidia.checking import card_outcome
from service.classifiers.nvidia.heads import Answer

FIELDS = {
    "task_type_2": "NA", "task_type_prob": 0.9, "creativity_scope": 0.0, "reasoning": 0.0, "contextual_knowledge": 0.0,
    "number_of_few_shots": 0, "domain_knowledge": 0.0, "no_label_reason": 0.0, "constraint_ct": 0.0,
    "prompt_complexity_score": 0.0,
}  # fmt: skip


def printed(example, **changes):
    second = {"task_type_2": example.second} if example.second else {}
    return Answer(**{"task_type_1": example.task_type, **FIELDS, **example.printed, **second, **changes})


def answers(*, prefixed=True, plain=True, **changes):
    """A model that answers what the card prints, with the "Prompt: " in front, without, or both."""
    known = {}
    for example in EXAMPLES:
        wrong = printed(example, reasoning=0.9)
        known[f"Prompt: {example.prompt}"] = printed(example, **changes) if prefixed else wrong
        known[example.prompt] = printed(example, **changes) if plain else wrong
    return known.__getitem__


def test_the_printed_examples_satisfy_the_formula():
    for example in EXAMPLES:
        scores = example.printed
        expected = (
            0.35 * scores["creativity_scope"] + 0.25 * scores["reasoning"] + 0.15 * scores["constraint_ct"]
            + 0.15 * scores["domain_knowledge"] + 0.05 * scores["contextual_knowledge"]
            + 0.05 * scores["number_of_few_shots"]
        )  # fmt: skip
        assert scores["prompt_complexity_score"] == pytest.approx(expected, abs=6e-4)


@pytest.mark.parametrize(("plain", "with_prefix"), [(True, True), (False, True)])
def test_with_the_prefix_all_examples_are_met(plain, with_prefix):
    report = check_card(answers(plain=plain))
    assert report.outcome == "passed"
    assert {example.with_prefix for example in report.examples} == {with_prefix}


def test_without_the_prefix_the_one_is_not_met_that_the_card_prints_with_it():
    report = check_card(answers(prefixed=False))
    assert [example.passed for example in report.examples] == [True, True, False]
    assert [example.with_prefix for example in report.examples] == [False, False, True]


def test_differences_are_judged_by_their_size():
    assert check_card(answers(reasoning=0.056)).outcome != "passed"
    story = EXAMPLES[0]

    def near(off):
        def answer(text):
            changes = {"reasoning": story.printed["reasoning"] + off} if story.prompt in text else {}
            return printed(next(e for e in EXAMPLES if e.prompt in text), **changes)

        return check_card(answer)

    assert near(TOLERANCE * 0.9).outcome == "passed"
    slip = near(0.01)
    assert slip.outcome == "failed"
    assert slip.examples[0].worst_field == "reasoning"
    assert slip.examples[0].difference == pytest.approx(0.01)
    assert [example.passed for example in slip.examples] == [False, True, True]
    assert near(0.2).outcome == "other weights"


def test_another_task_type_means_other_weights():
    assert check_card(lambda _: Answer(task_type_1="Chatbot", **FIELDS)).outcome == "other weights"


def test_weights_that_are_surely_nvidias_must_answer_as_printed():
    other = check_card(lambda _: Answer(task_type_1="Chatbot", **FIELDS))
    assert card_outcome(other, released=False) == "other weights"
    assert card_outcome(other, released=True) == "failed"
    assert card_outcome(check_card(answers()), released=True) == "passed"
    assert card_outcome(None, released=True) == "not asked"


def test_only_the_full_size_on_its_own_backbone_can_be_the_released_model():
    assert could_be_released(GEOMETRIES["full"], "microsoft/DeBERTa-v3-base")
    assert not could_be_released(GEOMETRIES["tiny"], "microsoft/DeBERTa-v3-base")
    assert not could_be_released(GEOMETRIES["full"], "somebody/else")
    assert not could_be_released(GEOMETRIES["full"], None)
