"""The classifier's load test: what it makes of its figures."""

import itertools
import math
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.classifier_load import judged, memory, quantile, texts
from benchmarks.random_classifier import build
from service.classifiers.nvidia.checkpoint import open_checkpoint


def test_quantiles_are_read_as_prometheus_reads_them():
    buckets = {1.0: 0.0, 2.0: 50.0, 4.0: 100.0, math.inf: 100.0}
    assert quantile(buckets, 0.5) == 2.0
    assert quantile(buckets, 0.75) == 3.0
    assert quantile(buckets, 0.25) == 1.5
    assert math.isnan(quantile({}, 0.5))


@given(counts=st.lists(st.integers(0, 9), min_size=2, max_size=8), share=st.floats(0.01, 1.0))
def test_a_quantile_lies_in_the_bucket_that_its_share_falls_into(counts, share):
    bounds = [float(number + 1) for number in range(len(counts))]
    cumulated = list(itertools.accumulate(counts))
    found = quantile(dict(zip(bounds, map(float, cumulated), strict=True)), share)
    if not cumulated[-1]:
        assert math.isnan(found)
        return
    index = next(i for i, count in enumerate(cumulated) if count >= share * cumulated[-1])
    assert (bounds[index - 1] if index else 0.0) <= found <= bounds[index]


def test_texts_differ_and_are_as_long_as_people_write_them(tmp_path):
    tokenizer = open_checkpoint(build(tmp_path / "weights", "tiny")).tokenizer
    found = texts(tokenizer, 120)
    assert len(set(found)) == 120
    counts = sorted(tokenizer.encode(text).tokens for text in found)
    assert counts[0] >= 6
    assert counts[-1] <= 120
    assert counts[60] == pytest.approx(20, abs=7)
    assert texts(tokenizer, 20) == found[:20]


def test_memory_is_told_in_parts():
    told = memory(os.getpid())
    assert told["own"] + told["of_files"] <= told["resident"] * 1.01
    assert told["resident"] <= told["most"] * 1.01


@pytest.mark.parametrize(("per_second", "met"), [(149.9, False), (150.0, True)])
def test_targets_are_judged(per_second, met):
    figures = {"by_model_per_second": per_second, "loop_delay_ms": {"p99": 5.0}, "memory_mb": {"resident": 500.0}}
    said = judged(figures)
    assert said["classified by the model, per second"]["met"] is met
    assert said["event loop delay p99, ms"]["met"] is False
    assert said["resident memory, MB"]["met"] is True
