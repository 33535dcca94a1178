"""The network of a stream: an MLP on one flat vector, with its forward pass compiled.

    hidden layer:  h = f(W x + b),  f one of `units`, by default LayerNorm and LeakyReLU
    output layer:  y = W h + b, then the constants: outputs that do not depend on the input

(Elsayed, Vasan & Mahmood 2024, arXiv:2410.14606). Hidden weights lie transposed, (in, out), so that
the forward pass adds rows and the backward pass takes dot products of rows; the output weights lie as
(out, in). In the flat vector each layer's weights are followed by its biases, all by the constants.

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

from robotrl.algorithms.streaming.compiled import Reals, kernel
from robotrl.algorithms.streaming.state import Shape
from robotrl.algorithms.streaming.units import activate


def new_activations(sizes: Sequence[int], num_streams: int, dtype: npt.DTypeLike) -> Reals:
    """Return room for the activations of N networks, (N, C), with the constant inputs set."""
    a = np.zeros((num_streams, sum(sizes) + len(sizes) - 1 + len(sizes) - 2), dtype)
    a[:, np.cumsum(np.array(sizes[:-1]) + 1) - 1] = 1.0
    return a


def draw_parameters(
    sizes: Sequence[int], sparsity: float, min_inputs: int, rng: np.random.Generator, constants: int = 0
) -> Reals:
    """Draw sparse LeCun-uniform weights and zero biases, (P,) float64 (arXiv:2410.14606, section 3.2).

    Args:
        sizes: layer widths, input and output included.
        sparsity: fraction of each unit's weights that is zero, rounded up; in [0, 1).
        min_inputs: non-zero weights that every unit keeps all the same.
        rng: where the numbers come from.
        constants: outputs that do not depend on the input; they start at 0.
    """
    layers = []
    for fan_in, fan_out in itertools.pairwise([*sizes[:-1], sizes[-1] - constants]):
        bound = 1.0 / math.sqrt(fan_in)
        weight = rng.uniform(-bound, bound, (fan_out, fan_in))
        zeros = min(math.ceil(sparsity * fan_in), max(0, fan_in - min_inputs))
        order = np.argsort(rng.random((fan_out, fan_in)), axis=1)
        np.put_along_axis(weight, order[:, :zeros], 0.0, axis=1)
        layers.append(np.hstack([weight, np.zeros((fan_out, 1))]))
    hidden = [layer.T.ravel() for layer in layers[:-1]]
    return np.concatenate([*hidden, layers[-1].ravel(), np.zeros(constants)])


def layer_matrices(w: Reals, sizes: Sequence[int], constants: int = 0) -> list[Reals]:
    """View flat parameters (P,) as one (out, in + 1) matrix per layer, biases in the last column.

    Constants are the biases of one more layer, which has no inputs.
    """
    matrices = []
    start = 0
    for fan_in, fan_out in itertools.pairwise(sizes[:-1]):
        part = w[start : start + (fan_in + 1) * fan_out]
        matrices.append(part.reshape(-1, fan_out).T)
        start += len(part)
    end = len(w) - constants
    matrices.append(w[start:end].reshape(sizes[-1] - constants, -1))
    return [*matrices, w[end:].reshape(-1, 1)] if constants else matrices


@kernel
def forward(w: Reals, shape: Shape, a: Reals) -> None:
    """Evaluate the network whose input is in the first entries of `a`, and fill the rest of `a`."""
    step_and_forward(w, w, 0.0, shape, a)


@kernel
def step_and_forward(w: Reals, u: Reals, step: float, shape: Shape, a: Reals) -> None:
    """Move the parameters, w <- w + step u, and evaluate the network: one pass through memory.

    Args:
        w: (P,) parameters, changed unless `step` is 0.
        u: (P,) direction.
        step: how far.
        shape: of the network.
        a: activations; the input is in its first entries.
    """
    sizes = shape.sizes
    num_hidden = len(sizes) - 2
    start, p = 0, 0
    for layer in range(num_hidden):
        n, m = sizes[layer] + 1, sizes[layer + 1]
        x, h = a[start : start + n], a[start + n : start + n + m]
        end = p + n * m
        _step_and_transposed_product(w[p:end].reshape(n, m), u[p:end].reshape(n, m), step, x, h)
        a[len(a) - num_hidden + layer] = activate(shape.unit, h)
        start += n
        p = end
    n, m = sizes[num_hidden] + 1, sizes[num_hidden + 1] - shape.constants
    if step != 0.0:
        factor = w.dtype.type(step)
        for k in range(p, len(w)):
            w[k] += factor * u[k]
    end = p + n * m
    product(w[p:end].reshape(m, n), a[start : start + n], a[start + n : start + n + m])
    copy(w[end:], a[start + n + m :])


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
