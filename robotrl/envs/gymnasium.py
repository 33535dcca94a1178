"""Our environments in Gymnasium's terms: a vector environment and a single one, numpy in and out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from torch import Tensor

from robotrl.core.errors import RobotrlError, UsageError, unknown_name
from robotrl.core.types import Obs, Specs, Step
from robotrl.envs.pictures import RENDER_MODES, Pictures
from robotrl.envs.vec_env import VecEnv

# what a VecEnv lets pass beyond [-1, 1]
_ROUNDING = 1e-6

NumpyObs = np.ndarray | dict[str, np.ndarray]


class GymnasiumVecEnv(gymnasium.vector.VectorEnv[Any, np.ndarray, np.ndarray]):
    """A `VecEnv` as a Gymnasium vector environment with auto-reset in the same step.

    Actions are in physical units. Where an episode ends, `infos["final_obs"]` holds its last
    observation and `infos["final_info"]` whether its last transition is valid (`infos["_final_obs"]`
    and `infos["_final_info"]` tell where); `infos["valid"]` is (num_envs,) bool in every step, False
    where the simulation diverged.

    Args:
        env: what to wrap.
        groups: observation groups; one group gives a Box, several a Dict of Boxes.
        render_mode: "rgb_array" for `render`, or None.
        **view: `width`, `height` (px) and `camera` of the pictures, see `Pictures`.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012
        "autoreset_mode": AutoresetMode.SAME_STEP,
        "render_modes": [*RENDER_MODES],
    }

    def __init__(
        self, env: VecEnv, groups: Sequence[str] = ("policy",), render_mode: str | None = None, **view: Any
    ) -> None:
        self.env = env
        self.groups = tuple(groups)
        self.num_envs = env.num_envs
        self.single_observation_space = observation_space(env.specs, self.groups)
        self.single_action_space = action_space(env.specs)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.render_mode = render_mode
        self.metadata = {**self.metadata, "render_fps": round(1.0 / env.specs.control_dt_s)}
        self._commands = PhysicalActions(env)
        self._pictures = Pictures(env, render_mode, **view)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NumpyObs, dict[str, Any]]:
        """Start a new episode everywhere; the same seed gives the same episodes.

        Raises:
            UsageError: options are given; there are none.
        """
        _refuse(options)
        super().reset(seed=seed)
        if seed is not None:
            self.env.rng.manual_seed(seed)
        return to_numpy(self.env.reset(), self.groups), {}

    def step(
        self, actions: np.ndarray
    ) -> tuple[NumpyObs, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Advance every environment by one control step.

        Args:
            actions: (num_envs, A) in physical units, inside the action space.

        Raises:
            UsageError: the actions have the wrong shape, are not finite or leave the action space.
        """
        step = self._commands.step(np.asarray(actions))
        terminated, truncated = step.terminated.numpy(), step.truncated.numpy()
        valid, done = step.valid.numpy(), terminated | truncated
        infos: dict[str, Any] = {"valid": valid, "_valid": np.ones(self.num_envs, dtype=bool)}
        if done.any():
            final = to_numpy(step.final_obs, self.groups)
            final_obs = np.full(self.num_envs, None, dtype=object)
            for i in done.nonzero()[0].tolist():
                final_obs[i] = row(final, i)
            infos["final_obs"], infos["_final_obs"] = final_obs, done
            infos["final_info"] = {"valid": valid & done, "_valid": done.copy()}
            infos["_final_info"] = done.copy()
        rewards = step.reward.numpy().astype(np.float64)
        return to_numpy(step.obs, self.groups), rewards, terminated, truncated, infos

    def render(self) -> tuple[np.ndarray, ...] | None:
        """Draw every environment, (height, width, 3) uint8 RGB each; None without a render mode."""
        pictures = self._pictures.draw()
        return None if pictures is None else tuple(pictures)

    def close_extras(self, **kwargs: Any) -> None:
        """Free the graphics memory."""
        self._pictures.close()


class GymnasiumEnv(gymnasium.Env[Any, np.ndarray]):
    """A `VecEnv` of one environment as a plain Gymnasium environment.

    Actions are in physical units. `info["valid"]` is False where the simulation diverged.

    Args:
        env: what to wrap, with `num_envs=1`.
        groups: observation groups; one group gives a Box, several a Dict of Boxes.
        render_mode: "rgb_array" for `render`, or None.
        **view: `width`, `height` (px) and `camera` of the pictures, see `Pictures`.

    Raises:
        UsageError: `env` has more than one environment.
    """

    metadata: dict[str, Any] = {"render_modes": [*RENDER_MODES]}  # noqa: RUF012

    def __init__(
        self, env: VecEnv, groups: Sequence[str] = ("policy",), render_mode: str | None = None, **view: Any
    ) -> None:
        if env.num_envs != 1:
            raise UsageError(f"GymnasiumEnv needs num_envs=1, got {env.num_envs}: use GymnasiumVecEnv")
        self.env = env
        self.groups = tuple(groups)
        self.observation_space = observation_space(env.specs, self.groups)
        self.action_space = action_space(env.specs)
        self.render_mode = render_mode
        self.metadata = {**self.metadata, "render_fps": round(1.0 / env.specs.control_dt_s)}
        self._commands = PhysicalActions(env)
        self._pictures = Pictures(env, render_mode, **view)
        # where an episode has ended: the first observation of the next, which the VecEnv has begun
        self._begun: Obs | None = None
        self._picture: np.ndarray | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NumpyObs, dict[str, Any]]:
        """Start a new episode; the same seed gives the same episodes.

        Raises:
            UsageError: options are given; there are none.
        """
        _refuse(options)
        super().reset(seed=seed)
        if seed is not None:
            self.env.rng.manual_seed(seed)
        obs = self.env.reset() if seed is not None or self._begun is None else self._begun
        self._begun = self._picture = None
        return row(to_numpy(obs, self.groups), 0), {}

    def step(self, action: np.ndarray) -> tuple[NumpyObs, float, bool, bool, dict[str, Any]]:
        """Advance by one control step; at the end of an episode `reset` comes next.

        Args:
            action: (A,) in physical units, inside the action space.

        Raises:
            UsageError: the action has the wrong shape, is not finite or leaves the action space.
        """
        step = self._commands.step(np.asarray(action)[None])
        terminated, truncated = step.terminated.item(), step.truncated.item()
        if terminated or truncated:
            self._begun = step.obs
        obs = row(to_numpy(step.final_obs, self.groups), 0)
        return obs, step.reward.item(), bool(terminated), bool(truncated), {"valid": step.valid.item()}

    def render(self) -> np.ndarray | None:
        """Draw the environment, (height, width, 3) uint8 RGB; None without a render mode.

        After the last step of an episode the picture is the one drawn before it, as the simulation
        already stands at the start of the next.

        Raises:
            RobotrlError: the episode has ended and no picture of it was drawn.
        """
        if self._begun is None:
            pictures = self._pictures.draw()
            self._picture = None if pictures is None else pictures[0]
        elif self._picture is None and self.render_mode is not None:
            raise RobotrlError("the episode has ended and its state is gone: render before its last step")
        return None if self._picture is None else self._picture.copy()

    def close(self) -> None:
        """Free the graphics memory."""
        self._pictures.close()


class PhysicalActions:
    """Steps a `VecEnv` by commands in physical units.

    Args:
        env: what to step.
    """

    def __init__(self, env: VecEnv) -> None:
        low, high = env.specs.action_low.double().numpy(), env.specs.action_high.double().numpy()
        self._env = env
        self._shape = (env.num_envs, env.specs.action_dim)
        self._middle, self._scale = (high + low) / 2.0, 2.0 / (high - low)

    def step(self, actions: np.ndarray) -> Step:
        """Advance every environment by one control step.

        Args:
            actions: (num_envs, A) in physical units.

        Raises:
            UsageError: the actions have the wrong shape, are not finite or leave their bounds.
        """
        if actions.shape != self._shape:
            raise UsageError(f"actions must have shape {self._shape}, got {actions.shape}")
        scaled = (actions.astype(np.float64) - self._middle) * self._scale
        try:
            return self._env.step(torch.from_numpy(scaled))
        except UsageError as error:
            raise self._in_physical_units(actions, scaled) or error from error

    def _in_physical_units(self, actions: np.ndarray, scaled: np.ndarray) -> UsageError | None:
        """Say which command cannot be; the `VecEnv` says so in the learner's units."""
        outside = np.argwhere(~(np.abs(scaled) <= 1.0 + _ROUNDING))  # True for NaN
        if not len(outside):
            return None
        i, column = outside[0]
        term = self._env.specs.action[column]
        return UsageError(
            f"actions must be finite and inside the action space: environment {i} got "
            f"{actions[i, column]} for {term.name!r}, which takes {term.low} to {term.high}"
        )


def observation_space(specs: Specs, groups: Sequence[str]) -> spaces.Space[Any]:
    """Return the space of one environment: a Box for one group, else a Dict of them.

    Raises:
        UsageError: there is no such group, or none is asked for.
    """
    if not groups:
        raise UsageError(f"give at least one observation group of {', '.join(specs.observation)}")
    boxes: dict[str, spaces.Space[Any]] = {}
    for group in groups:
        if group not in specs.observation:
            raise unknown_name("observation group", group, specs.observation)
        terms = specs.observation[group]
        low, high = (
            np.concatenate([np.full(term.size, getattr(term, bound), np.float32) for term in terms])
            for bound in ("low", "high")
        )
        boxes[group] = spaces.Box(low, high, dtype=np.float32)
    return boxes[groups[0]] if len(groups) == 1 else spaces.Dict(boxes)


def action_space(specs: Specs) -> spaces.Box:
    """Return the space of one environment's actuator commands, in physical units."""
    return spaces.Box(specs.action_low.numpy(), specs.action_high.numpy(), dtype=np.float32)


def to_numpy(obs: Mapping[str, Tensor], groups: Sequence[str]) -> NumpyObs:
    """Return one group's (N, D) float32 array, or a dict of several; shares memory with the tensors."""
    return obs[groups[0]].numpy() if len(groups) == 1 else {group: obs[group].numpy() for group in groups}


def row(obs: NumpyObs, index: int) -> NumpyObs:
    """Return one environment's part of a batch of observations."""
    return {group: values[index] for group, values in obs.items()} if isinstance(obs, dict) else obs[index]


def _refuse(options: dict[str, Any] | None) -> None:
    if options:
        raise UsageError(f"reset takes no options, got {options}")
