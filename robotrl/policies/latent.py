"""Act in the latent space of another policy: an encoder draws z, a frozen decoder makes the action of it."""

from __future__ import annotations

import torch
from torch import Tensor

from robotrl.core.types import Obs
from robotrl.policies.distributions import ActionDistribution
from robotrl.policies.policy import Policy, StochasticPolicy


class LatentPolicy(StochasticPolicy):
    """z ~ encoder(.|s), a = g(s, z); what is drawn, and has a density, is z.

    Until `adopt` has given it a decoder, g(s, z) = clip(z, -1, 1).

    Args:
        encoder: draws z, unbounded and as wide as an action.
        decoder: makes one action of one z. It keeps the observation statistics that it was fitted with.

    Attributes:
        decodes: whether the decoder is in use.
    """

    def __init__(self, encoder: StochasticPolicy, decoder: Policy) -> None:
        super().__init__(encoder.specs, list(encoder.obs_groups), normalize_obs=False)
        self.encoder, self.normalizer = encoder, encoder.normalizer
        self.decoder = decoder.requires_grad_(False)
        self.decodes = False

    def adopt(self, decoder: Policy) -> None:
        """Decode by the weights and observation statistics of `decoder` from now on."""
        self.decoder.load_state_dict(decoder.state_dict())
        self.decodes = True

    @property
    def sampling_steps(self) -> int | None:
        """Of the decoder, None until it is in use."""
        return self.decoder.sampling_steps if self.decodes else None

    def set_sampling_steps(self, count: int) -> None:
        """Let the decoder decode in `count` denoising steps, see `Policy`."""
        if self.decodes:
            self.decoder.set_sampling_steps(count)
        else:
            super().set_sampling_steps(count)

    def head(self, features: Tensor) -> ActionDistribution:
        """pi(z | s) for observations (B, D), normalised by the encoder's statistics."""
        return self.encoder.head(features)

    def to_bounds(self, action: Tensor, obs: Obs) -> Tensor:
        """Decode draws of z, (B, A)."""
        return self._decode(self.flatten(obs), action)

    def forward(self, flat: Tensor, noise: Tensor | None = None) -> Tensor:
        """Return the decision that the mode of z leads to, (B, A)."""
        return self._decode(flat, self.head(self.normalize(flat)).mode())

    def _decode(self, flat: Tensor, z: Tensor) -> Tensor:
        return self.decoder(flat, z) if self.decodes else z.clamp(-1.0, 1.0)

    def get_extra_state(self) -> Tensor:
        """Save with the weights whether the decoder is in use."""
        return torch.tensor(self.decodes)

    def set_extra_state(self, state: Tensor) -> None:
        """Continue from `get_extra_state`."""
        self.decodes = bool(state)
