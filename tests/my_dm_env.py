"""A dm_env.Environment of a user's own, for tests: it counts, and tells how each episode ends."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import dm_env
import numpy as np
from dm_env import specs

from robotrl.envs.dm_control_compat import load_suite


class Counting(dm_env.Environment):
    """Episodes of `length` steps: the even ones terminate (discount 0), the odd ones run out of time."""

    def __init__(self, seed: int, length: int = 3) -> None:
        self._rng, self._length, self._episode = np.random.default_rng(seed), length, -1

    def observation_spec(self) -> Any:
        tag = specs.BoundedArray((), np.float64, 0.0, 1.0, "tag")
        return OrderedDict(tag=tag, counts=OrderedDict(values=specs.Array((2, 1), np.int64)))

    def action_spec(self) -> Any:
        return specs.BoundedArray((2,), np.float32, [-1.0, 0.0], [1.0, 4.0])

    def _observe(self) -> Any:
        return OrderedDict(tag=self._tag, counts={"values": np.array([[self._episode], [self._count]])})

    def reset(self) -> dm_env.TimeStep:
        self._episode, self._count, self._tag = self._episode + 1, 0, float(self._rng.random())
        return dm_env.restart(self._observe())

    def step(self, action: Any) -> dm_env.TimeStep:
        assert action.dtype == np.float32 and action.shape == (2,)
        self._count += 1
        reward = float(action[1]) + self._count
        if self._count < self._length:
            return dm_env.transition(reward, self._observe())
        end = dm_env.termination if self._episode % 2 == 0 else dm_env.truncation
        return end(reward, self._observe())


def make_env(seed: int, **kwargs: Any) -> dm_env.Environment:
    return Counting(seed, **kwargs)


def make_suite(seed: int, domain: str = "cartpole", task: str = "swingup") -> dm_env.Environment:
    return load_suite().load(domain, task, {"random": seed, "time_limit": 0.1})


def make_without_seed() -> dm_env.Environment:
    return Counting(0)


def make_unbounded(seed: int) -> dm_env.Environment:
    env = Counting(seed)
    env.action_spec = lambda: specs.Array((2,), np.float32)  # type: ignore[method-assign]
    return env


def make_discrete(seed: int) -> dm_env.Environment:
    env = Counting(seed)
    env.action_spec = lambda: specs.DiscreteArray(3)  # type: ignore[method-assign]
    return env


def make_text(seed: int) -> dm_env.Environment:
    env = Counting(seed)
    env.observation_spec = lambda: specs.StringArray(())  # type: ignore[method-assign]
    return env
