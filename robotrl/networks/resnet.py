r"""The residual network with LayerNorm of IDQL (Hansen-Estruch et al. 2023, arXiv:2304.10573) and EXPO.

    h = W x + b,   h <- h + W2 act(W1 LayerNorm(h) + b1) + b2  per block,   out = W' act(h) + b'

Differences: no dropout.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812  the field's name for it
from torch import Tensor, nn

from robotrl.networks.activation import EPS, Activation

EXPANSION = 4
"""Width inside a block, in units of the width outside."""


def _linear(in_dim: int, out_dim: int, rng: torch.Generator) -> nn.Linear:
    layer = nn.Linear(in_dim, out_dim, device="meta").to_empty(device="cpu")
    nn.init.xavier_uniform_(layer.weight, generator=rng)
    nn.init.zeros_(layer.bias)
    return layer


class ResNetBlock(nn.Module):
    """h + W2 act(W1 LayerNorm(h))."""

    def __init__(self, width: int, activation: Activation, rng: torch.Generator) -> None:
        super().__init__()
        self.activation = activation
        self.norm = nn.LayerNorm(width, EPS)
        self.first = _linear(width, EXPANSION * width, rng)
        self.second = _linear(EXPANSION * width, width, rng)

    def forward(self, h: Tensor) -> Tensor:
        """Map (B, H) to (B, H)."""
        return h + self.second(self.activation.apply(self.first(self.norm(h))))


class ResNet(nn.Module):
    """An LN-ResNet, which takes part of its input ahead as `MLP` does (`project`, `finish`).

    Args:
        in_dim: width of the input.
        hidden: width of each block, all the same.
        out_dim: width of the output.
        activation: inside the blocks and before the output.
        rng: where the Xavier-uniform weights are drawn from.

    Raises:
        ValueError: there is no block, or the widths differ.
    """

    def __init__(
        self,
        in_dim: int,
        hidden: Sequence[int],
        out_dim: int,
        activation: Activation,
        rng: torch.Generator,
    ) -> None:
        super().__init__()
        if len(set(hidden)) != 1:
            raise ValueError(f"hidden: the blocks of a residual network have one width, got {list(hidden)}")
        self.activation = activation
        self.first = _linear(in_dim, hidden[0], rng)
        self.blocks = nn.Sequential(*(ResNetBlock(width, activation, rng) for width in hidden))
        self.last = _linear(hidden[0], out_dim, rng)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in) to (B, out)."""
        return self._finish(self.first(x))

    @torch.no_grad()
    def project(self, context: Tensor, start: int = 0) -> Tensor:
        """Return what the input's columns from `start` on, (B, C), contribute to the first layer, (B, H).

        The bias counts to column 0.
        """
        columns = self.first.weight[:, start : start + context.shape[-1]]
        return F.linear(context, columns, self.first.bias if start == 0 else None)

    @torch.no_grad()
    def finish(self, projection: Tensor, x: Tensor) -> Tensor:
        """Evaluate the network for x (B, n, X), its last columns, given the others' contribution (B, H).

        Returns:
            (B, n, out).
        """
        h = F.linear(x, self.first.weight[:, -x.shape[-1] :]).add_(projection.unsqueeze(-2))
        return self._finish(h)

    def _finish(self, h: Tensor) -> Tensor:
        return self.last(self.activation.apply(self.blocks(h)))
