"""Hidden units: what a layer does with z = W x + b, forwards and, from its output alone, backwards.

    layer_norm:  h = LeakyReLU(xhat),  xhat = (z - mean z) r,  r = 1 / sqrt(var z + 1e-5), slope 0.01
                 dL/dz = r (e - mean e - xhat mean(e xhat)),  e = dL/dh LeakyReLU'(xhat)
    relu:        h = max(z, 0),                   dL/dz = dL/dh [h > 0]
    tanh:        h = tanh z,                      dL/dz = dL/dh (1 - h^2)
    elu:         h = z if z > 0 else e^z - 1,     dL/dz = dL/dh (1 if h > 0 else h + 1)

The first is that of streaming learners (arXiv:2410.14606), the others are those of the toolkit's MLP, whose
policies and critics a stream can go on with.
"""

from __future__ import annotations

import enum
import math

from robotrl.algorithms.streaming.compiled import Reals, kernel
from robotrl.core.errors import UsageError
from robotrl.networks.mlp import Activation

SLOPE = 0.01
EPS = 1e-5

LAYER_NORM, RELU, TANH = 0, 1, 2


class Unit(enum.Enum):
    """Kind of hidden unit."""

    LAYER_NORM = "layer_norm"
    """LayerNorm without parameters, then LeakyReLU."""
    RELU = "relu"
    TANH = "tanh"
    ELU = "elu"

    @classmethod
    def of(cls, activation: Activation) -> Unit:
        """Return the unit that does what an MLP's activation does.

        Raises:
            UsageError: there is none.
        """
        if activation.value not in [unit.value for unit in cls]:
            raise UsageError(
                f"a stream goes on with networks of relu, tanh or elu units, not {activation.value}: "
                "train with one of those"
            )
        return cls(activation.value)

    @property
    def code(self) -> int:
        """What kernels call it."""
        return list(Unit).index(self)


@kernel
def activate(unit: int, h: Reals) -> float:
    """Turn z into h in place; return one over the standard deviation of z, or 1 where it is not needed."""
    if unit == LAYER_NORM:
        return _normalize_and_activate(h)
    real = h.dtype.type
    none = real(0.0)
    for k in range(len(h)):
        if unit == TANH:
            h[k] = math.tanh(h[k])
        elif h[k] < none:
            h[k] = none if unit == RELU else real(math.expm1(h[k]))
    return real(1.0)


@kernel
def backward(unit: int, h: Reals, scale: float, d: Reals) -> None:
    """Turn dL/dh into dL/dz in place, given what `activate` wrote and returned."""
    if unit == LAYER_NORM:
        _backward_layer_norm(h, scale, d)
        return
    real = h.dtype.type
    none, one = real(0.0), real(1.0)
    for k in range(len(h)):
        if unit == TANH:
            d[k] *= one - h[k] * h[k]
        elif not h[k] > none:
            d[k] = none if unit == RELU else d[k] * (h[k] + one)


@kernel
def _normalize_and_activate(h: Reals) -> float:
    real = h.dtype.type
    total = real(0.0)
    for k in range(len(h)):
        total += h[k]
    mean = total / real(len(h))
    square = real(0.0)
    for k in range(len(h)):
        h[k] -= mean
        square += h[k] * h[k]
    scale = real(1.0 / math.sqrt(square / len(h) + EPS))
    slope = real(SLOPE)
    for k in range(len(h)):
        xhat = h[k] * scale
        h[k] = xhat if xhat > real(0.0) else slope * xhat
    return scale


@kernel
def _backward_layer_norm(h: Reals, scale: float, d: Reals) -> None:
    real = h.dtype.type
    slope, inverse, none = real(SLOPE), real(1.0 / SLOPE), real(0.0)
    total, along = none, none
    for k in range(len(h)):
        positive = h[k] > none
        e = d[k] if positive else slope * d[k]
        d[k] = e
        total += e
        along += e * (h[k] if positive else inverse * h[k])
    mean, along = total / real(len(h)), along / real(len(h))
    for k in range(len(h)):
        xhat = h[k] if h[k] > none else inverse * h[k]
        d[k] = scale * (d[k] - mean - xhat * along)
