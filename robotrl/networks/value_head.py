"""What a critic's last layer means: a number, or the probabilities of bins that values fall into."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor


class ValueHead(Protocol):
    """From the outputs of a critic to values, and back for the written-out gradients.

    Attributes:
        width: outputs per value.
    """

    width: int

    def value(self, output: Tensor) -> Tensor:
        """Map outputs (..., width) to values (...)."""
        ...

    def backprop_value(self, output: Tensor, grad: Tensor) -> Tensor:
        """Map gradients of the values (...) to gradients of the outputs (..., width)."""
        ...

    def loss(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss of each value (...) against targets that broadcast to it, and its gradient."""
        ...


class ScalarHead:
    """The output is the value; squared error."""

    width = 1

    def value(self, output: Tensor) -> Tensor:
        """Drop the last dimension."""
        return output.squeeze(-1)

    def backprop_value(self, output: Tensor, grad: Tensor) -> Tensor:
        """Add it again."""
        return grad.unsqueeze(-1)

    def loss(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """(v - y)^2 and 2 (v - y)."""
        error = output.squeeze(-1) - target
        return error.square(), (2.0 * error).unsqueeze(-1)


class HLGaussHead:
    """Values as classes: a histogram over bins, trained on a Gaussian around the target.

    Imani & White 2018 (arXiv:1806.04613), Farebrother et al. 2024 (arXiv:2403.03950): the target's
    probability of a bin is the mass that N(y, sigma^2), cut to [low, high], has there; the loss is the
    cross-entropy; the value is the mean of the bins' centres.

    Args:
        low: lower end of the values; targets are cut to [low, high].
        high: upper end.
        num_bins: of equal width.
        sigma_bins: sigma in units of a bin's width.
    """

    def __init__(self, low: float, high: float, num_bins: int = 128, sigma_bins: float = 0.75) -> None:
        self.width = num_bins
        self.low, self.high = low, high
        self._edges = torch.linspace(low, high, num_bins + 1)
        self._centres = (self._edges[:-1] + self._edges[1:]) / 2
        self._scale = math.sqrt(2.0) * sigma_bins * (high - low) / num_bins

    def target_probabilities(self, target: Tensor) -> Tensor:
        """Map targets (...) to probabilities (..., num_bins)."""
        cut = target.clamp(self.low, self.high).unsqueeze(-1)
        mass = torch.erf((self._edges.to(cut) - cut) / self._scale)
        return mass.diff(dim=-1) / (mass[..., -1:] - mass[..., :1])

    def value(self, output: Tensor) -> Tensor:
        """Mean of the bins' centres under softmax(output)."""
        return output.softmax(-1) @ self._centres.to(output)

    def backprop_value(self, output: Tensor, grad: Tensor) -> Tensor:
        """Dv / do_j = p_j (c_j - v)."""
        probabilities, centres = output.softmax(-1), self._centres.to(output)
        value = probabilities @ centres
        return grad.unsqueeze(-1) * probabilities * (centres - value.unsqueeze(-1))

    def loss(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropy and softmax(output) - p."""
        wanted = self.target_probabilities(target)
        log_probabilities = output.log_softmax(-1)
        return -(wanted * log_probabilities).sum(-1), log_probabilities.exp() - wanted
