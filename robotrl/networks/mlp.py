"""Multi-layer perceptrons on one flat parameter vector: one network, or E of them as batched matmuls.

At the sizes robot controllers have (two layers of 256 and batches of some hundred) the dispatcher and
the optimiser's loop over tensors cost as much as the arithmetic. So a network is a single parameter
(one fused optimiser step, one `lerp_` into its target) and its backward pass is written out, one
in-place product per layer, instead of a chain of autograd nodes. `tests/test_networks.py` holds it to
plain autograd.
"""

from __future__ import annotations

import enum
import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from robotrl.networks.activation import Activation, Norm, layer_norm, layer_norm_backward

__all__ = ["MLP", "Activation", "Init", "Norm"]


class Init(enum.Enum):
    """How weights are drawn."""

    ORTHOGONAL = "orthogonal"
    """Orthogonal with gain sqrt 2, zero biases: the usual start of on-policy methods."""
    UNIFORM = "uniform"
    """Weights and biases uniform in +-1/sqrt(fan in), as torch's own layers."""
    XAVIER = "xavier"
    """Uniform in +-sqrt(6 / (fan in + fan out)), zero biases (Glorot & Bengio 2010, eq. 16)."""


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
        norm: whether and where hidden layers have a LayerNorm.

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
        norm: Norm = Norm.NONE,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.norm = norm
        self.num_members = num_members
        self.sizes = [in_dim, *hidden, out_dim]
        self._per_layer = 2 if norm is Norm.NONE else 4
        self._keeps_input = activation.keeps_input
        layers = []
        for i, (fan_in, fan_out) in enumerate(itertools.pairwise(self.sizes)):
            gain = math.sqrt(2.0) if i < len(hidden) else last_gain
            members = [_draw(fan_in, fan_out, init, gain, rng) for _ in range(num_members or 1)]
            layers += [torch.stack(parts).flatten() for parts in zip(*members, strict=True)]
            if i < len(hidden) and norm is not Norm.NONE:
                width = (num_members or 1) * fan_out
                layers += [torch.ones(width), torch.zeros(width)]
        self.flat = nn.Parameter(torch.cat(layers))
        self._view_cache: list[Tensor] = []
        self._views_of: tuple[int, torch.dtype] | None = None

    def split(self, flat: Tensor) -> list[Tensor]:
        """View a vector shaped like the parameters as [weight, bias, weight, bias, ...].

        Weights are (in, out) and biases (1, out), with a leading E in an ensemble. With a norm, its gain
        and shift, shaped like the bias, follow the bias of every hidden layer.
        """
        lead = () if self.num_members is None else (self.num_members,)
        shapes = []
        for fan_in, fan_out in itertools.pairwise(self.sizes):
            shapes += [(*lead, fan_in, fan_out)] + [(*lead, 1, fan_out)] * (self._per_layer - 1)
        del shapes[len(shapes) + 2 - self._per_layer :]  # no norm after the last layer
        parts = flat.split([math.prod(shape) for shape in shapes])
        return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in) to (B, out), or to (E, B, out) in an ensemble, which also takes (E, B, in)."""
        if torch.is_grad_enabled():
            return _MlpFunction.apply(x, self.flat, self)
        return self.run(x)[-1]

    def run(self, x: Tensor, members: Tensor | None = None) -> list[Tensor]:
        """Return the input, what the gradients need and the output, without recording gradients.

        Args:
            x: (B, in), or (E, B, in) for separate inputs of an ensemble's members.
            members: (E',) int64, evaluate only these members of an ensemble; `backprop` takes all or none.

        Returns:
            The tape: its first entry is the input, its last the output; without a norm and with an
            activation that works in place, the inputs of all layers and the output.
        """
        params = self._params(members)
        if self.num_members is not None and x.ndim == 2:
            x = x.expand(len(params[0]), *x.shape)
        tape = [x]
        self._finish(params, self._product(params[1], x, params[0]), tape)
        return tape

    @torch.no_grad()
    def project(self, context: Tensor, members: Tensor | None = None, start: int = 0) -> Tensor:
        """Return what some columns of the input contribute to the first layer, for `finish`.

        What stays the same over many evaluations (an observation over candidate actions and denoising
        steps) is multiplied once. Contributions of several ranges of columns add up.

        Args:
            context: (B, C), the columns from `start` on.
            members: (E',) int64, of an ensemble.
            start: first column; the bias counts to column 0.

        Returns:
            (B, H), or (E', B, H) in an ensemble.
        """
        weight, bias, *_ = self._params(members)
        columns = weight[..., start : start + context.shape[-1], :]
        return context @ columns + bias if start == 0 else context @ columns

    @torch.no_grad()
    def finish(self, projection: Tensor, x: Tensor, members: Tensor | None = None) -> Tensor:
        """Evaluate the network, given what the leading columns of its input contribute.

        Args:
            projection: (B, H), or (E', B, H) in an ensemble, of `project`.
            x: (B, n, X), the last X columns for n inputs that share a row of `projection`.
            members: (E',) int64, those of `projection`.

        Returns:
            (B, n, out), or (E', B, n, out) in an ensemble.
        """
        params = self._params(members)
        rows, width = x.shape[:2], x.shape[-1]
        hidden = x.flatten(0, 1) @ params[0][..., -width:, :]
        hidden = hidden.unflatten(-2, rows).add_(projection.unsqueeze(-2)).flatten(-3, -2)
        return self._finish(params, hidden, []).unflatten(-2, rows)

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
        params = self._views()
        slots = self.split(flat_grad) if flat_grad is not None else []
        matmul = torch.mm if self.num_members is None else torch.bmm
        stack = tape[:-1]
        for i in range(len(params) - 2, -1, -self._per_layer):
            x = stack.pop()
            if slots:
                matmul(x.transpose(-2, -1), grad, out=slots[i])
                torch.sum(grad, dim=-2, keepdim=True, out=slots[i + 1])
            if i == 0 and not wants_input:
                return None
            grad = matmul(grad, params[i].transpose(-2, -1))
            if i > 0:
                # gain and shift of the layer before stand just before this layer's weight
                grad = self._unfollow(grad, x, stack, params[i - 2], slots[i - 2 : i])
        return grad

    def _product(self, bias: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        if self.num_members is None:
            return torch.addmm(bias, x, weight)
        return torch.baddbmm(bias, x, weight)

    def _finish(self, params: list[Tensor], x: Tensor, tape: list[Tensor]) -> Tensor:
        """Continue after the first layer's product, filling the tape."""
        for i in range(self._per_layer, len(params), self._per_layer):
            x = self._follow(x, params[i - 2 : i], tape)
            tape.append(x)
            x = self._product(params[i + 1], x, params[i])
        tape.append(x)
        return x

    def _follow(self, x: Tensor, affine: list[Tensor], tape: list[Tensor]) -> Tensor:
        """Apply norm and activation to a layer's product; put what their gradients need on the tape."""
        if self.norm is Norm.PRE:
            tape.append(x)
            x, *statistics = layer_norm(x, *affine)
            tape += statistics
        if self._keeps_input:
            tape.append(x)
        x = self.activation.apply(x)
        if self.norm is Norm.POST:
            tape.append(x)
            x, *statistics = layer_norm(x, *affine)
            tape += statistics
        return x

    def _unfollow(
        self, grad: Tensor, output: Tensor, stack: list[Tensor], gain: Tensor, slots: list[Tensor]
    ) -> Tensor:
        """Propagate a gradient back through `_follow`, taking from the stack what that put on the tape."""
        if self.norm is Norm.POST:
            rstd, mean, output = stack.pop(), stack.pop(), stack.pop()
            grad = layer_norm_backward(grad, output, mean, rstd, gain, slots)
        grad = self.activation.backward(grad, stack.pop() if self._keeps_input else output)
        if self.norm is Norm.PRE:
            rstd, mean, x = stack.pop(), stack.pop(), stack.pop()
            grad = layer_norm_backward(grad, x, mean, rstd, gain, slots)
        return grad

    def _params(self, members: Tensor | None) -> list[Tensor]:
        """Views of the parameters per layer; of some members, copies."""
        views = self._views()
        return views if members is None else [view.index_select(0, members) for view in views]

    def _views(self) -> list[Tensor]:
        """Views of the parameters per layer, made again when the storage moved (deepcopy, double())."""
        if torch.compiler.is_compiling():  # a traced tensor has no address
            return self.split(self.flat)
        address = self.flat.data_ptr()
        if self._views_of != (address, self.flat.dtype):
            self._view_cache = self.split(self.flat.detach())
            self._views_of = (address, self.flat.dtype)
        return self._view_cache


def _draw(fan_in: int, fan_out: int, init: Init, gain: float, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    if init is Init.ORTHOGONAL:
        weight = nn.init.orthogonal_(torch.empty(fan_out, fan_in), gain, generator=rng).t()
        return weight, torch.zeros(fan_out)
    bound = 1.0 / math.sqrt(fan_in) if init is Init.UNIFORM else math.sqrt(6.0 / (fan_in + fan_out))
    weight = torch.empty(fan_in, fan_out).uniform_(-bound, bound, generator=rng)
    if init is Init.XAVIER:
        return weight, torch.zeros(fan_out)
    return weight, torch.empty(fan_out).uniform_(-bound, bound, generator=rng)


class _MlpFunction(torch.autograd.Function):
    """The whole network as one autograd node."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, flat: Tensor, net: MLP) -> Tensor:
        tape = net.run(x)
        ctx.net, ctx.shares_input = net, x.ndim < tape[0].ndim
        # saving the parameters makes autograd refuse a backward pass after an in-place update
        ctx.save_for_backward(flat, *tape[:-1])
        return tape[-1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (grad,) = grads
        flat, *tape = ctx.saved_tensors
        net: MLP = ctx.net
        wants_input, wants_flat, _ = ctx.needs_input_grad
        flat_grad = torch.empty_like(flat) if wants_flat else None
        # a tape ends with the output, whose values no gradient needs
        grad_x = net.backprop([*tape, grad], grad, flat_grad, wants_input)
        if grad_x is not None and ctx.shares_input:
            grad_x = grad_x.sum(0)
        return grad_x, flat_grad, None
