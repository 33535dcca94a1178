"""A deterministic policy that explores by added Gaussian noise (Fujimoto et al. 2018, arXiv:1802.09477)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robotrl.core import checks
from robotrl.core.types import Obs, Specs
from robotrl.networks.mlp import MLP, Activation, Init
from robotrl.policies.gaussian import MlpPolicyConfig
from robotrl.policies.policy import Policy


@dataclass
class DeterministicConfig(MlpPolicyConfig):
    """tanh of an MLP, plus noise when exploring."""

    activation: Activation = Activation.RELU
    """relu, tanh, elu, gelu, silu or mish."""
    noise_std: float = 0.1
    """Standard deviation of the exploration noise, in units of the action range's half width; >= 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.at_least(self, 0, "noise_std")


class DeterministicPolicy(Policy):
    """a = tanh(net(s)), explored with N(0, noise_std^2) and cut at the actuators' limits."""

    config_class: ClassVar[type] = DeterministicConfig

    def __init__(self, specs: Specs, config: DeterministicConfig, rng: torch.Generator) -> None:
        super().__init__(specs, config.obs_groups, config.normalize_obs)
        self.noise_std = config.noise_std
        self.net = MLP(self.obs_dim, config.hidden, self.action_dim, config.activation, Init.UNIFORM, rng)

    def forward(self, flat: Tensor, noise: Tensor | None = None) -> Tensor:
        """Return tanh of the network's output."""
        return torch.tanh(self.net(self.normalize(flat)))

    def act(self, obs: Obs, deterministic: bool = False, rng: torch.Generator | None = None) -> Tensor:
        """Return the action, with noise unless `deterministic`, (B, A) in [-1, 1]."""
        action = self(self.flatten(obs))
        if deterministic:
            return action
        noise = torch.empty_like(action).normal_(generator=rng)
        return (action + self.noise_std * noise).clamp(-1.0, 1.0)
