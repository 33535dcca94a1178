"""Overshooting-bounded gradient descent (Elsayed, Vasan & Mahmood 2024, arXiv:2410.14606).

    z <- c z + g
    M  = kappa max(|delta|, 1) ||z||_1
    w <- w + min(1, 1 / M) delta z

One step moves all parameters together by at most 1 / kappa in the 1-norm. The adaptive form (appendix
B there) scales every coordinate by the root of a running mean, which takes the place of z:

    v <- 0.999 v + 0.001 (delta z)^2
    u  = z / sqrt(v / (1 - 0.999^t) + 1e-8)
"""

from __future__ import annotations

import math

from robotrl.algorithms.streaming.compiled import Doubles, Reals, kernel
from robotrl.algorithms.streaming.rules.constants import SQUARE_DECAY, TINY, TINY_SQUARE
from robotrl.algorithms.streaming.state import DECAY, DELTA, FIRST, RATE, UPDATES

_EPS = 1e-8


@kernel
def accumulate(x: Reals, d: Reals, z: Reals, s: Doubles) -> None:
    """Take the gradient x d^T (n, m) of one layer into its trace and ||z||_1.

    Args:
        x: (n,).
        d: (m,).
        z: (n, m) trace.
        s: state of the rule.
    """
    real = z.dtype.type
    decay, tiny, none = real(s[DECAY]), real(TINY), real(0.0)
    for j in range(z.shape[0]):
        norm = none
        for k in range(z.shape[1]):
            trace = decay * z[j, k] + x[j] * d[k]
            trace = trace if abs(trace) > tiny else none
            z[j, k] = trace
            norm += abs(trace)
        s[FIRST] += norm


@kernel
def accumulate_adaptive(x: Reals, d: Reals, z: Reals, v: Reals, u: Reals, s: Doubles) -> None:
    """Take the gradient x d^T of one layer into z and v; leave the direction in u and ||u||_1."""
    real = z.dtype.type
    decay, tiny, tiny_square, none = real(s[DECAY]), real(TINY), real(TINY_SQUARE), real(0.0)
    delta, one, eps = real(s[DELTA]), real(1.0), real(_EPS)
    keep, take = real(SQUARE_DECAY), real(1.0 - SQUARE_DECAY)
    correction = real(1.0 / (1.0 - SQUARE_DECAY ** s[UPDATES]))
    for j in range(z.shape[0]):
        norm = none
        for k in range(z.shape[1]):
            trace = decay * z[j, k] + x[j] * d[k]
            trace = trace if abs(trace) > tiny else none
            z[j, k] = trace
            square = keep * v[j, k] + take * (delta * trace) * (delta * trace)
            square = square if square > tiny_square else none
            v[j, k] = square
            scaled = trace * (one / math.sqrt(square * correction + eps))
            u[j, k] = scaled
            norm += abs(scaled)
        s[FIRST] += norm


@kernel
def step_size(s: Doubles) -> float:
    """Return min(1, 1 / M) delta, the factor of the direction."""
    bound = s[RATE] * max(abs(s[DELTA]), 1.0) * s[FIRST]
    return s[DELTA] / max(bound, 1.0)
