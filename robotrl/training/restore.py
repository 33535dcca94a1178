"""From a run folder back to the policy it trained."""

from __future__ import annotations

from pathlib import Path

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


def load_policy_and_config(run: Path) -> tuple[Policy, TrainConfig]:
    """Load the policy of a run's newest checkpoint, in evaluation mode, and the run's configuration.

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
    except (KeyError, TypeError, RuntimeError) as error:
        raise RobotrlError(
            f"checkpoint {path} does not fit {folder.config_file}: {' '.join(str(error).split())}"
        ) from error
    return policy.eval().requires_grad_(False), config
