"""The fast path answers as the slow, plain reference does: every probability, alone and in padded batches."""

import random

import numpy as np
import pytest
import torch
from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

from benchmarks.random_classifier import GEOMETRIES
from service.classifiers.nvidia import load_nvidia
from service.classifiers.nvidia.artefact import load_artefact
from service.classifiers.nvidia.checkpoint import open_checkpoint
from service.classifiers.nvidia.geometry import Geometry
from service.classifiers.nvidia.graph import distance_rows
from service.classifiers.nvidia.heads import answer_of
from service.classifiers.nvidia.onnx_runtime import OnnxRuntime
from tests.service.classifiers.nvidia.prompts import PROMPTS

WITHIN = 1e-5  # of every one of the 32 probabilities
LENGTHS = (1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 31, 33, 63, 64, 65, 127, 128, 129, 130, 255, 256, 257, 258, 511, 512)


@pytest.fixture
def nvidia(model_folder):
    return load_nvidia(model_folder, precision="fp32")


@pytest.fixture
def expected(reference):
    """Logits of every prompt, alone."""
    return {name: reference.logits(text) for name, text in PROMPTS.items()}


def test_every_prompt_alone(nvidia, reference, expected):
    assert len(PROMPTS) >= 60
    found = {name: nvidia.read([text])[0].logits for name, text in PROMPTS.items()}
    off = {
        name: float(np.abs(reference.probabilities(found[name]) - reference.probabilities(expected[name])).max())
        for name in PROMPTS
    }
    assert {name: value for name, value in off.items() if not value < WITHIN} == {}
    answers = {name: answer_of(found[name]) for name in PROMPTS}
    assert len({repr(answer) for answer in answers.values()}) > len(PROMPTS) // 2  # prompts are told apart


@pytest.mark.parametrize("size", [2, 7])
def test_every_prompt_in_mixed_batches(nvidia, reference, expected, size):
    names = sorted(PROMPTS)
    random.Random(size).shuffle(names)
    for start in range(0, len(names), size):
        batch = names[start : start + size]
        readings = nvidia.read([PROMPTS[name] for name in batch])
        found = reference.probabilities(np.stack([reading.logits for reading in readings]))
        wanted = reference.probabilities(np.stack([expected[name] for name in batch]))
        np.testing.assert_allclose(found, wanted, rtol=0, atol=WITHIN)


def test_every_length_of_tokens(nvidia, model_folder, reference):
    checkpoint = open_checkpoint(model_folder)
    runtime = OnnxRuntime(load_artefact(checkpoint, checkpoint.digest, "fp32"), checkpoint.embeddings, precision="fp32")
    draw = np.random.default_rng(0)
    for length in LENGTHS:
        ids = draw.integers(0, checkpoint.geometry.vocabulary, (1, length))
        logits, pooled = runtime.run(ids, np.ones_like(ids))
        with torch.no_grad():
            hidden = reference.backbone(input_ids=torch.from_numpy(ids)).last_hidden_state[0]
            wanted = torch.cat([torch.nn.functional.linear(hidden.mean(dim=0), *head) for head in reference.heads])
        np.testing.assert_allclose(
            reference.probabilities(logits), reference.probabilities(wanted.numpy()), rtol=0, atol=WITHIN
        )
        np.testing.assert_allclose(pooled[0], hidden.mean(dim=0).numpy(), rtol=0, atol=1e-4)


def test_rows_of_padding_do_not_count_whatever_they_hold(nvidia, model_folder):
    checkpoint = open_checkpoint(model_folder)
    runtime = OnnxRuntime(load_artefact(checkpoint, checkpoint.digest, "fp32"), checkpoint.embeddings, precision="fp32")
    ids = np.random.default_rng(1).integers(0, checkpoint.geometry.vocabulary, (3, 20))
    lengths = np.array([[20], [9], [2]])
    mask = (np.arange(20) < lengths).astype(np.int64)
    together = runtime.run(ids, mask)[0]
    for row, length in enumerate(lengths[:, 0]):
        alone = runtime.run(ids[row : row + 1, :length], mask[row : row + 1, :length])[0][0]
        np.testing.assert_allclose(together[row], alone, rtol=0, atol=1e-4)


def test_answers_stay_when_the_memory_of_a_long_text_is_given_back(nvidia, reference):
    runtime = nvidia._runtime
    short, long = PROMPTS["greeting"], "word " * 600
    before = nvidia.read([short, long, short])[2].logits
    assert runtime._long_at
    runtime._long_at -= 3600  # an hour later
    after = nvidia.read([short])[0].logits
    assert not runtime._long_at
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-4)
    np.testing.assert_allclose(nvidia.read([long])[0].logits, reference.logits(long), rtol=0, atol=1e-3)


@pytest.mark.parametrize("buckets", [5, 7, 16, 32, 100, 256, 300, 512])
def test_distances_fall_into_the_same_buckets_as_in_the_library(buckets):
    geometry = Geometry(vocabulary=9, hidden=64, layers=1, heads=1, feed_forward=9, buckets=buckets)
    distances = torch.arange(511, -512, -1)
    wanted = make_log_bucket_position(distances, buckets, 512).long() + buckets
    ours = distance_rows(geometry)[1:-1]  # the ends stand for distances that no text has
    assert (ours == wanted.clamp(0, 2 * buckets - 1).numpy()).all()


def test_int8_answers_nearly_as_fp32(model_folder, reference, expected):
    geometry = GEOMETRIES[model_folder.name]
    int8 = load_nvidia(model_folder, precision="int8", gated=False)
    found = np.stack([int8.read([text])[0].logits for text in PROMPTS.values()])
    wanted = np.stack(list(expected.values()))
    relative = np.sqrt(((found - wanted) ** 2).mean()) / wanted.std(axis=0).mean()
    assert 1e-4 < relative < 0.1, geometry


@pytest.mark.parametrize("size", [2, 5])
def test_an_int8_answer_does_not_depend_on_what_else_is_in_the_batch(model_folder, size):
    int8 = load_nvidia(model_folder, precision="int8", gated=False)
    texts = sorted(PROMPTS.values(), key=len)
    alone = np.stack([int8.read([text])[0].logits for text in texts])
    together = [int8.read(texts[start : start + size]) for start in range(0, len(texts), size)]
    found = np.stack([reading.logits for readings in together for reading in readings])
    # Sums in another order move a value to the next level now and then.
    assert np.abs(found - alone).mean() < 1e-3 * alone.std()
    assert (np.abs(found - alone).max(axis=1) < 1e-4).mean() > 0.6
