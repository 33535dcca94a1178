"""Intentional updates: fix how far the output moves and solve for the step (arXiv:2604.19033).

With c = gamma lambda and t updates so far,

    v <- 0.999 v + 0.001 g^2,     rho = 1 / (sqrt(v / (1 - 0.999^t)) + 1e-8)
    n  = <g, rho g>
    z <- c z + g,                 q = <z, rho z>
    m <- m + (1 - c) (n - m)
    D <- 0.9998 D + 0.0002 delta^2,  |delta| cut at 20 sqrt(D / (1 - 0.9998^t))
    w <- w + eta / max(sqrt(m / (1 - c^t) q), 1e-8) delta rho z

A policy's delta is in addition divided by the bias-corrected running mean of |delta|: its log
probability moves in proportion to how large the error is beside the usual one.

**Categorical policies** (not in the paper): as the policy becomes certain, all of grad log pi vanishes with
1 - pi, log pi(a) has no room left to rise by eta, and a step that seeks it moves logits by eta / (1 - pi),
without end. So what moves by eta delta is the logits y, which move log pi by less where it is certain:
`accumulate` leaves the current gradient out of n and q, and `add_output_norm` puts in its place

    n = T,     q = <c z', rho c z'> + T   with z' the trace before this step,

T = E_b <s, rho s> with s = grad (y_b - mean y) and b uniform, estimated without bias from one b drawn
independently of the action taken. Their relative delta is cut at 20 too: where |delta| is next to 0 for
thousands of steps, as in a task that is solved, a single failure is hundreds of times the usual error.

The paper's open problem, that n depends on the sampled action and so re-weights actions, was tried for
Gaussian policies with the trace of the Fisher matrix, T = E_b <s, rho s> with s = grad log pi(b|s), in the
same place. It measured no better (docs/streaming.md, "Which rule") and is not kept.
"""

from __future__ import annotations

import math

from robotrl.algorithms.streaming.compiled import Doubles, Reals, kernel
from robotrl.algorithms.streaming.rules.constants import SQUARE_DECAY, TINY, TINY_SQUARE
from robotrl.algorithms.streaming.state import (
    DECAY,
    DELTA,
    FIRST,
    MEAN_ABS_DELTA,
    MEAN_FIRST,
    MEAN_SQUARE_DELTA,
    RATE,
    SECOND,
    UPDATES,
)

_DELTA_DECAY = 0.9998
_CLIP = 20.0
_EPS = 1e-8


@kernel
def accumulate(x: Reals, d: Reals, z: Reals, v: Reals, u: Reals, s: Doubles, only_past: bool) -> None:
    """Take the gradient x d^T of one layer into z and v; leave rho z in u, and n and q in `s`.

    Args:
        x: (n,).
        d: (m,).
        z: (n, m) trace.
        v: (n, m) running mean of squares.
        u: (n, m) direction, written.
        s: state of the rule.
        only_past: leave the current gradient out of n and q.
    """
    real = z.dtype.type
    decay, tiny, tiny_square, none = real(s[DECAY]), real(TINY), real(TINY_SQUARE), real(0.0)
    keep, take = real(SQUARE_DECAY), real(1.0 - SQUARE_DECAY)
    one, eps = real(1.0), real(_EPS)
    correction = real(1.0 / (1.0 - SQUARE_DECAY ** s[UPDATES]))
    present = none if only_past else one
    for j in range(z.shape[0]):
        first, second = none, none
        for k in range(z.shape[1]):
            g = x[j] * d[k]
            square = keep * v[j, k] + take * g * g
            square = square if square > tiny_square else none
            v[j, k] = square
            rho = one / (math.sqrt(square * correction) + eps)
            past = decay * z[j, k]
            trace = past + g
            trace = trace if abs(trace) > tiny else none
            z[j, k] = trace
            u[j, k] = rho * trace
            counted = past + present * g
            first += g * g * rho
            second += counted * counted * rho
        s[FIRST] += present * first
        s[SECOND] += second


@kernel
def add_output_norm(x: Reals, d: Reals, v: Reals, s: Doubles) -> None:
    """Add <g, rho g> of the gradient g = x d^T of one layer to n and q, with the rho of `v`."""
    real = v.dtype.type
    one, eps = real(1.0), real(_EPS)
    correction = real(1.0 / (1.0 - SQUARE_DECAY ** s[UPDATES]))
    for j in range(v.shape[0]):
        first = real(0.0)
        for k in range(v.shape[1]):
            g = x[j] * d[k]
            first += g * g * (one / (math.sqrt(v[j, k] * correction) + eps))
        s[FIRST] += first
        s[SECOND] += first


@kernel
def clip_delta(s: Doubles, is_policy: bool) -> None:
    """Cut the TD error in `s` at 20 times its running size; a policy's becomes relative to it."""
    s[MEAN_SQUARE_DELTA] += (1.0 - _DELTA_DECAY) * (s[DELTA] ** 2 - s[MEAN_SQUARE_DELTA])
    correction = 1.0 - _DELTA_DECAY ** s[UPDATES]
    cap = _CLIP * math.sqrt(s[MEAN_SQUARE_DELTA] / correction)
    s[DELTA] = min(max(s[DELTA], -cap), cap)
    if is_policy:
        s[MEAN_ABS_DELTA] += (1.0 - _DELTA_DECAY) * (abs(s[DELTA]) - s[MEAN_ABS_DELTA])
        s[DELTA] /= max(s[MEAN_ABS_DELTA] / correction, 1e-12)


@kernel
def clip_relative_delta(s: Doubles) -> None:
    """Cut a policy's relative TD error in `s` at 20."""
    s[DELTA] = min(max(s[DELTA], -_CLIP), _CLIP)


@kernel
def step_size(s: Doubles) -> float:
    """Return the factor of the direction u = rho z."""
    decay = s[DECAY]
    s[MEAN_FIRST] += (1.0 - decay) * (s[FIRST] - s[MEAN_FIRST])
    mean = s[MEAN_FIRST] / (1.0 - decay ** s[UPDATES])
    return s[RATE] / max(math.sqrt(mean * s[SECOND]), 1e-8) * s[DELTA]
