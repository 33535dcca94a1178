"""Soft indicator functions for rewards (Tassa et al. 2018, "DeepMind Control Suite", arXiv:1801.00690).

`tolerance` is 1 inside bounds and falls to `value_at_margin` at distance `margin` outside them, so a
product or mean of such terms is a reward in [0, 1].
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robotrl.core.errors import unknown_name


def gaussian(x: Tensor, value_at_1: float) -> Tensor:
    """exp(-x^2 s) with s such that it is `value_at_1` at x = 1."""
    return torch.exp(x.square() * math.log(value_at_1))


def hyperbolic(x: Tensor, value_at_1: float) -> Tensor:
    """1 / cosh(x s) with s such that it is `value_at_1` at x = 1."""
    return 1.0 / torch.cosh(x * math.acosh(1.0 / value_at_1))


def long_tail(x: Tensor, value_at_1: float) -> Tensor:
    """1 / (1 + x^2 s) with s such that it is `value_at_1` at x = 1."""
    return 1.0 / (1.0 + x.square() * (1.0 / value_at_1 - 1.0))


def reciprocal(x: Tensor, value_at_1: float) -> Tensor:
    """1 / (1 + x s) for x >= 0, with s such that it is `value_at_1` at x = 1."""
    return 1.0 / (1.0 + x * (1.0 / value_at_1 - 1.0))


def linear(x: Tensor, value_at_1: float) -> Tensor:
    """1 - x s, cut at 0 and 1, with s such that it is `value_at_1` at x = 1."""
    return (1.0 - x * (1.0 - value_at_1)).clamp(0.0, 1.0)


def quadratic(x: Tensor, value_at_1: float) -> Tensor:
    """1 - x^2 s, cut at 0, with s such that it is `value_at_1` at x = 1."""
    return (1.0 - x.square() * (1.0 - value_at_1)).clamp(min=0.0)


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
    # every sigmoid is 1 at 0, so inside the bounds needs no case of its own; `linear` is cut there itself
    if upper == math.inf:
        outside = lower - x
    elif lower == -math.inf:
        outside = x - upper
    else:
        outside = torch.maximum(lower - x, x - upper)
    if sigmoid != "linear":
        outside = outside.clamp(min=0.0)
    return SIGMOIDS[sigmoid](outside / margin, value_at_margin)
