"""Networks of generative policies: features of the observation, a noisy action and the time, to an action."""

from __future__ import annotations

import enum
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from robotrl.networks.mlp import MLP, Activation, Init, Norm
from robotrl.networks.resnet import ResNet
from robotrl.networks.time_embedding import TimeEmbedding


class Network(enum.Enum):
    """Shape of the network."""

    MLP = "mlp"
    RESNET = "resnet"
    """Residual blocks with LayerNorm, see `networks/resnet.py`."""


def make_network(
    kind: Network,
    in_dim: int,
    hidden: Sequence[int],
    out_dim: int,
    activation: Activation,
    norm: Norm,
    rng: torch.Generator,
) -> MLP | ResNet:
    """Build a network with Xavier-uniform weights; `norm` is for an MLP, a ResNet has its own."""
    if kind is Network.RESNET:
        return ResNet(in_dim, hidden, out_dim, activation, rng)
    return MLP(in_dim, hidden, out_dim, activation, Init.XAVIER, rng, norm=norm)


class Denoiser(nn.Module):
    """f(features, time, x): its input is put together in this order, what changes most often last.

    Args:
        net: takes (R, D + T + X).
        time: embeds the time, T wide.
        context_dim: D, width of the features.
    """

    def __init__(self, net: MLP | ResNet, time: TimeEmbedding, context_dim: int) -> None:
        super().__init__()
        self.net, self.time, self.context_dim = net, time, context_dim

    def forward(self, features: Tensor, x: Tensor, time: Tensor) -> Tensor:
        """Map features (R, D), noisy actions (R, X) and times (R,) to (R, X), for learning."""
        return self.net(torch.cat([features, self.time(time), x], dim=-1))

    def project(self, features: Tensor) -> Tensor:
        """Encode features (B, D) once for all candidates and steps, (B, H); no gradients."""
        return self.net.project(features)

    @torch.no_grad()
    def project_time(self, time: Tensor) -> Tensor:
        """Encode times (K,) once for all states, (K, H); add a row to what `project` returns."""
        return self.net.project(self.time(time), start=self.context_dim)

    def finish(self, projection: Tensor, x: Tensor) -> Tensor:
        """Map encoded features and time (B, H) and noisy actions (B, n, X) to (B, n, X); no gradients."""
        return self.net.finish(projection, x)
