"""Adam on one flat parameter vector, and on the parameters of a module."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

BETAS = (0.9, 0.999)
EPS = 1e-8


@torch.no_grad()
def adam_step(
    parameter: Tensor,
    grad: Tensor,
    mean: Tensor,
    square: Tensor,
    num_steps: Tensor,
    learning_rate: float,
) -> None:
    """Do one step of Adam (Kingma & Ba 2015, arXiv:1412.6980, end of section 2) in place.

    The bias corrections are tensors where a compiler traces them, as a graph cannot hold the number of steps;
    else plain numbers, which take half the time.

    Args:
        parameter: what descends.
        grad: shaped like it.
        mean: first moment, shaped like it.
        square: second moment, shaped like it.
        num_steps: () steps done before; no float64, whose changes in place torch.compile loses (torch 2.13).
        learning_rate: step size.
    """
    first, second = BETAS
    num_steps.add_(1)
    mean.lerp_(grad, 1.0 - first)
    square.mul_(second).addcmul_(grad, grad, value=1.0 - second)
    if torch.compiler.is_compiling():
        count = num_steps.double()
        correction = (1.0 - second**count).sqrt_()
        scale = learning_rate * correction / (1.0 - first**count)
        parameter.addcdiv_(mean * -scale, square.sqrt().add_(EPS * correction))
        return
    done = int(num_steps)
    root = math.sqrt(1.0 - second**done)
    denominator = square.sqrt().add_(EPS * root)
    parameter.addcdiv_(mean, denominator, value=-learning_rate * root / (1.0 - first**done))


class FlatAdam:
    """Adam for a parameter that is one vector.

    The same numbers as `torch.optim.Adam`, whose per-call bookkeeping costs several times the
    arithmetic at the sizes of robot controllers.

    Args:
        flat: the parameter.
        learning_rate: step size.
    """

    def __init__(self, flat: Tensor, learning_rate: float) -> None:
        self.flat = flat
        self.learning_rate = learning_rate
        self.mean = torch.zeros_like(flat, requires_grad=False)
        self.square = torch.zeros_like(flat, requires_grad=False)
        self.num_steps = torch.zeros((), dtype=torch.int64, device=flat.device)

    def step(self, grad: Tensor) -> None:
        """Descend along `grad`, shaped like the parameter."""
        adam_step(self.flat, grad, self.mean, self.square, self.num_steps, self.learning_rate)

    def state_dict(self) -> dict[str, Any]:
        """Return both moments and the step count."""
        return {"mean": self.mean, "square": self.square, "num_steps": int(self.num_steps)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.mean.copy_(state["mean"])
        self.square.copy_(state["square"])
        self.num_steps.fill_(state["num_steps"])


class ModuleAdam(torch.optim.Adam):
    """torch's fused Adam, with a step that can be part of a compiled update (`step` cannot).

    Args:
        parameters: what descends.
        learning_rate: step size.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], learning_rate: float) -> None:
        super().__init__(parameters, lr=learning_rate, betas=BETAS, eps=EPS, fused=True)

    def descend(self, loss: Tensor) -> None:
        """Do one step along the gradients of `loss`, ()."""
        parameters: Sequence[nn.Parameter] = self.param_groups[0]["params"]
        grads = torch.autograd.grad(loss, parameters)
        if not torch.compiler.is_compiling():
            for parameter, grad in zip(parameters, grads, strict=True):
                parameter.grad = grad
            self.step()
            return
        for parameter, grad in zip(parameters, grads, strict=True):
            state = self.state[parameter]
            adam_step(
                parameter, grad, state["exp_avg"], state["exp_avg_sq"], state["step"], self.defaults["lr"]
            )
