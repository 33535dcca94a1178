"""Running observation normalisation, part of the network so that it is saved and exported with it."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RunningNormalizer(nn.Module):
    """(x - mean) / sqrt(var + eps) with running statistics, cut at +-`clip`.

    Statistics are merged batch by batch in float64 (Chan, Golub & LeVeque 1983, pairwise update). Until the
    first `update` it is the identity (apart from the cut). Streams add the same `eps` to the variance.
    """

    mean: Tensor
    var: Tensor
    count: Tensor
    shift: Tensor
    scale: Tensor

    def __init__(self, dim: int, clip: float = 10.0, eps: float = 1e-8) -> None:
        super().__init__()
        self.clip, self.eps = clip, eps
        self.register_buffer("mean", torch.zeros(dim, dtype=torch.float64))
        self.register_buffer("var", torch.ones(dim, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        # what forward uses: the float32 image of the statistics
        self.register_buffer("shift", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (..., D) float32."""
        return ((x - self.shift) * self.scale).clamp(-self.clip, self.clip)

    @torch.no_grad()
    def update(self, x: Tensor) -> None:
        """Merge a batch (B, D), B >= 1, into the statistics."""
        x = x.double()
        var, mean = torch.var_mean(x, dim=0, correction=0)
        total = self.count + x.shape[0]
        delta = mean - self.mean
        square = self.var * self.count + var * x.shape[0] + delta**2 * (self.count * x.shape[0] / total)
        self.load_statistics(self.mean + delta * (x.shape[0] / total), square / total, total)

    @torch.no_grad()
    def load_statistics(self, mean: Tensor, var: Tensor, count: Tensor) -> None:
        """Take over statistics that were gathered elsewhere: (D,), (D,) and a number of samples."""
        self.mean.copy_(mean)
        self.var.copy_(var)
        self.count.copy_(count)
        self.shift.copy_(self.mean)
        self.scale.copy_((self.var + self.eps).rsqrt())
