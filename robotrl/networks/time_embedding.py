"""How a denoising network is told the time: a number, learned Fourier features or sinusoids."""

from __future__ import annotations

import enum
import math

import torch
from torch import Tensor, nn

from robotrl.networks.mlp import MLP, Activation, Init

FOURIER_STD = 0.2
MAX_PERIOD = 10_000.0


class TimeFeatures(enum.Enum):
    """Features of the time."""

    SCALAR = "scalar"
    """The time itself, as a share of the whole: FQL, Q-chunking."""
    FOURIER = "fourier"
    """cos and sin of 2 pi w t with learned w ~ N(0, 0.2^2), then an MLP: IDQL, EXPO."""
    SINUSOIDAL = "sinusoidal"
    """sin and cos at frequencies from 1 down to 1/10000, then an MLP: DPPO."""


class TimeEmbedding(nn.Module):
    """Embed times, counted in denoising steps.

    Args:
        kind: the features.
        dim: their number, even; not used by SCALAR.
        num_steps: denoising steps of the whole way; SCALAR divides by it.
        activation: of the MLP behind the features, dim -> 2 dim -> 2 dim.
        rng: where weights are drawn from.

    Attributes:
        width: of the embedding, 1 or 2 dim.
    """

    frequency: Tensor

    def __init__(
        self, kind: TimeFeatures, dim: int, num_steps: int, activation: Activation, rng: torch.Generator
    ) -> None:
        super().__init__()
        self.kind, self.num_steps = kind, num_steps
        self.width = 1 if kind is TimeFeatures.SCALAR else 2 * dim
        if kind is TimeFeatures.SCALAR:
            return
        if kind is TimeFeatures.FOURIER:
            self.frequency = nn.Parameter(torch.empty(dim // 2).normal_(0.0, FOURIER_STD, generator=rng))
        else:
            exponent = torch.linspace(0, -1, dim // 2, dtype=torch.float64)
            self.register_buffer("frequency", (MAX_PERIOD**exponent).float(), persistent=False)
        self.net = MLP(dim, [2 * dim], 2 * dim, activation, Init.XAVIER, rng)

    def forward(self, time: Tensor) -> Tensor:
        """Embed times (R,), in [0, num_steps], as (R, width)."""
        if self.kind is TimeFeatures.SCALAR:
            return time.unsqueeze(-1) / self.num_steps
        scale = 2 * math.pi if self.kind is TimeFeatures.FOURIER else 1.0
        phase = time.unsqueeze(-1) * (scale * self.frequency)
        return self.net(torch.cat([phase.cos(), phase.sin()], dim=-1))
