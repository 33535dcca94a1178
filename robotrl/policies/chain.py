"""The denoising steps behind a decision, each a draw from a Gaussian, and their log-probabilities."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robotrl.policies.distributions import DiagonalGaussian


@dataclass
class Chain:
    """How B decisions came about in K steps.

    Attributes:
        states: (B, K + 1, h*A), the start and what each step drew.
        log_prob: (B, K), log density of each draw given the state before; nothing of the start.
        std: (K, 1), standard deviation of each step.
    """

    states: Tensor
    log_prob: Tensor
    std: Tensor

    @property
    def action(self) -> Tensor:
        """The decisions, (B, h*A) in [-1, 1]."""
        return self.states[:, -1].clamp(-1.0, 1.0)


def step_log_prob(drawn: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Log density of draws (..., X) from N(mean, std^2), (...); std is (..., 1)."""
    return DiagonalGaussian(mean, torch.log(std)).log_prob(drawn)
