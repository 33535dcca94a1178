"""Between a stream's actor and the toolkit's policies, which evaluate, export and verify like any other."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from robotrl.algorithms.streaming.action_value import StreamQAC
from robotrl.algorithms.streaming.actor_critic import Actor, StreamAC
from robotrl.algorithms.streaming.compiled import Reals
from robotrl.algorithms.streaming.config import StreamACConfig, StreamDACConfig, StreamSACConfig
from robotrl.algorithms.streaming.heads import Head
from robotrl.algorithms.streaming.setup import Sweep
from robotrl.algorithms.streaming.units import Unit
from robotrl.core.errors import UsageError
from robotrl.networks.layer_norm_mlp import LayerNormMLP
from robotrl.networks.mlp import MLP
from robotrl.policies.deterministic import TanhPolicy
from robotrl.policies.gaussian import GaussianPolicy, SquashedGaussianPolicy
from robotrl.policies.softplus_gaussian import SoftplusGaussianPolicy, SquashedSoftplusPolicy

StreamPolicy: TypeAlias = SoftplusGaussianPolicy | GaussianPolicy | SquashedGaussianPolicy | TanhPolicy
"""What a stream's actor can be: a stream's own, PPO's, SAC's and TD3's."""

PolicyLearner: TypeAlias = StreamAC | StreamQAC
"""Learners that have such a policy."""
LearnerConfig: TypeAlias = StreamACConfig | StreamSACConfig | StreamDACConfig
"""Of them."""

_HEADS = (
    (SquashedSoftplusPolicy, Head.SQUASHED_SOFTPLUS),
    (SoftplusGaussianPolicy, Head.SOFTPLUS),
    (GaussianPolicy, Head.CONSTANT),
    (SquashedGaussianPolicy, Head.SQUASHED),
    (TanhPolicy, Head.DETERMINISTIC),
)


def make_learner(
    obs_dim: int,
    action_dim: int,
    num_streams: int,
    config: LearnerConfig,
    seed: int,
    sweep: Sweep | None = None,
    num_threads: int | None = None,
    dtype: npt.DTypeLike = np.float32,
    actor: Actor | None = None,
) -> PolicyLearner:
    """Make the learner, with continuous actions, that a configuration is of; see its class."""
    sizes = obs_dim, action_dim, num_streams
    if isinstance(config, StreamACConfig):
        return StreamAC(*sizes, config, seed, sweep=sweep, num_threads=num_threads, dtype=dtype, actor=actor)
    return StreamQAC(*sizes, config, seed, sweep, num_threads, dtype, actor)


def describe(policy: StreamPolicy) -> Actor:
    """Say what a policy is made of.

    Raises:
        UsageError: it is none that a stream's actor can be.
    """
    head = next((head for kind, head in _HEADS if isinstance(policy, kind)), None)
    if head is None:
        names = ", ".join(kind.__name__ for kind, _ in _HEADS)
        raise UsageError(f"a stream's actor is one of {names}, got {type(policy).__name__}")
    clip = np.inf if policy.normalizer is None else policy.normalizer.clip
    if isinstance(policy.net, LayerNormMLP):
        hidden = [layer.out_features for layer in policy.net.linear()][:-1]
        return Actor(hidden, head, obs_clip=clip)
    hidden, unit = policy.net.sizes[1:-1], Unit.of(policy.net.activation)
    if isinstance(policy, SquashedGaussianPolicy):
        return Actor(hidden, head, unit, (policy.log_std_min, policy.log_std_max), clip)
    return Actor(hidden, head, unit, obs_clip=clip)


def policy_tensors(policy: StreamPolicy) -> list[Tensor]:
    """View a policy's parameters as the matrices that `StreamLearner.layers` has, biases apart.

    Returns:
        Weight (out, in) and bias (out,) of each layer; last the logarithm of a constant deviation, (A,).
    """
    if isinstance(policy.net, LayerNormMLP):
        return [tensor for layer in policy.net.linear() for tensor in (layer.weight, layer.bias)]
    tensors = mlp_tensors(policy.net)
    return [*tensors, policy.log_std] if isinstance(policy, GaussianPolicy) else tensors


def mlp_tensors(net: MLP) -> list[Tensor]:
    """View an MLP's parameters as weight (out, in) and bias (out,) of each layer."""
    return [part[0] if i % 2 else part.T for i, part in enumerate(net.split(net.flat))]


def layer_parts(layers: list[Reals]) -> list[Reals]:
    """View matrices (out, in + 1) as weight (out, in) and bias (out,) of each; no weight without inputs."""
    parts = []
    for matrix in layers:
        parts += [matrix[:, :-1], matrix[:, -1]] if matrix.shape[1] > 1 else [matrix[:, -1]]
    return parts


@torch.no_grad()
def write_policy(learner: PolicyLearner, stream: int, policy: StreamPolicy) -> None:
    """Copy the actor and the observation statistics of one stream into a policy.

    A policy does not know the time of an episode: the time input of `preset=reference` is held at 0,
    the middle.

    Args:
        learner: with continuous actions.
        stream: index.
        policy: of the actor's kind and widths, with a normaliser if the learner has one.

    Raises:
        UsageError: they do not fit each other.
    """
    layers = [matrix.copy() for matrix in learner.layers("actor", stream)]
    if learner.config.sees_time:
        # the weights of the time input, held at 0, drop out
        layers[0] = layers[0][:, [*range(learner.obs_dim), learner.obs_dim + 1]]
    parts, tensors = layer_parts(layers), policy_tensors(policy)
    actor, normalizes = describe(policy), policy.normalizer is not None
    shapes = [tuple(part.shape) for part in parts]
    if (
        shapes != [tuple(tensor.shape) for tensor in tensors]
        or actor != learner.actor
        or normalizes != learner.config.normalize_obs
    ):
        raise UsageError(
            f"a policy made of {actor} (normalize_obs={normalizes}) cannot take an actor made of "
            f"{learner.actor} (normalize_obs={learner.config.normalize_obs}) with layers {shapes}"
        )
    floor = float(learner.std_floor[stream])
    if isinstance(policy, SoftplusGaussianPolicy):
        policy.std_floor = floor
    elif isinstance(policy, TanhPolicy):
        policy.noise_std = float(learner.noise_std[stream])
    elif isinstance(policy, GaussianPolicy):
        parts[-1] = np.log(np.exp(parts[-1]) + floor)
    for tensor, part in zip(tensors, parts, strict=True):
        tensor.copy_(torch.from_numpy(part))
    if policy.normalizer is not None:
        mean, var = learner.obs_mean_var(stream)
        count = torch.tensor(learner.streams.obs_statistics[stream, 0])
        policy.normalizer.load_statistics(torch.from_numpy(mean), torch.from_numpy(var), count)
