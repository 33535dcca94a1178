"""Runs of off-policy methods that start from another run's policy: `algorithm.init_from=RUN`.

The policy's class and options are taken over into the new run's configuration, its weights into the
algorithm, so that the new run needs the old one at its start only.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from robotrl.algorithms.off_policy.config import ReplayConfig
from robotrl.algorithms.off_policy.learner import ReplayLearner
from robotrl.core.config import TrainConfig
from robotrl.core.errors import UsageError
from robotrl.training.restore import load_policy_and_config
from robotrl.training.run_folder import RunFolder


def inherit_policy(config: TrainConfig) -> TrainConfig:
    """Return the configuration with the policy of the run that it starts from, if there is one.

    Raises:
        UsageError: `init_from` is not a run, or a policy was given too.
    """
    algorithm = config.algorithm
    if not isinstance(algorithm, ReplayConfig) or algorithm.init_from is None:
        return config
    if not Path(algorithm.init_from).exists():
        told = "" if config.recipe is None else f"; recipe {config.recipe} says in its first line which"
        raise UsageError(
            f"algorithm.init_from={algorithm.init_from} does not exist: give the folder of a run whose "
            f"policy this one starts from{told}"
        )
    source = RunFolder(Path(algorithm.init_from)).config()
    default = config.algorithm_class.default_policy
    if (config.policy_class, config.policy) != (default, default.config_class()):
        raise UsageError(
            f"the policy is that of algorithm.init_from={algorithm.init_from}: leave policy= out"
        )
    return dataclasses.replace(config, policy_class=source.policy_class, policy=source.policy)


def start_from_origin(config: TrainConfig, algorithm: ReplayLearner) -> None:
    """Give an algorithm the policy of the run that it starts from, if there is one.

    Raises:
        UsageError: the policy there is of another kind, or of another task, or none is given to a method
            that needs one.
        RobotrlError: the run has no checkpoint, or a damaged one.
    """
    if algorithm.config.init_from is None:
        if algorithm.needs_origin:
            raise UsageError(
                f"{config.algorithm_class.__name__} improves a policy that was trained before: give its run "
                "folder as algorithm.init_from=RUN"
            )
        return
    policy, source = load_policy_and_config(Path(algorithm.config.init_from))
    if policy.specs != algorithm.specs:
        raise UsageError(
            f"the policy of {algorithm.config.init_from} has other observations or actions than task "
            f"{config.task_name}: choose the task it was trained on, {source.task_name}, or one that differs "
            "in physics only"
        )
    algorithm.start_from(policy)
