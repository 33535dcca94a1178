r"""DSRL: steer a frozen generative policy by its noise (Wagenmaker et al. 2025, arXiv:2506.15799).

With the base's map a = dp(s, w) from noise w to actions, the noise-aliased form (DSRL-NA):

    y       = r + gamma (1 - terminated) (min_i Q'_i(s', dp(s', w')) - alpha log pi(w'|s')),  w' ~ pi(.|s')
    L_Q     = sum_i E[(Q_i(s, a) - y)^2]
    L_W     = sum_j E[(W_j(s, w) - min_i Q_i(s, dp(s, w)))^2],        w ~ N(0, I)
    L_pi    = E[alpha log pi(w|s) - min_j W_j(s, w)],                 w ~ pi(.|s)
    L_alpha = -E[log alpha (log pi(w|s) + target_entropy)]

pi(w|s) = b tanh of a Gaussian. Any data can be learned from, as the critic Q sees actions; the critic W,
which the policy climbs, never needs a gradient through the base.

Differences: W is fitted to the same aggregate of the target critics that makes Q's target; there are
`noise_updates` of it per critic update (the release does 10 after 20 to 30 critic updates); w in L_W is
cut to [-b, b], where the policy acts (the release draws N(0, I) and ignores b there). Entropies are those of
tanh before its scale b.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from robotrl.algorithms.off_policy.config import OffPolicyConfig
from robotrl.algorithms.off_policy.critic import Critic, make_critics
from robotrl.algorithms.off_policy.learner import OffPolicyAlgorithm, take_weights
from robotrl.algorithms.off_policy.temperature import Temperature
from robotrl.core import checks
from robotrl.core.types import Obs, Specs
from robotrl.data.replay import Transitions
from robotrl.networks.flat_adam import FlatAdam
from robotrl.networks.mlp import Init, Norm
from robotrl.policies.flow import FlowPolicy
from robotrl.policies.policy import Policy
from robotrl.policies.sampled_gaussian import proposer
from robotrl.policies.steered import NoiseActor, SteeredPolicy


@dataclass
class DSRLConfig(OffPolicyConfig):
    """Hyperparameters of DSRL; the base comes from `init_from`."""

    noise_magnitude: float = 1.5
    """b, the largest noise in units of its standard deviation; > 0. The first thing to tune."""
    noise_hidden: list[int] = field(default_factory=lambda: [256, 256])
    """Widths of the hidden layers of the noise's policy and critic."""
    noise_updates: int = 1
    """Updates of the noise's critic per critic update; >= 1."""
    initial_alpha: float = 0.1
    """Temperature at the start; > 0."""
    target_entropy_per_action: float = 0.0
    """Target entropy divided by the noise's dimension, nats."""
    backup_entropy: bool = True
    """Whether the target counts the entropy of the next noise."""
    critic_norm: Norm = Norm.PRE
    """LayerNorm of the critics: none, pre (before the activation) or post (after it)."""
    critic_init: Init = Init.XAVIER
    """How the critics' weights are drawn."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.above(self, 0, "noise_magnitude", "initial_alpha")
        checks.at_least(self, 1, "noise_updates")
        checks.finite(self, "target_entropy_per_action")
        checks.widths(self, "noise_hidden")


class DSRL(OffPolicyAlgorithm):
    """SAC over the noise of a frozen policy, with a critic over actions beside the one over noise."""

    config_class: ClassVar[type] = DSRLConfig
    default_policy: ClassVar[type[Policy]] = FlowPolicy
    needs_origin: ClassVar[bool] = True

    policy: SteeredPolicy
    config: DSRLConfig

    @classmethod
    def make_policy(
        cls, specs: Specs, base: Policy, config: DSRLConfig, rng: torch.Generator
    ) -> SteeredPolicy:
        """Put an actor that chooses the noise before the base."""
        base = proposer(base, cls.__name__)
        actor = NoiseActor(base.obs_dim, base.chunk_dim, config.noise_hidden, config.noise_magnitude, rng)
        return SteeredPolicy(base.requires_grad_(False), actor)

    def __init__(self, specs: Specs, policy: SteeredPolicy, config: DSRLConfig, rng: torch.Generator) -> None:
        super().__init__(specs, policy, config, rng)
        width = policy.chunk_dim
        self.noise_critic = Critic(make_critics(policy.obs_dim, width, config, rng), config)
        self.policy_optimizer = FlatAdam(policy.actor.net.flat, config.learning_rate)
        self._policy_grad = torch.empty_like(policy.actor.net.flat)
        self.temperature = Temperature(
            config.initial_alpha, config.target_entropy_per_action * width, config.learning_rate
        )

    def observe(self, obs: Obs) -> None:
        """Merge observations into the critics' normaliser; the base's stays as it was trained."""
        if self.critic_normalizer is not None:
            self.critic_normalizer.update(torch.cat([obs[g] for g in self.config.critic_groups], -1))

    def target(self, batch: Transitions) -> Tensor:
        """R + gamma (1 - terminated) (min_i Q'_i(s', dp(s', w')) - alpha log pi(w'|s')), (B,)."""
        features = self.policy_features(batch.next_obs)
        draw, _ = self.policy.actor.draw(features, self.rng)
        action = self.policy.decode(features, self.policy.actor.magnitude * draw.action)
        value = self._value(batch.next_obs, action)
        if self.config.backup_entropy:
            value = value - self.temperature.alpha * draw.log_prob
        return torch.addcmul(batch.reward, batch.discount, value)

    def _value(self, obs: Obs, action: Tensor) -> Tensor:
        (members,) = self.critic.draw_members(self.rng)
        return self.critic.aggregate(self.critic.target(self.critic_features(obs), action, members))

    def update_policy(self, batch: Transitions) -> dict[str, Tensor]:
        """Fit the noise's critic, then climb it."""
        features, magnitude = self.policy_features(batch.obs), self.policy.actor.magnitude
        for _ in range(self.config.noise_updates):
            noise = torch.empty_like(batch.action).normal_(generator=self.rng).clamp_(-magnitude, magnitude)
            target = self._value(batch.obs, self.policy.decode(features, noise))
            fitted = self.noise_critic.fit(features, noise / magnitude, target)
        draw, tape = self.policy.actor.draw(features, self.rng)
        values, pull = self.noise_critic.online.with_gradient(features, draw.action)
        smallest, member = values.min(0)
        grad = torch.zeros_like(values).scatter_(0, member.unsqueeze(0), -1 / len(member))
        alpha = self.temperature.alpha
        self.policy.actor.backprop(draw, tape, pull(grad), alpha / len(member), self._policy_grad)
        self.policy_optimizer.step(self._policy_grad)
        log_prob = draw.log_prob.mean()
        self.temperature.update(log_prob)
        return {
            "loss/noise_value": fitted["loss/value"],
            "loss/policy": alpha * log_prob - smallest.mean(),
            "policy/entropy": -log_prob,
            "policy/alpha": self.temperature.log_alpha.exp(),
        }

    def start_from(self, policy: Policy) -> None:
        """Take a trained policy for the base."""
        take_weights(self.policy.base, proposer(policy, "DSRL"), "DSRL")

    def parts(self) -> dict[str, Any]:
        """Add the noise's critic, the optimiser and the temperature."""
        return super().parts() | {
            "noise_critic": self.noise_critic,
            "policy_optimizer": self.policy_optimizer,
            "temperature": self.temperature,
        }
