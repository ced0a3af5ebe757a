"""The fast path answers as the slow, plain reference does: every probability, alone and in padded batches."""

import numpy as np
import pytest

from service.classifiers.nvidia import load_nvidia
from service.classifiers.nvidia.heads import answer_of
from tests.service.nvidia.prompts import PROMPTS

WITHIN = 1e-5  # of every one of the 32 probabilities


@pytest.fixture
def nvidia(model_folder):
    return load_nvidia(model_folder, precision="fp32")


@pytest.fixture
def expected(reference):
    """Logits of every prompt, alone."""
    return {name: reference.logits(text) for name, text in PROMPTS.items()}


def test_every_prompt_alone(nvidia, reference, expected):
    found = {name: nvidia.read([text])[0].logits for name, text in PROMPTS.items()}
    off = {
        name: float(np.abs(reference.probabilities(found[name]) - reference.probabilities(expected[name])).max())
        for name in PROMPTS
    }
    assert {name: value for name, value in off.items() if not value < WITHIN} == {}
    answers = {name: answer_of(found[name]) for name in PROMPTS}
    assert len({repr(answer) for answer in answers.values()}) > len(PROMPTS) // 2  # prompts are told apart


def test_every_prompt_in_mixed_batches(nvidia, reference, expected):
    names = sorted(PROMPTS, key=lambda name: hash((name, 1)))
    for start in range(0, len(names), 7):
        batch = names[start : start + 7]
        readings = nvidia.read([PROMPTS[name] for name in batch])
        found = reference.probabilities(np.stack([reading.logits for reading in readings]))
        wanted = reference.probabilities(np.stack([expected[name] for name in batch]))
        np.testing.assert_allclose(found, wanted, rtol=0, atol=WITHIN)
