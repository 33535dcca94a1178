"""One-step policies: a network from noise straight to an action (FQL, Park et al. 2025, arXiv:2502.02538).

It imitates nothing by itself: a learner distils a slower policy into it and follows its critic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robotrl.core.types import Specs
from robotrl.networks.denoiser import make_network
from robotrl.policies.generative import GenerativeConfig, GenerativePolicy


@dataclass
class OneStepConfig(GenerativeConfig):
    """A one-step policy; the defaults are FQL's."""


class OneStepPolicy(GenerativePolicy):
    """a = clip(mu(s, z)), z ~ N(0, 1): one network evaluation per decision."""

    config_class: ClassVar[type] = OneStepConfig

    def __init__(self, specs: Specs, config: OneStepConfig, rng: torch.Generator) -> None:
        super().__init__(specs, config)
        self.noise_dim = self.chunk_dim
        self.net = make_network(
            config.network,
            self.obs_dim + self.noise_dim,
            config.hidden,
            self.chunk_dim,
            config.activation,
            config.norm,
            rng,
        )

    def uncut(self, features: Tensor, noise: Tensor) -> Tensor:
        """Return mu(s, z) before it is cut at +-1, where distillation has gradients: (B, D), (B, h*A)."""
        return self.net(torch.cat([features, noise], dim=-1))

    def decode(self, features: Tensor, noise: Tensor) -> Tensor:
        """Map noise (B, h*A) or (B, n, h*A) to decisions of its shape, in [-1, 1]; with gradients."""
        if noise.ndim == 2:
            return self.uncut(features, noise).clamp(-1.0, 1.0)
        if torch.is_grad_enabled():
            rows = features.repeat_interleave(noise.shape[1], dim=0)
            return self.decode(rows, noise.flatten(0, 1)).view_as(noise)
        return self.net.finish(self.net.project(features), noise).clamp(-1.0, 1.0)
