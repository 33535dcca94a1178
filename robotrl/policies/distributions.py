"""Action distributions with explicit random generators; every event is one action vector (A,)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F  # noqa: N812  the field's name for it
from torch import Tensor

_LOG_2PI = math.log(2 * math.pi)
# actions are pulled this far inside (-1, 1) where a density has no value on the edge
_EDGE = 1e-6


class ActionDistribution(Protocol):
    """p(a | s) for a batch of B states."""

    def sample(self, rng: torch.Generator | None) -> Tensor:
        """Draw (B, A)."""
        ...

    def mode(self) -> Tensor:
        """Return the deterministic action, (B, A)."""
        ...

    def log_probs(self, action: Tensor) -> Tensor:
        """Log density of each component, which are independent, of (B, A), (B, A)."""
        ...

    def log_prob(self, action: Tensor) -> Tensor:
        """Log density of (B, A), (B,)."""
        ...

    def entropy(self) -> Tensor:
        """Differential entropy, (B,)."""
        ...


def _normal(like: Tensor, rng: torch.Generator | None) -> Tensor:
    return torch.empty_like(like).normal_(generator=rng)


@dataclass
class DiagonalGaussian:
    """Independent normals; unbounded, so what leaves [-1, 1] is cut before it reaches the actuators."""

    mean: Tensor
    log_std: Tensor

    def at(self, noise: Tensor) -> Tensor:
        """Return the draw that standard normal noise, (..., B, A), makes."""
        return self.mean + self.log_std.exp() * noise

    def sample(self, rng: torch.Generator | None) -> Tensor:
        """Draw (B, A), differentiable in mean and log_std."""
        return self.at(_normal(self.mean, rng))

    def mode(self) -> Tensor:
        """Return the mean."""
        return self.mean

    def log_probs(self, action: Tensor) -> Tensor:
        """Normal log densities, (B, A)."""
        z = (action - self.mean) * torch.exp(-self.log_std)
        return -0.5 * z**2 - self.log_std - 0.5 * _LOG_2PI

    def log_prob(self, action: Tensor) -> Tensor:
        """Sum of the normal log densities, (B,)."""
        return self.log_probs(action).sum(-1)

    def entropy(self) -> Tensor:
        """Sum of log_std + log(2 pi e) / 2, (B,)."""
        return (self.log_std + 0.5 * (_LOG_2PI + 1)).expand_as(self.mean).sum(-1)


@dataclass
class SquashedGaussian:
    """tanh of a diagonal Gaussian (Haarnoja et al. 2018, arXiv:1801.01290, appendix C)."""

    mean: Tensor
    log_std: Tensor

    def at(self, noise: Tensor) -> Tensor:
        """Return the draw that standard normal noise, (..., B, A), makes."""
        return torch.tanh(self.mean + self.log_std.exp() * noise)

    def sample(self, rng: torch.Generator | None) -> Tensor:
        """Draw (B, A) in (-1, 1), differentiable in mean and log_std."""
        return self.at(_normal(self.mean, rng))

    def mode(self) -> Tensor:
        """Return tanh of the mean."""
        return torch.tanh(self.mean)

    def log_probs(self, action: Tensor) -> Tensor:
        """Log densities of the components of actions in [-1, 1], (B, A)."""
        u = torch.atanh(action.clamp(-1 + _EDGE, 1 - _EDGE))
        return DiagonalGaussian(self.mean, self.log_std).log_probs(u) - _log_one_minus_tanh_sq(u)

    def log_prob(self, action: Tensor) -> Tensor:
        """Log density of actions in [-1, 1], (B,)."""
        return self.log_probs(action).sum(-1)

    def entropy(self) -> Tensor:
        """Entropy at the mean's linearisation: Gaussian entropy + log |d tanh(mean)|, (B,)."""
        gaussian = DiagonalGaussian(self.mean, self.log_std).entropy()
        return gaussian + _log_one_minus_tanh_sq(self.mean).sum(-1)


