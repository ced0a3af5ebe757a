"""Linear layers in int8 lose as little as they must: wide channels take no levels from others, means stay."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from service.classifiers.nvidia.quantisation import Inputs, quantised, rounded_by_column


def layer(seed, inputs=96, outputs=40):
    draw = np.random.default_rng(seed)
    weights = draw.standard_normal((inputs, outputs)).astype(np.float32) / 8
    return draw, weights, draw.standard_normal(outputs).astype(np.float32)


def computed(values, linear):
    """What the runtime computes."""
    scaled = values if linear.factors is None else values * linear.factors
    levels = np.clip(np.rint(scaled / linear.step) + linear.zero, 0, 255)
    return ((levels - linear.zero) @ linear.weights) * linear.step * linear.scales + linear.biases


def seen(values):
    return Inputs(values.mean(axis=0), values.min(axis=0), values.max(axis=0))


@given(arrays(np.float32, (7, 5), elements=st.floats(-1e3, 1e3, width=32)))
@settings(max_examples=60, deadline=None)
def test_no_weight_is_off_by_more_than_half_a_step(weights):
    rounded, scales = rounded_by_column(weights)
    assert rounded.dtype == np.int8
    assert np.abs(rounded).max() <= 127
    assert (np.abs(rounded * scales - weights) <= scales * 0.5001 + 1e-30).all()


def test_a_column_of_zeros_stays_zero():
    rounded, scales = rounded_by_column(np.zeros((4, 2), np.float32))
    assert not rounded.any()
    assert np.isfinite(scales).all()


@pytest.mark.parametrize("equalised", [False, True])
def test_the_mean_output_is_kept(equalised):
    draw, weights, biases = layer(1)
    values = (draw.standard_normal((500, 96)) + draw.standard_normal(96) * 5).astype(np.float32)
    linear = quantised(weights, biases, seen(values), equalised=equalised)
    scaled = values * linear.factors if equalised else values
    found = (scaled @ (linear.weights * linear.scales) + linear.biases).mean(axis=0)
    wanted = (values @ weights + biases).mean(axis=0)
    uncorrected = found - linear.biases + biases
    assert np.abs(found - wanted).max() < 1e-4
    assert np.abs(uncorrected - wanted).max() > 1e-3


def test_a_wide_channel_takes_no_levels_from_the_others():
    draw, weights, biases = layer(2)
    values = draw.standard_normal((200, 96)).astype(np.float32)
    values[:, 3] *= 300
    weights[3] /= 300
    wanted = values @ weights + biases
    errors = [
        np.sqrt(
            ((computed(values, quantised(weights, biases, seen(values), equalised=equalised)) - wanted) ** 2).mean()
        )
        for equalised in (False, True)
    ]
    assert errors[1] < errors[0] / 5


def test_channels_that_are_never_used_do_no_harm():
    draw, weights, biases = layer(3)
    values = draw.standard_normal((50, 96)).astype(np.float32)
    values[:, 7] = 0
    weights[9] = 0
    linear = quantised(weights, biases, seen(values), equalised=True)
    assert all(np.isfinite(part).all() for part in linear)
    assert np.abs(computed(values, linear) - values @ weights - biases).max() < 0.5


@given(st.floats(-1e4, 1e4, width=32), st.floats(-1e4, 1e4, width=32))
@settings(max_examples=80, deadline=None)
def test_zero_is_a_level_and_all_that_was_seen_has_one(one, other):
    values = np.array([[one], [other]], np.float32)
    linear = quantised(np.ones((1, 1), np.float32), np.zeros(1, np.float32), seen(values), equalised=False)
    found = computed(np.array([[0.0], [one], [other]], np.float32), linear) - linear.biases
    assert found[0] == 0
    assert np.abs(found[1:] - values).max() <= linear.step * 0.51 + np.abs(values).max() * 1e-5


def test_what_is_wider_than_anything_seen_becomes_the_last_level():
    linear = quantised(
        np.ones((1, 1), np.float32),
        np.zeros(1, np.float32),
        seen(np.array([[-1.0], [2.0]], np.float32)),
        equalised=False,
    )
    low, high = (computed(np.array([[value]], np.float32), linear).item() - linear.biases.item() for value in (-9, 9))
    assert low == pytest.approx(-1.2, abs=0.02)
    assert high == pytest.approx(2.4, abs=0.02)
