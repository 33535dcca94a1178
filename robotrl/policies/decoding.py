"""Policies whose decision is a function of the observation and of standard normal noise."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from robotrl.core.types import Obs
from robotrl.policies.policy import Policy


class DecodingPolicy(Policy):
    """A decision is `decode(features, noise)`; acting draws the noise."""

    @abstractmethod
    def decode(self, features: Tensor, noise: Tensor) -> Tensor:
        """Map noise to decisions in [-1, 1]: a function of its inputs alone.

        Args:
            features: (B, D), normalised observations.
            noise: (B, noise_dim), or (B, n, noise_dim) for n decisions per state.

        Returns:
            (B, h*A) or (B, n, h*A).
        """

    def forward(self, flat: Tensor, noise: Tensor | None = None) -> Tensor:
        """Return the decision that raw observations (B, D) and noise (B, noise_dim) lead to, (B, h*A)."""
        return self.decode(self.normalize(flat), self.given(noise))

    def act(self, obs: Obs, deterministic: bool = False, rng: torch.Generator | None = None) -> Tensor:
        """Draw one decision per state, (B, h*A); `deterministic` makes no difference."""
        flat = self.flatten(obs)
        return self(flat, self.draw_noise(flat.shape[:1], rng))

    def sample(self, obs: Obs, n: int, rng: torch.Generator | None = None) -> Tensor:
        """Draw n decisions per state, (B, n, h*A), encoding each observation once."""
        features = self.normalize(self.flatten(obs))
        return self.decode(features, self.draw_noise((len(features), n), rng))
