r"""Diffusion policies: denoising probabilistic models of actions (Ho et al. 2020, arXiv:2006.11239).

    x_t = sqrt(abar_t) a + sqrt(1 - abar_t) eps,   abar_t = prod_{i <= t} alpha_i,   t = 0 .. T-1
    L   = E_{t, eps} |eps - eps_theta(s, x_t, t)|^2

Sampling starts from N(0, 1) at t = T-1:

    ancestral   x <- (x - (1 - alpha_t) / sqrt(1 - abar_t) eps_theta) / sqrt(alpha_t)
                x <- clip(x + sqrt(1 - alpha_t) z),   z ~ N(0, 1) for t > 0
    ddim        a0 = clip((x - sqrt(1 - abar_t) eps_theta) / sqrt(abar_t))
                x <- sqrt(abar_t') a0 + sqrt(1 - abar_t') eps_theta,   t' the next time, abar = 1 at the end

as IDQL (arXiv:2304.10573) and EXPO (arXiv:2507.07986) sample, and Song et al. 2021 (arXiv:2010.02502,
eq. 12 with eta = 0). DDIM may leave out times; it then keeps the noisiest (Lin et al. 2023,
arXiv:2305.08891, "trailing").
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from robotrl.core import checks
from robotrl.core.errors import UsageError
from robotrl.core.types import Specs
from robotrl.networks.denoiser import Network
from robotrl.networks.mlp import Activation
from robotrl.networks.time_embedding import TimeFeatures
from robotrl.policies.generative import DenoisingConfig, DenoisingPolicy

BETA_MIN, BETA_MAX = 0.1, 10.0
COSINE_OFFSET, COSINE_MAX_BETA = 0.008, 0.95
LINEAR_BETAS = 1e-4, 2e-2


class Schedule(enum.Enum):
    """How much of the action is left at each time."""

    VP = "vp"
    """Variance-preserving SDE from 0.1 to 10 in T steps (Song et al. 2021, arXiv:2011.13456)."""
    COSINE = "cosine"
    """Nichol & Dhariwal 2021, arXiv:2102.09672, where beta reaches 0.999, in a thousand steps. It is 0.95 at
    most here: in ten, DDIM would begin by dividing by 0.005 and multiply rounding and errors."""
    LINEAR = "linear"
    """beta from 1e-4 to 2e-2, for about a thousand steps: with few it leaves most of the action."""

    def alphas(self, steps: int) -> Tensor:
        """Return alpha_t for t = 0 .. steps - 1, (steps,) float64."""
        t = torch.arange(1, steps + 1, dtype=torch.float64)
        if self is Schedule.VP:
            slope = 0.5 * (BETA_MAX - BETA_MIN) * (2 * t - 1) / steps**2
            return torch.exp(-BETA_MIN / steps - slope)
        if self is Schedule.LINEAR:
            return 1.0 - torch.linspace(*LINEAR_BETAS, steps, dtype=torch.float64)

        def left(u: Tensor) -> Tensor:
            return torch.cos((u + COSINE_OFFSET) / (1 + COSINE_OFFSET) * (math.pi / 2)).square()

        return (left(t / steps) / left((t - 1) / steps)).clamp_min(1.0 - COSINE_MAX_BETA)


class Sampler(enum.Enum):
    """How noise becomes an action."""

    ANCESTRAL = "ancestral"
    """With fresh noise at every step but the last."""
    DDIM = "ddim"
    """Without: the start decides; may take fewer steps than were trained."""


@dataclass
class DiffusionConfig(DenoisingConfig):
    """A diffusion policy; the defaults are EXPO's."""

    network: Network = Network.RESNET
    """mlp, or resnet: residual blocks with LayerNorm, `hidden` giving the width of each."""
    hidden: list[int] = field(default_factory=lambda: [256, 256, 256])
    """Widths of the hidden layers, or of the residual blocks, which are all the same."""
    activation: Activation = Activation.SILU
    """relu, tanh, elu, gelu, silu or mish."""
    time_features: TimeFeatures = TimeFeatures.FOURIER
    """How the network is told the time: scalar, fourier (learned) or sinusoidal."""
    time_dim: int = 128
    """Number of fourier or sinusoidal features; even, >= 2."""
    schedule: Schedule = Schedule.VP
    """vp, cosine or linear."""
    sampler: Sampler = Sampler.ANCESTRAL
    """ancestral or ddim."""
    sampling_steps: int | None = None
    """Steps of one decision, at most `steps`; null takes `steps`; fewer need ddim."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.at_least(self, 1, "sampling_steps")
        if self.sampler is Sampler.ANCESTRAL and (self.sampling_steps or self.steps) < self.steps:
            raise ValueError(
                f"sampling_steps={self.sampling_steps} of steps={self.steps}: only sampler=ddim can leave "
                "out steps"
            )


class DiffusionPolicy(DenoisingPolicy):
    """Decisions denoised by a network that predicts the noise in them."""

    config_class: ClassVar[type] = DiffusionConfig

    signal: Tensor
    noise: Tensor
    tables: Tensor

    def __init__(self, specs: Specs, config: DiffusionConfig, rng: torch.Generator) -> None:
        super().__init__(specs, config, rng)
        self.schedule = config.schedule
        left = config.schedule.alphas(config.steps).cumprod(0)
        self.set_table("signal", left.sqrt().unsqueeze(-1))
        self.set_table("noise", (1.0 - left).sqrt().unsqueeze(-1))
        self._sample_by(config.sampler, config.sampling_steps or config.steps)

    def set_sampling_steps(self, count: int) -> None:
        """Decide in `count` steps from now on, at most as many as were trained.

        Fewer are steps of DDIM, whatever the sampler was: both sample what one network learned.

        Raises:
            UsageError: there are not so many.
        """
        self._sample_by(Sampler.DDIM if count < self.steps else self.sampler, count)

    def drop_step_noise(self) -> None:
        """Decide by DDIM from now on, in as many steps: the first noise alone decides."""
        self._sample_by(Sampler.DDIM, len(self.times))

    def _sample_by(self, sampler: Sampler, count: int) -> None:
        if not 1 <= count <= self.steps:
            raise UsageError(f"sampling_steps must be in 1 to steps={self.steps}, got {count}")
        self.sampler, self.clips_steps = sampler, sampler is Sampler.ANCESTRAL
        alpha = self.schedule.alphas(self.steps)
        if sampler is Sampler.ANCESTRAL:
            t = torch.arange(self.steps).flip(0)
            noise = (1.0 - alpha.cumprod(0)).sqrt()
            tables = torch.stack([1.0 / alpha.sqrt(), (alpha - 1.0) / (noise * alpha.sqrt())])[:, t]
            std = (1.0 - alpha).sqrt()[t]
            std[-1] = 0.0
            self.noise_dim = count * self.chunk_dim
        else:
            t = (self.steps - torch.arange(count) * (self.steps / count)).round().long() - 1
            left = torch.cat([alpha.cumprod(0)[t], torch.ones(1)])
            signal, noise = left.sqrt(), (1.0 - left).sqrt()
            tables = torch.stack([signal[:-1], noise[:-1], signal[1:], noise[1:]])
            std = torch.zeros(count)
            self.noise_dim = self.chunk_dim
        self.set_table("times", t)
        self.set_table("std", std.unsqueeze(-1))
        self.set_table("tables", tables.unsqueeze(-1))

    def corrupt(self, action: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Return x_t, t and the noise in it; draws t (B,), then the noise (B, h*A)."""
        t = torch.randint(self.steps, (len(action),), generator=rng, device=action.device)
        noise = torch.empty_like(action).normal_(generator=rng)
        return self.signal[t] * action + self.noise[t] * noise, t.to(action.dtype), noise

    def advance(self, x: Tensor, prediction: Tensor, k: int | Tensor) -> Tensor:
        """Return the mean of the next state, given the noise predicted in this one."""
        if self.sampler is Sampler.ANCESTRAL:
            from_x, from_noise = self.tables[:, k]
            return from_x * x + from_noise * prediction
        signal, noise, next_signal, next_noise = self.tables[:, k]
        clean = ((x - noise * prediction) / signal).clamp(-1.0, 1.0)
        return next_signal * clean + next_noise * prediction
