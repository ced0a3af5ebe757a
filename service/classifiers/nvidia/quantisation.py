"""How linear layers become int8 without losing more than they must.

Weights are rounded per output; inputs at each call, one scale for all. Two things are done about what that loses, from
what the layers' inputs are like on a few texts:

- Some channels of a normed hidden state are far wider than the rest and would take the whole scale. They are divided
  by a factor and their weights multiplied with it (Xiao et al. 2023, SmoothQuant, https://arxiv.org/abs/2211.10438).
- Rounded weights shift the mean of each output, in the same direction for every token, so that pooling does not average
  it out. The shift is known and taken from the bias (Nagel et al. 2019, https://arxiv.org/abs/1906.04721). On random
  weights this halves the drift that is due to weights.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

_SHARE = 0.6  # of the width of a channel that its weights take over


class Inputs(NamedTuple):
    """What the inputs of one linear layer are like, by channel."""

    mean: Floats
    largest: Floats  # absolute value


class Linear(NamedTuple):
    """A linear layer in int8: outputs are `inputs * factors` @ `weights` * `scales` + `biases`."""

    weights: npt.NDArray[np.int8]  # (inputs, outputs)
    scales: Floats  # (outputs,)
    biases: Floats  # (outputs,)
    factors: Floats | None  # (inputs,); None: all are 1


def quantised(weights: Floats, biases: Floats, inputs: Inputs, *, equalised: bool) -> Linear:
    """A linear layer, weights (inputs, outputs), as int8; `equalised`: with factors for wide channels."""
    factors = _factors(weights, inputs.largest) if equalised else None
    if factors is not None:
        weights = weights / factors[:, None]
    rounded, scales = rounded_by_column(weights)
    mean = inputs.mean if factors is None else inputs.mean * factors
    shift = mean @ (rounded * scales - weights)
    return Linear(rounded, scales, (biases - shift).astype(np.float32), factors)


def _factors(weights: Floats, largest: Floats) -> Floats:
    tiny = np.float32(1e-6)
    heavy = np.maximum(np.abs(weights).max(axis=1), tiny)
    factors = heavy ** (1 - _SHARE) / np.maximum(largest, tiny) ** _SHARE
    result: Floats = factors / np.exp(np.log(factors).mean())
    return result.astype(np.float32)


def rounded_by_column(weights: Floats) -> tuple[npt.NDArray[np.int8], Floats]:
    """Weights (inputs, outputs) as int8, and the scale of each output."""
    scales: Floats = np.maximum(np.abs(weights).max(axis=0), np.finfo(np.float32).tiny) / np.float32(127)
    return np.rint(weights / scales).astype(np.int8), scales
