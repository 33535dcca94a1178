"""The on-policy loop: T steps of N environments with the current policy, one update, forget."""

from __future__ import annotations

from typing import ClassVar

import torch

from robotrl.algorithms.on_policy.ppo import PPO
from robotrl.data.rollout import RolloutBuffer
from robotrl.envs.env import Env
from robotrl.training.loop import EpisodeStatistics, Loop, refuse_no_steps


class OnPolicyLoop(Loop):
    """Collects rollouts with all CPUs in the physics, then updates with all CPUs in torch."""

    default_torch_threads: ClassVar[int | None] = None

    algorithm: PPO

    def __init__(self, env: Env, algorithm: PPO, total_steps: int, torch_threads: int) -> None:
        refuse_no_steps(total_steps)
        algorithm.check_length(total_steps / (algorithm.config.num_steps * env.num_envs))
        super().__init__(env, algorithm, total_steps, torch_threads)
        dims = {group: env.specs.obs_dim(group) for group in env.specs.observation}
        self.buffer = RolloutBuffer(algorithm.config.num_steps, env.num_envs, dims, env.specs.action_dim)

    def iterate(self) -> dict[str, float]:
        """Collect one rollout and learn from it."""
        statistics = EpisodeStatistics()
        # torch's workers would spin beside the physics threads
        torch.set_num_threads(1)
        for _ in range(self.algorithm.config.num_steps):
            with self.phase("policy"):
                draw, log_prob = self.algorithm.sample(self.obs)
                action = self.algorithm.policy.to_bounds(draw, self.obs)
            with self.phase("simulation"):
                step = self.env.step(action)
            self.buffer.add(self.obs, draw, log_prob, step)
            statistics.add(step.log)
            self.obs = step.obs
            self.env_steps += self.env.num_envs
        torch.set_num_threads(self.torch_threads)
        with self.phase("update"):
            metrics = self.algorithm.update(self.buffer.finish(self.obs), self.progress)
        return statistics.means() | {name: float(value) for name, value in metrics.items()}
