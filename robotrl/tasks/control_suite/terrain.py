"""Bumpy bowls to climb out of, as dm_control's quadruped escape draws them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robotrl.tasks.control_suite.randomizers import uniform

# 0 is as bumpy as can be, 1 is smooth
SMOOTHNESS = 0.15
BUMP_SIZE_M = 2.0


def draw_bumps(number: int, width_m: float, rng: torch.Generator) -> Tensor:
    """(number, K, K) factors on the height, one for every `BUMP_SIZE_M` along each axis of `width_m`."""
    count = int(width_m / BUMP_SIZE_M)
    return uniform((number, count, count), SMOOTHNESS, 1.0, rng)


def bumpy_bowls(bumps: Tensor, resolution: int) -> Tensor:
    """(number, resolution, resolution) float64 elevations: a bowl times smoothed `bumps`.

    The bowl rises from its middle to 1 half-way to the edge of the map, and falls to 0 there.
    """
    axis = torch.linspace(-1.0, 1.0, resolution, dtype=torch.float64)
    radius = torch.hypot(axis.unsqueeze(1), axis).clamp(0.04, 1.0)
    bowl = 0.5 - torch.cos(2 * math.pi * radius) / 2
    spline = cubic_spline(bumps.shape[-1], resolution)
    return bowl * (spline @ bumps @ spline.T)


def cubic_spline(coarse: int, fine: int) -> Tensor:
    """(fine, coarse) float64 matrix from `coarse` values to their interpolating cubic spline.

    The spline is read at `fine` equidistant places, both ends included, and is mirrored at the ends, as
    scipy's `ndimage.zoom` does (Unser 1999, "Splines: a perfect fit for signal and image processing").
    """
    at_knots = _b_splines(torch.arange(coarse, dtype=torch.float64), coarse)
    places = torch.linspace(0.0, coarse - 1.0, fine, dtype=torch.float64)
    return _b_splines(places, coarse) @ torch.linalg.inv(at_knots)


def _b_splines(x: Tensor, count: int) -> Tensor:
    """(len(x), count) values at `x` of the cubic B-splines at the knots 0 to count - 1, mirrored."""
    knots = torch.arange(-1, count + 1, dtype=torch.float64)
    distance = (x.unsqueeze(1) - knots).abs()
    near = 2 / 3 - distance.square() * (1 - distance / 2)
    far = (2 - distance).clamp(min=0.0) ** 3 / 6
    values = torch.where(distance < 1, near, far)
    values[:, 2] += values[:, 0]
    values[:, -3] += values[:, -1]
    return values[:, 1:-1]
