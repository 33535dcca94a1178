"""Replay: transitions in preallocated tensors; sampling is one index draw and one gather per field."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from robotrl.core.errors import RobotrlError
from robotrl.core.types import Obs, Step


@dataclass
class Transitions:
    """A batch of B transitions.

    Attributes:
        obs: group -> (B, D).
        action: (B, A) in [-1, 1].
        reward: (B,).
        terminated: (B,) float32, 1 where nothing follows; time limits do not count.
        next_obs: group -> (B, D), the true successor.
    """

    obs: Obs
    action: Tensor
    reward: Tensor
    terminated: Tensor
    next_obs: Obs


class ReplayBuffer:
    """A ring of `capacity` transitions; the oldest are overwritten. Failed simulations never enter."""

    def __init__(self, capacity: int, obs_dims: dict[str, int], action_dim: int) -> None:
        self.capacity = capacity
        self._fields: dict[str, Tensor] = {
            "action": torch.empty(capacity, action_dim),
            "reward": torch.empty(capacity),
            "terminated": torch.empty(capacity),
        }
        for group, dim in obs_dims.items():
            self._fields[f"obs.{group}"] = torch.empty(capacity, dim)
            self._fields[f"next_obs.{group}"] = torch.empty(capacity, dim)
        self._groups = tuple(obs_dims)
        self.size = 0
        self._head = 0

    def add(self, obs: Obs, action: Tensor, step: Step) -> None:
        """Store the N transitions of one control step, without those of failed simulations."""
        rows: dict[str, Tensor] = {
            "action": action,
            "reward": step.reward,
            "terminated": step.terminated.to(torch.float32),
        }
        for group in self._groups:
            rows[f"obs.{group}"] = obs[group]
            rows[f"next_obs.{group}"] = step.final_obs[group]
        if not bool(step.valid.all()):
            rows = {name: values[step.valid] for name, values in rows.items()}
        count = len(rows["reward"])
        if count > self.capacity:
            raise RobotrlError(f"replay of {self.capacity} transitions cannot take {count} at once")
        first = min(count, self.capacity - self._head)
        for name, values in rows.items():
            store = self._fields[name]
            store[self._head : self._head + first] = values[:first]
            store[: count - first] = values[first:]
        self._head = (self._head + count) % self.capacity
        self.size = min(self.size + count, self.capacity)

    def sample(self, batch_size: int, rng: torch.Generator) -> Transitions:
        """Draw transitions uniformly, with replacement."""
        pick = torch.randint(self.size, (batch_size,), generator=rng)
        fields = {name: values[pick] for name, values in self._fields.items()}
        return Transitions(
            {group: fields[f"obs.{group}"] for group in self._groups},
            fields["action"],
            fields["reward"],
            fields["terminated"],
            {group: fields[f"next_obs.{group}"] for group in self._groups},
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the filled part of every field, and the write position."""
        fields = {name: values[: self.size] for name, values in self._fields.items()}
        return {"fields": fields, "size": self.size, "head": self._head}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict` of a buffer with the same capacity and sizes."""
        self.size, self._head = state["size"], state["head"]
        if self.size > self.capacity:
            raise RobotrlError(f"checkpoint holds {self.size} transitions, replay_size is {self.capacity}")
        for name, values in state["fields"].items():
            self._fields[name][: self.size] = values
