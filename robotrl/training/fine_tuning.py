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
from robotrl.algorithms.streaming.stream_action_value import StreamSoftActorCritic
from robotrl.algorithms.streaming.stream_actor_critic import StreamActorCritic
from robotrl.algorithms.streaming.streaming_algorithm import StreamingAlgorithm, StreamingOptions
from robotrl.algorithms.streaming.units import Unit
from robotrl.core import checkpoint
from robotrl.core.config import TrainConfig
from robotrl.core.errors import UsageError
from robotrl.networks.mlp import MLP, Init, Norm
from robotrl.policies.policy import Policy
from robotrl.training.pretrained import check_task, refuse_policy
from robotrl.training.restore import load_policy_and_config
from robotrl.training.run_folder import RunFolder

_MOST_SAMPLES = 10_000
"""What the deviation of the critic's values counts as at most: it is of one state per environment, however
long the training was, and the rewards' own is to take over from it."""

_CRITICS: dict[type, type[PPO] | type[SAC]] = {StreamActorCritic: PPO, StreamSoftActorCritic: SAC}
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
        theirs = _CRITICS.get(config.algorithm_class)
        if theirs is None:
            raise UsageError(
                f"{config.algorithm_class.name} goes on from no critic: set algorithm.keep_critic=false"
            )
        if source.algorithm_class is not theirs or source.algorithm.critic_groups != source.policy.obs_groups:
            raise UsageError(
                f"algorithm.keep_critic needs a run of {theirs.__name__.lower()} whose critic observes what "
                f"its policy does, {algorithm.init_from} is not: set algorithm.keep_critic=false"
            )
        critic: PPOConfig | SACConfig = source.algorithm
        discounts = {algorithm.gamma, *algorithm.sweep.get("gamma", [])}
        if discounts != {critic.gamma}:
            raise UsageError(
                f"algorithm.keep_critic: the critic of {algorithm.init_from} has gamma={critic.gamma}, the "
                f"streams have {', '.join(str(gamma) for gamma in sorted(discounts))}: set "
                f"algorithm.gamma={critic.gamma}"
            )
        unit = Unit.of(critic.activation)
        algorithm = dataclasses.replace(algorithm, hidden=list(critic.hidden), critic_unit=unit)
    return dataclasses.replace(
        config, policy_class=source.policy_class, policy=source.policy, algorithm=algorithm
    )


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
    return TrainedCritic(net, float(values.mean()), std, min(state["env_steps"], _MOST_SAMPLES))


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
