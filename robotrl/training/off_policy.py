"""The off-policy loop: first updates on given data, if any, then a simulator beside the learner.

The simulator steps in one thread while the learner updates in another. Both see only what was complete
before the step (the policy that acts, the transitions in replay), so the result does not depend on which
of the two is faster.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import torch
from torch import Tensor

from robotrl.algorithms.off_policy.learner import ReplayLearner
from robotrl.core.config import TrainConfig
from robotrl.core.errors import UsageError
from robotrl.data.mix import ReplayMix
from robotrl.data.replay import Replay, Transitions
from robotrl.envs.action_queue import ActionQueue
from robotrl.envs.env import Env
from robotrl.training.loop import EpisodeStatistics, Loop

_UPDATES_PER_ITERATION = 200
"""After so many updates a loop can be stopped, saved and seen: they are minutes of the largest networks."""
_RATIO_OF_MANY = 0.1
"""A replay ratio below it is meant for hundreds of simulations."""


class OffPolicyLoop(Loop):
    """Adds the N transitions of each control step to replay and owes the learner its updates.

    Args:
        env: where experience comes from.
        algorithm: what learns.
        total_steps: environment steps to take.
        torch_threads: of the learner.
        data: what was collected before, None for nothing.

    Raises:
        UsageError: there are no data for the updates that are asked for, or data that the learner cannot use.
    """

    default_torch_threads: ClassVar[int | None] = 1

    algorithm: ReplayLearner

    def __init__(
        self,
        env: Env,
        algorithm: ReplayLearner,
        total_steps: int,
        torch_threads: int,
        data: Replay | None = None,
    ) -> None:
        config = algorithm.config
        if not algorithm.learns_from_data and (data is not None or config.offline_updates):
            raise UsageError(
                f"{type(algorithm).__name__} learns from the noise its decisions were made from, which "
                "data have not: leave data= and algorithm.offline_updates out or choose algorithm=dsrl"
            )
        if config.offline_updates and data is None:
            raise UsageError("algorithm.offline_updates needs data to learn from: give data=PATH")
        if not total_steps and not config.offline_updates:
            raise UsageError(
                "nothing would be learned: set total_steps above 0, or algorithm.offline_updates to learn "
                "from data"
            )
        if total_steps and not algorithm.learns_online:
            raise UsageError(
                f"{type(algorithm).__name__} learns from data alone and takes no environment steps: "
                f"set total_steps=0, got {total_steps}"
            )
        online = _online_updates(algorithm, total_steps, env.num_envs)
        if total_steps and not online:
            raise UsageError(
                f"nothing would be learned from total_steps={total_steps} in {env.num_envs} environments: "
                f"learning begins after algorithm.learning_starts={config.learning_starts} of them and "
                f"{algorithm.policy.horizon} control steps of each, with {config.replay_ratio} updates per "
                "step; raise total_steps"
            )
        if online + config.offline_updates < algorithm.least_updates:
            raise UsageError(
                f"the policy would learn nothing: {online + config.offline_updates} updates are below "
                f"algorithm.policy_delay={algorithm.least_updates}; raise total_steps"
            )
        super().__init__(env, algorithm, total_steps, torch_threads)
        self.offline_updates = self.offline_left = config.offline_updates
        self.buffer = algorithm.make_replay(env.num_envs)
        self.data = data
        self._queue = ActionQueue(env.num_envs, algorithm.policy.horizon, env.specs.action_dim)
        self._updates_owed = 0.0
        self._simulator = ThreadPoolExecutor(1, thread_name_prefix="simulator")
        torch.set_num_threads(torch_threads)

    def iterate(self) -> dict[str, float]:
        """Learn from the data for a while, or take some control steps, learning beside them."""
        if self.offline_left:
            return self._learn_offline()
        statistics, metrics = EpisodeStatistics(), _Means()
        for _ in range(self.steps_of_iteration):
            with self.phase("policy"):
                action = self._queue.next(self.obs, self._decide)
                pending = self._simulator.submit(self.env.step, action)
                self.algorithm.observe(self.obs)
            with self.phase("update"):
                if self._learning:
                    self._update(metrics)
            with self.phase("simulation"):
                step = pending.result()
            self.buffer.add(self.obs, action, step)
            self._queue.after(step)
            statistics.add(step.log)
            self.obs = step.obs
            self.env_steps += self.env.num_envs
        return statistics.means() | metrics.means()

    @property
    def steps_of_iteration(self) -> int:
        """Control steps taken at a time: fewer where each is followed by many updates."""
        updates_per_step = self.algorithm.config.replay_ratio * self.env.num_envs
        return min(super().steps_of_iteration, max(1, int(_UPDATES_PER_ITERATION / updates_per_step)))

    @property
    def _learning(self) -> bool:
        # what is under way cannot be drawn yet
        enough = self.buffer.num_added >= self.algorithm.config.learning_starts
        return enough and self.buffer.can_sample(self.algorithm.policy.horizon)

    def _learn_offline(self) -> dict[str, float]:
        count, metrics = min(_UPDATES_PER_ITERATION, self.offline_left), _Means()
        with self.phase("update"):
            for _ in range(count):
                metrics.add(self.algorithm.update(self._sample()))
        self.offline_left -= count
        return metrics.means()

    def _decide(self, obs: dict[str, Tensor]) -> Tensor:
        config = self.algorithm.config
        knows = self.algorithm.needs_origin or config.init_from is not None or config.offline_updates
        if self._learning or knows:
            action, made_from = self.algorithm.decide(obs)
            self.buffer.decide(self._queue.waiting, made_from)
            return action
        shape = (len(next(iter(obs.values()))), self.algorithm.policy.chunk_dim)
        return torch.rand(shape, generator=self.algorithm.rng) * 2 - 1

    def _update(self, metrics: _Means) -> None:
        self._updates_owed += self.algorithm.config.replay_ratio * self.env.num_envs
        count = int(self._updates_owed)
        self._updates_owed -= count
        for _ in range(count):
            metrics.add(self.algorithm.update(self._sample()))

    def _sample(self) -> Transitions:
        config, horizon = self.algorithm.config, self.algorithm.policy.horizon
        rng = self.algorithm.rng
        if self.data is None:
            return self.buffer.sample(config.batch_size, rng, horizon, config.gamma)
        if not self.buffer.size:
            return self.data.sample(config.batch_size, rng, horizon, config.gamma)
        share = config.offline_fraction
        if share is None:  # every transition is as likely as any other
            among = self.data.size / (self.data.size + self.buffer.size)
            share = float((torch.rand(config.batch_size, generator=rng) < among).float().mean())
        mix = ReplayMix({"data": (self.data, share), "experience": (self.buffer, 1.0 - share)})
        return mix.sample(config.batch_size, rng, horizon, config.gamma)

    def state_dict(self) -> dict[str, Any]:
        """Add replay, unfinished chunks and the updates owed; the data stay in their file."""
        return super().state_dict() | {
            "buffer": self.buffer.state_dict(),
            "queue": self._queue.state_dict(),
            "updates_owed": self._updates_owed,
            "offline_left": self.offline_left,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        super().load_state_dict(state)
        self.buffer.load_state_dict(state["buffer"])
        if self.obs is state["obs"]:
            self._queue.load_state_dict(state["queue"])
        else:
            self.buffer.cut()  # other episodes begin
        self._updates_owed = state["updates_owed"]
        self.offline_left = state["offline_left"]


def few_updates(config: TrainConfig) -> str | None:
    """Return a warning where a replay ratio that is meant for many simulations meets few."""
    if config.algorithm_class.loop != "off_policy" or not config.total_steps:
        return None
    ratio: float = config.algorithm.replay_ratio
    if ratio >= _RATIO_OF_MANY or ratio * config.num_envs >= 1.0:
        return None
    every = f"{1.0 / (ratio * config.num_envs):.3g} control steps"
    return (
        f"algorithm.replay_ratio={ratio:g} is for many simulations, {config.num_envs} make an update every "
        f"{every}: algorithm.replay_ratio=1 learns more from each"
    )


def _online_updates(algorithm: ReplayLearner, total_steps: int, num_envs: int) -> int:
    """Return how many updates so many environment steps lead to, if no simulation diverges."""
    config, control_steps = algorithm.config, math.ceil(total_steps / num_envs)
    first = max(math.ceil(config.learning_starts / num_envs), algorithm.policy.horizon)
    return int(config.replay_ratio * num_envs * max(0, control_steps - first))


class _Means:
    """Means of what updates log; a sum for each name, as thousands of small tensors fragment the memory."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, metrics: dict[str, Tensor]) -> None:
        """Take what one update logs."""
        for name, value in metrics.items():
            total = self._sums.setdefault(name, torch.zeros((), dtype=torch.float64))
            total += value.detach()
            self._counts[name] = self._counts.get(name, 0) + 1

    def means(self) -> dict[str, float]:
        """Return the mean of each name over the updates that logged it."""
        return {name: float(self._sums[name]) / self._counts[name] for name in sorted(self._sums)}
