"""A trained controller at work: what viewers and videos show."""

from __future__ import annotations

import torch

from robotrl.core.config import evaluation_seed
from robotrl.core.errors import UsageError
from robotrl.envs.action_queue import ActionQueue
from robotrl.envs.env import AnyTask
from robotrl.envs.foreign.task import ForeignTask
from robotrl.envs.vec_env import VecEnv
from robotrl.tasks.task import Task
from robotrl.training.controller import Controller


def own_task(task: AnyTask) -> Task:
    """Return a task that can be shown.

    Raises:
        UsageError: its environment is another library's.
    """
    if isinstance(task, ForeignTask):
        raise UsageError(f"only robotrl's own tasks can be shown or recorded, not {task.name}")
    return task


class Playback:
    """One simulation driven by a controller, episode after episode.

    Attributes:
        env: the environment, N = 1.
        episode: number of the present episode, from 1.
        time_s: since the episode began, s.
        episode_return: sum of rewards since the episode began.
        reward_terms: name -> value in the last control step; empty at the start of an episode.
        last_return: return of the last complete episode, None before that.
        terms_label: what `reward_terms` are to a viewer.
    """

    terms_label = "Reward in the last step"

    def __init__(self, controller: Controller, task: Task, task_name: str, seed: int = 0) -> None:
        self.controller = controller
        self.task_name = task_name
        self.env = VecEnv(task, 1, evaluation_seed(seed))
        self._queue = ActionQueue(1, controller.horizon, self.env.specs.action_dim)
        self.episode = 0
        self.last_return: float | None = None
        self.reward_terms: dict[str, float] = {}
        self.restart()

    @property
    def dt_s(self) -> float:
        """Time between two actions, s."""
        return self.env.specs.control_dt_s

    def restart(self) -> None:
        """Begin the next episode now."""
        self._obs = self.env.reset()
        self._queue.ended(torch.ones(1, dtype=torch.bool))
        self._begin()

    def advance(self) -> bool:
        """Play one control step; True if it ended the episode and the next one has begun."""
        step = self.env.step(self._queue.next(self._obs, self.controller.decide))
        self._queue.after(step)
        self._obs = step.obs
        self._steps += 1
        self.episode_return += float(step.reward[0])
        if bool(step.done[0]):
            self.last_return = self.episode_return
            self._begin()
            return True
        sim = self.env.sim
        terms = self.env.task.reward_terms(sim, sim.data("ctrl"))
        self.reward_terms = {name: float(values[0]) for name, values in terms.items()}
        return False

    @property
    def time_s(self) -> float:
        """Since the episode began, s."""
        return self._steps * self.dt_s

    def _begin(self) -> None:
        self.episode += 1
        self._steps = 0
        self.episode_return = 0.0
        self.reward_terms = {}


class FirstEpisodes:
    """The first episode of each of N simulations of a controller; one that has ended stays ended.

    Attributes:
        env: the environments.
        running: (N,) bool, whose episode has not ended.
        returns: (N,) float64, sums of rewards since the episodes began.
    """

    def __init__(self, controller: Controller, task: Task, num_envs: int, seed: int) -> None:
        self.controller = controller
        self.env = VecEnv(task, num_envs, evaluation_seed(seed))
        self._queue = ActionQueue(num_envs, controller.horizon, self.env.specs.action_dim)
        self.running = torch.ones(num_envs, dtype=torch.bool)
        self.returns = torch.zeros(num_envs, dtype=torch.float64)
        self._obs = self.env.reset()
        self._steps = 0

    @property
    def dt_s(self) -> float:
        """Time between two actions, s."""
        return self.env.specs.control_dt_s

    @property
    def time_s(self) -> float:
        """Since the episodes began, s."""
        return self._steps * self.dt_s

    def advance(self) -> None:
        """Play one control step."""
        step = self.env.step(self._queue.next(self._obs, self.controller.decide))
        self._queue.after(step)
        self._obs = step.obs
        self._steps += 1
        self.returns += torch.where(self.running, step.reward.double(), 0.0)
        self.running = self.running & ~step.done
