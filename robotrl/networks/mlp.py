"""Multi-layer perceptrons: one network, or E of them as one batched matrix product."""

from __future__ import annotations

import enum
import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Activation(enum.Enum):
    """Non-linearity between layers."""

    RELU = "relu"
    TANH = "tanh"
    ELU = "elu"
    SILU = "silu"

    def module(self) -> nn.Module:
        """Build the layer."""
        return {"relu": nn.ReLU, "tanh": nn.Tanh, "elu": nn.ELU, "silu": nn.SiLU}[self.value]()


def mlp(
    in_dim: int,
    hidden: Sequence[int],
    out_dim: int,
    activation: Activation,
    rng: torch.Generator,
    last_gain: float = 1.0,
) -> nn.Sequential:
    """Build an MLP with orthogonal weights (gain sqrt 2, `last_gain` for the output) and zero biases."""
    layers: list[nn.Module] = []
    width = in_dim
    for size in hidden:
        layers += [_linear(width, size, math.sqrt(2.0), rng), activation.module()]
        width = size
    layers.append(_linear(width, out_dim, last_gain, rng))
    return nn.Sequential(*layers)


def _linear(in_dim: int, out_dim: int, gain: float, rng: torch.Generator) -> nn.Linear:
    layer = nn.Linear(in_dim, out_dim)
    nn.init.orthogonal_(layer.weight, gain, generator=rng)
    nn.init.zeros_(layer.bias)
    return layer


class EnsembleMLP(nn.Module):
    """E independent MLPs evaluated together: weights are (E, in, out), a layer is one batched matmul.

    Weights and biases are drawn uniformly in +-1/sqrt(in), as `nn.Linear` does.
    """

    def __init__(
        self,
        num_members: int,
        in_dim: int,
        hidden: Sequence[int],
        out_dim: int,
        activation: Activation,
        rng: torch.Generator,
    ) -> None:
        super().__init__()
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        sizes = [in_dim, *hidden, out_dim]
        for fan_in, fan_out in itertools.pairwise(sizes):
            bound = 1.0 / math.sqrt(fan_in)
            for store, shape in (
                (self.weights, (num_members, fan_in, fan_out)),
                (self.biases, (num_members, 1, fan_out)),
            ):
                store.append(nn.Parameter((torch.rand(shape, generator=rng) * 2 - 1) * bound))
        self.activation = activation.module()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in), or (E, B, in) for separate inputs, to (E, B, out)."""
        if x.ndim == 2:
            x = x.unsqueeze(0).expand(self.weights[0].shape[0], -1, -1)
        last = len(self.weights) - 1
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, x, weight)
            if i < last:
                x = self.activation(x)
        return x
