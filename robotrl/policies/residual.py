r"""A frozen policy with a learned correction: a = clip(a_base + beta e(s, a_base), -1, 1)."""

from __future__ import annotations

import torch
from torch import Tensor

from robotrl.core.types import Obs
from robotrl.policies.composite import CompositePolicy
from robotrl.policies.edit import Edit
from robotrl.policies.policy import Policy


class ResidualPolicy(CompositePolicy):
    """Residual reinforcement learning's policy (Johannink et al. 2019, arXiv:1812.03201).

    Args:
        base: any policy; it stays as it is.
        edit: the correction.
    """

    def __init__(self, base: Policy, edit: Edit) -> None:
        super().__init__(base)
        self.edit = edit
        self.noise_dim = base.noise_dim

    def set_sampling_steps(self, count: int) -> None:
        """Let the base decide in `count` denoising steps, for which it may need other noise."""
        super().set_sampling_steps(count)
        self.noise_dim = self.base.noise_dim

    def forward(self, flat: Tensor, noise: Tensor | None = None) -> Tensor:
        """Return the base's decision with the mode of its correction, (B, h A)."""
        base = self.base(flat, noise)
        return self.edit.candidates(self.normalize(flat), base.unsqueeze(1), None).squeeze(1)

    @torch.no_grad()
    def act(self, obs: Obs, deterministic: bool = False, rng: torch.Generator | None = None) -> Tensor:
        """Return decisions, (B, h A) in [-1, 1]; exploring, the correction is drawn."""
        flat = self.flatten(obs)
        base = self.base.act(obs, deterministic=True, rng=rng)
        features = self.normalize(flat)
        if deterministic:
            return self.edit.candidates(features, base.unsqueeze(1), None).squeeze(1)
        return self.explore(features, base, rng)

    def explore(self, features: Tensor, base: Tensor, rng: torch.Generator | None) -> Tensor:
        """Correct the base's decisions (B, h A) by draws."""
        draw, _ = self.edit.draw_edit(features, base, rng)
        return self.edit.edited(base, draw.action)
