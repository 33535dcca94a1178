"""Fine-tuning in the stream: go on learning online from a trained policy, without a buffer.

A stream's actor becomes the policy: the same network, deviation and normaliser, whose statistics go on
from those of the training. Its first action distribution is the policy's. What then moves it is
stream AC(lambda) (see `actor_critic`), or S2AC or SDAC (see `action_value`), with any step-size rule.

The critic is a new one, for which the actor rests `actor_rest_steps`, or a trained one: that of another
stream, the value network V of PPO for stream AC, a network of SAC's action values for S2AC. PPO's and SAC's
are in units of the raw reward and a stream's rewards are divided by the deviation of their discounted sum:
the sum's statistics start from the mean and deviation of the critic's values, which are divided by the
latter.

A log deviation that is cut, as SAC's is, has no gradient where it is cut.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from robotrl.algorithms.streaming.compiled import Reals
from robotrl.algorithms.streaming.config import (
    StreamACConfig,
    StreamConfig,
    StreamDACConfig,
    StreamSACConfig,
)
from robotrl.algorithms.streaming.normalization import EPS
from robotrl.algorithms.streaming.policy import (
    LearnerConfig,
    PolicyLearner,
    StreamPolicy,
    describe,
    layer_parts,
    make_learner,
    policy_tensors,
)
from robotrl.algorithms.streaming.setup import Sweep
from robotrl.algorithms.streaming.units import Unit
from robotrl.core.errors import UsageError
from robotrl.policies.deterministic import TanhPolicy
from robotrl.policies.gaussian import GaussianPolicy, SquashedGaussianPolicy
from robotrl.policies.policy import Policy
from robotrl.policies.softplus_gaussian import SoftplusGaussianPolicy, SquashedSoftplusPolicy


class TrainedCritic(NamedTuple):
    """A value network and how large the returns are that it learned from.

    Attributes:
        parts: weight (out, in) and bias (out,) of each layer of V(s) or Q(s, a), in units of the raw reward,
            for observations normalised as the policy's.
        unit: of its hidden layers.
        mean: of the discounted sums of rewards: of a stream's own, else of the values in states of the
            training.
        std: of the same; > 0 where the stream's rewards are scaled.
        samples: how many mean and deviation count as; the more, the slower the reward's scale moves.
    """

    parts: list[Tensor]
    unit: Unit
    mean: float
    std: float
    samples: int

    @classmethod
    def of_stream(cls, learner: PolicyLearner, stream: int) -> TrainedCritic:
        """Return a copy of one stream's critic."""
        parts = [torch.from_numpy(part.copy()) for part in layer_parts(learner.layers("critic", stream))]
        for part in parts[-2:]:
            part *= float(learner.reward_scale()[stream])
        _, count, mean, square = learner.streams.reward_statistics[stream].tolist()
        std = math.sqrt(square / max(count - 1.0, 1.0))
        return cls(parts, learner.config.critic_unit, mean, std, int(count))


_KINDS: dict[type[StreamConfig], tuple[type[StreamPolicy], ...]] = {
    StreamACConfig: (SoftplusGaussianPolicy, GaussianPolicy, SquashedGaussianPolicy),
    StreamSACConfig: (SquashedSoftplusPolicy, SquashedGaussianPolicy),
    StreamDACConfig: (TanhPolicy,),
}


def check_policy(policy: Policy, config_class: type[StreamConfig]) -> StreamPolicy:
    """Return the policy if a stream of such a configuration can go on from it.

    Raises:
        UsageError: it cannot.
    """
    kinds = next((kinds for known, kinds in _KINDS.items() if issubclass(config_class, known)), None)
    if kinds is None:
        names = ", ".join(known.__name__ for known in _KINDS)
        raise UsageError(f"streams from a policy take one of {names}, got a {config_class.__name__}")
    if not isinstance(policy, kinds):
        names = ", ".join(kind.__name__ for kind in kinds)
        raise UsageError(f"a stream goes on from one of {names}, got {type(policy).__name__}")
    if policy.horizon > 1:
        raise UsageError(
            f"a stream learns from single control steps, this policy decides {policy.horizon} at once: go on "
            "from one with horizon 1, such as another run's"
        )
    for name, tensor in (*policy.named_parameters(), *policy.named_buffers()):
        if not tensor.isfinite().all():
            raise UsageError(f"{name} of the policy is not finite: go on from one that did not diverge")
    return policy


