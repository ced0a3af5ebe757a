"""The classifier's benchmark measures texts of the lengths that it names, and judges by the targets that it names."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.classifier_latency import AT_MOST, LENGTHS, RESULTS, VARIANTS, drift, table, targets
from benchmarks.classifier_variants import MIXES, Texts
from benchmarks.random_classifier import build
from service.classifiers.nvidia.tokens import load_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return load_tokenizer(build(tmp_path_factory.mktemp("weights"), "tiny"), 700)


@pytest.mark.parametrize("length", [6, 16, 120, 512])
def test_texts_have_the_tokens_they_should_have(tokenizer, length):
    texts = Texts(lambda text: tokenizer.encode(text).tokens)
    drawn = [texts.of(length) for _ in range(4)]
    assert {tokenizer.encode(text).tokens for text in drawn} == {length}
    assert len(set(drawn)) == 4


@pytest.mark.parametrize(("mix", "mean"), [("chat", 26), ("instructions", 34)])
def test_mixes_are_as_long_as_they_say(tokenizer, mix, mean):
    texts = Texts(lambda text: tokenizer.encode(text).tokens)
    sizes = [tokenizer.encode(text).tokens for text in itertools.islice(texts.mixed(mix), 600)]
    assert np.mean(sizes) == pytest.approx(mean, abs=3)
    assert min(sizes) >= MIXES[mix][0][1]
    assert max(sizes) <= MIXES[mix][-1][1]


def figures(factor):
    """As if every time were that share of what is allowed."""
    rows = [
        {
            **variant._asdict(),
            "latency_ms": {
                str(tokens): {"p50": factor * AT_MOST.get((variant.name, variant.threads, tokens), 1000.0)}
                for tokens in LENGTHS
            },
            "load_s": [1.5 * factor],
            "memory_mb": {"resident": 500.0},
            "throughput": {mix: {"per_second": 150 / factor} for mix in MIXES},
        }
        for variant in VARIANTS
    ]
    service = {
        precision: {
            "memory_mb": {"resident": 900 * factor},
            "by_model_per_second": 100.0,
            "loop_delay_ms": {"p99": 5 * factor},
        }
        for precision in ("fp32", "int8")
    }
    return {"rows": rows, "service": service}


@pytest.mark.parametrize(("factor", "met"), [(0.9, True), (1.1, False)])
def test_every_target_is_judged(factor, met):
    judged = targets(figures(factor))
    assert len(judged) == len(AT_MOST) + 2 + 1 + 2 * 2
    assert {row["met"] for row in judged} == {met}
    assert ("**no**" in table(figures(factor))) is not met


def test_drift_is_nothing_between_equal_logits():
    logits = np.random.default_rng(0).standard_normal((9, 32)).astype(np.float32)
    assert drift(logits, logits) == {
        "max_probability": 0.0, "mean_probability": 0.0, "mean_complexity": 0.0, "task_agreement": 1.0
    }  # fmt: skip
    assert drift(logits, logits[::-1])["task_agreement"] < 1


def test_the_page_shows_the_committed_results():
    page = (Path(__file__).parents[2] / "docs" / "nvidia.md").read_text(encoding="utf-8")
    assert table(json.loads(RESULTS.read_bytes())) in page
