"""An MLP with LayerNorm before each activation, as streaming learners use it (arXiv:2410.14606)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812  the field's name for it
from torch import Tensor, nn


class LayerNormMLP(nn.Module):
    """h = LeakyReLU(LayerNorm(W h + b)) per hidden layer, LayerNorm without parameters; linear output.

    Args:
        in_dim: width of the input.
        hidden: widths of the hidden layers.
        out_dim: width of the output.
        rng: where torch's usual initial weights are drawn from.
    """

    def __init__(self, in_dim: int, hidden: Sequence[int], out_dim: int, rng: torch.Generator) -> None:
        super().__init__()
        sizes = [in_dim, *hidden, out_dim]
        self.layers = nn.ModuleList(
            nn.Linear(n, m, device="meta") for n, m in itertools.pairwise(sizes)
        ).to_empty(device="cpu")
        for layer in self.linear():
            bound = layer.in_features**-0.5
            nn.init.uniform_(layer.weight, -bound, bound, generator=rng)
            nn.init.zeros_(layer.bias)

    def linear(self) -> list[nn.Linear]:
        """Return the layers, the output's last."""
        return [layer for layer in self.layers if isinstance(layer, nn.Linear)]

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in) to (B, out)."""
        *hidden, last = self.linear()
        for layer in hidden:
            x = F.leaky_relu(F.layer_norm(layer(x), (layer.out_features,)), 0.01)
        return last(x)
