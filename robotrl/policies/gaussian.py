"""Policies with a density: Gaussian, squashed Gaussian and Beta heads on an MLP."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812  the field's name for it
from torch import Tensor, nn

from robotrl.core import checks
from robotrl.core.types import Obs, Specs
from robotrl.networks.mlp import MLP, Activation, Init
from robotrl.policies.distributions import (
    DiagonalGaussian,
    ScaledBeta,
    SquashedGaussian,
)
from robotrl.policies.policy import StochasticPolicy
from robotrl.policies.squashed import SquashedHead


@dataclass
class MlpPolicyConfig:
    """What the policies of this file share."""

    hidden: list[int] = field(default_factory=lambda: [256, 256])
    """Widths of the hidden layers."""
    activation: Activation = Activation.ELU
    """relu, tanh, elu, gelu, silu or mish."""
    obs_groups: list[str] = field(default_factory=lambda: ["policy"])
    """Observation groups the policy sees, in order."""
    normalize_obs: bool = True
    """Normalise observations by running statistics, inside the policy."""

    def __post_init__(self) -> None:
        checks.choices(self)
        checks.widths(self, "hidden")
        if not self.obs_groups:
            raise ValueError("obs_groups: name at least one observation group")


@dataclass
class ChunkPolicyConfig(MlpPolicyConfig):
    """What policies share that may decide for several control steps at a time."""

    horizon: int = 1
    """Control steps of one decision (an action chunk); >= 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.at_least(self, 1, "horizon")


@dataclass
class GaussianConfig(ChunkPolicyConfig):
    """A Gaussian whose standard deviation is one learned number per actuator."""

    initial_std: float = 1.0
    """Standard deviation before training, in units of the action range's half width; > 0."""
    mean_gain: float = 0.01
    """Gain of the last layer's orthogonal weights; small starts near the middle of the range."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.above(self, 0, "initial_std")
        checks.finite(self, "mean_gain")


class GaussianPolicy(StochasticPolicy):
    """a ~ N(mean(s), std), std independent of the state; the usual policy of PPO."""

    config_class: ClassVar[type] = GaussianConfig

    def __init__(self, specs: Specs, config: GaussianConfig, rng: torch.Generator) -> None:
        super().__init__(specs, config.obs_groups, config.normalize_obs)
        self.horizon = config.horizon
        self.net = MLP(
            self.obs_dim,
            config.hidden,
            self.chunk_dim,
            config.activation,
            Init.ORTHOGONAL,
            rng,
            last_gain=config.mean_gain,
        )
        self.log_std = nn.Parameter(torch.full((self.chunk_dim,), math.log(config.initial_std)))

    def head(self, features: Tensor) -> DiagonalGaussian:
        """N(mean(s), diag(std^2)), unbounded."""
        return DiagonalGaussian(self.net(features), self.log_std)

    def to_bounds(self, action: Tensor, obs: Obs) -> Tensor:
        """Cut at the actuators' limits: the density stays that of the uncut draw."""
        return action.clamp(-1.0, 1.0)

    def forward(self, flat: Tensor, noise: Tensor | None = None) -> Tensor:
        """Return the mean, cut at +-1."""
        return self.net(self.normalize(flat)).clamp(-1.0, 1.0)


@dataclass
class SquashedGaussianConfig(ChunkPolicyConfig):
    """tanh of a Gaussian whose mean and standard deviation depend on the state."""

    activation: Activation = Activation.RELU
    """relu, tanh, elu, gelu, silu or mish."""
    log_std_min: float = -5.0
    """Lower end of log std."""
    log_std_max: float = 2.0
    """Upper end of log std."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.finite(self, "log_std_min", "log_std_max")
        if not self.log_std_min < self.log_std_max:
            raise ValueError(f"log_std_min {self.log_std_min} must be below log_std_max {self.log_std_max}")


class SquashedGaussianPolicy(SquashedHead, StochasticPolicy):
    """a = tanh(u), u ~ N(mean(s), std(s)); the policy of SAC."""

    config_class: ClassVar[type] = SquashedGaussianConfig

    def __init__(self, specs: Specs, config: SquashedGaussianConfig, rng: torch.Generator) -> None:
        super().__init__(specs, config.obs_groups, config.normalize_obs)
        self.horizon = config.horizon
        self.log_std_min, self.log_std_max = config.log_std_min, config.log_std_max
        self.net = MLP(self.obs_dim, config.hidden, 2 * self.chunk_dim, config.activation, Init.UNIFORM, rng)

    def head(self, features: Tensor) -> SquashedGaussian:
        """p(a | s) on (-1, 1)."""
        mean, log_std = self.net(features).chunk(2, dim=-1)
        return SquashedGaussian(mean, log_std.clamp(self.log_std_min, self.log_std_max))

    def forward(self, flat: Tensor, noise: Tensor | None = None) -> Tensor:
        """Return tanh of the mean."""
        return torch.tanh(self.net(self.normalize(flat))[..., : self.chunk_dim])


@dataclass
class BetaConfig(MlpPolicyConfig):
    """A Beta distribution over the action range: bounded, no mass on the edges."""


class BetaPolicy(StochasticPolicy):
    """a = 2 x - 1, x ~ Beta(1 + softplus, 1 + softplus): unimodal on the action range."""

    config_class: ClassVar[type] = BetaConfig

    def __init__(self, specs: Specs, config: BetaConfig, rng: torch.Generator) -> None:
        super().__init__(specs, config.obs_groups, config.normalize_obs)
        self.net = MLP(
            self.obs_dim,
            config.hidden,
            2 * self.action_dim,
            config.activation,
            Init.ORTHOGONAL,
            rng,
            last_gain=0.01,
        )

    def head(self, features: Tensor) -> ScaledBeta:
        """p(a | s) on [-1, 1]."""
        return ScaledBeta(*(1.0 + F.softplus(self.net(features))).chunk(2, dim=-1))

    def forward(self, flat: Tensor, noise: Tensor | None = None) -> Tensor:
        """Return the mean."""
        return self.head(self.normalize(flat)).mode()
