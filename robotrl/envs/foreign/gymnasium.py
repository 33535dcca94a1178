"""Any environment registered with Gymnasium: `task=gymnasium:Pendulum-v1`."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any, ClassVar

import gymnasium
from gymnasium.envs.registration import EnvSpec, VectorizeMode

from robotrl.core.errors import UsageError, unknown_name
from robotrl.envs.foreign.single import SingleEnv, SingleEnvTask, Vectorization
from robotrl.envs.foreign.task import Batch, readable_errors


@dataclass
class GymnasiumTask(SingleEnvTask):
    """An environment of Gymnasium or of a package that registers with it (`my_package:MyEnv-v0`)."""

    prefix: ClassVar[str] = "gymnasium"

    def make_single(self) -> SingleEnv:
        """Make one environment, with the time limit that was asked for in place of its own."""
        return make_registered(self.id, self.kwargs, self.max_episode_steps)

    def make_batch(self, num_envs: int, num_threads: int | None) -> Batch:
        """Make the package's own vector environment where it registers one, else copies."""
        spec = find_spec(self.id)
        if spec.vector_entry_point is None or self.vectorization is not Vectorization.AUTO:
            return super().make_batch(num_envs, num_threads)
        options = dict(self.kwargs)
        if self.max_episode_steps is not None:
            options["max_episode_steps"] = self.max_episode_steps
        with readable_errors(self.name, self.kwargs):
            vector = gymnasium.make_vec(spec, num_envs, VectorizeMode.VECTOR_ENTRY_POINT, **options)
        fps = vector.metadata.get("render_fps")
        # it keeps its time limit itself
        return Batch(vector, 1.0 / fps if fps else None, None)


def find_spec(env_id: str) -> EnvSpec:
    """Return what is registered under an id, `NAME` or `MODULE:NAME`.

    Raises:
        UsageError: nothing is, or there is no such module.
    """
    module, _, name = env_id.rpartition(":")
    if module:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise UsageError(
                f"gymnasium environment {env_id!r}: there is no module {error.name!r}"
            ) from error
    try:
        return gymnasium.spec(name)
    except gymnasium.error.UnregisteredEnv as error:
        raise unknown_name("gymnasium environment", name, gymnasium.registry) from error
    except gymnasium.error.Error as error:
        raise UsageError(f"gymnasium environment {name!r}: {error}") from error


def make_registered(env_id: str, kwargs: dict[str, Any], max_episode_steps: int | None) -> SingleEnv:
    """Make one environment that is registered with Gymnasium.

    Raises:
        UsageError: there is none, or it does not take these arguments.
        RobotrlError: a package that it needs is missing.
    """
    spec = find_spec(env_id)
    with readable_errors(env_id, kwargs):
        return gymnasium.make(spec, max_episode_steps=max_episode_steps, disable_env_checker=True, **kwargs)
