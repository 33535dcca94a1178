"""Gaussians whose deviation depends on the state through a softplus: the policies of streaming learners."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812  the field's name for it
from torch import Tensor

from robotrl.core import checks
from robotrl.core.types import Obs, Specs
from robotrl.networks.layer_norm_mlp import LayerNormMLP
from robotrl.policies.distributions import DiagonalGaussian, SquashedGaussian
from robotrl.policies.policy import StochasticPolicy
from robotrl.policies.saved_option import SavedOption

OBS_CLIP = math.inf
"""Of streams: a sample that is inside its own statistics needs no cut."""


@dataclass
class LayerNormPolicyConfig:
    """What the policies of streaming learners share."""

    hidden: list[int] = field(default_factory=lambda: [128, 128])
    """Widths of the hidden layers."""
    obs_groups: list[str] = field(default_factory=lambda: ["policy"])
    """Observation groups the policy sees, in order."""
    normalize_obs: bool = True
    """Normalise observations by running statistics, inside the policy."""

    def __post_init__(self) -> None:
        checks.widths(self, "hidden")
        if not self.obs_groups:
            raise ValueError("obs_groups: name at least one observation group")


@dataclass
class SoftplusGaussianConfig(LayerNormPolicyConfig):
    """An MLP with LayerNorm, two linear heads."""

    std_floor: float = 1e-3
    """Added to the standard deviation, in units of the action range's half width; >= 0. Streaming algorithms
    use their own where this is left as it is."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.at_least(self, 0, "std_floor")


class SoftplusGaussianPolicy(SavedOption, StochasticPolicy):
    """a ~ N(mean(s), (softplus(pre(s)) + floor)^2), cut at the actuators' limits."""

    config_class: ClassVar[type] = SoftplusGaussianConfig
    option: ClassVar[str] = "std_floor"

    def __init__(self, specs: Specs, config: SoftplusGaussianConfig, rng: torch.Generator) -> None:
        super().__init__(specs, config.obs_groups, config.normalize_obs, OBS_CLIP)
        self.std_floor = config.std_floor
        self.net = LayerNormMLP(self.obs_dim, config.hidden, 2 * self.action_dim, rng)

    def gaussian(self, features: Tensor) -> DiagonalGaussian:
        """N(mean(s), diag(std(s)^2)), unbounded."""
        mean, pre = self.net(features).chunk(2, dim=-1)
        return DiagonalGaussian(mean, torch.log(F.softplus(pre) + self.std_floor))

    def head(self, features: Tensor) -> DiagonalGaussian | SquashedGaussian:
        """N(mean(s), diag(std(s)^2)), unbounded."""
        return self.gaussian(features)

    def to_bounds(self, action: Tensor, obs: Obs) -> Tensor:
        """Cut at the actuators' limits: the density stays that of the uncut draw."""
        return action.clamp(-1.0, 1.0)

    def forward(self, flat: Tensor, noise: Tensor | None = None) -> Tensor:
        """Return the mean, cut at +-1."""
        return self.net(self.normalize(flat))[..., : self.action_dim].clamp(-1.0, 1.0)


class SquashedSoftplusPolicy(SoftplusGaussianPolicy):
    """a = tanh(u), u ~ N(mean(s), (softplus(pre(s)) + floor)^2)."""

    def head(self, features: Tensor) -> SquashedGaussian:
        """p(a | s) on (-1, 1)."""
        gaussian = self.gaussian(features)
        return SquashedGaussian(gaussian.mean, gaussian.log_std)

    def to_bounds(self, action: Tensor, obs: Obs) -> Tensor:
        """Return the action, which is within the actuators' limits."""
        return action

    def forward(self, flat: Tensor, noise: Tensor | None = None) -> Tensor:
        """Return tanh of the mean."""
        return torch.tanh(self.net(self.normalize(flat))[..., : self.action_dim])
