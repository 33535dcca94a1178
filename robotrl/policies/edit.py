r"""A small correction of another policy's action: a = clip(a_base + beta e, -1, 1), e = tanh of a Gaussian.

The edit policy of EXPO (arXiv:2507.07986) and the residual of residual RL (arXiv:1812.03201).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from robotrl.networks.mlp import MLP, Activation, Init
from robotrl.policies.distributions import SquashedDraw
from robotrl.policies.squashed import SquashedHead


class Edit(SquashedHead, nn.Module):
    """e ~ tanh(N(mean(s, a_base), std(s, a_base))), scaled by `scale`.

    Args:
        feature_dim: width of the normalised observations.
        action_dim: width of the actions.
        hidden: widths of the hidden layers.
        activation: between layers.
        scale: beta, the largest change of an action.
        init: how weights are drawn.
        rng: where they are drawn from.
        cut: whether edited actions are cut to [-1, 1].
    """

    log_std_min, log_std_max = -20.0, 2.0

    def __init__(
        self,
        feature_dim: int,
        action_dim: int,
        hidden: Sequence[int],
        activation: Activation,
        scale: float,
        init: Init,
        rng: torch.Generator,
        cut: bool = True,
    ) -> None:
        super().__init__()
        self.scale, self.cut = scale, cut
        self.net = MLP(feature_dim + action_dim, hidden, 2 * action_dim, activation, init, rng)

    def draw_edit(
        self, features: Tensor, base: Tensor, rng: torch.Generator | None
    ) -> tuple[SquashedDraw, list[Tensor]]:
        """Draw e for base actions (B, A); return it with the tape for `backprop`."""
        return self.draw(torch.cat([features, base], -1), rng)

    def edited(self, base: Tensor, edit: Tensor) -> Tensor:
        """Return a_base + beta e, cut to [-1, 1] unless the class was told not to."""
        action = base + self.scale * edit
        return action.clamp(-1.0, 1.0) if self.cut else action

    def edit_gradient(self, base: Tensor, edit: Tensor, grad: Tensor) -> Tensor:
        """Map the gradient of the edited action, (B, A), to that of e."""
        grad = self.scale * grad
        return grad * ((base + self.scale * edit).abs() <= 1.0) if self.cut else grad

    def candidates(self, features: Tensor, base: Tensor, noise: Tensor | None) -> Tensor:
        """Edit n base actions per state, which are encoded once each.

        Args:
            features: (B, D).
            base: (B, n, A).
            noise: (B, n, A) standard normal; None for the mode of every edit.

        Returns:
            (B, n, A).
        """
        mean, log_std = self.net.finish(self.net.project(features), base).chunk(2, dim=-1)
        if noise is not None:
            mean = mean + log_std.clamp(self.log_std_min, self.log_std_max).exp() * noise
        return self.edited(base, torch.tanh(mean))


class Jitter(nn.Module):
    """The control for `Edit`: e is uniform on [-1, 1], whatever the state. Nothing is learned.

    Args:
        scale: beta, the largest change of an action.
    """

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def candidates(self, features: Tensor, base: Tensor, noise: Tensor) -> Tensor:
        """Jitter n base actions per state, see `Edit.candidates`."""
        uniform = torch.erf(noise / math.sqrt(2.0))
        return (base + self.scale * uniform).clamp(-1.0, 1.0)
