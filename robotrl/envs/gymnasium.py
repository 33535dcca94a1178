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

from robotrl.core.errors import UsageError, unknown_name
from robotrl.core.types import Specs
from robotrl.envs.vec_env import VecEnv

# actions may leave the space by rounding only, as a fraction of half its width
_ROUNDING = 5e-7

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
    """

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.SAME_STEP, "render_modes": []}  # noqa: RUF012

    def __init__(self, env: VecEnv, groups: Sequence[str] = ("policy",)) -> None:
        self.env = env
        self.groups = tuple(groups)
        self.num_envs = env.num_envs
        self.single_observation_space = observation_space(env.specs, self.groups)
        self.single_action_space = action_space(env.specs)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NumpyObs, dict[str, Any]]:
        """Start a new episode everywhere; the same seed gives the same episodes.

        Raises:
            UsageError: options are given; there are none.
        """
        if options:
            raise UsageError(f"reset takes no options, got {options}")
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
        step = self.env.step(to_learner_units(actions, self.env.specs))
        valid, done = step.valid.numpy(), step.done.numpy()
        infos: dict[str, Any] = {"valid": valid, "_valid": np.ones(self.num_envs, dtype=bool)}
        if done.any():
            final = to_numpy(step.final_obs, self.groups)
            final_obs = np.full(self.num_envs, None, dtype=object)
            for i in done.nonzero()[0].tolist():
                final_obs[i] = _row(final, i)
            infos["final_obs"], infos["_final_obs"] = final_obs, done.copy()
            infos["final_info"] = {"valid": valid & done, "_valid": done.copy()}
            infos["_final_info"] = done.copy()
        return (
            to_numpy(step.obs, self.groups),
            step.reward.double().numpy(),
            step.terminated.numpy(),
            step.truncated.numpy(),
            infos,
        )


class GymnasiumEnv(gymnasium.Env[Any, np.ndarray]):
    """A `VecEnv` of one environment as a plain Gymnasium environment.

    Args:
        env: what to wrap, with `num_envs=1`.
        groups: observation groups; one group gives a Box, several a Dict of Boxes.

    Raises:
        UsageError: `env` has more than one environment.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012

    def __init__(self, env: VecEnv, groups: Sequence[str] = ("policy",)) -> None:
        if env.num_envs != 1:
            raise UsageError(f"GymnasiumEnv needs num_envs=1, got {env.num_envs}: use GymnasiumVecEnv")
        self._vector = GymnasiumVecEnv(env, groups)
        self.observation_space = self._vector.single_observation_space
        self.action_space = self._vector.single_action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NumpyObs, dict[str, Any]]:
        """Start a new episode; the same seed gives the same episode."""
        super().reset(seed=seed)
        obs, infos = self._vector.reset(seed=seed, options=options)
        return _row(obs, 0), infos

    def step(self, action: np.ndarray) -> tuple[NumpyObs, float, bool, bool, dict[str, Any]]:
        """Advance by one control step; at the end of an episode `reset` comes next.

        Args:
            action: (A,) in physical units, inside the action space.
        """
        obs, reward, terminated, truncated, infos = self._vector.step(np.asarray(action)[None])
        obs = infos["final_obs"][0] if "final_obs" in infos else _row(obs, 0)
        info = {"valid": bool(infos["valid"][0])}
        return obs, float(reward[0]), bool(terminated[0]), bool(truncated[0]), info


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


def to_learner_units(actions: np.ndarray, specs: Specs) -> Tensor:
    """Map (N, A) commands in physical units to (N, A) float64 in [-1, 1].

    Raises:
        UsageError: the number of actuators is wrong, or a command is not finite or out of bounds.
    """
    given = torch.as_tensor(np.asarray(actions, dtype=np.float64))
    low, high = specs.action_low.double(), specs.action_high.double()
    if given.ndim != 2 or given.shape[1] != specs.action_dim:
        raise UsageError(f"actions must have shape (num_envs, {specs.action_dim}), got {tuple(given.shape)}")
    scaled = (2.0 * given - (high + low)) / (high - low)
    outside = ~(scaled.abs() <= 1.0 + _ROUNDING)  # True for NaN
    if bool(outside.any()):
        row, column = outside.nonzero()[0].tolist()
        term = specs.action[column]
        raise UsageError(
            f"actions must be finite and inside the action space: environment {row} got "
            f"{given[row, column].item()} for {term.name!r}, which takes {term.low} to {term.high}"
        )
    return scaled


def _row(obs: NumpyObs, index: int) -> NumpyObs:
    """One environment's part of a batch of observations."""
    return {group: values[index] for group, values in obs.items()} if isinstance(obs, dict) else obs[index]
