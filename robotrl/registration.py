"""Every shipped task by name in Gymnasium's registry: `gymnasium.make("robotrl/walker_walk-v0")`.

Gymnasium has no plugin mechanism and takes long to import. So `import robotrl` registers at once only
where Gymnasium is there already, and otherwise in the moment its registry is imported.

The name is the task's, with the version that its rewards and dynamics have. A task that is another
project's, step by step, carries its version (`robotrl/HalfCheetah-v5`); all others start at v0. A change
that makes returns incomparable raises the version.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

NAMESPACE = "robotrl"
_REGISTRY = "gymnasium.envs.registration"


def gymnasium_id(task: str) -> str:
    """Return the id of a shipped task in Gymnasium's registry."""
    versioned = task.rpartition("-v")[2].isdigit()
    return f"{NAMESPACE}/{task}" if versioned else f"{NAMESPACE}/{task}-v0"


def register_tasks() -> None:
    """Put every shipped task into Gymnasium's registry, now or when it is imported."""
    if _REGISTRY in sys.modules:
        _register(sys.modules[_REGISTRY])
    elif not any(isinstance(finder, _RegistryFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _RegistryFinder())


def _register(registration: ModuleType) -> None:
    from robotrl.core.catalog import available

    for task in available("task"):
        if gymnasium_id(task) not in registration.registry:
            registration.register(
                gymnasium_id(task),
                entry_point="robotrl.gym:TaskEnv",
                vector_entry_point="robotrl.gym:TaskVecEnv",
                kwargs={"task": task},
            )


class _RegistryFinder:
    """Finds Gymnasium's registry as it would be found otherwise, and fills it once it is loaded."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return None for every other module: the usual finders go on."""
        if name != _REGISTRY:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, (finder.find_spec(name, path, target) for finder in others)), None)
        if spec is None or spec.loader is None:
            return spec
        load = spec.loader.exec_module

        def load_and_register(module: ModuleType) -> None:
            load(module)
            sys.meta_path.remove(self)
            _register(module)

        spec.loader.exec_module = load_and_register  # type: ignore[method-assign]
        return spec
