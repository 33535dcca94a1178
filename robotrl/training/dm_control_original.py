"""The task of dm_control that one of ours is the counterpart of, for who doubts ours."""

from __future__ import annotations

import dataclasses
from typing import Any

import yaml

from robotrl.core.config import resolve_task
from robotrl.core.errors import UsageError
from robotrl.core.paths import CONFIGS
from robotrl.envs.dm_control_compat import load_suite
from robotrl.envs.foreign.dm_env import DmEnvTask
from robotrl.tasks.realism import Realism
from robotrl.tasks.task import Task


def make_env(seed: int, domain: str, task: str) -> Any:
    """Return dm_control's own environment, a `dm_env.Environment`."""
    return load_suite().load(domain, task, task_kwargs={"random": seed})


def original_of(task: Task, name: str) -> DmEnvTask:
    """Return dm_control's own task in place of ours.

    The numbers of both's observations and actions follow each other in the same order.

    Args:
        task: ours.
        name: of its file in configs/task, DOMAIN_TASK.

    Raises:
        UsageError: dm_control has no such task: this name, these options or this realism.
        RobotrlError: dm_control is not installed.
    """
    found = {f"{domain}_{task}": (domain, task) for domain, task in load_suite().ALL_TASKS}
    if name not in found:
        raise UsageError(f"dm_control has no task like {name}: only tasks of the control suite are in it")
    plain = Realism()
    usual = resolve_task(yaml.safe_load((CONFIGS / "task" / f"{name}.yaml").read_text(encoding="utf-8")))
    realism = [
        field.name
        for field in dataclasses.fields(Realism)
        if getattr(task.realism, field.name) != getattr(plain, field.name)
    ]
    if realism:
        raise UsageError(f"dm_control has no realism, this {name} has {', '.join(realism)}")
    changed = [
        f"{field.name}={getattr(task, field.name)}"
        for field in dataclasses.fields(usual)
        if getattr(task, field.name) != getattr(usual, field.name)
    ]
    if changed:
        raise UsageError(f"dm_control has no {name} with {', '.join(changed)}")
    domain, task_name = found[name]
    return DmEnvTask(f"{__name__}:make_env", {"domain": domain, "task": task_name})