@torch.no_grad()
def stream_from_policy(
    policy: Policy,
    num_streams: int = 1,
    config: LearnerConfig | None = None,
    seed: int = 0,
    std_scale: float = 1.0,
    critic: TrainedCritic | None = None,
    sweep: Sweep | None = None,
    num_threads: int | None = None,
    dtype: npt.DTypeLike = np.float32,
) -> PolicyLearner:
    """Make a learner whose actors, in all streams, are a trained policy.

    Args:
        policy: Gaussian, squashed Gaussian or softplus Gaussian, squashed for S2AC, or deterministic for
            SDAC; not changed.
        num_streams: N.
        config: hyperparameters, stream AC's by default; `normalize_obs` is the policy's, and so are
            `noise_std`, unless it is given, and `std_floor` but for plain Gaussians; with a trained critic,
            `hidden` and `critic_unit` are its.
        seed: of draws and new critics.
        std_scale: factor of the policy's deviations; those of a softplus Gaussian are scaled so only
            where they are well below 1, and less above.
        critic: to go on from, None for new ones.
        sweep: hyperparameters that differ between streams.
        num_threads: CPU threads; all CPUs of the process by default.
        dtype: of networks and traces, float32 or float64.

    Raises:
        UsageError: the policy is none of these or has no deviation to scale, its deviation is not above
            `std_floor` or has a floor of its own and another was asked for, its network is of another depth
            than the critic's, it is not finite, or the configuration adds an input to it or is of a learner
            without a policy.
    """
    config = config or StreamACConfig()
    policy = check_policy(policy, type(config))
    _refuse_misfit(policy, config, std_scale)
    if critic is not None:
        config = _with_critic(config, critic, policy)
    learner = learner_like_policy(policy, num_streams, config, seed, sweep, num_threads, dtype)
    for stream in range(num_streams):
        _take_actor(learner, stream, policy, std_scale)
        if critic is not None:
            _take_critic(learner, stream, critic)
    if policy.normalizer is not None:
        normalizer = policy.normalizer
        count = max(2.0, float(normalizer.count))
        square = normalizer.var.numpy() * (count - 1.0)
        learner.streams.obs_statistics[:] = np.concatenate([[count], normalizer.mean.numpy(), square])
    return learner


def learner_like_policy(
    policy: StreamPolicy,
    num_streams: int,
    config: LearnerConfig,
    seed: int,
    sweep: Sweep | None = None,
    num_threads: int | None = None,
    dtype: npt.DTypeLike = np.float32,
) -> PolicyLearner:
    """Make a learner whose actors are made as a policy is, with weights of their own.

    See `stream_from_policy`.
    """
    config = dataclasses.replace(config, normalize_obs=policy.normalizer is not None)
    if isinstance(config, StreamDACConfig):
        if config.noise_std is None and isinstance(policy, TanhPolicy):
            config = dataclasses.replace(config, noise_std=policy.noise_std)
    elif not isinstance(policy, GaussianPolicy):
        config = _with_floor(config, policy, sweep or {})
    sizes = policy.obs_dim, policy.action_dim, num_streams
    return make_learner(*sizes, config, seed, sweep, num_threads, dtype, describe(policy))


