"""What follows a hidden layer's product: the non-linearity, and LayerNorm before or after it.

Values and written-out gradients, on tensors of no particular network.
"""

from __future__ import annotations

import enum

import torch
import torch.nn.functional as F  # noqa: N812  the field's name for it
from torch import Tensor

aten = torch.ops.aten
EPS = 1e-5
"""Added to the variance by LayerNorm, torch's default."""


class Activation(enum.Enum):
    """Non-linearity between layers."""

    RELU = "relu"
    TANH = "tanh"
    ELU = "elu"
    GELU = "gelu"
    """With the tanh approximation, jax.nn.gelu's default."""
    SILU = "silu"
    """x sigmoid(x), also called swish."""
    MISH = "mish"
    """x tanh(softplus(x))."""

    @property
    def keeps_input(self) -> bool:
        """Whether the derivative needs the input; the others tell it from their output."""
        return self in (Activation.GELU, Activation.SILU, Activation.MISH)

    def apply(self, x: Tensor) -> Tensor:
        """Return the activation of `x`, in place unless the derivative needs the input."""
        if self is Activation.RELU:
            return torch.relu_(x)
        if self is Activation.TANH:
            return torch.tanh_(x)
        if self is Activation.ELU:
            return F.elu_(x)
        if self is Activation.GELU:
            return F.gelu(x, approximate="tanh")
        return F.silu(x) if self is Activation.SILU else F.mish(x)

    def backward(self, grad: Tensor, kept: Tensor) -> Tensor:
        """Multiply `grad` by the derivative; `kept` is the input or the output, see `keeps_input`."""
        if self is Activation.RELU:
            return aten.threshold_backward(grad, kept, 0.0)
        if self is Activation.TANH:
            return aten.tanh_backward(grad, kept)
        if self is Activation.ELU:
            return aten.elu_backward(grad, 1.0, 1.0, 1.0, True, kept)
        if self is Activation.GELU:
            return aten.gelu_backward(grad, kept, approximate="tanh")
        if self is Activation.SILU:
            return aten.silu_backward(grad, kept)
        return aten.mish_backward(grad, kept)


class Norm(enum.Enum):
    """Where LayerNorm (Ba et al. 2016, arXiv:1607.06450) stands in a hidden layer."""

    NONE = "none"
    PRE = "pre"
    """Linear, LayerNorm, activation: RLPD and EXPO."""
    POST = "post"
    """Linear, activation, LayerNorm: FQL and Q-chunking."""


def layer_norm(x: Tensor, gain: Tensor, shift: Tensor) -> list[Tensor]:
    """Normalise over the last axis; return the output, the means and the inverse deviations.

    An ensemble's members go one by one through the fused kernel, which takes one gain: batched, the
    gradient of an ensemble costs more on a CPU. Compiled it is written out instead, which fuses with what is
    around it.

    Args:
        x: (B, H), or (E, B, H) of an ensemble.
        gain: (1, H) or (E, 1, H).
        shift: shaped like `gain`.
    """
    if torch.compiler.is_compiling() and not torch.compiler.is_exporting():  # files keep the operator
        var, mean = torch.var_mean(x, -1, correction=0, keepdim=True)
        rstd = (var + EPS).rsqrt()
        return [(x - mean) * rstd * gain + shift, mean, rstd]
    if x.ndim == 2:
        return list(torch.native_layer_norm(x, x.shape[-1:], gain[0], shift[0], EPS))
    members = [layer_norm(*member) for member in zip(x, gain, shift, strict=True)]
    return [torch.stack(parts) for parts in zip(*members, strict=True)]


def layer_norm_backward(
    grad: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, gain: Tensor, slots: list[Tensor]
) -> Tensor:
    """Propagate the gradient of `layer_norm`'s output to its input.

    Args:
        grad: shaped like `x`.
        x: what `layer_norm` took.
        mean: what it returned.
        rstd: what it returned.
        gain: what it took.
        slots: where the gradients of gain and shift are written; empty skips them.
    """
    if torch.compiler.is_compiling():
        unit = (x - mean) * rstd
        if slots:
            slots[0].copy_((grad * unit).sum(-2, keepdim=True))
            slots[1].copy_(grad.sum(-2, keepdim=True))
        grad = grad * gain
        return rstd * (grad - grad.mean(-1, keepdim=True) - unit * (grad * unit).mean(-1, keepdim=True))
    if x.ndim == 2:
        wants = [True, bool(slots), bool(slots)]
        # the kernel asks for the shift, whose values it does not use
        grad_x, *affine = aten.native_layer_norm_backward(
            grad, x, x.shape[-1:], mean, rstd, gain[0], gain[0], wants
        )
        for slot, value in zip(slots, affine, strict=False):
            slot.copy_(value.unsqueeze(0))
        return grad_x
    members = [
        layer_norm_backward(grad[i], x[i], mean[i], rstd[i], gain[i], [slot[i] for slot in slots])
        for i in range(len(x))
    ]
    return torch.stack(members)
