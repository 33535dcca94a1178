"""The off-policy loop: the simulator steps in one thread while the learner updates in another.

Both see only what was complete before the step (the policy that acts, the transitions in replay), so
the result does not depend on which of the two is faster.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import torch
from torch import Tensor

from robotrl.algorithms.off_policy.sac import SAC
from robotrl.data.replay import Replay, Transitions
from robotrl.envs.env import Env
from robotrl.training.loop import MIN_STEPS_PER_ITERATION, EpisodeStatistics, Loop


class OffPolicyLoop(Loop):
    """Adds the N transitions of each control step to replay and owes the learner its updates."""

    default_torch_threads: ClassVar[int | None] = 1

    algorithm: SAC

    def __init__(self, env: Env, algorithm: SAC, total_steps: int, torch_threads: int) -> None:
        super().__init__(env, algorithm, total_steps, torch_threads)
        dims = {group: env.specs.obs_dim(group) for group in env.specs.observation}
        self.buffer = Replay(algorithm.config.replay_size, env.num_envs, dims, env.specs.action_dim)
        self._updates_owed = 0.0
        self._simulator = ThreadPoolExecutor(1, thread_name_prefix="simulator")
        torch.set_num_threads(torch_threads)

    def iterate(self) -> dict[str, float]:
        """Take some control steps, learning beside them."""
        statistics = EpisodeStatistics()
        metrics: list[dict[str, Tensor]] = []
        for _ in range(max(1, MIN_STEPS_PER_ITERATION // self.env.num_envs)):
            with self.phase("policy"):
                action = self._act()
                pending = self._simulator.submit(self.env.step, action)
                self.algorithm.observe(self.obs)
            with self.phase("update"):
                if self.buffer.num_added >= self.algorithm.config.learning_starts:
                    metrics += self._update()
            with self.phase("simulation"):
                step = pending.result()
            self.buffer.add(self.obs, action, step)
            statistics.add(step.log)
            self.obs = step.obs
            self.env_steps += self.env.num_envs
        names = {name for m in metrics for name in m}
        means = {n: float(torch.stack([m[n] for m in metrics if n in m]).mean()) for n in sorted(names)}
        return statistics.means() | means

    def _act(self) -> Tensor:
        if self.buffer.num_added < self.algorithm.config.learning_starts:
            shape = (self.env.num_envs, self.env.specs.action_dim)
            return torch.rand(shape, generator=self.algorithm.rng) * 2 - 1
        return self.algorithm.act(self.obs)

    def _update(self) -> list[dict[str, Tensor]]:
        config = self.algorithm.config
        self._updates_owed += config.replay_ratio * self.env.num_envs
        count = int(self._updates_owed)
        self._updates_owed -= count
        return [self.algorithm.update(self._sample()) for _ in range(count)]

    def _sample(self) -> Transitions:
        config = self.algorithm.config
        return self.buffer.sample(config.batch_size, self.algorithm.rng, gamma=config.gamma)

    def state_dict(self) -> dict[str, Any]:
        """Add replay and the updates owed."""
        return super().state_dict() | {
            "buffer": self.buffer.state_dict(),
            "updates_owed": self._updates_owed,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        super().load_state_dict(state)
        self.buffer.load_state_dict(state["buffer"])
        if self.obs is not state["obs"]:
            self.buffer.cut()  # other episodes begin
        self._updates_owed = state["updates_owed"]
