"""The torch runtime answers as the library does, alone and in batches; devices and precisions that are not there."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from service.classifiers.nvidia import torch_runtime
from service.classifiers.nvidia.checkpoint import open_checkpoint
from service.classifiers.nvidia.heads import SLICES, probabilities_of
from service.classifiers.nvidia.torch_runtime import Model, TorchRuntime, devices, padding_of
from service.errors import ConfigurationError
from tests.service.classifiers.nvidia.prompts import PROMPTS

# Of a probability, on these random models (0.067 was measured); for real weights the precision gate decides.
BF16_DRIFT = 0.1
GPUS = [device for device in ("cuda", "mps") if device in devices()]


def padded(ids):
    """Token ids of several texts as one batch with its mask."""
    longest = max(map(len, ids))
    batch = np.zeros((len(ids), longest), dtype=np.int64)
    mask = np.zeros_like(batch)
    for row, text in enumerate(ids):
        batch[row, : len(text)] = text
        mask[row, : len(text)] = 1
    return batch, mask


@pytest.fixture
def checkpoint(model_folder):
    return open_checkpoint(model_folder)


@pytest.fixture
def ids(checkpoint):
    return [checkpoint.tokenizer.encode(text).ids for text in PROMPTS.values()]


@pytest.fixture(scope="session")
def expected_logits():
    """Computes the reference's logits of all prompts once for each model."""
    kept = {}

    def of(reference):
        if reference not in kept:
            kept[reference] = np.stack([reference.logits(text) for text in PROMPTS.values()])
        return kept[reference]

    return of


def drift(runtime, ids, expected):
    alone = np.concatenate([runtime.run(*padded([text]))[0] for text in ids])
    batched = np.concatenate([runtime.run(*padded(ids[start : start + 16]))[0] for start in range(0, len(ids), 16)])
    wanted = probabilities_of(expected)
    return max(np.abs(probabilities_of(found) - wanted).max() for found in (alone, batched))


def test_fp32_equals_the_library_alone_and_in_batches(checkpoint, ids, reference, expected_logits):
    assert len(ids) >= 60
    assert drift(TorchRuntime(checkpoint), ids, expected_logits(reference)) <= 1e-5


def test_bf16_drifts_within_its_bound_and_is_not_fp32(checkpoint, ids, reference, expected_logits):
    found = drift(TorchRuntime(checkpoint, precision="bf16"), ids, expected_logits(reference))
    assert 1e-5 < found <= BF16_DRIFT


@pytest.mark.skipif(not GPUS, reason="torch finds no GPU on this machine")
@pytest.mark.parametrize("device", GPUS or ["none"])
def test_a_gpu_equals_the_library(device, checkpoint, ids, reference, expected_logits):
    expected = expected_logits(reference)
    assert drift(TorchRuntime(checkpoint, device=device), ids, expected) <= 1e-4
    assert drift(TorchRuntime(checkpoint, device=device, precision="bf16"), ids, expected) <= BF16_DRIFT


def test_pooled_vectors_are_the_masked_mean(checkpoint, reference):
    texts = [PROMPTS["question"], PROMPTS["one letter"], PROMPTS["closed"]]
    pooled = TorchRuntime(checkpoint).run(*padded([checkpoint.tokenizer.encode(text).ids for text in texts]))[1]
    assert pooled.dtype == np.float32
    np.testing.assert_allclose(pooled, reference.run(texts)[1], atol=1e-5)


def test_every_length_up_to_the_longest_is_read(model_folders):
    checkpoint = open_checkpoint(model_folders["tiny"])
    runtime = TorchRuntime(checkpoint)
    for length in (1, 2, 3, 511, 512):
        logits, pooled = runtime.run(np.full((1, length), 7), np.ones((1, length), dtype=np.int64))
        assert logits.shape == (1, 32)
        assert pooled.shape == (1, checkpoint.geometry.hidden)
        assert np.isfinite(logits).all()


