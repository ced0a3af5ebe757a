"""How linear layers become int8 without losing more than they must.

Weights are rounded per output, inputs with one scale for all, which is known beforehand: so what a text is answered
does not depend on what else is in its batch. From what the layers' inputs are like on a few texts:

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
_ROOM = 1.2  # for inputs further out than any that was seen; what is further still becomes the last level


class Inputs(NamedTuple):
    """What the inputs of one linear layer are like, by channel."""

    mean: Floats
    lowest: Floats
    highest: Floats


class Linear(NamedTuple):
    """A linear layer in int8.

    Inputs, multiplied by `factors`, become levels: `levels` = rint(inputs / `step`) + `zero`, from 0 to 255. Outputs
    are (`levels` - `zero`) @ `weights` * `step` * `scales` + `biases`.
    """

    weights: npt.NDArray[np.int8]  # (inputs, outputs)
    scales: Floats  # (outputs,)
    biases: Floats  # (outputs,)
    factors: Floats | None  # (inputs,); None: all are 1
    step: np.float32
    zero: np.uint8


def quantised(weights: Floats, biases: Floats, inputs: Inputs, *, equalised: bool) -> Linear:
    """A linear layer, weights (inputs, outputs), as int8; `equalised`: with factors for wide channels."""
    factors = _factors(weights, inputs) if equalised else None
    if factors is not None:
        weights = weights / factors[:, None]
        inputs = Inputs(*(part * factors for part in inputs))
    rounded, scales = rounded_by_column(weights)
    shift = inputs.mean @ (rounded * scales - weights)
    step, zero = _levels(float(inputs.lowest.min()) * _ROOM, float(inputs.highest.max()) * _ROOM)
    return Linear(rounded, scales, (biases - shift).astype(np.float32), factors, step, zero)


def _factors(weights: Floats, inputs: Inputs) -> Floats:
    tiny = np.float32(1e-6)
    heavy = np.maximum(np.abs(weights).max(axis=1), tiny)
    wide = np.maximum(np.maximum(inputs.highest, -inputs.lowest), tiny)
    factors = heavy ** (1 - _SHARE) / wide**_SHARE
    result: Floats = factors / np.exp(np.log(factors).mean())
    return result.astype(np.float32)


def rounded_by_column(weights: Floats) -> tuple[npt.NDArray[np.int8], Floats]:
    """Weights (inputs, outputs) as int8, and the scale of each output."""
    scales: Floats = np.maximum(np.abs(weights).max(axis=0), np.finfo(np.float32).tiny) / np.float32(127)
    return np.rint(weights / scales).astype(np.int8), scales


def _levels(low: float, high: float) -> tuple[np.float32, np.uint8]:
    """The step between 256 levels from `low` to `high`, and the level of 0, which is always one of them."""
    low, high = min(low, 0.0), max(high, 0.0)
    step = np.float32(max(high - low, 1e-12) / 255)
    return step, np.uint8(np.clip(np.rint(-low / step), 0, 255))
