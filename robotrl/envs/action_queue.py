"""From action chunks to the actions of control steps: each environment runs through its own chunk."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from robotrl.core.types import Obs, Step


class ActionQueue:
    """What N environments still have to do of the chunks that were decided for them, open loop.

    An environment whose queue is empty, or whose episode ended, gets a new chunk; the others are not asked.
    With chunks of one step every decision is of all environments.

    Args:
        num_envs: N.
        horizon: control steps in a chunk.
        action_dim: A.
    """

    def __init__(self, num_envs: int, horizon: int, action_dim: int) -> None:
        self.horizon = horizon
        self._chunks = torch.zeros(num_envs, horizon, action_dim)
        self._position = torch.full((num_envs,), horizon)

    @property
    def waiting(self) -> Tensor:
        """(N,) bool, the environments that the coming step needs a decision for."""
        return self._position == self.horizon

    def next(self, obs: Obs, decide: Callable[[Obs], Tensor]) -> Tensor:
        """Return the actions of the coming control step, (N, A).

        Args:
            obs: group -> (N, ...).
            decide: maps the observations of n environments to their chunks, (n, h A).
        """
        if self.horizon == 1:
            return decide(obs)
        empty = self.waiting.nonzero().squeeze(1)
        if len(empty):
            chunks = decide({group: values[empty] for group, values in obs.items()})
            self._chunks[empty] = chunks.unflatten(1, (self.horizon, -1))
            self._position[empty] = 0
        action = self._chunks[torch.arange(len(self._position)), self._position]
        self._position += 1
        return action

    def after(self, step: Step) -> None:
        """Forget what was left where a control step ended the episode, or was none of it.

        Environments that begin anew in the call after an end have a row that is neither valid nor done: what
        was decided for it was decided in the old episode.
        """
        self.ended(step.done | ~step.valid)

    def ended(self, done: Tensor) -> None:
        """Forget what was left for some environments, (N,) bool."""
        if self.horizon > 1:
            self._position[done] = self.horizon

    def state_dict(self) -> dict[str, Tensor]:
        """Return the chunks and how far they are."""
        return {"chunks": self._chunks.clone(), "position": self._position.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from `state_dict`."""
        self._chunks.copy_(state["chunks"])
        self._position.copy_(state["position"])
