"""Environments whose observations tell episode, step and last action, so that a leak across a reset is seen.

`Counter` is a single one; `NativeCounters` a vector environment of its own, in any of Gymnasium's ways to
auto-reset; `by_hand` steps a single one as a textbook does.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array, iterate

LOW, HIGH = np.array([-1.0, 0.0], np.float32), np.array([3.0, 10.0], np.float32)


class Counter(gymnasium.Env[Any, Any]):
    """Episodes of 2 to 5 steps, drawn from the seed; every other one is truncated in place of terminated.

    Observation: seed's first draw, episode, step, the two actions; as a Dict with `nested`.
    """

    metadata = {"render_modes": [], "render_fps": 20}  # noqa: RUF012

    def __init__(self, nested: bool = False, nan_at: int | None = None, endless: bool = False) -> None:
        self.nested, self.nan_at, self.endless = nested, nan_at, endless
        box = spaces.Box(-np.inf, np.inf, (5,), np.float64)
        count = spaces.Box(0, 1000, (2,), np.int64)
        inner = spaces.Dict(count=count, tag=spaces.Box(0.0, 1.0, (), np.float64))
        both = spaces.Dict(inner=inner, privileged_state=spaces.Box(-1, 10, (2, 1), np.float32))
        self.observation_space: Any = both if nested else box
        self.action_space = spaces.Box(LOW, HIGH)
        self.episode = -1

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.episode += 1
        self.count, self.action = 0, np.zeros(2)
        self.tag, self.length = self.np_random.random(), int(self.np_random.integers(2, 6))
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert action.shape == (2,) and self.action_space.contains(action)
        self.count, self.action = self.count + 1, action.astype(np.float64)
        over = self.count == self.length and not self.endless
        return (
            self._observe(),
            100.0 * self.episode + self.count,
            over and self._ends,
            over and not self._ends,
            {},
        )

    @property
    def _ends(self) -> bool:
        return self.episode % 2 == 0

    def _observe(self) -> Any:
        tag = np.nan if self.nan_at == self.count and self.episode == 1 else self.tag
        if self.nested:
            inner = {"count": np.array([self.episode, self.count]), "tag": np.array(tag)}
            return {"inner": inner, "privileged_state": self.action.astype(np.float32)[:, None]}
        return np.array([tag, self.episode, self.count, *self.action])


class NativeCounters(VectorEnv[Any, Any, Any]):
    """Counters that begin new episodes themselves, in the way that `mode` says."""

    def __init__(self, num_envs: int, mode: AutoresetMode = AutoresetMode.NEXT_STEP, **kwargs: Any) -> None:
        self.metadata = {"autoreset_mode": mode, "render_fps": 10}
        self.mode, self.num_envs = mode, num_envs
        self.envs = [Counter(**kwargs) for _ in range(num_envs)]
        self.single_observation_space = self.envs[0].observation_space
        self.single_action_space = self.envs[0].action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.over = np.zeros(num_envs, dtype=bool)

    def _batch(self, observations: list[Any]) -> Any:
        space = self.single_observation_space
        return concatenate(space, observations, create_empty_array(space, self.num_envs))

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.over[:] = False
        return self._batch([env.reset(seed=seed + i)[0] for i, env in enumerate(self.envs)]), {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        rows, infos = [], {"final_obs": np.full(self.num_envs, None, dtype=object)}
        for i, (env, action) in enumerate(zip(self.envs, iterate(self.action_space, actions), strict=True)):
            if self.mode is AutoresetMode.NEXT_STEP and self.over[i]:
                # whoever learns from this reward is found out
                rows.append((env.reset()[0], 1e6, False, False))
                continue
            obs, reward, terminated, truncated, _ = env.step(action)
            if self.mode is AutoresetMode.SAME_STEP and (terminated or truncated):
                infos["final_obs"][i] = obs
                obs = env.reset()[0]
            rows.append((obs, reward, terminated, truncated))
        observations, rewards, terminated, truncated = zip(*rows, strict=True)
        self.over = np.logical_or(terminated, truncated)
        return (
            self._batch(list(observations)),
            np.array(rewards),
            np.array(terminated),
            np.array(truncated),
            infos,
        )


@dataclass
class Row:
    """What a step of one environment should be."""

    obs: Any
    final_obs: Any
    reward: float
    terminated: bool
    truncated: bool
    episode: list[float] = field(default_factory=list)
    """Return and length, where the episode ended."""


def by_hand(env: gymnasium.Env[Any, Any], seed: int, actions: np.ndarray) -> tuple[Any, list[Row]]:
    """Step a single environment through physical actions (T, A); return its first observation and T rows."""
    first, _ = env.reset(seed=seed)
    rows, total, length = [], 0.0, 0
    for action in actions:
        obs, reward, terminated, truncated, _ = env.step(action.astype(env.action_space.dtype))
        total, length = total + float(reward), length + 1
        row = Row(obs, obs, float(reward), bool(terminated), bool(truncated))
        if terminated or truncated:
            row.obs, row.episode = env.reset()[0], [total, length]
            total, length = 0.0, 0
        rows.append(row)
    return first, rows
