"""EnvPool's environments, stepped by its own C++ threads: `task=envpool:HalfCheetah-v4`.

EnvPool ends an episode with its last observation and begins the next one in the following call, which
steps nothing in that row. Its rows can be reset one by one, though, and `EnvPoolVectorEnv` does so in
the call that ended them.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from robotrl.core.errors import RobotrlError, UsageError, unknown_name
from robotrl.envs.foreign.task import Batch, ForeignTask, readable_errors

# EnvPool's options that have a place elsewhere in the configuration, or none
_NOT_OPTIONS = {
    "num_envs": "num_envs=N",
    "num_threads": "sim_threads=N",
    "seed": "seed=N",
    "env_seed": "seed=N",
    "max_episode_steps": "task.max_episode_steps=N",
    "batch_size": "nothing: every environment is stepped in every call",
}


@dataclass
class EnvPoolTask(ForeignTask):
    """An environment of EnvPool's catalogue (`robotrl list tasks`)."""

    prefix: ClassVar[str] = "envpool"

    def __post_init__(self) -> None:
        super().__post_init__()
        for option, instead in _NOT_OPTIONS.items():
            if option in self.kwargs:
                raise ValueError(f"kwargs.{option} cannot be given here: use {instead}")

    def make_batch(self, num_envs: int, num_threads: int | None) -> Batch:
        """Make the pool."""
        limit = {} if self.max_episode_steps is None else {"max_episode_steps": self.max_episode_steps}
        vector = EnvPoolVectorEnv(self.id, num_envs, num_threads, self.kwargs | limit)
        # MuJoCo Playground's tasks tell their control period, the others do not
        return Batch(vector, vector.config.get("ctrl_dt"), vector.config["max_episode_steps"])


class EnvPoolVectorEnv(VectorEnv[Any, np.ndarray, np.ndarray]):
    """An EnvPool whose rows begin a new episode when told, as in Gymnasium's AutoresetMode.DISABLED.

    The seed of a pool is fixed when it is made: `reset` with a seed makes a new one.

    Args:
        task_id: of EnvPool's catalogue.
        num_envs: N.
        num_threads: CPUs to use, None for all.
        options: EnvPool's own of the task.

    Attributes:
        config: EnvPool's configuration of the task.

    Raises:
        UsageError: there is no such task or option, or several agents act in it.
        RobotrlError: EnvPool is not installed, or a library that the task needs is missing.
    """

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.DISABLED, "render_modes": []}  # noqa: RUF012

    def __init__(self, task_id: str, num_envs: int, num_threads: int | None, options: dict[str, Any]) -> None:
        self._envpool = _import_envpool()
        if task_id not in self._envpool.list_all_envs():
            raise unknown_name("EnvPool task", task_id, self._envpool.list_all_envs())
        threads = min(num_threads or len(os.sched_getaffinity(0)), num_envs)
        self._task_id = task_id
        self._options = options | {"num_envs": num_envs, "num_threads": threads}
        with readable_errors(f"envpool:{task_id}", options), _without_warnings():
            spec = self._envpool.make_spec(task_id, **self._options)
            self.single_observation_space = _true_bounds(spec.observation_space)
            self.single_action_space = spec.action_space
        self.config: dict[str, Any] = spec.config._asdict()
        if self.config["max_num_players"] != 1:
            raise UsageError(f"envpool:{task_id} has several agents: only one can be trained")
        self.num_envs = num_envs
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._pool: Any = None
        self._obs: Any = None

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start a new episode everywhere, or where `options["reset_mask"]`, (N,) bool, is True."""
        mask = (options or {}).get("reset_mask")
        if mask is not None:
            rows, info = self._pool.reset(np.flatnonzero(mask))
            self._obs = _put(self._obs, info["env_id"], rows)
            return self._obs, {}
        if seed is not None or self._pool is None:
            self._pool = self._envpool.make_gymnasium(self._task_id, **self._options, seed=seed or 0)
        with _without_warnings():
            self._obs, _ = self._pool.reset()
        return self._obs, {}

    def step(self, actions: np.ndarray) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Advance every environment by one control step."""
        self._obs, reward, terminated, truncated, _ = self._pool.step(actions)
        return self._obs, reward, terminated, truncated, {}


def _import_envpool() -> Any:
    try:
        import envpool
    except ImportError as error:
        raise RobotrlError(
            f'EnvPool cannot be imported ({error}): run pip install "robotrl[envpool]"'
        ) from error
    return envpool


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Drop Gymnasium's warnings about the number types of EnvPool's bounds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def _true_bounds(space: spaces.Space[Any]) -> spaces.Space[Any]:
    """Mend spaces that EnvPool bounds by the least positive and the largest number in place of infinity."""
    if isinstance(space, spaces.Dict):
        return spaces.Dict([(key, _true_bounds(inner)) for key, inner in space.items()])
    if not isinstance(space, spaces.Box) or not np.issubdtype(space.dtype, np.floating):
        return space
    limits = np.finfo(space.dtype)
    low = np.where((space.low == limits.tiny) | (space.low == limits.min), -np.inf, space.low)
    high = np.where(space.high == limits.max, np.inf, space.high)
    return spaces.Box(low, high, space.shape, space.dtype.type)


def _put(values: Any, ids: np.ndarray, rows: Any) -> Any:
    """Return a copy of batched observations with new rows."""
    if isinstance(values, dict):
        return {key: _put(inner, ids, rows[key]) for key, inner in values.items()}
    values = values.copy()
    values[ids] = rows
    return values
