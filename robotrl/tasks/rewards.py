"""Soft indicator functions for rewards (Tassa et al. 2018, "DeepMind Control Suite", arXiv:1801.00690).

`tolerance` is 1 inside bounds and falls to `value_at_margin` at distance `margin` outside them, so a
product or mean of such terms is a reward in [0, 1].
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def gaussian(x: Tensor, value_at_1: float) -> Tensor:
    """exp(-x^2 s^2 / 2) with s such that it is `value_at_1` at x = 1."""
    scale = math.sqrt(-2.0 * math.log(value_at_1))
    return torch.exp(-0.5 * (x * scale) ** 2)


def hyperbolic(x: Tensor, value_at_1: float) -> Tensor:
    """1 / cosh(x s) with s such that it is `value_at_1` at x = 1."""
    return 1.0 / torch.cosh(x * math.acosh(1.0 / value_at_1))


def long_tail(x: Tensor, value_at_1: float) -> Tensor:
    """1 / (1 + x^2 s^2) with s such that it is `value_at_1` at x = 1."""
    return 1.0 / ((x * math.sqrt(1.0 / value_at_1 - 1.0)) ** 2 + 1.0)


def linear(x: Tensor, value_at_1: float) -> Tensor:
    """1 - x s, cut at 0, with s such that it is `value_at_1` at x = 1."""
    scaled = x * (1.0 - value_at_1)
    return torch.where(scaled.abs() < 1.0, 1.0 - scaled, torch.zeros_like(x))


def quadratic(x: Tensor, value_at_1: float) -> Tensor:
    """1 - x^2 s^2, cut at 0, with s such that it is `value_at_1` at x = 1."""
    scaled = x * math.sqrt(1.0 - value_at_1)
    return torch.where(scaled.abs() < 1.0, 1.0 - scaled**2, torch.zeros_like(x))


SIGMOIDS = {
    "gaussian": gaussian,
    "hyperbolic": hyperbolic,
    "long_tail": long_tail,
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
    """
    lower, upper = bounds
    if lower > upper:
        raise ValueError(f"lower bound {lower} is above upper bound {upper}")
    inside = (x >= lower) & (x <= upper)
    if not isinstance(margin, Tensor) and margin == 0.0:
        return inside.to(x.dtype)
    distance = torch.where(x < lower, lower - x, x - upper) / margin
    return torch.where(inside, torch.ones_like(x), SIGMOIDS[sigmoid](distance, value_at_margin))
