"""What networks have in common whose output is mean and log deviation of a squashed Gaussian."""

from __future__ import annotations

import torch
from torch import Tensor

from robotrl.networks.mlp import MLP
from robotrl.policies.distributions import SquashedDraw


class SquashedHead:
    """Draws a = tanh(u), u ~ N(mean(x), std(x)), with written-out gradients.

    Attributes:
        net: maps inputs (B, in) to (B, 2 A), mean and log deviation.
        log_std_min: lower end of the log deviation.
        log_std_max: upper end.
    """

    net: MLP
    log_std_min: float
    log_std_max: float

    def draw(self, inputs: Tensor, rng: torch.Generator | None) -> tuple[SquashedDraw, list[Tensor]]:
        """Draw actions without recording gradients; return them with the tape for `backprop`."""
        tape = self.net.run(inputs)
        mean, log_std = tape[-1].chunk(2, dim=-1)
        return SquashedDraw.draw(mean, log_std.clamp(self.log_std_min, self.log_std_max), rng), tape

    def backprop(
        self,
        draw: SquashedDraw,
        tape: list[Tensor],
        grad_action: Tensor,
        grad_log_prob: Tensor,
        flat_grad: Tensor,
    ) -> None:
        """Write the gradient of the network's parameters into `flat_grad`.

        Args:
            draw: of `draw`.
            tape: of `draw`.
            grad_action: (B, A).
            grad_log_prob: (), the same for every row.
            flat_grad: shaped like `net.flat`.
        """
        grad_mean, grad_log_std = draw.backprop(grad_action, grad_log_prob)
        log_std = tape[-1][..., grad_mean.shape[-1] :]
        inside = (log_std >= self.log_std_min) & (log_std <= self.log_std_max)
        grad = torch.cat([grad_mean, grad_log_std.mul_(inside)], dim=-1)
        self.net.backprop(tape, grad, flat_grad, wants_input=False)
