"""What training needs of environments, ours or another library's, and the one place that makes them."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from robotrl.core.errors import UsageError
from robotrl.core.types import Obs, Specs, Step
from robotrl.envs.foreign.task import ForeignTask
from robotrl.envs.vec_env import VecEnv
from robotrl.sim.sim import MakeSim
from robotrl.tasks.task import Task

AnyTask = Task | ForeignTask


class Env(Protocol):
    """N environments stepped together, with auto-reset in the same step.

    Attributes:
        num_envs: N.
        specs: what a policy has to know.
        rng: of every draw the environments make, or of the seeds they get.
        age: (N,) int64 control steps since the episode began.
        num_diverged: rows so far that were not fit to be learned from.
    """

    num_envs: int
    specs: Specs
    rng: torch.Generator
    age: Tensor
    num_diverged: int

    @property
    def max_steps(self) -> int | None:
        """Control steps of a whole episode, None where another library decides."""

    def reset(self) -> Obs:
        """Start a new episode everywhere and return its first observation."""

    def set_progress(self, progress: float) -> dict[str, float]:
        """Tell a curriculum how much of the training is over, in [0, 1]; return what to log of it."""

    def step(self, action: Tensor) -> Step:
        """Advance every environment by one control step, with (N, A) actions in [-1, 1]."""

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` continues from."""

    def load_state_dict(self, state: dict[str, Any]) -> Obs | None:
        """Continue from a state.

        Returns:
            None if the episodes go on as if nothing had happened; else the first observation of new
            ones, as environments of other libraries cannot be saved.
        """


def make_env(
    task: AnyTask,
    num_envs: int,
    seed: int = 0,
    num_threads: int | None = None,
    stagger: bool = False,
    make_sim: MakeSim | None = None,
) -> Env:
    """Make N environments of a task; arguments as `VecEnv`'s.

    Raises:
        UsageError: the task cannot be used.
        RobotrlError: a model or another library does not work here.
    """
    if isinstance(task, ForeignTask):
        if make_sim is not None:
            raise UsageError("backend=cpu is the only one for environments of other libraries")
        return task.make_env(num_envs, seed, num_threads, stagger)
    return VecEnv(task, num_envs, seed, num_threads, stagger, make_sim)


def specs_of(task: AnyTask) -> Specs:
    """Return what a policy has to know about a task."""
    return task.specs() if isinstance(task, ForeignTask) else task.specs(task.build_model())
