"""Checks and draws that the Gymnasium tasks share."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from robotrl.core.errors import UsageError


def interval(name: str, bounds: tuple[float, float]) -> tuple[float, float]:
    """Return `bounds` as a tuple of floats, lower first.

    Raises:
        UsageError: it is not a pair of numbers with lower < upper.
    """
    low, high = (float(bound) for bound in bounds) if len(bounds) == 2 else (math.nan, math.nan)
    if not low < high:
        raise UsageError(f"{name} must be [lower, upper] with lower < upper, got {list(bounds)}")
    return low, high


def not_negative(**values: float) -> None:
    """Refuse option values that are negative or not finite.

    Raises:
        UsageError: names the first such option.
    """
    for name, value in values.items():
        if not (math.isfinite(value) and value >= 0):
            raise UsageError(f"{name} must be finite and at least 0, got {value}")


def finite(**values: float) -> None:
    """Refuse option values that are NaN or infinite.

    Raises:
        UsageError: names the first such option.
    """
    for name, value in values.items():
        if not math.isfinite(value):
            raise UsageError(f"{name} must be finite, got {value}")


def uniform_noise(shape: tuple[int, int], scale: float, rng: torch.Generator) -> Tensor:
    """(shape) float64 draws from [-scale, scale)."""
    return scale * (2.0 * torch.rand(shape, dtype=torch.float64, generator=rng) - 1.0)


def normal_noise(shape: tuple[int, int], scale: float, rng: torch.Generator) -> Tensor:
    """(shape) float64 draws from a normal distribution with standard deviation `scale`."""
    return scale * torch.randn(shape, dtype=torch.float64, generator=rng)


def rejection_sample(
    n: int,
    low: tuple[float, ...],
    high: tuple[float, ...],
    accept: Callable[[Tensor], Tensor],
    rng: torch.Generator,
) -> Tensor:
    """Draw points uniformly from the part of a box in which `accept` holds.

    Args:
        n: number of points.
        low: lower bound of each of the d coordinates.
        high: upper bound of each.
        accept: maps (m, d) points to (m,) bool.
        rng: source of every draw.

    Returns:
        (n, d) float64.
    """
    lower = torch.tensor(low, dtype=torch.float64)
    size = torch.tensor(high, dtype=torch.float64) - lower
    points = lower.expand(n, -1).clone()
    missing = torch.arange(n)
    while len(missing):
        drawn = lower + size * torch.rand((len(missing), len(low)), dtype=torch.float64, generator=rng)
        points[missing] = drawn
        missing = missing[~accept(drawn)]
    return points
