"""A Gaussian whose deviation depends on the state through a softplus: the policy of streaming learners."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812  the field's name for it
from torch import Tensor

from robotrl.core import checks
from robotrl.core.types import Specs
from robotrl.networks.layer_norm_mlp import LayerNormMLP
from robotrl.networks.normalizer import RunningNormalizer
from robotrl.policies.distributions import DiagonalGaussian
from robotrl.policies.policy import StochasticPolicy


@dataclass
class SoftplusGaussianConfig:
    """An MLP with LayerNorm, two linear heads."""

    hidden: list[int] = field(default_factory=lambda: [128, 128])
    """Widths of the hidden layers."""
    obs_groups: list[str] = field(default_factory=lambda: ["policy"])
    """Observation groups the policy sees, in order."""
    normalize_obs: bool = True
    """Normalise observations by running statistics, inside the policy."""
    std_floor: float = 1e-3
    """Added to the standard deviation, in units of the action range's half width; >= 0."""

    def __post_init__(self) -> None:
        checks.widths(self, "hidden")
        checks.at_least(self, 0, "std_floor")
        if not self.obs_groups:
            raise ValueError("obs_groups: name at least one observation group")


class SoftplusGaussianPolicy(StochasticPolicy):
    """a ~ N(mean(s), (softplus(pre(s)) + floor)^2), cut at the actuators' limits."""

    config_class: ClassVar[type] = SoftplusGaussianConfig

    def __init__(self, specs: Specs, config: SoftplusGaussianConfig, rng: torch.Generator) -> None:
        super().__init__(specs, config.obs_groups, config.normalize_obs)
        if self.normalizer is not None:
            # a sample inside its own statistics needs no cut
            self.normalizer = RunningNormalizer(self.obs_dim, clip=float("inf"))
        self.std_floor = config.std_floor
        self.net = LayerNormMLP(self.obs_dim, config.hidden, 2 * self.action_dim, rng)

    def head(self, features: Tensor) -> DiagonalGaussian:
        """N(mean(s), diag(std(s)^2)), unbounded."""
        mean, pre = self.net(features).chunk(2, dim=-1)
        return DiagonalGaussian(mean, torch.log(F.softplus(pre) + self.std_floor))

    def to_bounds(self, action: Tensor) -> Tensor:
        """Cut at the actuators' limits: the density stays that of the uncut draw."""
        return action.clamp(-1.0, 1.0)

    def forward(self, flat: Tensor, noise: Tensor | None = None) -> Tensor:
        """Return the mean, cut at +-1."""
        return self.net(self.normalize(flat))[..., : self.action_dim].clamp(-1.0, 1.0)
