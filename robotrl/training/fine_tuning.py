"""Runs that go on from another run's policy: `algorithm.init_from=RUN` of the streaming algorithms.

The policy's class and options are taken over into the new run's configuration, its weights into the
algorithm, so that the new run needs the old one at its start only.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robotrl.algorithms.algorithm import Algorithm
from robotrl.algorithms.off_policy.sac import SAC, SACConfig
from robotrl.algorithms.on_policy.ppo import PPO, PPOConfig
from robotrl.algorithms.streaming.fine_tuning import TrainedCritic, check_policy
from robotrl.algorithms.streaming.policy import mlp_tensors
from robotrl.algorithms.streaming.stream_action_value import (
    StreamDeterministicActorCritic,
    StreamSoftActorCritic,
)
from robotrl.algorithms.streaming.stream_actor_critic import StreamActorCritic
from robotrl.algorithms.streaming.streaming_algorithm import StreamingAlgorithm, StreamingOptions
from robotrl.algorithms.streaming.units import Unit
from robotrl.core import checkpoint
from robotrl.core.config import TrainConfig, algorithm_name
from robotrl.core.errors import UsageError
from robotrl.networks.mlp import MLP, Init, Norm
from robotrl.policies.policy import Policy
from robotrl.training.pretrained import check_task, refuse_policy
from robotrl.training.restore import load_policy_and_config
from robotrl.training.run_folder import RunFolder

_MOST_SAMPLES = 10_000
"""What the deviation of the critic's values counts as at most: it is of one state per environment, however
long the training was, and the rewards' own is to take over from it."""

_CRITICS: dict[type, tuple[type[Algorithm], ...]] = {
    StreamActorCritic: (PPO, StreamActorCritic),
    StreamSoftActorCritic: (SAC, StreamSoftActorCritic),
    StreamDeterministicActorCritic: (StreamDeterministicActorCritic,),
}
"""Whose critics a streaming algorithm goes on from."""


def inherit(config: TrainConfig) -> TrainConfig:
    """Return the configuration with the policy of the run that it goes on from, if there is one.

    Raises:
        UsageError: `init_from` is not a run, a policy was given too, or there is no critic to keep or it
            is of another discount.
    """
    algorithm = config.algorithm
    if not isinstance(algorithm, StreamingOptions) or algorithm.init_from is None:
        return config
    source = RunFolder(Path(algorithm.init_from)).config()
    refuse_policy(config, algorithm.init_from)
    if algorithm.keep_critic:
        algorithm = _like_critic(config.algorithm_class, algorithm, algorithm.init_from, source)
    return dataclasses.replace(
        config, policy_class=source.policy_class, policy=source.policy, algorithm=algorithm
    )


def _like_critic(
    algorithm_class: type, algorithm: StreamingOptions, run: str, source: TrainConfig
) -> StreamingOptions:
    """Return the options with the widths and units of the critic of a run.

    Raises:
        UsageError: a stream cannot go on from it, or not with these options.
    """
    theirs = source.algorithm
    from_stream = isinstance(theirs, StreamingOptions)
    if source.algorithm_class not in _CRITICS[algorithm_class] or (
        theirs.sees_time if from_stream else theirs.critic_groups != source.policy.obs_groups
    ):
        names = " or ".join(map(algorithm_name, _CRITICS[algorithm_class]))
        raise UsageError(
            f"algorithm.keep_critic needs a run of {names} whose critic observes what its policy does, {run} "
            "is not: set algorithm.keep_critic=false"
        )
    gamma, gammas = _discount(run, theirs), {algorithm.gamma, *algorithm.sweep.get("gamma", [])}
    if gammas != {gamma}:
        raise UsageError(
            f"algorithm.keep_critic: the critic of {run} has gamma={gamma}, the streams have "
            f"{', '.join(map(str, sorted(gammas)))}: set algorithm.gamma={gamma}"
        )
    if from_stream and algorithm.scale_reward and not theirs.scale_reward:
        raise UsageError(
            f"algorithm.keep_critic: the critic of {run} values rewards that were not scaled: set "
            "algorithm.scale_reward=false"
        )
    unit = theirs.critic_unit if from_stream else Unit.of(theirs.activation)
    return dataclasses.replace(algorithm, hidden=list(theirs.hidden), critic_unit=unit)


