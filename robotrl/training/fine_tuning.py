"""Runs that go on from another run's policy: `algorithm.init_from=RUN` of stream_ac.

The policy's class and options are taken over into the new run's configuration, its weights into the
algorithm, so that the new run needs the old one at its start only.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from robotrl.algorithms.algorithm import Algorithm
from robotrl.algorithms.on_policy.ppo import PPO, PPOConfig
from robotrl.algorithms.streaming.fine_tuning import TrainedCritic
from robotrl.algorithms.streaming.stream_actor_critic import StreamActorCritic, StreamActorCriticConfig
from robotrl.algorithms.streaming.units import Unit
from robotrl.core import checkpoint
from robotrl.core.config import TrainConfig
from robotrl.core.errors import UsageError
from robotrl.policies.policy import Policy
from robotrl.training.restore import load_policy_and_config
from robotrl.training.run_folder import RunFolder


def inherit(config: TrainConfig) -> TrainConfig:
    """Return the configuration with the policy of the run that it goes on from, if there is one.

    Raises:
        UsageError: `init_from` is not a run, a policy was given too, or there is no critic to keep.
    """
    algorithm = config.algorithm
    if not isinstance(algorithm, StreamActorCriticConfig) or algorithm.init_from is None:
        return config
    source = RunFolder(Path(algorithm.init_from)).config()
    default = config.algorithm_class.default_policy
    if (config.policy_class, config.policy) != (default, default.config_class()):
        raise UsageError(
            f"the policy is that of algorithm.init_from={algorithm.init_from}: leave policy= out"
        )
    if algorithm.keep_critic:
        if source.algorithm_class is not PPO or source.algorithm.critic_groups != source.policy.obs_groups:
            raise UsageError(
                f"algorithm.keep_critic needs a run of ppo whose critic observes what its policy does, "
                f"{algorithm.init_from} is not: set algorithm.keep_critic=false"
            )
        critic: PPOConfig = source.algorithm
        unit = Unit(critic.activation.value)
        algorithm = dataclasses.replace(algorithm, hidden=list(critic.hidden), critic_unit=unit)
    return dataclasses.replace(
        config, policy_class=source.policy_class, policy=source.policy, algorithm=algorithm
    )


def go_on_from_origin(config: TrainConfig, algorithm: Algorithm) -> None:
    """Give an algorithm the weights of the run that it goes on from, if there is one.

    Raises:
        UsageError: the policy there has observations or actions of another size.
        RobotrlError: the run has no checkpoint, or a damaged one.
    """
    if not isinstance(algorithm, StreamActorCritic) or algorithm.config.init_from is None:
        return
    run = Path(algorithm.config.init_from)
    policy, source = load_policy_and_config(run)
    mine = algorithm.policy
    for what, theirs, ours in (
        ("observations", policy.obs_dim, mine.obs_dim),
        ("actions", policy.action_dim, mine.action_dim),
    ):
        if theirs != ours:
            raise UsageError(
                f"the policy of {run} has {theirs} {what}, but task {config.task_name} has {ours}: "
                f"choose the task it was trained on, {source.task_name}, or one that differs in physics only"
            )
    mine.load_state_dict(policy.state_dict())
    if algorithm.config.keep_critic:
        algorithm.critic = _trained_critic(run, policy, source)


@torch.no_grad()
def _trained_critic(run: Path, policy: Policy, source: TrainConfig) -> TrainedCritic:
    """Return PPO's value network, and what it says in the states that training ended in."""
    state: dict[str, Any] = checkpoint.load(RunFolder(run).latest_checkpoint())
    ppo = PPO(policy.specs, policy, source.algorithm, torch.Generator())
    ppo.critic.load_state_dict(state["algorithm"]["critic"])
    if ppo.critic_normalizer is not None:
        ppo.critic_normalizer.load_state_dict(state["algorithm"]["critic_normalizer"])
    values = ppo.value(state["obs"])
    std = float(values.std()) if len(values) > 1 else 0.0
    if not std > 0.0:
        raise UsageError(
            f"the critic of {run} values all its last states alike, so that the scale of its values is "
            "unknown: set algorithm.keep_critic=false"
        )
    return TrainedCritic(ppo.critic, float(values.mean()), std, state["env_steps"])
