"""Policies that make decisions from noise: the base of diffusion, flow and one-step policies.

Shapes: a decision is a row (h*A), see `policies/policy.py`; `features` are normalised observations (B, D).
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field

import torch
from torch import Tensor

from robotrl.core import checks
from robotrl.core.types import Specs
from robotrl.networks.denoiser import Denoiser, Network, make_network
from robotrl.networks.mlp import Activation, Norm
from robotrl.networks.time_embedding import TimeEmbedding, TimeFeatures
from robotrl.policies.chain import Chain, step_log_prob
from robotrl.policies.decoding import DecodingPolicy
from robotrl.policies.gaussian import ChunkPolicyConfig
from robotrl.policies.policy import masked


@dataclass
class GenerativeConfig(ChunkPolicyConfig):
    """What policies that decide from noise share."""

    network: Network = Network.MLP
    """mlp, or resnet: residual blocks with LayerNorm, `hidden` giving the width of each."""
    hidden: list[int] = field(default_factory=lambda: [512, 512, 512, 512])
    """Widths of the hidden layers, or of the residual blocks, which are all the same."""
    activation: Activation = Activation.GELU
    """relu, tanh, elu, gelu, silu or mish."""
    norm: Norm = Norm.NONE
    """LayerNorm in an mlp: none, pre (before the activation) or post."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.network is Network.RESNET:
            if len(set(self.hidden)) != 1:
                raise ValueError(f"hidden: blocks of a resnet have one width, got {self.hidden}")
            if self.norm is not Norm.NONE:
                raise ValueError(f"norm: a resnet has its own; leave it at none, not {self.norm.value}")


class GenerativePolicy(DecodingPolicy):
    """What diffusion, flow and one-step policies share."""

    def __init__(self, specs: Specs, config: GenerativeConfig) -> None:
        super().__init__(specs, config.obs_groups, config.normalize_obs)
        self.horizon = config.horizon


@dataclass
class DenoisingConfig(GenerativeConfig):
    """What policies that decide in several denoising steps share."""

    time_features: TimeFeatures = TimeFeatures.SCALAR
    """How the network is told the time: scalar, fourier (learned) or sinusoidal."""
    time_dim: int = 64
    """Number of fourier or sinusoidal features; even, >= 2."""
    steps: int = 10
    """Denoising steps; >= 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.at_least(self, 1, "steps")
        checks.at_least(self, 2, "time_dim")
        if self.time_dim % 2:
            raise ValueError(f"time_dim must be even, got {self.time_dim}")


class DenoisingPolicy(GenerativePolicy):
    """Noise becomes a decision in K steps, each an evaluation of one network.

    A step's mean is `advance(state, prediction, k)`; a policy may add noise of its own, `std[k]`.

    Attributes:
        times: (K,), what the network is told at each step, in denoising steps of training.
        std: (K, 1), standard deviation of the noise that a step adds.
        clips_steps: whether states are cut at +-1 after every step, or after the last only.
        loss_scale: factor of the squared error summed over a decision.
    """

    times: Tensor
    std: Tensor
    clips_steps: bool = False
    loss_scale: float = 1.0

    def __init__(self, specs: Specs, config: DenoisingConfig, rng: torch.Generator) -> None:
        super().__init__(specs, config)
        self.steps = config.steps
        time = TimeEmbedding(config.time_features, config.time_dim, config.steps, config.activation, rng)
        net = make_network(
            config.network,
            self.obs_dim + time.width + self.chunk_dim,
            config.hidden,
            self.chunk_dim,
            config.activation,
            config.norm,
            rng,
        )
        self.denoiser = Denoiser(net, time, self.obs_dim)

    @property
    def sampling_steps(self) -> int | None:
        """K."""
        return len(self.times)

    def set_table(self, name: str, values: Tensor) -> None:
        """Keep constants beside the parameters: they move with them and are not saved."""
        self.register_buffer(name, values.to(next(self.parameters())), persistent=False)

    @abstractmethod
    def corrupt(self, action: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Draw times, then noise; return noisy actions (B, h*A), times (B,) and targets (B, h*A)."""

    @abstractmethod
    def advance(self, x: Tensor, prediction: Tensor, k: int | Tensor) -> Tensor:
        """Return the mean of the state after step k.

        Args:
            x: (..., h*A), the state before.
            prediction: shaped like `x`, the network's.
            k: the step, or each row's, (R,) int64.
        """

    def bc_loss(
        self,
        features: Tensor,
        action: Tensor,
        rng: torch.Generator,
        weight: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Return the squared error of the prediction at one random time per row, see `HasBcLoss`."""
        x, time, target = self.corrupt(action, rng)
        error = (self.denoiser(features, x, time) - target).square()
        loss = self.loss_scale * masked(error, mask).sum(-1)
        return loss if weight is None else loss * weight

    @torch.no_grad()
    def decode(self, features: Tensor, noise: Tensor) -> Tensor:
        """Denoise: the first h*A numbers of `noise` are the start, the others what steps add."""
        if noise.ndim == 2:
            return self.decode(features, noise.unsqueeze(1)).squeeze(1)
        observed, time = self.denoiser.project(features), self.denoiser.project_time(self.times)
        x, *added = noise.split(self.chunk_dim, dim=-1)
        for k in range(len(self.times)):
            x = self.advance(x, self.denoiser.finish(observed + time[k], x), k)
            if k < len(added):
                x = x + self.std[k] * added[k]
            if self.clips_steps:
                x = x.clamp(-1.0, 1.0)
        return x.clamp(-1.0, 1.0)

    @torch.no_grad()
    def sample_chain(self, features: Tensor, min_std: float, rng: torch.Generator | None) -> Chain:
        """Draw a decision for each of (B, D), keeping every step.

        Each step is the one `decode` makes, with noise of at least `min_std` (DPPO, Ren et al. 2024,
        arXiv:2409.00588; ReinFlow, arXiv:2505.22094). States are kept as drawn, before any cut, so
        that their density is the Gaussian's.

        Args:
            features: (B, D).
            min_std: > 0, in units of the action range's half width.
            rng: where noise is drawn from.
        """
        std = self.std.clamp_min(min_std)
        observed, time = self.denoiser.project(features), self.denoiser.project_time(self.times)
        drawn = features.new_empty(len(features), self.chunk_dim).normal_(generator=rng)
        states, log_probs = [drawn], []
        for k in range(len(self.times)):
            x = self._contain(drawn) if k > 0 else drawn
            prediction = self.denoiser.finish(observed + time[k], x.unsqueeze(1)).squeeze(1)
            mean = self.advance(x, prediction, k)
            drawn = mean + std[k] * torch.empty_like(mean).normal_(generator=rng)
            states.append(drawn)
            log_probs.append(step_log_prob(drawn, mean, std[k]))
        return Chain(torch.stack(states, 1), torch.stack(log_probs, 1), std)

    def chain_log_prob(self, features: Tensor, chain: Chain) -> Tensor:
        """Log density of each step of a chain, (B, K), on the times of `sample_chain`; with gradients."""
        count = len(self.times)
        x = torch.cat([chain.states[:, :1], self._contain(chain.states[:, 1:-1])], dim=1).flatten(0, 1)
        k = torch.arange(count, device=x.device).repeat(len(features))
        prediction = self.denoiser(features.repeat_interleave(count, dim=0), x, self.times[k])
        mean = self.advance(x, prediction, k).unflatten(0, (-1, count))
        return step_log_prob(chain.states[:, 1:], mean, chain.std)

    def _contain(self, x: Tensor) -> Tensor:
        return x.clamp(-1.0, 1.0) if self.clips_steps else x