def _discount(run: str, algorithm: PPOConfig | SACConfig | StreamingOptions) -> float:
    """Return the discount of a run's critic; where streams had one each, of the one whose policy it is."""
    if not isinstance(algorithm, StreamingOptions) or "gamma" not in algorithm.sweep:
        return algorithm.gamma
    # without tensors: no path starts with "-"
    state = checkpoint.load(RunFolder(Path(run)).latest_checkpoint(), prefix="-")
    return float(algorithm.sweep["gamma"][state["algorithm"]["stream"]])


def go_on_from_origin(config: TrainConfig, algorithm: Algorithm) -> None:
    """Give an algorithm the weights of the run that it goes on from, if there is one.

    Raises:
        UsageError: the policy there is of another task, or none that a stream can go on from.
        RobotrlError: the run has no checkpoint, or a damaged one.
    """
    if not isinstance(algorithm, StreamingAlgorithm) or algorithm.config.init_from is None:
        return
    run = Path(algorithm.config.init_from)
    policy, source = load_policy_and_config(run)
    check_task(policy, source, algorithm.config.init_from, config, algorithm.specs)
    check_policy(policy, type(algorithm.config))
    critic = _trained_critic(run, policy, source) if algorithm.config.keep_critic else None
    algorithm.go_on_from(policy, critic)


@torch.no_grad()
def _trained_critic(run: Path, policy: Policy, source: TrainConfig) -> TrainedCritic:
    """Return a run's critic, and what it says in the states that training ended in."""
    state: dict[str, Any] = checkpoint.load(RunFolder(run).latest_checkpoint())
    if isinstance(source.algorithm, StreamingOptions):
        return _stream_critic(policy, source, state)
    evaluate = _ppo_critic if source.algorithm_class is PPO else _sac_critic
    net, values = evaluate(policy, source, state)
    if len(values) < 2:
        raise UsageError(
            "the scale of a critic's values is their deviation over the last states of its training, one per "
            f"environment, and {run} had one environment: set algorithm.keep_critic=false, or train it with "
            "num_envs >= 2"
        )
    std = float(values.std())
    if not std > 0.0:
        raise UsageError(
            f"the critic of {run} values all its last states alike, so that the scale of its values is "
            "unknown: set algorithm.keep_critic=false"
        )
    samples = min(state["env_steps"], _MOST_SAMPLES)
    return TrainedCritic(mlp_tensors(net), Unit.of(net.activation), float(values.mean()), std, samples)


def _stream_critic(policy: Policy, source: TrainConfig, state: dict[str, Any]) -> TrainedCritic:
    """Return the critic of the stream that a run shows."""
    streams: StreamingAlgorithm = source.algorithm_class(
        policy.specs, policy, source.algorithm, torch.Generator()
    )
    streams.start(state["obs"], None)
    streams.load_state_dict(state["algorithm"])
    assert streams.learner is not None
    return TrainedCritic.of_stream(streams.learner, streams.stream)


def _ppo_critic(policy: Policy, source: TrainConfig, state: dict[str, Any]) -> tuple[MLP, Tensor]:
    """Return PPO's value network and what it says, (N,)."""
    ppo = PPO(policy.specs, policy, source.algorithm, torch.Generator())
    ppo.critic.load_state_dict(state["algorithm"]["critic"])
    if ppo.critic_normalizer is not None:
        ppo.critic_normalizer.load_state_dict(state["algorithm"]["critic_normalizer"])
    return ppo.critic, ppo.value(state["obs"])


def _sac_critic(policy: Policy, source: TrainConfig, state: dict[str, Any]) -> tuple[MLP, Tensor]:
    """Return the first of SAC's critics and what it says of the policy's deterministic actions, (N,)."""
    config: SACConfig = source.algorithm
    if config.critic_norm is not Norm.NONE or config.value_range is not None:
        raise UsageError(
            "streams take critics without LayerNorm and value bins only: set algorithm.keep_critic=false"
        )
    sac = SAC(policy.specs, policy, config, torch.Generator())
    sac.critic.load_state_dict(state["algorithm"]["critic"])
    critics = sac.critic.online.net
    first = MLP(critics.sizes[0], critics.sizes[1:-1], 1, critics.activation, Init.UNIFORM, torch.Generator())
    for part, members in zip(first.split(first.flat), critics.split(critics.flat), strict=True):
        part.copy_(members[0])
    obs = policy.flatten(state["obs"])
    return first, first(torch.cat([policy.normalize(obs), policy(obs)], dim=-1)).squeeze(-1)
