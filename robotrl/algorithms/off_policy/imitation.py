"""Behaviour cloning as a part of other methods: gradient steps on a policy's own `bc_loss`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from robotrl.networks.flat_adam import ModuleAdam
from robotrl.policies.policy import HasBcLoss, Policy


class Imitation:
    """Fits a policy to actions.

    Args:
        policy: learns.
        learning_rate: of Adam.
        rng: of the loss's draws.
    """

    def __init__(self, policy: Policy, learning_rate: float, rng: torch.Generator) -> None:
        assert isinstance(policy, HasBcLoss)
        self.policy, self._rng = policy, rng
        self.optimizer = ModuleAdam(policy.parameters(), learning_rate)

    def fit(
        self, features: Tensor, action: Tensor, mask: Tensor | None = None, weight: Tensor | None = None
    ) -> Tensor:
        """Do one gradient step; return the mean loss.

        Args:
            features: (B, D) normalised observations.
            action: (B, h A) in [-1, 1].
            mask: (B, h), the steps of the chunks that count; None for all.
            weight: (B,), None for 1.
        """
        with torch.enable_grad():
            loss = self.policy.bc_loss(features, action, self._rng, weight=weight, mask=mask).mean()
        self.optimizer.descend(loss)
        return loss.detach()

    def state_dict(self) -> dict[str, Any]:
        """Return policy and optimiser."""
        return {"policy": self.policy.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.policy.load_state_dict(state["policy"])
        self.optimizer.load_state_dict(state["optimizer"])