def _log_one_minus_tanh_sq(u: Tensor) -> Tensor:
    """log(1 - tanh(u)^2) without cancellation."""
    return 2.0 * (math.log(2.0) - u - F.softplus(-2.0 * u))


@dataclass
class SquashedDraw:
    """One reparameterised draw a = tanh(u), u = mean + std * noise, with its log density.

    The gradients are written out. From log pi = -noise^2 / 2 - log std - log(1 - a^2) + const:
    da/du = 1 - a^2,  dlog pi/du = 2 a,  du/dlog std = std * noise,  and log pi falls with log std itself.

    Attributes:
        action: (B, A).
        log_prob: (B,), exact in the pre-squash variable.
        offset: (B, A), std * noise.
    """

    action: Tensor
    log_prob: Tensor
    offset: Tensor

    @classmethod
    def draw(cls, mean: Tensor, log_std: Tensor, rng: torch.Generator | None) -> SquashedDraw:
        """Draw from tanh(N(mean, exp(log_std)^2)); both are (B, A)."""
        noise = _normal(mean, rng)
        offset = log_std.exp().mul_(noise)
        u = mean + offset
        terms = torch.addcmul(log_std, noise, noise, value=0.5).add_(_log_one_minus_tanh_sq(u))
        log_prob = terms.sum(-1).add_(0.5 * _LOG_2PI * mean.shape[-1]).neg_()
        return cls(u.tanh_(), log_prob, offset)

    def backprop(self, grad_action: Tensor, grad_log_prob: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradients of mean and log_std, (B, A) each.

        Args:
            grad_action: (B, A).
            grad_log_prob: (), the same for every row.
        """
        # grad_action (1 - a^2) + grad_log_prob 2 a
        grad_mean = (2.0 * grad_log_prob - grad_action * self.action).mul_(self.action).add_(grad_action)
        return grad_mean, (grad_mean * self.offset).sub_(grad_log_prob)


@dataclass
class ScaledBeta:
    """Beta(alpha, beta) stretched from [0, 1] to [-1, 1] (Chou et al. 2017): bounded without squashing."""

    alpha: Tensor
    beta: Tensor

    def sample(self, rng: torch.Generator | None) -> Tensor:
        """Draw (B, A) in [-1, 1] as a ratio of gammas; not differentiable."""
        x = torch._standard_gamma(self.alpha.detach(), generator=rng)
        y = torch._standard_gamma(self.beta.detach(), generator=rng)
        return (2.0 * x / (x + y) - 1.0).clamp(-1 + _EDGE, 1 - _EDGE)

    def mode(self) -> Tensor:
        """Return the mean, 2 alpha / (alpha + beta) - 1."""
        return 2.0 * self.alpha / (self.alpha + self.beta) - 1.0

    def log_probs(self, action: Tensor) -> Tensor:
        """Log densities of the components of actions in [-1, 1], (B, A)."""
        x = (action.clamp(-1 + _EDGE, 1 - _EDGE) + 1.0) / 2.0
        log_norm = torch.lgamma(self.alpha) + torch.lgamma(self.beta) - torch.lgamma(self.alpha + self.beta)
        density = (self.alpha - 1) * torch.log(x) + (self.beta - 1) * torch.log1p(-x) - log_norm
        return density - math.log(2.0)

    def log_prob(self, action: Tensor) -> Tensor:
        """Log density of actions in [-1, 1], (B,)."""
        return self.log_probs(action).sum(-1)

    def entropy(self) -> Tensor:
        """Sum over the action's components, (B,)."""
        a, b, total = self.alpha, self.beta, self.alpha + self.beta
        log_norm = torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(total)
        entropy = (
            log_norm
            - (a - 1) * torch.digamma(a)
            - (b - 1) * torch.digamma(b)
            + (total - 2) * torch.digamma(total)
            + math.log(2.0)
        )
        return entropy.sum(-1)