def _refuse_misfit(policy: StreamPolicy, config: LearnerConfig, std_scale: float) -> None:
    """Refuse a factor of deviations that cannot be, and networks that see what the policy's does not."""
    if isinstance(policy, TanhPolicy) and std_scale != 1.0:
        raise UsageError(
            f"std_scale is {std_scale}, but a deterministic policy has noise_std instead: set that"
        )
    if not 0.0 < std_scale < math.inf:
        raise UsageError(f"std_scale must be above 0, got {std_scale}")
    if config.sees_time:
        raise UsageError(
            f"with preset=reference and rule={config.rule.value} networks see the time of the episode, which "
            "the policy was not trained with: choose preset=default"
        )


def _take_actor(learner: PolicyLearner, stream: int, policy: StreamPolicy, std_scale: float) -> None:
    """Copy the policy's network into a stream, with its deviations scaled."""
    actor = layer_parts(learner.layers("actor", stream))
    _copy(policy_tensors(policy), actor)
    if isinstance(policy, GaussianPolicy):
        actor[-1][:] = _log_above(policy.log_std, std_scale, float(learner.std_floor[stream]))
    else:  # nothing of a deterministic policy, which has means only
        actor[-1][policy.action_dim :] += math.log(std_scale)


def _with_floor(
    config: StreamACConfig | StreamSACConfig, policy: StreamPolicy, sweep: Sweep
) -> StreamACConfig | StreamSACConfig:
    """Return the configuration with the policy's floor of its deviations, which no other may replace."""
    theirs = policy.std_floor if isinstance(policy, SoftplusGaussianPolicy) else 0.0
    unset = type(config)(preset=config.preset).std_floor
    if "std_floor" in sweep or config.std_floor not in (unset, theirs):
        raise UsageError(
            f"std_floor is that of the {type(policy).__name__} which the stream goes on from, {theirs:g}: "
            "leave it out"
        )
    return dataclasses.replace(config, std_floor=theirs)


def _with_critic(config: LearnerConfig, critic: TrainedCritic, policy: StreamPolicy) -> LearnerConfig:
    """Return the configuration with the widths and units of a trained critic.

    Raises:
        UsageError: it sees something else, or nothing tells the scale of its rewards, which is needed.
    """
    if config.scale_reward and not critic.std > 0.0:
        raise UsageError(
            f"the scale of the critic's rewards is {critic.std:g}: go on from one that learned from scaled "
            "rewards, or set scale_reward=False"
        )
    inputs = policy.obs_dim + (0 if isinstance(config, StreamACConfig) else policy.action_dim)
    weights = critic.parts[::2]
    if weights[0].shape[1] != inputs:
        raise UsageError(f"the critic has {weights[0].shape[1]} inputs, expected {inputs}")
    hidden = [len(weight) for weight in weights[:-1]]
    return dataclasses.replace(config, hidden=hidden, critic_unit=critic.unit)


def _copy(tensors: list[Tensor], parts: list[Reals]) -> None:
    for tensor, part in zip(tensors, parts, strict=True):
        part[:] = tensor.detach().numpy()


def _log_above(log_std: Tensor, scale: float, floor: float) -> Reals:
    """Return x with exp(x) + floor = scale exp(log_std)."""
    std = scale * log_std.double().exp().numpy()
    if not std.min() > floor:
        raise UsageError(
            f"the policy's deviation times std_scale is {std.min():.2g}, not above std_floor {floor}: set a "
            "larger std_scale or a smaller std_floor"
        )
    return np.log(std - floor)


def _take_critic(learner: PolicyLearner, stream: int, critic: TrainedCritic) -> None:
    if not learner.config.scale_reward:
        scale = 1.0
    else:
        scale = math.sqrt(critic.std**2 + EPS)
        learner.streams.reward_statistics[stream, 1:] = (
            critic.samples,
            critic.mean,
            critic.std**2 * (critic.samples - 1),
        )
    parts = layer_parts(learner.layers("critic", stream))
    _copy(critic.parts, parts)
    for part in parts[-2:]:
        part /= scale
