"""What both forms of DSRL share: soft actor-critic over the noise of a frozen generative policy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from robotrl.algorithms.off_policy.learner import take_weights
from robotrl.algorithms.off_policy.sac import SAC, SACConfig
from robotrl.core import checks
from robotrl.core.types import Obs, Specs
from robotrl.networks.mlp import Init, Norm
from robotrl.policies.flow import FlowPolicy
from robotrl.policies.policy import Policy
from robotrl.policies.sampled_gaussian import proposer
from robotrl.policies.steered import NoiseActor, SteeredPolicy


@dataclass
class SteeringConfig(SACConfig):
    """Hyperparameters of learning a noise; the policy that is steered comes from `init_from`."""

    noise_magnitude: float = 1.5
    """b, the largest noise in units of its standard deviation; > 0. The first thing to tune."""
    noise_hidden: list[int] = field(default_factory=lambda: [256, 256])
    """Widths of the hidden layers of the noise's policy."""
    replay_ratio: float = 1.0
    """Updates per environment transition collected ("UTD"); > 0."""
    learning_rate: float = 3e-4
    """Of Adam, for all networks; > 0."""
    tau: float = 0.005
    """Share of the critics that moves into their targets at each update; in (0, 1]."""
    policy_delay: int = 1
    """Critic updates per policy update; >= 1."""
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
        checks.above(self, 0, "noise_magnitude")
        checks.widths(self, "noise_hidden")

    @property
    def reach(self) -> float:
        """Largest noise that the policy chooses, b."""
        return self.noise_magnitude


class Steering(SAC):
    """SAC whose actor chooses the noise that a frozen policy decides from.

    Until the first update the noise is the base's own, N(0, I): experience begins with what the base does.
    """

    config_class: ClassVar[type] = SteeringConfig
    default_policy: ClassVar[type[Policy]] = FlowPolicy
    default_num_envs: ClassVar[int] = 1
    needs_origin: ClassVar[bool] = True

    policy: SteeredPolicy
    config: SteeringConfig

    @classmethod
    def make_policy(
        cls, specs: Specs, base: Policy, config: SteeringConfig, rng: torch.Generator
    ) -> SteeredPolicy:
        """Put an actor that chooses the noise before the base."""
        base = proposer(base, cls.__name__)
        actor = NoiseActor(base.obs_dim, base.chunk_dim, config.noise_hidden, config.reach, rng)
        return SteeredPolicy(base.requires_grad_(False), actor)

    def __init__(
        self, specs: Specs, policy: SteeredPolicy, config: SteeringConfig, rng: torch.Generator
    ) -> None:
        super().__init__(specs, policy, config, rng, policy.actor)

    def draw_noise(self, features: Tensor) -> Tensor:
        """Draw exploring noise in units of b, (N, h A): in [-1, 1] from the first update on."""
        if self.num_updates:
            return self.actor.draw(features, self.rng)[0].action
        noise = torch.empty(len(features), self.policy.chunk_dim).normal_(generator=self.rng)
        return noise / self.policy.actor.magnitude

    def decode(self, features: Tensor, noise: Tensor) -> Tensor:
        """Return the decisions that noise in units of b leads to, (B, h A) in [-1, 1]."""
        return self.policy.decode(features, self.policy.actor.magnitude * noise)

    @torch.no_grad()
    def act(self, obs: Obs) -> Tensor:
        """Draw exploring decisions, (N, h A) in [-1, 1]."""
        features = self.policy_features(obs)
        return self.decode(features, self.draw_noise(features))

    def take_over(self, policy: Policy) -> None:
        """Take a trained policy for the base."""
        name = type(self).__name__
        take_weights(self.policy.base, proposer(policy, name), name)
