"""Random draws of per-simulation quantities, and when they are made."""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from robotrl.core.errors import UsageError, nearest


class Distribution(enum.Enum):
    """How values are spread over a range."""

    UNIFORM = "uniform"
    LOG_UNIFORM = "log_uniform"
    NORMAL = "normal"


class When(enum.Enum):
    """How long a draw holds."""

    ONCE = "once"
    EPISODE = "episode"
    INTERVAL = "interval"


def check_range(name: str, bounds: Sequence[float], low: float = -math.inf) -> tuple[float, float]:
    """Return `bounds` as (lower, upper).

    Raises:
        UsageError: it is not two finite numbers in order, or lies below `low`.
    """
    if len(bounds) != 2 or not all(math.isfinite(bound) for bound in bounds):
        raise UsageError(f"{name} must be two finite numbers [lower, upper], got {list(bounds)}")
    lower, upper = (float(bound) for bound in bounds)
    if lower > upper:
        raise UsageError(f"{name} is upside down: lower {lower:g} is above upper {upper:g}")
    if lower < low:
        raise UsageError(f"{name} must be at least {low:g}, got {list(bounds)}")
    return lower, upper


def draw(
    shape: tuple[int, ...], bounds: Sequence[float], distribution: Distribution, rng: torch.Generator
) -> Tensor:
    """(shape) float64 draws: in [lower, upper), or with mean and standard deviation `bounds` if normal."""
    first, second = bounds
    if distribution is Distribution.NORMAL:
        return first + second * torch.randn(shape, dtype=torch.float64, generator=rng)
    share = torch.rand(shape, dtype=torch.float64, generator=rng)
    if distribution is Distribution.LOG_UNIFORM:
        return torch.exp(math.log(first) + (math.log(second) - math.log(first)) * share)
    return first + (second - first) * share


def matching(pattern: str, names: Sequence[str], kind: str, where: str) -> list[int]:
    """Return the positions of the names that a regular expression matches whole.

    Raises:
        UsageError: it is not a regular expression, or matches nothing.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UsageError(f"{where}: {pattern!r} is not a regular expression: {error}") from error
    found = [i for i, name in enumerate(names) if compiled.fullmatch(name)]
    if not found:
        known = [name for name in names if name]
        hint = nearest(pattern, known) or f"; there are: {', '.join(known[:12])}"
        raise UsageError(f"{where}: no {kind} matches {pattern!r}{hint}")
    return found


class HasInterval(Protocol):
    """What says how often something happens."""

    interval_s: Any


class Timer:
    """When each simulation is due next: at intervals drawn anew each time.

    Args:
        num_envs: N.
        source: whose `interval_s`, (lower, upper) seconds between two events, may change meanwhile.
        dt_s: time between two calls of `due`, s.
    """

    def __init__(self, num_envs: int, source: HasInterval, dt_s: float) -> None:
        self._source, self._dt_s = source, dt_s
        self.left_s = torch.zeros(num_envs, dtype=torch.float64)

    def reset(self, ids: Tensor, rng: torch.Generator) -> None:
        """Start the time of simulations `ids` anew."""
        self.left_s[ids] = draw((len(ids),), self._source.interval_s, Distribution.UNIFORM, rng)

    def due(self, rng: torch.Generator) -> Tensor:
        """Let one control step pass; return the (n,) simulations that are due and start their time anew."""
        self.left_s -= self._dt_s
        # rounding must not make an interval a step longer
        ids = (self.left_s <= 1e-9).nonzero().squeeze(1)
        if len(ids):
            self.reset(ids, rng)
        return ids
