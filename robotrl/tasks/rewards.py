"""Soft indicator functions for rewards (Tassa et al. 2018, "DeepMind Control Suite", arXiv:1801.00690).

`tolerance` is 1 inside bounds and falls to `value_at_margin` at distance `margin` outside them, so a
product or mean of such terms is a reward in [0, 1].
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robotrl.core.errors import unknown_name

# NumPy or torch: the formulas are the same for both. On the CPU it is NumPy, whose calls on small arrays
# cost a third of torch's
Namespace = Any
Array = Any


def gaussian(x: Array, value_at_1: float, xp: Namespace) -> Array:
    """exp(-x^2 s) with s such that it is `value_at_1` at x = 1."""
    return xp.exp(x * x * math.log(value_at_1))


def hyperbolic(x: Array, value_at_1: float, xp: Namespace) -> Array:
    """1 / cosh(x s) with s such that it is `value_at_1` at x = 1."""
    return 1.0 / xp.cosh(x * math.acosh(1.0 / value_at_1))


def long_tail(x: Array, value_at_1: float, xp: Namespace) -> Array:
    """1 / (1 + x^2 s) with s such that it is `value_at_1` at x = 1."""
    return 1.0 / (1.0 + x * x * (1.0 / value_at_1 - 1.0))


def reciprocal(x: Array, value_at_1: float, xp: Namespace) -> Array:
    """1 / (1 + x s) for x >= 0, with s such that it is `value_at_1` at x = 1."""
    return 1.0 / (1.0 + x * (1.0 / value_at_1 - 1.0))


def linear(x: Array, value_at_1: float, xp: Namespace) -> Array:
    """1 - x s, cut at 0, with s such that it is `value_at_1` at x = 1."""
    return not_negative(1.0 - x * (1.0 - value_at_1), xp)


def quadratic(x: Array, value_at_1: float, xp: Namespace) -> Array:
    """1 - x^2 s, cut at 0, with s such that it is `value_at_1` at x = 1."""
    return not_negative(1.0 - x * x * (1.0 - value_at_1), xp)


def not_negative(x: Array, xp: Namespace) -> Array:
    """max(x, 0)."""
    return np.maximum(x, 0.0) if xp is np else x.clamp(min=0.0)


SIGMOIDS = {
    "gaussian": gaussian,
    "hyperbolic": hyperbolic,
    "long_tail": long_tail,
    "reciprocal": reciprocal,
    "linear": linear,
    "quadratic": quadratic,
}


def tolerance(
    x: Tensor,
    bounds: tuple[float, float] = (0.0, 0.0),
    margin: float | Tensor = 0.0,
    sigmoid: str = "gaussian",
    value_at_margin: float = 0.1,
) -> Tensor:
    """Return 1 where `x` lies in `bounds`, falling to `value_at_margin` at distance `margin` outside.

    Args:
        x: any shape.
        bounds: inclusive (lower, upper), in the unit of `x`; may be infinite.
        margin: in the unit of `x`; 0 makes a hard indicator.
        sigmoid: one of `SIGMOIDS`, the shape of the fall.
        value_at_margin: in (0, 1), or [0, 1) for "linear" and "quadratic".

    Raises:
        ValueError: the bounds are crossed or the margin is negative.
        UsageError: there is no such sigmoid.
    """
    lower, upper = bounds
    if lower > upper:
        raise ValueError(f"lower bound {lower} is above upper bound {upper}")
    if sigmoid not in SIGMOIDS:
        raise unknown_name("sigmoid", sigmoid, SIGMOIDS)
    if not isinstance(margin, Tensor) and margin <= 0.0:
        if margin < 0.0:
            raise ValueError(f"margin must be 0 or above, got {margin}")
        return ((x >= lower) & (x <= upper)).to(x.dtype)
    if x.device.type == "cpu":
        scale = margin.numpy() if isinstance(margin, Tensor) else margin
        fallen = _fall(x.numpy(), bounds, scale, sigmoid, value_at_margin, np)
        return torch.from_numpy(np.asarray(fallen))
    return _fall(x, bounds, margin, sigmoid, value_at_margin, torch)


def _fall(
    x: Array, bounds: tuple[float, float], margin: Array, sigmoid: str, value: float, xp: Namespace
) -> Array:
    lower, upper = bounds
    if upper == math.inf:
        outside = lower - x
    elif lower == -math.inf:
        outside = x - upper
    elif lower == upper:
        outside = abs(x - lower)
    else:
        outside = xp.maximum(lower - x, x - upper)
    # every sigmoid is 1 at 0, so inside the bounds needs no case of its own
    if lower < upper:
        outside = not_negative(outside, xp)
    return SIGMOIDS[sigmoid](outside / margin, value, xp)
