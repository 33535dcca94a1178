"""Who acts while a dataset is collected: a trained policy, a task's scripted expert, or chance."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from robotrl.core.catalog import available
from robotrl.core.errors import UsageError
from robotrl.core.paths import CONFIGS
from robotrl.core.schema import load_target
from robotrl.core.types import Obs
from robotrl.envs.env import Env
from robotrl.envs.vec_env import VecEnv
from robotrl.tasks.task import Task
from robotrl.training.controller import Controller
from robotrl.training.restore import load_trained


@dataclass(frozen=True)
class Demonstrator:
    """Who acts.

    Attributes:
        name: of what is recorded, in the dataset's name.
        controller: decides.
        provenance: what there is to know about it.
    """

    name: str
    controller: Controller
    provenance: dict[str, Any] = field(default_factory=dict)


def random_actions(env: Env, rng: torch.Generator) -> Demonstrator:
    """Return uniform actions."""
    shape = (env.num_envs, env.specs.action_dim)
    return Demonstrator("random", Controller(lambda obs: torch.rand(shape, generator=rng) * 2 - 1))


def trained_policy(run: Path, deterministic: bool, env: Env, rng: torch.Generator) -> Demonstrator:
    """Return the policy of a run's newest checkpoint.

    Raises:
        UsageError: `run` is no run, or its task has other observations or actions than the environments.
    """
    policy, config, log_step = load_trained(run)
    difference = policy.specs.difference(env.specs)
    if difference is not None:
        raise UsageError(
            f"the policy of {run} was trained on {config.task_name}, which differs from the task given: "
            f"{difference}; leave task away, or collect with another policy"
        )
    return Demonstrator(
        config.algorithm_name,
        Controller(lambda obs: policy.act(obs, deterministic=deterministic, rng=rng), policy.horizon),
        {
            "deterministic": deterministic,
            "policy_env_steps": log_step,
        },
    )


def scripted_expert(env: Env, task_name: str) -> Demonstrator:
    """Return the task's own demonstrator, whose commands saturate at the bounds of the actions.

    Raises:
        UsageError: it has none; names tasks that have.
    """
    if not isinstance(env, VecEnv) or env.task.expert(env.sim) is None:
        names = ", ".join(name for name in available("task") if _has_expert(name))
        raise UsageError(f"{task_name} has no expert (`Task.expert`); tasks that have one: {names}")
    task, sim = env.task, env.sim
    low, high = env.specs.action_low.double(), env.specs.action_high.double()

    def act(obs: Obs) -> Tensor:
        command = task.expert(sim)
        assert command is not None
        return ((2 * command.cpu() - low - high) / (high - low)).clamp(-1.0, 1.0).float()

    return Demonstrator("expert", Controller(act))


def _has_expert(name: str) -> bool:
    section = yaml.safe_load((CONFIGS / "task" / f"{name}.yaml").read_text(encoding="utf-8"))
    return load_target(section["_target_"], "task").expert is not Task.expert
