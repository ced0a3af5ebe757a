"""Loading tests the model before it answers anyone, and what it returns keeps the contract of classifiers."""

import hashlib
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from service.classifiers.nvidia import TIERS, load_nvidia
from service.classifiers.nvidia.fetch import REPOSITORY
from service.classifiers.nvidia.heads import N_LOGITS
from service.classifiers.nvidia.records import FETCHED
from service.errors import ConfigurationError, UnusableWeights
from tests.service.classifiers.nvidia.prompts import PROMPTS


@pytest.mark.parametrize(("precision", "message"), [("fp32", "self-test fails in fp32.*nan"), ("int8", "overflow")])
def test_a_model_that_overflows_is_refused(tiny_folder, precision, message):
    tensors = load_file(tiny_folder / "model.safetensors")
    for kind in ("query", "key"):
        tensors[f"backbone.encoder.layer.0.attention.self.{kind}_proj.weight"] *= np.float32(1e30)
    save_file(tensors, tiny_folder / "model.safetensors")
    with pytest.raises(UnusableWeights, match=message):
        load_nvidia(tiny_folder, precision=precision, gated=False)


def test_a_reading_and_a_classification_say_the_same(model_folder):
    nvidia = load_nvidia(model_folder)
    assert nvidia.name == f"nvidia/{nvidia.digest[:8]}/fp32"
    assert nvidia.tiers == TIERS
    assert (nvidia.precision, nvidia.device) == ("fp32", "cpu")
    assert nvidia.read([]) == []
    for text in PROMPTS.values():
        reading = nvidia.read([text])[0]
        said = nvidia.classify(text)
        assert said == nvidia.classification(reading)
        assert said.classifier == nvidia.name
        assert reading.logits.shape == (N_LOGITS,)
        assert len(said.vector) == N_LOGITS
        assert abs(sum(said.task_probabilities) - 1) < 1e-6
        assert reading.tokens <= 512
        assert reading.truncated <= (reading.tokens == 512)


@pytest.mark.parametrize("text", ["", "   \n\t "])
def test_nothing_to_read_is_unknown(model_folder, text):
    said = load_nvidia(model_folder).classify(text)
    assert said.task_type == "Unknown"
    assert max(said.task_probabilities) == said.task_probabilities[-1] == 1.0


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb", "\U0010ffff" * 3, "\r\n" * 5000, "😀" * 600])
def test_no_text_raises(model_folder, text):
    assert load_nvidia(model_folder).classify(text).task_type


def test_threads_get_the_answers_that_one_gets(model_folder):
    nvidia = load_nvidia(model_folder, precision="fp32")
    texts = list(PROMPTS.values()) * 3
    alone = [nvidia.read([text])[0].logits for text in texts]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda text: nvidia.read([text])[0].logits, texts))
    for one, other in zip(alone, together, strict=True):
        assert (one == other).all()


def test_two_threads_on_one_text_answer_as_one_does(model_folder):
    one, two = (load_nvidia(model_folder, precision="fp32", threads=threads) for threads in (1, 2))
    for text in PROMPTS.values():
        np.testing.assert_allclose(one.read([text])[0].logits, two.read([text])[0].logits, rtol=0, atol=1e-4)


def test_a_token_budget_reads_less(model_folder):
    text = " ".join(PROMPTS.values())
    whole, less = load_nvidia(model_folder).read([text])[0], load_nvidia(model_folder, token_budget=50).read([text])[0]
    assert whole.tokens > less.tokens == 50
    assert less.truncated


def fetched(folder, repository):
    names = ("config.json", "model.safetensors")
    digests = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    record = {"repository": repository, "commit": "1", "endpoint": "", "fetched_at": "", "files": digests}
    (folder / FETCHED).write_text(json.dumps(record))


def test_what_was_fetched_as_nvidias_own_answers_as_the_card_prints(tiny_folder):
    fetched(tiny_folder, REPOSITORY)
    with pytest.raises(UnusableWeights, match=r"of the example .* is not what their card prints"):
        load_nvidia(tiny_folder)
    assert load_nvidia(tiny_folder, gated=False).precision == "fp32"  # to look at it
    fetched(tiny_folder, "someone/tuned")
    load_nvidia(tiny_folder)
    fetched(tiny_folder, REPOSITORY)
    config = tiny_folder / "config.json"
    config.write_text(config.read_text() + "\n")  # changed since: no longer what NVIDIA released
    load_nvidia(tiny_folder)


@pytest.mark.parametrize(
    ("backend", "precision", "offered"), [("onnx", "bf16", "fp32 and int8"), ("torch", "int8", "fp32 and bf16")]
)
def test_a_precision_that_a_backend_has_not_is_named(model_folder, backend, precision, offered):
    for gated in (True, False):
        with pytest.raises(
            ConfigurationError, match=f'"{precision}" is not offered with backend "{backend}".*{offered}'
        ):
            load_nvidia(model_folder, backend=backend, precision=precision, gated=gated)


def test_a_gpu_is_for_torch_alone(model_folder):
    with pytest.raises(ConfigurationError, match='device "cuda" is not offered with backend "onnx"'):
        load_nvidia(model_folder, device="cuda")


def test_the_package_is_imported_without_heavy_ones(model_folder):
    code = (
        "import json, sys; import service.classifiers, service.classifiers.nvidia as nvidia;"
        "early = {name.split('.')[0] for name in sys.modules};"
        "from pathlib import Path; nvidia.load_nvidia(Path(sys.argv[1]));"
        "late = {name.split('.')[0] for name in sys.modules};"
        "print(json.dumps([sorted(early), sorted(late)]))"
    )
    load_nvidia(model_folder)  # exported: serving needs no more than this
    done = subprocess.run(
        [sys.executable, "-c", code, str(model_folder)], stdout=subprocess.PIPE, check=True, text=True
    )
    early, late = map(set, json.loads(done.stdout))
    assert not early & {"torch", "transformers", "onnx", "onnxruntime", "tokenizers", "sklearn"}
    assert not late & {"torch", "transformers", "onnx", "sklearn"}
