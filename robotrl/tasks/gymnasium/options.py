"""Checks and draws that the Gymnasium tasks share."""

from __future__ import annotations

import math

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


def uniform_noise(shape: tuple[int, int], scale: float, rng: torch.Generator) -> Tensor:
    """(shape) float64 draws from [-scale, scale)."""
    return scale * (2.0 * torch.rand(shape, dtype=torch.float64, generator=rng) - 1.0)


def normal_noise(shape: tuple[int, int], scale: float, rng: torch.Generator) -> Tensor:
    """(shape) float64 draws from a normal distribution with standard deviation `scale`."""
    return scale * torch.randn(shape, dtype=torch.float64, generator=rng)
