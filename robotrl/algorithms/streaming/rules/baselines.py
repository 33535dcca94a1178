"""Baselines with eligibility traces: plain gradient steps and Adam (Kingma & Ba 2015, arXiv:1412.6980).

z <- c z + g
SGD:   w <- w + alpha delta z
Adam:  m <- 0.9 m + 0.1 delta z,  v <- 0.999 v + 0.001 (delta z)^2
       w <- w + alpha m / (1 - 0.9^t) / (sqrt(v / (1 - 0.999^t)) + 1e-8)
"""

from __future__ import annotations

import math

from robotrl.algorithms.streaming.compiled import Doubles, Reals, kernel
from robotrl.algorithms.streaming.rules import obgd
from robotrl.algorithms.streaming.rules.constants import SQUARE_DECAY, TINY, TINY_SQUARE
from robotrl.algorithms.streaming.state import DELTA, RATE, UPDATES

_MEAN_DECAY = 0.9
_EPS = 1e-8


@kernel
def accumulate_adam(x: Reals, d: Reals, z: Reals, v: Reals, m: Reals, u: Reals, s: Doubles) -> None:
    """Take the gradient x d^T of one layer into z, v and m; leave the direction in u."""
    obgd.accumulate(x, d, z, s)
    real = z.dtype.type
    delta, one, eps = real(s[DELTA]), real(1.0), real(_EPS)
    tiny, tiny_square, none = real(TINY), real(TINY_SQUARE), real(0.0)
    keep_mean, take_mean = real(_MEAN_DECAY), real(1.0 - _MEAN_DECAY)
    keep, take = real(SQUARE_DECAY), real(1.0 - SQUARE_DECAY)
    mean_correction = real(1.0 / (1.0 - _MEAN_DECAY ** s[UPDATES]))
    correction = real(1.0 / (1.0 - SQUARE_DECAY ** s[UPDATES]))
    for j in range(z.shape[0]):
        for k in range(z.shape[1]):
            push = delta * z[j, k]
            mean = keep_mean * m[j, k] + take_mean * push
            mean = mean if abs(mean) > tiny else none
            m[j, k] = mean
            square = keep * v[j, k] + take * push * push
            square = square if square > tiny_square else none
            v[j, k] = square
            u[j, k] = mean * mean_correction * (one / (math.sqrt(square * correction) + eps))


@kernel
def add_gradient(x: Reals, d: Reals, u: Reals) -> None:
    """U <- u + x d^T."""
    for j in range(u.shape[0]):
        for k in range(u.shape[1]):
            u[j, k] += x[j] * d[k]


@kernel
def sgd_step_size(s: Doubles) -> float:
    """Return alpha delta, the factor of z."""
    return s[RATE] * s[DELTA]
