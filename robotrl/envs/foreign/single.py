"""Many copies of a single environment: one after the other in this process, or a process each."""

from __future__ import annotations

import functools
import os
import signal
import time
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar

import gymnasium
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from robotrl.envs.foreign.spaces import ActionWriter, ObservationReader
from robotrl.envs.foreign.task import Batch, ForeignTask

SingleEnv = gymnasium.Env[Any, Any]
MakeEnv = Callable[[], SingleEnv]

# what a message to another process and back costs, with room for a busy machine
_MESSAGE_S = 0.4e-3
# each process is a copy of this one: more of them fill the memory and no CPU is left for them
_MAX_PROCESSES_PER_CPU = 16
_PROBE_STEPS = 20


class Vectorization(Enum):
    """Where the copies are stepped; the results are the same."""

    AUTO = "auto"
    SYNC = "sync"
    ASYNC = "async"


@dataclass
class SingleEnvTask(ForeignTask):
    """A library of single environments."""

    max_default_num_envs: ClassVar[int] = 16
    """Copies made where the user gives no number and the algorithm would take more."""

    vectorization: Vectorization = Vectorization.AUTO
    """`sync` steps the copies in a loop, `async` has a process each; `auto` times a copy and decides."""

    @abstractmethod
    def make_single(self) -> SingleEnv:
        """Make one environment.

        Raises:
            UsageError: there is no such environment, or it does not take these arguments.
            RobotrlError: its library is not installed or does not work here.
        """

    def maker(self, probe: SingleEnv) -> MakeEnv:
        """Return what makes one copy, here or in another process.

        Args:
            probe: one that was made already.
        """
        return self.make_single

    def make_batch(self, num_envs: int, num_threads: int | None) -> Batch:
        """Make the copies, in one process or in several."""
        probe = self.make_single()
        # what cannot be used is refused before it is stepped
        ObservationReader(probe.observation_space, self.name, self.privileged)
        ActionWriter(probe.action_space, self.name)
        make = self.maker(probe)
        dt_s, max_steps = _control_dt_s(probe), self.max_episode_steps or _max_steps(probe)
        vectorization = self.vectorization
        if vectorization is Vectorization.AUTO:
            vectorization = _choose(probe, num_envs, num_threads or len(os.sched_getaffinity(0)))
        probe.close()
        vector: VectorEnv[Any, Any, Any]
        if vectorization is Vectorization.SYNC:
            vector = SyncVectorEnv([make] * num_envs, copy=False, autoreset_mode=AutoresetMode.DISABLED)
        else:
            make = functools.partial(_make_in_worker, make, os.getpid())
            vector = AsyncVectorEnv([make] * num_envs, copy=False, autoreset_mode=AutoresetMode.DISABLED)
        return Batch(vector, dt_s, max_steps)


def _control_dt_s(env: SingleEnv) -> float | None:
    """Return the environment's `dt`, s, else the time between two pictures of its videos."""
    dt_s = getattr(env.unwrapped, "dt", None)
    if isinstance(dt_s, int | float) and dt_s > 0:
        return float(dt_s)
    fps = env.metadata.get("render_fps")
    return 1.0 / fps if fps else None


def _max_steps(env: SingleEnv) -> int | None:
    return None if env.spec is None else env.spec.max_episode_steps


def _choose(probe: SingleEnv, num_envs: int, cpus: int) -> Vectorization:
    """Take processes where several CPUs have several costly environments to step."""
    parallel = min(num_envs, cpus)
    if parallel == 1 or num_envs > _MAX_PROCESSES_PER_CPU * cpus:
        return Vectorization.SYNC
    saved_s = _step_s(probe) * (1 - 1 / parallel)
    return Vectorization.ASYNC if saved_s > _MESSAGE_S else Vectorization.SYNC


def _step_s(env: SingleEnv) -> float:
    """Time a control step with random actions, s."""
    env.action_space.seed(0)
    env.reset(seed=0)
    start = time.perf_counter()
    for _ in range(_PROBE_STEPS):
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        if terminated or truncated:
            env.reset()
    return (time.perf_counter() - start) / _PROBE_STEPS


def _make_in_worker(make: MakeEnv, parent: int) -> SingleEnv:
    """Make a copy in a process that leaves Ctrl-C to its parent, which ends with a checkpoint."""
    if os.getpid() != parent:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    return make()
