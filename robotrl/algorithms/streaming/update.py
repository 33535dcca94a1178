"""One network's update: its gradient, layer by layer from the output, into traces and a step.

A gradient of a network at one state is an outer product per layer, so it is never stored: each rule
takes the two factors and sweeps over the layer's traces once.
"""

from __future__ import annotations

from robotrl.algorithms.streaming.compiled import Doubles, Reals, kernel
from robotrl.algorithms.streaming.network import product
from robotrl.algorithms.streaming.rules import baselines, intentional, obgd
from robotrl.algorithms.streaming.rules.codes import (
    ADAM,
    ADAPTIVE_OBGD,
    GRADIENT,
    INTENTIONAL,
    INTENTIONAL_LOGITS,
    OBGD,
    OUTPUT_NORM,
    SGD,
)
from robotrl.algorithms.streaming.state import (
    DECAY,
    DELTA,
    FIRST,
    MEANS,
    RATE,
    SECOND,
    SQUARES,
    STEP,
    TRACE,
    UPDATES,
    WEIGHTS,
    Shape,
)
from robotrl.algorithms.streaming.units import backward


@kernel
def begin_update(rule: int, delta: float, decay: float, is_policy: bool, s: Doubles) -> None:
    """Tell a rule's state about the update to come.

    Args:
        rule: code of the step-size rule.
        delta: TD error.
        decay: gamma lambda.
        is_policy: whether the network is a policy.
        s: state of the rule.
    """
    s[UPDATES] += 1.0
    s[DECAY], s[DELTA] = decay, delta
    s[FIRST], s[SECOND] = 0.0, 0.0
    if rule in (INTENTIONAL, INTENTIONAL_LOGITS):
        intentional.clip_delta(s, is_policy)
    if rule == INTENTIONAL_LOGITS:
        intentional.clip_relative_delta(s)


@kernel
def accumulate_gradient(
    rule: int, memory: Reals, u: Reals, shape: Shape, a: Reals, d: Reals, spare: Reals, s: Doubles
) -> Reals:
    """Propagate the output's gradient back through the network, into the traces of every layer.

    Args:
        rule: code of the step-size rule; OUTPUT_NORM and GRADIENT, which adds the gradient to `u`, leave the
            traces alone.
        memory: (R, P) parameters, traces and moments of the network.
        u: (P,) direction, written by rules whose direction is not the trace.
        shape: of the network.
        a: activations.
        d: gradient of the output in its first entries; overwritten, as long as the widest layer.
        spare: as long as `d`; overwritten.
        s: state of the rule.

    Returns:
        The gradient of the first hidden layer's z, in `d` or `spare`.
    """
    sizes = shape.sizes
    num_hidden = len(sizes) - 2
    n, num_outputs = sizes[num_hidden] + 1, sizes[num_hidden + 1]
    m = num_outputs - shape.constants
    end = memory.shape[1] - shape.constants
    start = len(a) - num_hidden - num_outputs - n
    p = end - n * m
    x = a[start : start + n]
    if shape.constants > 0:  # a layer whose only input is the 1 that biases have
        _accumulate_layer(rule, d[m:num_outputs], x[n - 1 :], memory, u, end, s)
    _accumulate_layer(rule, d[:m], x, memory, u, p, s)
    _transposed_product(memory[WEIGHTS, p:end].reshape(m, n), d[:m], spare[: n - 1])
    for layer in range(num_hidden - 1, -1, -1):
        d, spare = spare, d
        n, m = sizes[layer] + 1, sizes[layer + 1]
        end = p
        p -= n * m
        backward(shape.unit, a[start : start + m], a[len(a) - num_hidden + layer], d[:m])
        start -= n
        x = a[start : start + n]
        _accumulate_layer(rule, x, d[:m], memory, u, p, s)
        if layer > 0:
            product(memory[WEIGHTS, p:end].reshape(n, m), d[:m], spare[: n - 1])
    return d[: sizes[1]]


@kernel
def _accumulate_layer(rule: int, x: Reals, d: Reals, memory: Reals, u: Reals, p: int, s: Doubles) -> None:
    """Hand the gradient x d^T of the layer whose parameters start at `p` to the rule."""
    n, m = len(x), len(d)
    z = memory[TRACE, p : p + n * m].reshape(n, m)
    v = memory[min(SQUARES, len(memory) - 1), p : p + n * m].reshape(n, m)
    direction_part = u[p : p + n * m].reshape(n, m)
    if rule in (INTENTIONAL, INTENTIONAL_LOGITS):
        intentional.accumulate(x, d, z, v, direction_part, s, rule == INTENTIONAL_LOGITS)
    elif rule == OUTPUT_NORM:
        intentional.add_output_norm(x, d, v, s)
    elif rule == GRADIENT:
        baselines.add_gradient(x, d, direction_part)
    elif rule == ADAPTIVE_OBGD:
        obgd.accumulate_adaptive(x, d, z, v, direction_part, s)
    elif rule == ADAM:
        means = memory[MEANS, p : p + n * m].reshape(n, m)
        baselines.accumulate_adam(x, d, z, v, means, direction_part, s)
    else:
        obgd.accumulate(x, d, z, s)


@kernel
def finish_update(rule: int, s: Doubles) -> float:
    """Return the factor by which the parameters move along the direction."""
    if rule in (OBGD, ADAPTIVE_OBGD):
        s[STEP] = obgd.step_size(s)
    elif rule in (INTENTIONAL, INTENTIONAL_LOGITS):
        s[STEP] = intentional.step_size(s)
    elif rule == SGD:
        s[STEP] = baselines.sgd_step_size(s)
    else:
        s[STEP] = s[RATE]
    return s[STEP]


@kernel
def _transposed_product(w: Reals, x: Reals, y: Reals) -> None:
    """Y <- W^T x for as many columns of W (n, >= m) as y (m,) has entries."""
    y[:] = w.dtype.type(0.0)
    for j in range(w.shape[0]):
        for k in range(len(y)):
            y[k] += x[j] * w[j, k]
