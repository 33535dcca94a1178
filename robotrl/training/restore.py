"""From a run folder back to the policy it trained."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch

from robotrl.core import checkpoint
from robotrl.core.config import PolicyConfig, TrainConfig
from robotrl.core.errors import RobotrlError
from robotrl.core.types import Specs
from robotrl.envs.env import specs_of
from robotrl.policies.policy import Policy
from robotrl.training.run_folder import RunFolder


def make_policy(config: PolicyConfig, specs: Specs, rng: torch.Generator) -> Policy:
    """Build the policy a configuration describes for an environment's specs, with fresh weights."""
    if config.origin is None:
        base = config.policy_class(specs, config.policy, rng)
    else:
        base = make_policy(config.origin, specs, rng)
    return config.algorithm_class.make_policy(specs, base, config.algorithm, rng)


class Trained(NamedTuple):
    """What a run's newest checkpoint holds.

    Attributes:
        policy: in evaluation mode.
        config: of the run.
        log_step: environment steps of the training; below 0, minus the updates on data that are left.
    """

    policy: Policy
    config: TrainConfig
    log_step: int


def load_trained(run: Path) -> Trained:
    """Load the policy of a run's newest checkpoint.

    Raises:
        UsageError: `run` is not a run folder.
        RobotrlError: it has no checkpoint, or one that does not fit its configuration.
    """
    folder = RunFolder(run)
    config = folder.config()
    policy = make_policy(config, specs_of(config.task), torch.Generator().manual_seed(config.seed))
    path = folder.latest_checkpoint()
    state = checkpoint.load(path, prefix="algorithm/policy")
    try:
        policy.load_state_dict(state["algorithm"]["policy"])
        log_step = state["env_steps"] - state.get("offline_left", 0)
    except (KeyError, TypeError, RuntimeError) as error:
        raise RobotrlError(
            f"checkpoint {path} does not fit {folder.config_file}: {' '.join(str(error).split())}"
        ) from error
    return Trained(policy.eval().requires_grad_(False), config, log_step)


def load_policy_and_config(run: Path) -> tuple[Policy, TrainConfig]:
    """Load the policy of a run's newest checkpoint and the run's configuration, see `load_trained`."""
    trained = load_trained(run)
    return trained.policy, trained.config
