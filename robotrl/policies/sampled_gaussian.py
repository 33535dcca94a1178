"""A Gaussian policy as a function of noise, so that it makes decisions as generative policies do."""

from __future__ import annotations

import torch
from torch import Tensor

from robotrl.core.types import Obs
from robotrl.policies.gaussian import GaussianPolicy, SquashedGaussianPolicy
from robotrl.policies.policy import HasBcLoss, HasLatent, Policy, require


class SampledGaussian(Policy):
    """a = mean(s) + std z, cut at +-1, or tanh of that, z ~ N(0, 1).

    Args:
        gaussian: imitates, by its likelihood; observations are normalised by its statistics.
    """

    def __init__(self, gaussian: GaussianPolicy | SquashedGaussianPolicy) -> None:
        super().__init__(gaussian.specs, list(gaussian.obs_groups), normalize_obs=False)
        self.gaussian = gaussian
        self.normalizer = gaussian.normalizer
        self.noise_dim = gaussian.action_dim

    @torch.no_grad()
    def decode(self, features: Tensor, noise: Tensor) -> Tensor:
        """Map noise to decisions, see `HasLatent`."""
        head = self.gaussian.head(features)
        draws = head.at(noise.transpose(0, 1)).transpose(0, 1) if noise.ndim == 3 else head.at(noise)
        return draws.clamp(-1.0, 1.0)

    def bc_loss(
        self,
        features: Tensor,
        action: Tensor,
        rng: torch.Generator,
        weight: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Return the negative log-likelihood, see `HasBcLoss`."""
        return self.gaussian.bc_loss(features, action, rng, weight, mask)

    def forward(self, flat: Tensor, noise: Tensor | None = None) -> Tensor:
        """Return the action that raw observations (B, D) and noise (B, A) lead to, (B, A)."""
        assert noise is not None
        return self.decode(self.normalize(flat), noise)

    def act(self, obs: Obs, deterministic: bool = False, rng: torch.Generator | None = None) -> Tensor:
        """Draw one action per state, (B, A); `deterministic` makes no difference."""
        flat = self.flatten(obs)
        return self(flat, self.draw_noise(flat.shape[:1], rng))


def proposer(policy: Policy, algorithm: str) -> Policy:
    """Return a policy that imitates and makes its decisions from noise: `policy`, or one made of it.

    Raises:
        UsageError: it cannot.
    """
    if isinstance(policy, GaussianPolicy | SquashedGaussianPolicy):
        return SampledGaussian(policy)
    require(policy, (HasBcLoss, HasLatent), algorithm)
    return policy
