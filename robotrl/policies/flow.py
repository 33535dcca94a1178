r"""Flow policies: a velocity field that carries noise to actions (Liu et al. 2022, arXiv:2209.03003).

    x_t = (1 - t) z + t a,   z ~ N(0, 1),   t ~ U[0, 1]
    L   = E_{t, z} mean_j (v_theta(s, x_t, t) - (a - z))_j^2
    x  <- x + v_theta(s, x, i/K) / K   for i = 0 .. K-1,   cut at +-1 at the end

as FQL (arXiv:2502.02538) and Q-chunking (arXiv:2507.07969) use them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robotrl.core.errors import UsageError
from robotrl.core.types import Specs
from robotrl.policies.generative import DenoisingConfig, DenoisingPolicy

# an exported policy is all of its steps written out
_MOST_STEPS = 1_000


@dataclass
class FlowConfig(DenoisingConfig):
    """A flow policy; the defaults are FQL's."""


class FlowPolicy(DenoisingPolicy):
    """Decisions carried from noise by a velocity field in K Euler steps."""

    config_class: ClassVar[type] = FlowConfig

    def __init__(self, specs: Specs, config: FlowConfig, rng: torch.Generator) -> None:
        super().__init__(specs, config, rng)
        self.noise_dim = self.chunk_dim
        self.loss_scale = 1.0 / self.chunk_dim
        self.set_sampling_steps(config.steps)

    def set_sampling_steps(self, count: int) -> None:
        """Decide in `count` Euler steps from now on, fewer or more: the flow is continuous in time.

        Raises:
            UsageError: it is not in 1 to 1,000.
        """
        if not 1 <= count <= _MOST_STEPS:
            raise UsageError(f"sampling_steps must be in 1 to {_MOST_STEPS}, got {count}")
        self.set_table("times", torch.arange(count, dtype=torch.float64) * (self.steps / count))
        self.set_table("std", torch.zeros(count, 1))

    def corrupt(self, action: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Return x_t, t and the velocity a - z; draws t (B, 1), then z (B, h*A)."""
        t = torch.empty_like(action[:, :1]).uniform_(generator=rng)
        noise = torch.empty_like(action).normal_(generator=rng)
        return (1.0 - t) * noise + t * action, t.squeeze(-1) * self.steps, action - noise

    def advance(self, x: Tensor, prediction: Tensor, k: int | Tensor) -> Tensor:
        """Return the state an Euler step later."""
        return x + prediction / len(self.times)
