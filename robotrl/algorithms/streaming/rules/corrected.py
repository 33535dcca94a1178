"""The direction of a gradient TD step; see `qrc`.

First, at s:    z <- c z + g,   u <- delta z + weight g
Then, at s':    u <- u + weight g'
"""

from __future__ import annotations

from robotrl.algorithms.streaming.compiled import Doubles, Reals, kernel
from robotrl.algorithms.streaming.rules.constants import TINY
from robotrl.algorithms.streaming.state import DECAY, DELTA, WEIGHT


@kernel
def accumulate(x: Reals, d: Reals, z: Reals, u: Reals, s: Doubles) -> None:
    """Take the gradient x d^T (n, m) of one layer into its trace, and write the direction u (n, m)."""
    real = z.dtype.type
    decay, tiny, none = real(s[DECAY]), real(TINY), real(0.0)
    delta, weight = real(s[DELTA]), real(s[WEIGHT])
    for j in range(z.shape[0]):
        for k in range(z.shape[1]):
            g = x[j] * d[k]
            trace = decay * z[j, k] + g
            trace = trace if abs(trace) > tiny else none
            z[j, k] = trace
            u[j, k] = delta * trace + weight * g


@kernel
def add(x: Reals, d: Reals, u: Reals, s: Doubles) -> None:
    """Add the gradient x d^T of one layer at another state to the direction."""
    weight = u.dtype.type(s[WEIGHT])
    for j in range(u.shape[0]):
        for k in range(u.shape[1]):
            u[j, k] += weight * x[j] * d[k]
