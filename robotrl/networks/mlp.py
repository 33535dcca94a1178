"""Multi-layer perceptrons on one flat parameter vector: one network, or E of them as batched matmuls.

At the sizes robot controllers have (two layers of 256 and batches of some hundred) the dispatcher and
the optimiser's loop over tensors cost as much as the arithmetic. So a network is a single parameter
(one fused optimiser step, one `lerp_` into its target) and its backward pass is written out, one
in-place product per layer, instead of a chain of autograd nodes. `tests/test_networks.py` holds it to
plain autograd.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Activation(enum.Enum):
    """Non-linearity between layers."""

    RELU = "relu"
    TANH = "tanh"
    ELU = "elu"

    def apply_(self, x: Tensor) -> Tensor:
        """Apply in place."""
        if self is Activation.RELU:
            return torch.relu_(x)
        return torch.tanh_(x) if self is Activation.TANH else torch.nn.functional.elu_(x)

    def backward(self, grad: Tensor, output: Tensor) -> Tensor:
        """Multiply `grad` by the derivative, which all three can tell from their own output."""
        if self is Activation.RELU:
            return torch.ops.aten.threshold_backward(grad, output, 0.0)
        if self is Activation.TANH:
            return torch.ops.aten.tanh_backward(grad, output)
        return torch.ops.aten.elu_backward(grad, 1.0, 1.0, 1.0, True, output)


class Init(enum.Enum):
    """How weights are drawn."""

    ORTHOGONAL = "orthogonal"
    """Orthogonal with gain sqrt 2, zero biases: the usual start of on-policy methods."""
    UNIFORM = "uniform"
    """Weights and biases uniform in +-1/sqrt(fan in), as torch's own layers."""


class MLP(nn.Module):
    """An MLP, or an ensemble of `num_members` independent ones evaluated together.

    Args:
        in_dim: width of the input.
        hidden: widths of the hidden layers.
        out_dim: width of the output.
        activation: between layers, not after the last.
        init: how weights are drawn.
        rng: where they are drawn from.
        num_members: E of an ensemble, None for one network.
        last_gain: gain of the last layer's orthogonal weights.

    Attributes:
        flat: the parameters.
        sizes: layer widths, input and output included.
    """

    def __init__(
        self,
        in_dim: int,
        hidden: Sequence[int],
        out_dim: int,
        activation: Activation,
        init: Init,
        rng: torch.Generator,
        num_members: int | None = None,
        last_gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.num_members = num_members
        self.sizes = [in_dim, *hidden, out_dim]
        layers = []
        for i, (fan_in, fan_out) in enumerate(zip(self.sizes, self.sizes[1:], strict=False)):
            gain = math.sqrt(2.0) if i < len(hidden) else last_gain
            members = [_draw(fan_in, fan_out, init, gain, rng) for _ in range(num_members or 1)]
            layers += [torch.stack(parts).flatten() for parts in zip(*members, strict=True)]
        self.flat = nn.Parameter(torch.cat(layers))
        self._view_cache: list[Tensor] = []
        self._views_of: tuple[int, torch.dtype] | None = None

    def split(self, flat: Tensor) -> list[Tensor]:
        """View a vector shaped like the parameters as [weight, bias, weight, bias, ...].

        Weights are (in, out) and biases (1, out), with a leading E in an ensemble.
        """
        lead = () if self.num_members is None else (self.num_members,)
        shapes = []
        for fan_in, fan_out in zip(self.sizes, self.sizes[1:], strict=False):
            shapes += [(*lead, fan_in, fan_out), (*lead, 1, fan_out)]
        parts = flat.split([math.prod(shape) for shape in shapes])
        return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in) to (B, out), or to (E, B, out) in an ensemble."""
        if torch.is_grad_enabled():
            return _MlpFunction.apply(x, self.flat, self)
        return self.run(x)[-1]

    def run(self, x: Tensor) -> list[Tensor]:
        """Return the input of every layer and the output, without recording gradients.

        Args:
            x: (B, in), or (E, B, in) for separate inputs of an ensemble's members.
        """
        params = self._views()
        product = torch.addmm if self.num_members is None else torch.baddbmm
        if self.num_members is not None and x.ndim == 2:
            x = x.expand(self.num_members, *x.shape)
        tape = [x]
        for i in range(0, len(params), 2):
            x = product(params[i + 1], x, params[i])
            if i + 2 < len(params):
                x = self.activation.apply_(x)
            tape.append(x)
        return tape

    def backprop(
        self, tape: list[Tensor], grad: Tensor, flat_grad: Tensor | None, wants_input: bool
    ) -> Tensor | None:
        """Propagate the gradient of the output back through `run`.

        Args:
            tape: what `run` returned.
            grad: gradient of the output, shaped like it.
            flat_grad: where the parameters' gradient is written, shaped like `flat`; None skips it.
            wants_input: whether the gradient of the input is asked for.

        Returns:
            The input's gradient, (B, in), or (E, B, in) in an ensemble.
        """
        weights = self._views()[0::2]
        slots = self.split(flat_grad) if flat_grad is not None else []
        matmul = torch.mm if self.num_members is None else torch.bmm
        for i in range(len(weights) - 1, -1, -1):
            if slots:
                matmul(tape[i].transpose(-2, -1), grad, out=slots[2 * i])
                torch.sum(grad, dim=-2, keepdim=True, out=slots[2 * i + 1])
            if i > 0:
                grad = self.activation.backward(matmul(grad, weights[i].transpose(-2, -1)), tape[i])
            elif wants_input:
                return matmul(grad, weights[0].transpose(-2, -1))
        return None

    def _views(self) -> list[Tensor]:
        """Views of the parameters per layer, made again when the storage moved (deepcopy, double())."""
        if torch.compiler.is_exporting():  # a traced tensor has no address
            return self.split(self.flat)
        address = self.flat.data_ptr()
        if self._views_of != (address, self.flat.dtype):
            self._view_cache = self.split(self.flat.detach())
            self._views_of = (address, self.flat.dtype)
        return self._view_cache


def _draw(fan_in: int, fan_out: int, init: Init, gain: float, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    if init is Init.UNIFORM:
        bound = 1.0 / math.sqrt(fan_in)
        weight = torch.empty(fan_in, fan_out).uniform_(-bound, bound, generator=rng)
        return weight, torch.empty(fan_out).uniform_(-bound, bound, generator=rng)
    weight = nn.init.orthogonal_(torch.empty(fan_out, fan_in), gain, generator=rng).t()
    return weight, torch.zeros(fan_out)


class _MlpFunction(torch.autograd.Function):
    """The whole network as one autograd node."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, flat: Tensor, net: MLP) -> Tensor:
        tape = net.run(x)
        ctx.net = net
        # saving the parameters makes autograd refuse a backward pass after an in-place update
        ctx.save_for_backward(flat, *tape[:-1])
        return tape[-1]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (grad,) = grads
        flat, *tape = ctx.saved_tensors
        net: MLP = ctx.net
        wants_input, wants_flat, _ = ctx.needs_input_grad
        flat_grad = torch.empty_like(flat) if wants_flat else None
        grad_x = net.backprop(tape, grad, flat_grad, wants_input)
        if grad_x is not None and net.num_members is not None:
            grad_x = grad_x.sum(0)
        return grad_x, flat_grad, None
