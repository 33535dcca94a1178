"""The decoders of GoRL: policies that make an action of standard normal noise, and how they are fitted."""

from __future__ import annotations

import copy
import enum
import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from robotrl.algorithms.off_policy.imitation import Imitation
from robotrl.core import checks
from robotrl.core.types import Specs
from robotrl.networks.denoiser import Network
from robotrl.networks.mlp import Activation
from robotrl.policies.diffusion import DiffusionConfig, DiffusionPolicy, Sampler, Schedule
from robotrl.policies.flow import FlowConfig, FlowPolicy
from robotrl.policies.gaussian import GaussianConfig, GaussianPolicy
from robotrl.policies.policy import HasBcLoss, Policy
from robotrl.policies.sampled_gaussian import SampledGaussian


class DecoderKind(enum.Enum):
    """What decodes."""

    FLOW = "flow"
    """A rectified flow in Euler steps."""
    DIFFUSION = "diffusion"
    """DDIM on the cosine schedule."""
    GAUSSIAN = "gaussian"
    """mean(s) + std z: the control, which learns to act no better than PPO's own policy and restarts it."""


@dataclass
class DecoderConfig:
    """A decoder and how it is fitted."""

    kind: DecoderKind = DecoderKind.FLOW
    """flow, diffusion or gaussian."""
    hidden: list[int] = field(default_factory=lambda: [64, 64, 64, 64])
    """Widths of the hidden layers of its MLP."""
    activation: Activation = Activation.SILU
    """relu, tanh, elu, gelu, silu or mish."""
    steps: int = 10
    """Steps of flow and diffusion; >= 1."""
    learning_rate: float = 3e-4
    """Of Adam; > 0."""
    batch_size: int = 1024
    """Control steps per gradient step; >= 1."""
    epochs: int = 50
    """Most passes over the data; >= 1."""
    validation_share: float = 0.1
    """Share of the data that is held out; in (0, 1)."""
    patience: int = 20
    """Epochs without progress on the held-out data after which fitting ends; >= 1."""

    def __post_init__(self) -> None:
        checks.widths(self, "hidden")
        checks.at_least(self, 1, "steps", "batch_size", "epochs", "patience")
        checks.above(self, 0, "learning_rate")
        checks.within(self, "(0, 1)", "validation_share")


def make_decoder(
    specs: Specs, obs_groups: list[str], normalize_obs: bool, config: DecoderConfig, rng: torch.Generator
) -> Policy:
    """Build a decoder with fresh weights."""
    common: dict[str, Any] = {
        "hidden": config.hidden,
        "activation": config.activation,
        "obs_groups": obs_groups,
        "normalize_obs": normalize_obs,
    }
    if config.kind is DecoderKind.GAUSSIAN:
        return SampledGaussian(GaussianPolicy(specs, GaussianConfig(**common), rng))
    if config.kind is DecoderKind.FLOW:
        return FlowPolicy(specs, FlowConfig(**common, steps=config.steps), rng)
    options = DiffusionConfig(
        **common,
        network=Network.MLP,
        steps=config.steps,
        time_dim=8,
        schedule=Schedule.COSINE,
        sampler=Sampler.DDIM,
    )
    return DiffusionPolicy(specs, options, rng)


def fit_decoder(
    decoder: Policy, flat: Tensor, action: Tensor, config: DecoderConfig, rng: torch.Generator
) -> dict[str, Tensor]:
    """Fit by imitation until the held-out loss stops falling; keep the weights of its minimum.

    Noise is drawn anew at every gradient step and never comes from an encoder.

    Args:
        decoder: with fresh weights.
        flat: (M, D) raw observations, M >= 2, whose statistics become the decoder's.
        action: (M, A), what was done there.
        config: see there.
        rng: of the split, the order and the noise.

    Returns:
        Named scalars: the held-out loss and the number of epochs.
    """
    assert isinstance(decoder, HasBcLoss)
    if decoder.normalizer is not None:
        decoder.normalizer.update(flat)
    features = decoder.normalize(flat)
    order = torch.randperm(len(flat), generator=rng)
    held_out, kept = order.tensor_split([max(1, int(config.validation_share * len(flat)))])
    # the same noise in every epoch: losses that are compared must differ by the weights alone
    noise_seed = int(torch.randint(2**31, (), generator=rng))
    imitation = Imitation(decoder, config.learning_rate, rng)
    best, best_epoch, weights = math.inf, 0, copy.deepcopy(decoder.state_dict())
    epoch = 0
    while epoch < config.epochs and epoch - best_epoch < config.patience:
        epoch += 1
        for pick in kept[torch.randperm(len(kept), generator=rng)].split(config.batch_size):
            imitation.fit(features[pick], action[pick])
        with torch.no_grad():
            noise = torch.Generator().manual_seed(noise_seed)
            loss = float(decoder.bc_loss(features[held_out], action[held_out], noise).mean())
        if loss < best:
            best, best_epoch, weights = loss, epoch, copy.deepcopy(decoder.state_dict())
    decoder.load_state_dict(weights)
    return {"loss/decoder": torch.tensor(best), "policy/decoder_epochs": torch.tensor(float(epoch))}