def test_threads_share_a_runtime(model_folders):
    checkpoint = open_checkpoint(model_folders["small"])
    runtime = TorchRuntime(checkpoint)
    ids = [checkpoint.tokenizer.encode(text).ids for text in list(PROMPTS.values())[:24]]
    alone = [runtime.run(*padded([text]))[0] for text in ids]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda text: runtime.run(*padded([text]))[0], ids * 3))
    for found, wanted in zip(together, alone * 3, strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_its_thread_count_holds_for_the_caller_alone(model_folders):
    checkpoint = open_checkpoint(model_folders["tiny"])
    mine = torch.get_num_threads()
    counts = {}

    def run(threads):
        TorchRuntime(checkpoint, threads=threads).run(np.array([[1, 7, 2]]), np.ones((1, 3), dtype=np.int64))
        counts[threads] = torch.get_num_threads()

    for threads in (2, 1):
        worker = threading.Thread(target=run, args=(threads,))
        worker.start()
        worker.join()
    assert counts == {2: 2, 1: 1}
    assert torch.get_num_threads() == mine


def test_int8_is_not_offered(model_folders):
    with pytest.raises(ConfigurationError, match=r'"int8" is not offered .* "onnx" offers int8'):
        TorchRuntime(open_checkpoint(model_folders["tiny"]), precision="int8")


@pytest.mark.parametrize("device", [device for device in ("cuda", "mps", "tpu") if device not in devices()])
def test_an_absent_device_is_named_with_those_that_are_there(device, model_folders):
    with pytest.raises(ConfigurationError, match=rf'"{device}" is not there: .* finds .*cpu'):
        TorchRuntime(open_checkpoint(model_folders["tiny"]), device=device)


def test_projected_once_or_at_each_call_is_the_same_and_gradients_reach_every_weight(model_folders):
    checkpoint = open_checkpoint(model_folders["odd"])
    model = Model(checkpoint).eval()
    ids, mask = padded([checkpoint.tokenizer.encode(PROMPTS[name]).ids for name in ("question", "story", "json")])
    rows, padding = torch.from_numpy(np.asarray(checkpoint.embeddings[ids])), padding_of(mask, torch.device("cpu"))
    live = model.logits(model(rows, padding))
    live.square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
    model.project_positions(len(model.layers))
    with torch.no_grad():
        torch.testing.assert_close(model.logits(model(rows, padding)), live.detach(), atol=1e-5, rtol=1e-5)


def test_the_gradient_is_the_librarys(model_folders, reference_tiny):
    checkpoint = open_checkpoint(model_folders["tiny"])
    model = Model(checkpoint).eval()
    text = PROMPTS["few shots"]
    ids, mask = padded([checkpoint.tokenizer.encode(text).ids])
    rows = torch.from_numpy(np.asarray(checkpoint.embeddings[ids]))
    model(rows, padding_of(mask, torch.device("cpu"))).square().sum().backward()
    theirs = reference_tiny.backbone
    theirs(input_ids=torch.from_numpy(ids)).last_hidden_state.mean(dim=1).square().sum().backward()
    layer = theirs.encoder.layer[-1].attention.self
    wanted = torch.cat([part.weight.grad for part in (layer.query_proj, layer.key_proj, layer.value_proj)])
    theirs.zero_grad()
    torch.testing.assert_close(model.layers[-1].qkv.weight.grad, wanted, atol=1e-5, rtol=1e-3)


@pytest.fixture
def reference_tiny(model_folders):
    from benchmarks.random_classifier import GEOMETRIES
    from tests.service.classifiers.nvidia.reference import Reference

    return Reference(model_folders["tiny"], GEOMETRIES["tiny"])


def test_weights_go_by_the_checkpoints_names(model_folders):
    checkpoint = open_checkpoint(model_folders["tiny"])
    model = Model(checkpoint)
    for part in (model.heads, model.layers[1].qkv, model.layers[0].narrow_norm):
        for name, value in part.tensors().items():
            np.testing.assert_array_equal(value.numpy(), checkpoint.tensor(name))
    assert sum(head.stop - head.start for head in SLICES.values()) == len(model.heads.weight)


def test_distances_share_rows_as_in_the_library():
    from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

    from benchmarks.random_classifier import GEOMETRIES

    distances = torch.arange(511, -512, -1)
    for geometry in GEOMETRIES.values():
        buckets = geometry.buckets
        theirs = make_log_bucket_position(distances, buckets, 512).long() + buckets
        ours = torch_runtime.distance_rows(geometry)[:-1]
        assert ours.tolist() == theirs.clamp(0, 2 * buckets - 1).tolist()
