"""Replay for learners whose action is the noise that a generative policy decides from (DSRL-SAC)."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import torch
from torch import Tensor

from robotrl.core.errors import UsageError
from robotrl.core.types import Obs, Step
from robotrl.data.replay import Replay, Transitions


class NoiseReplay(Replay):
    """Keeps beside each decision the noise that it was made from, which stands for the action in batches.

    A chunk has one noise, so windows start where a decision was made, and nowhere else. A decision can be
    drawn as soon as the next one is made in its environment: then its chunk has run, or its episode ended.

    Args:
        capacity: transitions kept, as `Replay`'s.
        num_envs: N.
        obs_dims: group -> D.
        action_dim: A.
        horizon: h, control steps of a decision, made from h*A numbers.

    Raises:
        UsageError: a decision would be overwritten before it is over.
    """

    _start: ClassVar[str] = "decided"

    def __init__(
        self, capacity: int, num_envs: int, obs_dims: dict[str, int], action_dim: int, horizon: int
    ) -> None:
        super().__init__(capacity, num_envs, obs_dims, action_dim)
        if self.capacity <= horizon * num_envs:
            raise UsageError(
                f"replay_size {capacity} cannot take a decision of {horizon} steps of {num_envs} simulations "
                f"and the next one: raise algorithm.replay_size above {horizon * num_envs + num_envs - 1}"
            )
        self._fields["noise"] = torch.empty(self.capacity, horizon * action_dim)
        # that a decision was made in this row, and is over
        self._fields["decided"] = torch.empty(self.capacity, dtype=torch.bool)
        # of the decisions under way: the noise, and the row in which they were made, -1 for none
        self._noise = torch.zeros(num_envs, horizon * action_dim)
        self._row = torch.full((num_envs,), -1)

    def decide(self, asked: Tensor, made_from: Tensor) -> None:
        """Keep the noise of decisions that are made now; the next `add` stores their first steps."""
        over = self._row[asked]
        over = over[over >= 0]
        over = over[self._fields["valid"][over]]
        self._fields["decided"][over] = True
        self._barred -= len(over)
        self._noise[asked] = made_from
        self._row[asked] = self._head + asked.nonzero().squeeze(1)

    def add(self, obs: Obs, action: Tensor, step: Step) -> None:
        """Store the N transitions of one control step, see `Replay`."""
        before = self.num_added
        super().add(obs, action, step)
        self._barred += self.num_added - before
        here = self._newest()
        self._fields["noise"][here] = self._noise
        self._fields["decided"][here] = False

    def sample(
        self, batch_size: int, rng: torch.Generator, horizon: int = 1, gamma: float = 0.99
    ) -> Transitions:
        """Draw decisions that are over, uniformly and with replacement; arguments as `Replay.sample`'s.

        Returns:
            Windows whose `action` is the whole noise, also where the episode ended before the chunk.
        """
        start = self._starts(batch_size, rng)
        windows = self._windows(start, horizon, gamma)
        return dataclasses.replace(windows, action=self._gather("noise", start))

    def can_sample(self, horizon: int) -> bool:
        """Whether there are decisions that are over."""
        return self.size > 0

    def state_dict(self) -> dict[str, Any]:
        """Add the decisions under way."""
        return super().state_dict() | {"noise": self._noise, "row": self._row}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict` of a replay with the same capacity and sizes."""
        super().load_state_dict(state)
        self._noise.copy_(state["noise"])
        self._row.copy_(state["row"])
