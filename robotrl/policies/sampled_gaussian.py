"""A Gaussian policy as a function of noise, so that it makes decisions as generative policies do."""

from __future__ import annotations

import torch
from torch import Tensor

from robotrl.policies.decoding import DecodingPolicy
from robotrl.policies.gaussian import GaussianPolicy, SquashedGaussianPolicy
from robotrl.policies.policy import HasBcLoss, HasLatent, Policy, require


class SampledGaussian(DecodingPolicy):
    """a = mean(s) + std z, cut at +-1, or tanh of that, z ~ N(0, 1).

    Args:
        gaussian: imitates, by its likelihood; observations are normalised by its statistics.
    """

    def __init__(self, gaussian: GaussianPolicy | SquashedGaussianPolicy) -> None:
        super().__init__(gaussian.specs, list(gaussian.obs_groups), normalize_obs=False)
        self.gaussian = gaussian
        self.normalizer = gaussian.normalizer
        self.horizon = gaussian.horizon
        self.noise_dim = gaussian.chunk_dim

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


def proposer(policy: Policy, algorithm: str) -> Policy:
    """Return a policy that imitates and makes its decisions from noise: `policy`, or one made of it.

    Raises:
        UsageError: it cannot.
    """
    if isinstance(policy, GaussianPolicy | SquashedGaussianPolicy):
        return SampledGaussian(policy)
    require(policy, (HasBcLoss, HasLatent), algorithm)
    return policy
