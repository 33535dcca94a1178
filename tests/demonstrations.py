"""What the tests of tasks with demonstrators share: hand-made states, first episodes under some policy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from robotrl.envs.vec_env import VecEnv
from robotrl.tasks.task import Task

Act = Callable[[VecEnv, Tensor], Tensor]
"""Environments and their (N, D) observations -> (N, A) actions in [-1, 1]."""


def env_at(task: Task, places: Sequence[Sequence[float]], goals: Sequence[Sequence[float]] = ()) -> VecEnv:
    """Environments at rest with joint positions `places` the goal, a mocap body, at x and y of `goals`."""
    env = VecEnv(task, len(places), num_threads=1)
    env.reset()
    env.sim.data("qpos")[:] = torch.tensor(places, dtype=torch.float64)
    if goals:
        env.sim.data("mocap_pos")[:, 0, :2] = torch.tensor(goals, dtype=torch.float64)
    env.sim.forward()
    return env


def commanded(env: VecEnv) -> Tensor:
    """(N, A) what the demonstrator does, in [-1, 1]."""
    command = env.task.expert(env.sim)
    assert command is not None
    low, high = env.specs.action_low.double(), env.specs.action_high.double()
    return ((2 * command - low - high) / (high - low)).clamp(-1.0, 1.0).float()


def demonstrator(noise_std: float = 0.0, seed: int = 0) -> Act:
    """The task's own, with noise on its actions as `robotrl collect` has it."""
    rng = torch.Generator().manual_seed(seed)

    def act(env: VecEnv, obs: Tensor) -> Tensor:
        action = commanded(env)
        return (action + noise_std * torch.randn(action.shape, generator=rng)).clamp(-1.0, 1.0)

    return act


def chance(seed: int = 0) -> Act:
    """Uniform actions."""
    rng = torch.Generator().manual_seed(seed)
    return lambda env, obs: 2 * torch.rand(env.num_envs, env.specs.action_dim, generator=rng) - 1


@dataclass
class Episodes:
    """The first episode of every environment: did it succeed, its control steps, and what was seen and done.

    `obs` (M, D) and `actions` (M, A) are of all M steps of all episodes.
    """

    success: Tensor
    length: Tensor
    obs: Tensor
    actions: Tensor

    @property
    def rate(self) -> float:
        return self.success.double().mean().item()


def first_episodes(task: Task, act: Act, number: int, seed: int = 0) -> Episodes:
    """Run `number` environments until each has ended its first episode; only a success pays, and 1."""
    env = VecEnv(task, number, seed=seed, num_threads=1)
    obs = env.reset()["policy"]
    running, success = torch.ones(number, dtype=torch.bool), torch.zeros(number, dtype=torch.bool)
    length, seen, done = torch.zeros(number, dtype=torch.int64), [], []
    while running.any():
        action = act(env, obs)
        seen.append(obs[running])
        done.append(action[running])
        step = env.step(action)
        assert ((step.reward == 0) | (step.reward == 1) & step.terminated).all()
        length += running
        success |= running & (step.reward == 1)
        running &= ~step.done
        obs = step.obs["policy"]
    return Episodes(success, length, torch.cat(seen), torch.cat(done))
