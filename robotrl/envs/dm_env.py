"""Our environments as a `dm_env.Environment`; needs `pip install "robotrl[dm-env]"`."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import numpy as np

from robotrl.core.errors import RobotrlError, unknown_name
from robotrl.envs.gymnasium import GymnasiumEnv
from robotrl.envs.vec_env import VecEnv

try:
    import dm_env
    from dm_env import specs
except ImportError as error:
    raise RobotrlError(f'dm_env cannot be imported ({error}): run pip install "robotrl[dm-env]"') from error


class DmEnv(dm_env.Environment):
    """A `VecEnv` of one environment in dm_env's terms.

    Observations are a dictionary of the group's terms by name, actions are in physical units. The
    discount is 0 where the task ended in a true end state and 1 everywhere else, so at the time limit,
    too. Every LAST step carries the episode's last observation.

    Args:
        env: what to wrap, with `num_envs=1`.
        group: the observation group.

    Raises:
        UsageError: `env` has more than one environment, or no such group.
    """

    def __init__(self, env: VecEnv, group: str = "policy") -> None:
        if group not in env.specs.observation:
            raise unknown_name("observation group", group, env.specs.observation)
        self._env = GymnasiumEnv(env, (group,))
        self._terms = env.specs.observation[group]
        ends = accumulate(term.size for term in self._terms)
        self._columns = {
            term.name: slice(end - term.size, end) for term, end in zip(self._terms, ends, strict=True)
        }
        self._actions = env.specs.action
        self._between_episodes = True

    def reset(self) -> dm_env.TimeStep:
        """Start a new episode."""
        self._between_episodes = False
        return dm_env.restart(self._by_name(self._env.reset()[0]))

    def step(self, action: np.ndarray) -> dm_env.TimeStep:
        """Advance by one control step; after a LAST step start a new episode, whatever the action.

        Args:
            action: (A,) in physical units, inside the action spec.

        Raises:
            UsageError: the action has the wrong shape, is not finite or leaves the action spec.
            RobotrlError: the simulation diverged; the next step starts a new episode.
        """
        if self._between_episodes:
            return self.reset()
        obs, reward, terminated, truncated, info = self._env.step(action)
        self._between_episodes = terminated or truncated
        if not info["valid"]:
            raise RobotrlError("the simulation diverged: this step has no observation and no reward")
        named = self._by_name(obs)
        if terminated:
            return dm_env.termination(reward, named)
        return dm_env.truncation(reward, named) if truncated else dm_env.transition(reward, named)

    def observation_spec(self) -> dict[str, Any]:
        """Return term name -> spec, float32."""
        return {
            term.name: specs.BoundedArray((term.size,), np.float32, term.low, term.high, term.name)
            for term in self._terms
        }

    def action_spec(self) -> Any:
        """Return the spec of the actuator commands, float64 in physical units."""
        low, high = ([getattr(term, bound) for term in self._actions] for bound in ("low", "high"))
        names = "\t".join(term.name for term in self._actions)
        return specs.BoundedArray((len(self._actions),), np.float64, low, high, names)

    def close(self) -> None:
        """Nothing is held open."""

    def _by_name(self, obs: Any) -> dict[str, np.ndarray]:
        return {name: obs[columns] for name, columns in self._columns.items()}
