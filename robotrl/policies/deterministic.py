"""Deterministic policies that explore by added Gaussian noise (Fujimoto et al. 2018, arXiv:1802.09477)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robotrl.core import checks
from robotrl.core.types import Obs, Specs
from robotrl.networks.layer_norm_mlp import LayerNormMLP
from robotrl.networks.mlp import MLP, Activation, Init
from robotrl.policies.gaussian import ChunkPolicyConfig
from robotrl.policies.policy import Policy, masked
from robotrl.policies.saved_option import SavedOption
from robotrl.policies.softplus_gaussian import OBS_CLIP, LayerNormPolicyConfig


class TanhPolicy(SavedOption, Policy):
    """a = tanh(net(s)), explored with N(0, noise_std^2) and cut at the actuators' limits.

    Attributes:
        net: (B, D) normalised observations to (B, A).
        noise_std: in units of the action range's half width.
    """

    option: ClassVar[str] = "noise_std"

    net: MLP | LayerNormMLP
    noise_std: float

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


@dataclass
class DeterministicConfig(ChunkPolicyConfig):
    """tanh of an MLP, plus noise when exploring."""

    activation: Activation = Activation.RELU
    """relu, tanh, elu, gelu, silu or mish."""
    noise_std: float = 0.1
    """Standard deviation of the exploration noise, in units of the action range's half width; >= 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.at_least(self, 0, "noise_std")


class DeterministicPolicy(TanhPolicy):
    """tanh of an MLP; the policy of TD3, and of behaviour cloning by regression."""

    config_class: ClassVar[type] = DeterministicConfig

    net: MLP

    def __init__(self, specs: Specs, config: DeterministicConfig, rng: torch.Generator) -> None:
        super().__init__(specs, config.obs_groups, config.normalize_obs)
        self.horizon = config.horizon
        self.noise_std = config.noise_std
        self.net = MLP(self.obs_dim, config.hidden, self.chunk_dim, config.activation, Init.UNIFORM, rng)

    def bc_loss(
        self,
        features: Tensor,
        action: Tensor,
        rng: torch.Generator,
        weight: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Return the mean squared error of the actions (regression), see `HasBcLoss`; draws nothing."""
        error = (torch.tanh(self.net(features)) - action).square()
        loss = masked(error, mask).mean(-1)
        return loss if weight is None else loss * weight


@dataclass
class LayerNormDeterministicConfig(LayerNormPolicyConfig):
    """tanh of an MLP with LayerNorm, plus noise when exploring."""

    noise_std: float = 0.2
    """Standard deviation of the exploration noise, in units of the action range's half width; >= 0.
    stream_dac uses its own where this is left as it is."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.at_least(self, 0, "noise_std")


class LayerNormDeterministicPolicy(TanhPolicy):
    """tanh of an MLP with LayerNorm; the deterministic policy of streaming learners."""

    config_class: ClassVar[type] = LayerNormDeterministicConfig

    def __init__(self, specs: Specs, config: LayerNormDeterministicConfig, rng: torch.Generator) -> None:
        super().__init__(specs, config.obs_groups, config.normalize_obs, OBS_CLIP)
        self.noise_std = config.noise_std
        self.net = LayerNormMLP(self.obs_dim, config.hidden, self.action_dim, rng)
