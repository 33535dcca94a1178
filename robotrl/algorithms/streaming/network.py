"""The network of a stream: an MLP on one flat vector, with its forward pass compiled.

    hidden layer:  h = LeakyReLU(LayerNorm(W x + b)),  LayerNorm without parameters, slope 0.01
    output layer:  y = W h + b

(Elsayed, Vasan & Mahmood 2024, arXiv:2410.14606). Hidden weights lie transposed, (in, out), so that
the forward pass adds rows and the backward pass takes dot products of rows; the output weights lie as
(out, in). In the flat vector each layer's weights are followed by its biases.

The bias is the weight of an input that is always 1: each layer is one matrix, (in + 1, out) for hidden
layers and (out, in + 1) for the output, and a gradient is one outer product per layer. The activations
of a forward pass are one vector too: input, 1, hidden layer, 1, ..., output side by side, then one over
the standard deviation of each hidden layer.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from robotrl.algorithms.streaming.compiled import Integers, Reals, kernel

SLOPE = 0.01
EPS = 1e-5


def new_activations(sizes: Sequence[int], num_streams: int, dtype: npt.DTypeLike) -> Reals:
    """Return room for the activations of N networks, (N, C), with the constant inputs set."""
    a = np.zeros((num_streams, sum(sizes) + len(sizes) - 1 + len(sizes) - 2), dtype)
    a[:, np.cumsum(np.array(sizes[:-1]) + 1) - 1] = 1.0
    return a


def draw_parameters(
    sizes: Sequence[int], sparsity: float, min_inputs: int, rng: np.random.Generator
) -> Reals:
    """Draw sparse LeCun-uniform weights and zero biases, (P,) float64 (arXiv:2410.14606, section 3.2).

    Args:
        sizes: layer widths, input and output included.
        sparsity: fraction of each unit's weights that is zero, rounded up; in [0, 1).
        min_inputs: non-zero weights that every unit keeps all the same.
        rng: where the numbers come from.
    """
    layers = []
    for fan_in, fan_out in itertools.pairwise(sizes):
        bound = 1.0 / math.sqrt(fan_in)
        weight = rng.uniform(-bound, bound, (fan_out, fan_in))
        zeros = min(math.ceil(sparsity * fan_in), max(0, fan_in - min_inputs))
        order = np.argsort(rng.random((fan_out, fan_in)), axis=1)
        np.put_along_axis(weight, order[:, :zeros], 0.0, axis=1)
        layers.append(np.hstack([weight, np.zeros((fan_out, 1))]))
    return np.concatenate([layer.T.ravel() for layer in layers[:-1]] + [layers[-1].ravel()])


def layer_matrices(w: Reals, sizes: Sequence[int]) -> list[Reals]:
    """View flat parameters (P,) as one (out, in + 1) matrix per layer, biases in the last column."""
    matrices = []
    start = 0
    for layer, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
        part = w[start : start + (fan_in + 1) * fan_out]
        is_output = layer == len(sizes) - 2
        matrices.append(part.reshape(fan_out, -1) if is_output else part.reshape(-1, fan_out).T)
        start += len(part)
    return matrices


@kernel
def normalize_and_activate(h: Reals) -> float:
    """Apply LayerNorm and LeakyReLU in place; return one over the standard deviation."""
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
def forward(w: Reals, sizes: Integers, a: Reals) -> None:
    """Evaluate the network whose input is in the first entries of `a`, and fill the rest of `a`."""
    step_and_forward(w, w, 0.0, sizes, a)


@kernel
def step_and_forward(w: Reals, u: Reals, step: float, sizes: Integers, a: Reals) -> None:
    """Move the parameters, w <- w + step u, and evaluate the network: one pass through memory.

    Args:
        w: (P,) parameters, changed unless `step` is 0.
        u: (P,) direction.
        step: how far.
        sizes: (L + 2,) layer widths.
        a: activations; the input is in its first entries.
    """
    num_hidden = len(sizes) - 2
    start, p = 0, 0
    for layer in range(num_hidden):
        n, m = sizes[layer] + 1, sizes[layer + 1]
        x, h = a[start : start + n], a[start + n : start + n + m]
        end = p + n * m
        _step_and_transposed_product(w[p:end].reshape(n, m), u[p:end].reshape(n, m), step, x, h)
        a[len(a) - num_hidden + layer] = normalize_and_activate(h)
        start += n
        p = end
    n, m = sizes[num_hidden] + 1, sizes[num_hidden + 1]
    if step != 0.0:
        factor = w.dtype.type(step)
        for k in range(p, len(w)):
            w[k] += factor * u[k]
    product(w[p:].reshape(m, n), a[start : start + n], a[start + n : start + n + m])


@kernel
def copy(source: Reals, target: Reals) -> None:
    """Write a vector into the beginning of another."""
    for k in range(len(source)):
        target[k] = source[k]


@kernel
def product(w: Reals, x: Reals, y: Reals) -> None:
    """Y <- W x for as many rows of W (>= n, m) as y (n,) has entries."""
    for j in range(len(y)):
        total = w.dtype.type(0.0)
        for k in range(w.shape[1]):
            total += w[j, k] * x[k]
        y[j] = total


@kernel
def _step_and_transposed_product(w: Reals, u: Reals, step: float, x: Reals, h: Reals) -> None:
    """W <- W + step U, then h <- W^T x."""
    h[:] = w.dtype.type(0.0)
    if step == 0.0:
        for j in range(w.shape[0]):
            for k in range(w.shape[1]):
                h[k] += x[j] * w[j, k]
        return
    factor = w.dtype.type(step)
    for j in range(w.shape[0]):
        for k in range(w.shape[1]):
            moved = w[j, k] + factor * u[j, k]
            w[j, k] = moved
            h[k] += x[j] * moved
