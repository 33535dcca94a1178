"""The types every layer shares: what a control step returns, and specs that carry units."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from robotrl.core.errors import UsageError, unknown_name

Obs = dict[str, Tensor]
"""Observation group name -> (N, D) float32; pictures are (N, height, width, channels), see `ImageTerm`."""


class Source(enum.Enum):
    """Where the value of an observation term comes from on the real robot."""

    SENSOR = "sensor"
    ESTIMATOR = "estimator"
    SIMULATION = "simulation"


@dataclass(frozen=True)
class ObsTerm:
    """One named quantity inside an observation group.

    Attributes:
        name: unique within its group.
        size: number of scalars.
        unit: SI unit of every scalar ("m", "rad/s", "1" for pure numbers, "mixed" is refused).
        source: what measures it on the real robot.
        low: lower bound of the values, in `unit`.
        high: upper bound of the values, in `unit`.
        elements: names of the scalars (joints, axes), empty where there is one only.
    """

    name: str
    size: int
    unit: str
    source: Source = Source.SENSOR
    low: float = -math.inf
    high: float = math.inf
    elements: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"observation term {self.name!r}: size must be at least 1, got {self.size}")
        if not self.unit or self.unit == "mixed":
            raise ValueError(f"observation term {self.name!r}: give one SI unit, got {self.unit!r}")
        if self.elements and len(self.elements) != self.size:
            raise ValueError(
                f"observation term {self.name!r}: {len(self.elements)} element names for {self.size} scalars"
            )

    def __str__(self) -> str:
        return f"{self.name!r} ({self.size}, {self.unit})"


@dataclass(frozen=True)
class ActionTerm:
    """One actuator command: the learner's [-1, 1] maps linearly onto [low, high] in `unit`."""

    name: str
    unit: str
    low: float
    high: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(
                f"action term {self.name!r}: needs finite low < high, got [{self.low}, {self.high}]"
            )

    def __str__(self) -> str:
        return f"{self.name!r} in [{self.low:g}, {self.high:g}] {self.unit}"


@dataclass(frozen=True)
class Specs:
    """Everything a policy has to know about an environment.

    Attributes:
        observation: group -> terms, in the order in which they are concatenated.
        action: one term per actuator, in the order of the action vector.
        control_dt_s: time between two actions, s.
    """

    observation: Mapping[str, tuple[ObsTerm, ...]]
    action: tuple[ActionTerm, ...]
    control_dt_s: float

    def obs_dim(self, *groups: str) -> int:
        """Width of the named groups put side by side.

        Raises:
            UsageError: no group is named, or there is no such group.
        """
        if not groups:
            raise UsageError(f"give at least one observation group of {', '.join(self.observation)}")
        for group in groups:
            if group not in self.observation:
                raise unknown_name("observation group", group, self.observation)
        return sum(term.size for group in groups for term in self.observation[group])

    def difference(self, other: Specs) -> str | None:
        """Say in words the first thing that is another one in `other`; None if nothing is."""
        unknown = math.isnan(self.control_dt_s) and math.isnan(other.control_dt_s)
        if self.control_dt_s != other.control_dt_s and not unknown:
            return f"an action every {self.control_dt_s:g} s, not every {other.control_dt_s:g} s"
        mine, theirs = self.observation, other.observation
        if mine.keys() != theirs.keys():
            return f"observation groups {', '.join(mine)}, not {', '.join(theirs)}"
        parts = {f"observation group {group!r}": (mine[group], theirs[group]) for group in mine}
        for what, (ours, others) in {**parts, "action": (self.action, other.action)}.items():
            if len(ours) != len(others):
                return f"{what} of {len(ours)} terms, not {len(others)}"
            for have, want in zip(ours, others, strict=True):
                if have != want:
                    words = f"{have}, not {want}" if str(have) != str(want) else f"{have!r}, not {want!r}"
                    return f"{what}: {words}"
        return None

    @property
    def action_dim(self) -> int:
        """Number of actuators."""
        return len(self.action)

    @property
    def action_low(self) -> Tensor:
        """(A,) float32 lower bounds in physical units."""
        return torch.tensor([term.low for term in self.action], dtype=torch.float32)

    @property
    def action_high(self) -> Tensor:
        """(A,) float32 upper bounds in physical units."""
        return torch.tensor([term.high for term in self.action], dtype=torch.float32)


@dataclass(slots=True)
class Step:
    """What one control step of N environments returns. All tensors are fresh, never views of the state.

    Attributes:
        obs: group -> (N, D) float32, what to act on next: after an auto-reset, the new episode's first.
        reward: (N,) float32, 0 where the simulation failed.
        terminated: (N,) bool, a true end state of the task: do not bootstrap.
        truncated: (N,) bool, ended by the time limit or a failed simulation: bootstrap from `final_obs`.
        final_obs: group -> (N, D) float32, the true successor in every row, before any reset. It is
            the same tensor as `obs` where no episode ended.
        valid: (N,) bool, False where the simulation failed: the transition must not be learned from.
        log: what to log, name -> float32: `reward/total` and, where there are several terms,
            `reward/<term>` of this step, (N,); `episode/return`, `episode/length` and the task's own
            scores of the K whole episodes that ended in it, (K,).
    """

    obs: Obs
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    final_obs: Obs
    valid: Tensor
    log: dict[str, Tensor] = field(default_factory=dict)

    @property
    def done(self) -> Tensor:
        """(N,) bool, the episode ended in this step."""
        return self.terminated | self.truncated
