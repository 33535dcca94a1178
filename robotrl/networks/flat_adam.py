"""Adam on one flat parameter vector."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


class FlatAdam:
    """Adam (Kingma & Ba 2015, arXiv:1412.6980, algorithm 1) for a parameter that is one vector.

    The same numbers as `torch.optim.Adam`, whose per-call bookkeeping costs several times the
    arithmetic at the sizes of robot controllers.

    Args:
        flat: the parameter.
        learning_rate: step size.
        betas: decay of the first and second moment.
        eps: added to the root of the second moment.
    """

    def __init__(
        self,
        flat: Tensor,
        learning_rate: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        self.flat = flat
        self.learning_rate = learning_rate
        self.betas, self.eps = betas, eps
        self.mean = torch.zeros_like(flat, requires_grad=False)
        self.square = torch.zeros_like(flat, requires_grad=False)
        self.num_steps = 0

    @torch.no_grad()
    def step(self, grad: Tensor) -> None:
        """Descend along `grad`, shaped like the parameter."""
        first, second = self.betas
        self.num_steps += 1
        self.mean.lerp_(grad, 1.0 - first)
        self.square.mul_(second).addcmul_(grad, grad, value=1.0 - second)
        correction = math.sqrt(1.0 - second**self.num_steps)
        denominator = self.square.sqrt().add_(self.eps * correction)
        scale = self.learning_rate * correction / (1.0 - first**self.num_steps)
        self.flat.addcdiv_(self.mean, denominator, value=-scale)

    def state_dict(self) -> dict[str, Any]:
        """Return both moments and the step count."""
        return {"mean": self.mean, "square": self.square, "num_steps": self.num_steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.mean.copy_(state["mean"])
        self.square.copy_(state["square"])
        self.num_steps = state["num_steps"]
