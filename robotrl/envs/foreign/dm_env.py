"""Any `dm_env.Environment`, made by a function of the user's: `task=dm_env:my_package:make_env`."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces

from robotrl.core.errors import UsageError
from robotrl.core.schema import load_target
from robotrl.envs.foreign.single import MakeEnv, SingleEnv, SingleEnvTask
from robotrl.envs.foreign.task import readable_errors

MakeDmEnv = Callable[..., Any]


@dataclass
class DmEnvTask(SingleEnvTask):
    """What a function `make_env(seed, **kwargs)` returns; `id` is its import path, `package.module:make_env`.

    dm_env has no seeding of its own, so every copy is made anew with a seed of its own when training,
    an evaluation or a resumed run begins.
    """

    prefix: ClassVar[str] = "dm_env"

    def make_single(self) -> SingleEnv:
        """Make one environment.

        Raises:
            UsageError: there is no such function, it takes no seed, or its specs cannot be used.
        """
        make = self._factory()
        with readable_errors(self.name, self.kwargs):
            env = make(seed=0)
        observation, action = to_space(env.observation_spec()), to_space(env.action_spec())
        return DmEnvAsGymnasium(make, observation, action, env)

    def maker(self, probe: SingleEnv) -> MakeEnv:
        """Return what makes one copy; it makes its environment when it is given its seed."""
        return functools.partial(
            DmEnvAsGymnasium, self._factory(), probe.observation_space, probe.action_space
        )

    def _factory(self) -> MakeDmEnv:
        function = load_target(self.id.replace(":", "."), "dm_env factory")
        parameters = inspect.signature(function).parameters.values() if callable(function) else ()
        if not any(one.name == "seed" or one.kind is one.VAR_KEYWORD for one in parameters):
            raise UsageError(
                f"{self.id} must be a function make_env(seed, ...) that returns a dm_env.Environment: dm_env "
                "has no other way to seed one"
            )
        return functools.partial(function, **self.kwargs)


class DmEnvAsGymnasium(gymnasium.Env[Any, Any]):
    """A dm_env.Environment in Gymnasium's terms: the end of an episode terminates where its discount is 0.

    Args:
        make: makes the environment, given `seed`.
        observation_space: of its observations.
        action_space: of its actions.
        env: one that was made already; else it is made by the first `reset`.
    """

    def __init__(
        self,
        make: MakeDmEnv,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        env: Any = None,
    ) -> None:
        self._make, self._env = make, env
        self.observation_space, self.action_space = observation_space, action_space

    @property
    def dt(self) -> float | None:
        """Time between two actions, s, where the environment tells it as dm_control's do."""
        timestep = getattr(self._env, "control_timestep", None)
        return None if timestep is None else float(timestep())

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start a new episode; with a seed, in a new environment."""
        super().reset(seed=seed)
        if seed is not None or self._env is None:
            self.close()
            self._env = self._make(seed=seed)
        return _values(self.observation_space, self._env.reset().observation), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Advance by one control step."""
        step = self._env.step(action)
        terminated = bool(step.last() and step.discount == 0.0)
        obs = _values(self.observation_space, step.observation)
        return obs, float(step.reward), terminated, bool(step.last()) and not terminated, {}

    def close(self) -> None:
        """Release what the environment holds."""
        if self._env is not None:
            self._env.close()
            self._env = None


def to_space(spec: Any) -> spaces.Space[Any]:
    """Return the space of a dm_env spec: a Box for an array, a Dict for a mapping of specs.

    Raises:
        UsageError: another kind of spec.
    """
    from dm_env import specs

    if isinstance(spec, Mapping):
        return spaces.Dict([(str(key), to_space(inner)) for key, inner in spec.items()])
    if isinstance(spec, specs.DiscreteArray):
        return spaces.Discrete(spec.num_values)
    if isinstance(spec, specs.BoundedArray):
        low, high = (np.broadcast_to(bound, spec.shape) for bound in (spec.minimum, spec.maximum))
        return spaces.Box(low, high, dtype=spec.dtype)
    if isinstance(spec, specs.Array) and np.issubdtype(spec.dtype, np.number):
        return spaces.Box(-math.inf, math.inf, spec.shape, np.float64)
    raise UsageError(f"cannot use the dm_env spec {spec}: expected arrays of numbers, or mappings of them")


def _values(space: spaces.Space[Any], observation: Any) -> Any:
    """Give an observation the shape and type of its space; dm_control's are often bare numbers."""
    if isinstance(space, spaces.Dict):
        return {key: _values(inner, observation[key]) for key, inner in space.items()}
    return np.asarray(observation, dtype=space.dtype).reshape(space.shape)
