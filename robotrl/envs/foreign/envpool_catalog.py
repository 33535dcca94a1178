"""What EnvPool offers, without importing anything heavy besides it."""

from __future__ import annotations

import importlib.util


def robot_tasks() -> dict[str, list[str]]:
    """Return family -> ids of EnvPool's MuJoCo tasks, whose actions are continuous.

    Empty where EnvPool is not installed. A task registered as `Name` and as `Family/Name` is given once.
    """
    if importlib.util.find_spec("envpool") is None:
        return {}
    import envpool  # noqa: F401  fills the registry
    from envpool.registration import registry

    families: dict[str, list[str]] = {}
    for task_id, (module, *_) in sorted(registry.specs.items()):
        known = task_id.rpartition("/")[2] in registry.specs and "/" in task_id
        if module.startswith("envpool.mujoco.") and not known:
            families.setdefault(module.removeprefix("envpool.mujoco."), []).append(task_id)
    return families
