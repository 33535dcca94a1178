"""A frozen generative policy whose noise another policy chooses (DSRL, arXiv:2506.15799)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from robotrl.core.errors import UsageError
from robotrl.core.types import Obs
from robotrl.networks.mlp import MLP, Activation, Init, Norm
from robotrl.policies.composite import CompositePolicy
from robotrl.policies.diffusion import DiffusionPolicy
from robotrl.policies.policy import HasLatent, Policy
from robotrl.policies.squashed import SquashedHead


class NoiseActor(SquashedHead, nn.Module):
    """w = b tanh(u), u ~ N(mean(s), std(s)): noise within +-b.

    Args:
        feature_dim: width of the normalised observations.
        noise_dim: width of w.
        hidden: widths of the hidden layers.
        magnitude: b.
        rng: where weights are drawn from.
    """

    log_std_min, log_std_max = -20.0, 2.0

    def __init__(
        self, feature_dim: int, noise_dim: int, hidden: Sequence[int], magnitude: float, rng: torch.Generator
    ) -> None:
        super().__init__()
        self.magnitude = magnitude
        self.net = MLP(feature_dim, hidden, 2 * noise_dim, Activation.TANH, Init.XAVIER, rng, norm=Norm.PRE)

    def forward(self, features: Tensor) -> Tensor:
        """Return b tanh(mean), (B, W)."""
        mean, _ = self.net(features).chunk(2, dim=-1)
        return self.magnitude * torch.tanh(mean)


class SteeredPolicy(CompositePolicy):
    """a = decode(s, w), w = b tanh(mean(s)); exploring, w is drawn.

    Args:
        base: decodes; it must be decided by as many numbers as an action has. A diffusion policy is from now
            on, see `DiffusionPolicy.drop_step_noise`.
        actor: chooses the noise.

    Raises:
        UsageError: the base draws further noise while it decodes.
    """

    def __init__(self, base: Policy, actor: NoiseActor) -> None:
        super().__init__(base)
        assert isinstance(base, HasLatent)
        if isinstance(base, DiffusionPolicy):
            base.drop_step_noise()
        if base.noise_dim != base.chunk_dim:
            raise UsageError(
                f"{type(base).__name__} draws {base.noise_dim} numbers for {base.chunk_dim} actions and "
                "cannot be steered: use a flow or diffusion policy"
            )
        self.actor = actor

    def forward(self, flat: Tensor, noise: Tensor | None = None) -> Tensor:
        """Return the decision that the mode of the noise leads to, (B, h A)."""
        features = self.normalize(flat)
        return self.decode(features, self.actor(features))

    def decode(self, features: Tensor, noise: Tensor) -> Tensor:
        """Map noise (B, h A) to decisions (B, h A)."""
        assert isinstance(self.base, HasLatent)
        return self.base.decode(features, noise)

    @torch.no_grad()
    def act(self, obs: Obs, deterministic: bool = False, rng: torch.Generator | None = None) -> Tensor:
        """Return decisions, (B, h A) in [-1, 1]."""
        flat = self.flatten(obs)
        if deterministic:
            return self(flat)
        features = self.normalize(flat)
        draw, _ = self.actor.draw(features, rng)
        return self.decode(features, self.actor.magnitude * draw.action)
