"""The model card tells the figures that were measured, and the prompts that were made up keep their promises."""

import json

import numpy as np
import pytest

from bandit.vocabulary import TASK_TYPES
from benchmarks.classifier_figures import f1_per_type, probes
from benchmarks.classifier_page import FIGURES, PAGE, TABLES, page_with_tables
from benchmarks.task_templates import made_up
from service.classifiers import embedded

NAMED = TASK_TYPES[:-1]


@pytest.fixture(scope="module")
def figures():
    return json.loads(FIGURES.read_text(encoding="utf-8"))


def test_every_table_of_the_page_is_what_the_figures_say(figures):
    page = PAGE.read_text(encoding="utf-8")
    assert page_with_tables(page, figures) == page
    assert all(f"<!-- figures: {name} -->" in page for name in TABLES)


def test_the_figures_are_those_of_the_packaged_weights(figures):
    assert figures["weights_sha256"] == embedded.WEIGHTS_SHA256
    assert figures["weights_bytes"] == embedded.WEIGHTS.stat().st_size
    assert figures["threshold"] == embedded.packaged_weights().threshold


def test_the_figures_reach_what_was_asked_for(figures):
    judged = figures["embedded"]
    assert judged["accuracy_unknown_is_wrong"] >= 0.64
    assert judged["macro_f1_unknown_is_wrong"] >= 0.62
    assert judged["calibration_error"] < 0.05
    assert figures["embedded_families_left_out"]["calibration_error"] < 0.05


def test_the_confusion_matrix_counts_every_prompt(figures):
    for row, count in zip(figures["embedded"]["confusion"], figures["prompts_per_type"].values(), strict=True):
        assert sum(row) == count
    assert sum(bin_["prompts"] for bin_ in figures["embedded"]["reliability"]) == figures["prompts"]


def test_the_vector_says_more_than_chance_and_than_the_type(figures):
    vector = figures["vector"]
    assert vector["neighbours_of_other_sources_of_the_same_type"] > 2 * vector["by_chance"]
    errors = vector["outcomes"]["squared_error"]
    assert errors["and vector"] < errors["task type"] < errors["mean of each model"]


def test_f1_is_the_harmonic_mean_of_precision_and_recall():
    labels, found = np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1])
    assert f1_per_type(labels, found) == {TASK_TYPES[0]: pytest.approx(0.8), TASK_TYPES[1]: pytest.approx(2 / 3)}


@pytest.mark.parametrize("chinese", [False, True])
def test_wordings_speak_for_every_type_and_leave_no_slot_open(chinese):
    prompts = [prompt for prompt in made_up(2) if prompt.chinese is chinese]
    assert {prompt.task_type for prompt in prompts} == set(NAMED)
    assert not [prompt.text for prompt in prompts if "{topic" in prompt.text or "{person" in prompt.text]
    assert all(prompt.text.strip() for prompt in prompts)
    assert len({prompt.text for prompt in prompts}) > 0.9 * len(prompts)


def test_the_same_seed_makes_up_the_same_prompts():
    assert made_up(1, seed=3) == made_up(1, seed=3)
    assert made_up(1, seed=3) != made_up(1, seed=4)


def test_probes_ask_for_known_types_in_every_language():
    assert {task_type for prompts in probes().values() for task_type, _ in prompts} <= set(NAMED)
    assert min(map(len, probes().values())) >= 8
