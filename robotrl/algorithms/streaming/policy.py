"""From a stream's actor to the toolkit's policy, which evaluates, exports and verifies like any other."""

from __future__ import annotations

import torch

from robotrl.algorithms.streaming.actor_critic import StreamAC
from robotrl.algorithms.streaming.network import layer_matrices
from robotrl.core.errors import UsageError
from robotrl.policies.softplus_gaussian import SoftplusGaussianPolicy


@torch.no_grad()
def write_policy(learner: StreamAC, stream: int, policy: SoftplusGaussianPolicy) -> None:
    """Copy the actor and the observation statistics of one stream into a policy.

    A policy does not know the time of an episode: the time input of `preset=reference` is held at 0,
    the middle.

    Args:
        learner: with Gaussian actions.
        stream: index.
        policy: as wide as the actor, with a normaliser if the learner has one.

    Raises:
        UsageError: they do not fit each other.
    """
    layers = [w.copy() for w in layer_matrices(learner.parameters("actor")[stream], learner.sizes[0])]
    if learner.config.sees_time:
        # the weights of the time input, held at 0, drop out
        layers[0] = layers[0][:, [*range(learner.obs_dim), learner.obs_dim + 1]]
    shapes = [(layer.out_features, layer.in_features + 1) for layer in policy.net.linear()]
    normalizes = policy.normalizer is not None
    if [w.shape for w in layers] != shapes or normalizes != learner.config.normalize_obs or learner.discrete:
        raise UsageError(
            f"a policy with layers {shapes} (normalize_obs={normalizes}) cannot take an actor with layers "
            f"{[w.shape for w in layers]} (normalize_obs={learner.config.normalize_obs}, "
            f"discrete={learner.discrete})"
        )
    for layer, matrix in zip(policy.net.linear(), layers, strict=True):
        layer.weight.copy_(torch.from_numpy(matrix[:, :-1]))
        layer.bias.copy_(torch.from_numpy(matrix[:, -1].copy()))
    policy.std_floor = float(learner.std_floor[stream])
    if policy.normalizer is not None:
        mean, var = learner.obs_mean_var(stream)
        count = torch.tensor(learner.streams.obs_statistics[stream, 0])
        policy.normalizer.load_statistics(torch.from_numpy(mean), torch.from_numpy(var), count)
