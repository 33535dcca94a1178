"""Runs of off-policy methods that start from another run's policy: `algorithm.init_from=RUN`.

The policy's class and options are taken over into the new run's configuration, its weights into the
algorithm, so that the new run needs the old one at its start only. A method that keeps the whole policy as it
is, with what the old run's algorithm built around it, takes over that algorithm's options, too.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from robotrl.algorithms.off_policy.config import ReplayConfig
from robotrl.algorithms.off_policy.learner import ReplayLearner
from robotrl.core.config import PolicyConfig, TrainConfig
from robotrl.core.errors import UsageError
from robotrl.core.types import Specs
from robotrl.policies.policy import Policy
from robotrl.training.restore import load_policy_and_config
from robotrl.training.run_folder import RunFolder


def inherit_policy(config: TrainConfig) -> TrainConfig:
    """Return the configuration with the policy of the run that it starts from, if there is one.

    Raises:
        UsageError: `init_from` is not a run, or a policy or an origin was given too.
    """
    algorithm = config.algorithm
    if config.origin is not None:
        raise UsageError("origin is written by runs that start from another: give algorithm.init_from=RUN")
    if not isinstance(algorithm, ReplayConfig) or algorithm.init_from is None:
        return config
    if not Path(algorithm.init_from).exists():
        told = "" if config.recipe is None else f"; recipe {config.recipe} says in its first line which"
        raise UsageError(
            f"algorithm.init_from={algorithm.init_from} does not exist: give the folder of a run whose "
            f"policy this one starts from{told}"
        )
    refuse_policy(config, algorithm.init_from)
    source = RunFolder(Path(algorithm.init_from)).config()
    names = [field.name for field in dataclasses.fields(PolicyConfig)]
    parts = {name: getattr(source, name) for name in names}
    origin = PolicyConfig(**parts) if config.algorithm_class.keeps_origin else None
    return dataclasses.replace(config, policy_class=source.policy_class, policy=source.policy, origin=origin)


def refuse_policy(config: TrainConfig, init_from: str) -> None:
    """Refuse a policy that the user chose beside the run that the policy is taken from.

    Raises:
        UsageError: there is one.
    """
    if config.policy_given:
        raise UsageError(f"the policy is that of algorithm.init_from={init_from}: leave policy= out")


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
    check_task(policy, source, algorithm.config.init_from, config, algorithm.specs)
    algorithm.start_from(policy)


def check_task(policy: Policy, source: TrainConfig, run: str, config: TrainConfig, specs: Specs) -> None:
    """Refuse to go on from a policy on a task that shows or asks for something else.

    Args:
        policy: that was trained.
        source: configuration of its run.
        run: where that is.
        config: of the run that goes on.
        specs: of its task.

    Raises:
        UsageError: observations, actions or their rate differ.
    """
    difference = policy.specs.difference(specs)
    if difference is not None:
        raise UsageError(
            f"the policy of {run}, trained on {source.task_name}, does not fit task {config.task_name} as it "
            f"is set: {difference}; choose the same task and options, but for the physics"
        )
