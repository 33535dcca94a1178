r"""Residual reinforcement learning over any frozen policy, by soft actor-critic.

Johannink et al. 2019 (arXiv:1812.03201), Silver et al. 2018 (arXiv:1812.06298); off-policy with critics over
the executed action as in Policy Decorator (Yuan et al. 2024, arXiv:2412.13630):

    a      = clip(a_b + beta e, -1, 1),  a_b ~ base(.|s),  e ~ pi(.|s, a_b)
    y      = r + gamma (1 - terminated) min_i Q'_i(s', a')
    L_Q    = sum_i E[(Q_i(s, a) - y)^2]
    L_pi   = E[alpha log pi(e|s, a_b) - mean_i Q_i(s, clip(a_b + beta e))]
    L_alpha = -E[log alpha (log pi(e|s, a_b) + target_entropy)]

The correction is used with a probability that rises from 0 to 1 over the first `ramp_steps` environment
steps (Policy Decorator's progressive exploration), so that the critics first see the base alone.

Differences from the released Policy Decorator: base actions for updates are drawn anew instead of stored;
entropies are those of the unscaled e, with target -A/2 (released: -A), and stay out of the critics' target
(released: in it); the policy climbs the mean of ten critics (released: the smaller of two); the sum is cut
to [-1, 1] (released: not); rewards are as the task gives them (released: less 1); corrections follow the
policy from the first step on (released: uniform until learning starts). There is no preset of that form:
without the cut its critics value actions that no robot carries out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from robotrl.algorithms.off_policy.config import OffPolicyConfig
from robotrl.algorithms.off_policy.edit_learner import EditLearner
from robotrl.algorithms.off_policy.learner import OffPolicyAlgorithm, take_weights
from robotrl.algorithms.off_policy.temperature import Temperature
from robotrl.core import checks
from robotrl.core.types import Obs, Specs
from robotrl.data.replay import Transitions
from robotrl.networks.mlp import Activation, Init, Norm
from robotrl.policies.edit import Edit
from robotrl.policies.flow import FlowPolicy
from robotrl.policies.policy import Policy
from robotrl.policies.residual import ResidualPolicy


@dataclass
class ResidualConfig(OffPolicyConfig):
    """Hyperparameters of the residual; the base comes from `init_from`."""

    residual_scale: float = 0.1
    """beta, the largest correction, in units of the action range's half width; in (0, 2]."""
    residual_hidden: list[int] = field(default_factory=lambda: [256, 256])
    """Widths of the correction's hidden layers."""
    ramp_steps: int = 10_000
    """Environment steps over which the correction comes into use; >= 0."""
    initial_alpha: float = 0.1
    """Temperature at the start; > 0."""
    target_entropy_per_action: float = -0.5
    """Target entropy divided by the action dimension, nats."""
    num_critics: int = 10
    """Members of the critic ensemble; >= 1."""
    target_members: int | None = 2
    """Critics drawn for each target; null for all of them."""
    critic_norm: Norm = Norm.PRE
    """LayerNorm of the critics: none, pre (before the activation) or post (after it)."""
    critic_init: Init = Init.XAVIER
    """How the critics' weights are drawn."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.within(self, "(0, 2]", "residual_scale")
        checks.at_least(self, 0, "ramp_steps")
        checks.above(self, 0, "initial_alpha")
        checks.finite(self, "target_entropy_per_action")
        checks.widths(self, "residual_hidden")


class Residual(OffPolicyAlgorithm):
    """SAC over a correction of a frozen policy."""

    config_class: ClassVar[type] = ResidualConfig
    default_policy: ClassVar[type[Policy]] = FlowPolicy
    needs_origin: ClassVar[bool] = True
    keeps_origin: ClassVar[bool] = True

    policy: ResidualPolicy
    config: ResidualConfig

    @classmethod
    def make_policy(
        cls, specs: Specs, base: Policy, config: ResidualConfig, rng: torch.Generator
    ) -> ResidualPolicy:
        """Put the correction behind the base."""
        edit = Edit(
            base.obs_dim,
            base.chunk_dim,
            config.residual_hidden,
            Activation.RELU,
            config.residual_scale,
            Init.XAVIER,
            rng,
        )
        return ResidualPolicy(base.requires_grad_(False), edit)

    def __init__(
        self, specs: Specs, policy: ResidualPolicy, config: ResidualConfig, rng: torch.Generator
    ) -> None:
        super().__init__(specs, policy, config, rng)
        target_entropy = config.target_entropy_per_action * policy.chunk_dim
        temperature = Temperature(config.initial_alpha, target_entropy, config.learning_rate)
        self.edits = EditLearner(policy.edit, temperature, config.learning_rate)
        self._decided = 0

    @torch.no_grad()
    def act(self, obs: Obs) -> Tensor:
        """Draw decisions, (N, h A) in [-1, 1], the first ones mostly the base's own."""
        base = self.policy.base.act(obs, deterministic=True, rng=self.rng)
        corrected = self.policy.explore(self.policy_features(obs), base, self.rng)
        self._decided += len(corrected) * self.policy.horizon
        used = torch.rand(len(corrected), 1, generator=self.rng) * self.config.ramp_steps < self._decided
        return torch.where(used, corrected, base)

    def target(self, batch: Transitions) -> Tensor:
        """R + gamma (1 - terminated) min_i Q'_i(s', a'), (B,)."""
        action = self.policy.act(batch.next_obs, rng=self.rng)
        value = self.critic.value(self.critic_features(batch.next_obs), action, self.rng)
        return torch.addcmul(batch.reward, batch.discount, value)

    def update_policy(self, batch: Transitions) -> dict[str, Tensor]:
        """Let the correction climb the critics."""
        base = self.policy.base.act(batch.obs, deterministic=True, rng=self.rng)
        features = self.policy_features(batch.obs)
        return self.edits.fit(features, base, self.critic, self.critic_features(batch.obs), self.rng)

    def take_over(self, policy: Policy) -> None:
        """Take a trained policy for the base."""
        take_weights(self.policy.base, policy, "Residual")

    def parts(self) -> dict[str, Any]:
        """Add what learns the corrections."""
        return super().parts() | {"edits": self.edits}

    def state_dict(self) -> dict[str, Any]:
        """Add how far the ramp is."""
        return super().state_dict() | {"decided": self._decided}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        super().load_state_dict(state)
        self._decided = state["decided"]
