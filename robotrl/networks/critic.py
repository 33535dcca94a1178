"""An ensemble of action values Q_i(s, a) evaluated as one batched network."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from robotrl.networks.mlp import MLP, Activation, Init, Norm
from robotrl.networks.value_head import ValueHead


class Aggregate(enum.Enum):
    """How the critics' values become one."""

    MIN = "min"
    """The smallest (Fujimoto et al. 2018, arXiv:1802.09477)."""
    MEAN = "mean"
    """The mean."""
    MEAN_MINUS_STD = "mean_minus_std"
    """Mean - pessimism * standard deviation over the critics."""

    def of(self, values: Tensor, pessimism: float) -> Tensor:
        """Aggregate (E, ...) to (...)."""
        if self is Aggregate.MIN:
            return values.amin(0)
        if self is Aggregate.MEAN:
            return values.mean(0)
        return values.mean(0) - pessimism * values.std(0, correction=0)


class CriticEnsemble(nn.Module):
    """E critics. Members are drawn before the forward pass: those that are not asked for cost nothing.

    Args:
        feature_dim: width of the normalised observations.
        action_dim: width of the actions, of all steps of a chunk.
        hidden: widths of the hidden layers.
        activation: between layers.
        norm: where the LayerNorm is.
        num_members: E.
        head: what the outputs mean.
        init: how weights are drawn.
        rng: where they are drawn from.
    """

    def __init__(
        self,
        feature_dim: int,
        action_dim: int,
        hidden: Sequence[int],
        activation: Activation,
        norm: Norm,
        num_members: int,
        head: ValueHead,
        init: Init,
        rng: torch.Generator,
    ) -> None:
        super().__init__()
        self.action_dim, self.num_members, self.head = action_dim, num_members, head
        self.net = MLP(
            feature_dim + action_dim,
            hidden,
            head.width,
            activation,
            init,
            rng,
            num_members=num_members,
            norm=norm,
        )

    def forward(self, features: Tensor, action: Tensor, members: Tensor | None = None) -> Tensor:
        """Return the values (E', B) of one action per state, without recording gradients.

        Args:
            features: (B, D) normalised observations.
            action: (B, A) in [-1, 1].
            members: (E',) which critics, None for all.
        """
        return self.head.value(self.net.run(torch.cat([features, action], -1), members)[-1])

    def candidates(self, features: Tensor, actions: Tensor, members: Tensor | None = None) -> Tensor:
        """Return the values (E', B, n) of n actions per state; a state is encoded once.

        Args:
            features: (B, D).
            actions: (B, n, A).
            members: (E',) which critics, None for all.
        """
        return self.head.value(self.net.finish(self.net.project(features, members), actions, members))

    def with_gradient(self, features: Tensor, action: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Return the values (E, B), and what maps their gradient (E, B) to that of the action, (B, A)."""
        tape = self.net.run(torch.cat([features, action], -1))

        def pull(grad: Tensor) -> Tensor:
            grad_output = self.head.backprop_value(tape[-1], grad)
            grad_input = self.net.backprop(tape, grad_output, None, wants_input=True)
            assert grad_input is not None
            return grad_input[..., -self.action_dim :].sum(0)

        return self.head.value(tape[-1]), pull

    def loss_gradient(
        self, features: Tensor, action: Tensor, target: Tensor, flat_grad: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Write the gradient of sum_i mean_B loss(Q_i(s, a), y) into `flat_grad`.

        Args:
            features: (B, D).
            action: (B, A).
            target: (B,).
            flat_grad: shaped like `net.flat`.

        Returns:
            Losses and values, (E, B) each.
        """
        tape = self.net.run(torch.cat([features, action], -1))
        loss, grad = self.head.loss(tape[-1], target)
        self.net.backprop(tape, grad / len(target), flat_grad, wants_input=False)
        return loss, self.head.value(tape[-1])
