"""The critics of an off-policy learner: an ensemble, its slowly following target, and their aggregation."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from robotrl.algorithms.off_policy.config import OffPolicyConfig
from robotrl.networks.critic import CriticEnsemble
from robotrl.networks.flat_adam import FlatAdam
from robotrl.networks.value_head import HLGaussHead, ScalarHead


def make_critics(
    feature_dim: int, action_dim: int, config: OffPolicyConfig, rng: torch.Generator
) -> CriticEnsemble:
    """Build the ensemble that a configuration describes, with fresh weights.

    Args:
        feature_dim: width of the normalised observations.
        action_dim: width of the actions, of all steps of a chunk.
        config: of the learner.
        rng: where weights are drawn from.
    """
    low_high = config.value_range
    return CriticEnsemble(
        feature_dim,
        action_dim,
        config.hidden,
        config.activation,
        config.critic_norm,
        config.num_critics,
        ScalarHead() if low_high is None else HLGaussHead(low_high[0], low_high[1], config.value_bins),
        config.critic_init,
        rng,
    ).requires_grad_(False)


class Critic:
    """An ensemble that is fitted to targets, and its target network.

    Args:
        online: the critics that learn.
        config: of the learner.
        target: what follows them, alike at the start; None for a copy.

    Attributes:
        online: the critics that learn.
        target: their exponential average.
    """

    def __init__(
        self, online: CriticEnsemble, config: OffPolicyConfig, target: CriticEnsemble | None = None
    ) -> None:
        self.config = config
        self.online = online
        self.target = copy.deepcopy(online) if target is None else target
        self.optimizer = FlatAdam(self.online.net.flat, config.learning_rate)
        self._grad = torch.empty_like(self.online.net.flat)

    def draw_members(self, rng: torch.Generator, sets: int = 1) -> list[Tensor | None]:
        """Draw disjoint sets of `config.target_members` critics; None stands for all of them."""
        each = self.config.target_members
        if each is None:
            return [None] * sets
        order = torch.randperm(self.config.num_critics, generator=rng)
        return [order[i * each : (i + 1) * each] for i in range(sets)]

    def aggregate(self, values: Tensor) -> Tensor:
        """Aggregate values (E', ...) of critics to (...), as targets are."""
        return self.config.target_aggregate.of(values, self.config.pessimism)

    def value(self, features: Tensor, action: Tensor, rng: torch.Generator) -> Tensor:
        """Return what targets are made of: the aggregate of freshly drawn target critics, (B,)."""
        (members,) = self.draw_members(rng)
        return self.aggregate(self.target(features, action, members))

    def fit(self, features: Tensor, action: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Do one gradient step towards targets (B,), and let the target network follow.

        Values that are bins cut targets to their range: `value/target_outside` is the share that was cut.

        Args:
            features: (B, D).
            action: (B, A).
            target: (B,).
        """
        loss, values = self.online.loss_gradient(features, action, target, self._grad)
        self.optimizer.step(self._grad)
        self.target.net.flat.lerp_(self.online.net.flat, self.config.tau)
        metrics = {"loss/value": loss.mean(), "value/q": values.mean()}
        if self.config.value_range is None:
            return metrics
        low, high = self.config.value_range
        return metrics | {"value/target_outside": ((target < low) | (target > high)).float().mean()}

    def state_dict(self) -> dict[str, Any]:
        """Return both networks and the optimiser."""
        return {
            "online": self.online.state_dict(),
            "target": self.target.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.online.load_state_dict(state["online"])
        self.target.load_state_dict(state["target"])
        self.optimizer.load_state_dict(state["optimizer"])
