"""Our environments as a Stable-Baselines3 vector environment; needs `pip install "robotrl[sb3]"`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from robotrl.core.errors import RobotrlError, UsageError
from robotrl.envs.env import Env
from robotrl.envs.gymnasium import NumpyObs, observation_space, row, to_numpy
from robotrl.envs.pictures import Pictures

try:
    from stable_baselines3.common.monitor import Monitor
    from stable_baselines3.common.vec_env import VecEnv as Sb3Base
except ImportError as error:
    raise RobotrlError(
        f'Stable-Baselines3 cannot be imported ({error}): run pip install "robotrl[sb3]"'
    ) from error


class Sb3VecEnv(Sb3Base):
    """A `VecEnv` that Stable-Baselines3's algorithms train on.

    Actions stay in [-1, 1], the range its algorithms expect. An info dictionary is filled where an
    episode ends: "terminal_observation", "TimeLimit.truncated", and "episode" with return "r", length "l"
    and seconds "t", as its Monitor gives. Where the simulation diverged it has "valid": False instead
    of "episode".

    Args:
        env: what to wrap.
        groups: observation groups; one group gives a Box, several a Dict of Boxes.
        render_mode: "rgb_array" for `render`, or None.
        **view: `width`, `height` (px) and `camera` of the pictures, see `Pictures`.
    """

    metadata: dict[str, Any]

    def __init__(
        self, env: Env, groups: Sequence[str] = ("policy",), render_mode: str | None = None, **view: Any
    ) -> None:
        self.env = env
        self.groups = tuple(groups)
        self._pictures = Pictures(env, render_mode, **view)
        single_action = spaces.Box(-1.0, 1.0, (env.specs.action_dim,), np.float32)
        super().__init__(env.num_envs, observation_space(env.specs, self.groups), single_action)
        self.metadata = {**self.metadata, "render_fps": round(1.0 / env.specs.control_dt_s)}
        self._start_s = time.time()
        self._returns = np.zeros(self.num_envs)
        self._lengths = np.zeros(self.num_envs, dtype=np.int64)
        # a staggered first episode is no whole one
        self._whole = np.ones(self.num_envs, dtype=bool)

    def reset(self) -> NumpyObs:
        """Start a new episode everywhere, from the seed given to `seed` if one was."""
        if any(self._options):
            raise UsageError(f"reset takes no options, got {self._options[0]}")
        if self._seeds[0] is not None:
            self.env.rng.manual_seed(self._seeds[0])
        self._reset_seeds()
        obs = to_numpy(self.env.reset(), self.groups)
        self._returns[:], self._lengths[:] = 0.0, 0
        self._whole = (self.env.age == 0).numpy()
        return obs

    def step_async(self, actions: np.ndarray) -> None:
        """Keep (N, A) actions in [-1, 1] for `step_wait`."""
        self._actions = torch.as_tensor(actions)

    def step_wait(self) -> tuple[NumpyObs, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Advance every environment by one control step."""
        step = self.env.step(self._actions)
        rewards, done, valid = step.reward.numpy(), step.done.numpy(), step.valid.numpy()
        self._returns += rewards
        self._lengths += 1
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        if done.any():
            final = to_numpy(step.final_obs, self.groups)
            elapsed_s = round(time.time() - self._start_s, 6)
            for i in done.nonzero()[0].tolist():
                infos[i]["terminal_observation"] = row(final, i)
                infos[i]["TimeLimit.truncated"] = bool(step.truncated[i])
                if not valid[i]:
                    infos[i]["valid"] = False
                elif self._whole[i]:
                    statistics = {"r": float(self._returns[i]), "l": int(self._lengths[i]), "t": elapsed_s}
                    infos[i]["episode"] = statistics
            self._returns[done], self._lengths[done], self._whole[done] = 0.0, 0, True
        return to_numpy(step.obs, self.groups), rewards, done, infos

    def close(self) -> None:
        """Free the graphics memory."""
        self._pictures.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        """Draw every environment, (height, width, 3) uint8 RGB each; `render` puts them side by side."""
        pictures = self._pictures.draw()
        return [None] * self.num_envs if pictures is None else list(pictures)

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Return the `VecEnv`'s attribute, or the render mode, once per asked environment."""
        source = self._pictures if attr_name == "render_mode" else self.env
        value = getattr(source, attr_name)
        return [value for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Refuse: the environments are one batch.

        Raises:
            UsageError: always.
        """
        raise UsageError(f"cannot set {attr_name!r}: the environments are one batch, change the task instead")

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """Refuse: the environments are one batch.

        Raises:
            UsageError: always.
        """
        raise UsageError(f"cannot call {method_name!r}: the environments are one batch without methods each")

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        """Whether this does what `wrapper_class` would; it keeps the statistics that Monitor keeps."""
        return [wrapper_class is Monitor for _ in self._get_indices(indices)]
