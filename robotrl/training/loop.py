"""What the training loops share: counting steps, timing phases, episode statistics."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor

from robotrl.algorithms.algorithm import Algorithm
from robotrl.core.config import TrainConfig
from robotrl.core.errors import UsageError
from robotrl.envs.env import Env
from robotrl.training.run_folder import RunFolder

STEPS_PER_ITERATION = 2_000
"""Of a loop whose updates need no rollouts, environment steps: long enough that logging costs nothing."""

# other metrics may be undefined: the explained variance of a single transition is
_MUST_BE_FINITE = ("loss/", "episode/", "reward/")


class Loop(ABC):
    """Feeds one algorithm from one vectorised environment, an iteration at a time.

    Attributes:
        env_steps: control steps taken so far, summed over the environments.
        offline_updates: updates on data that come before the first of them.
        offline_left: those that are still to come.
        phase_s: wall-clock seconds spent per phase: "simulation", "policy", "update".
    """

    default_torch_threads: ClassVar[int | None]
    resumable: ClassVar[bool] = True
    """Whether training continues from a checkpoint."""
    stagger: ClassVar[bool] = True
    """Whether the environments start at random ages of an episode."""

    def __init__(self, env: Env, algorithm: Algorithm, total_steps: int, torch_threads: int) -> None:
        self.env = env
        self.algorithm = algorithm
        self.total_steps = total_steps
        self.torch_threads = torch_threads
        self.env_steps = 0
        self.offline_updates = self.offline_left = 0
        self.phase_s: dict[str, float] = defaultdict(float)
        env.set_progress(0.0)
        self.obs = env.reset()

    @property
    def log_step(self) -> int:
        """The x axis of the log: environment steps; before them, minus the updates that are left."""
        return self.env_steps - self.offline_left

    @property
    def progress(self) -> float:
        """Share of the environment steps that are over, in [0, 1]."""
        return min(1.0, self.env_steps / self.total_steps) if self.total_steps else 1.0

    @property
    def steps_of_iteration(self) -> int:
        """Control steps that a loop takes at a time whose updates need no rollouts: at most what is left."""
        left = math.ceil((self.total_steps - self.env_steps) / self.env.num_envs)
        return max(1, min(STEPS_PER_ITERATION // self.env.num_envs, left))

    @abstractmethod
    def iterate(self) -> dict[str, float]:
        """Collect and learn once; return the metrics of this iteration."""

    def finish(self, run: RunFolder, config: TrainConfig) -> None:  # noqa: B027  most have nothing to add
        """Write into the run what only this kind of loop knows, at the end of training."""

    def not_finite(self, metrics: Mapping[str, float]) -> str | None:
        """Name what is NaN or infinite now, so that learning cannot go on; None if all is well.

        Args:
            metrics: of the last iteration.
        """
        for name, value in metrics.items():
            if name.startswith(_MUST_BE_FINITE) and not math.isfinite(value):
                return f"{name} is {value}"
        tensors = {
            f"the policy's {name}": tensor for name, tensor in self.algorithm.policy.state_dict().items()
        }
        tensors |= {f"observation group {name!r}": values for name, values in self.obs.items()}
        bad = (name for name, tensor in tensors.items() if not bool(tensor.isfinite().all()))
        return next((f"{name} holds values that are not finite" for name in bad), None)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the time of the block to a phase."""
        start = time.perf_counter()
        yield
        self.phase_s[name] += time.perf_counter() - start

    def state_dict(self) -> dict[str, Any]:
        """Return everything that continues bit for bit: environments, learner, counters."""
        return {
            "env": self.env.state_dict(),
            "algorithm": self.algorithm.state_dict(),
            "obs": self.obs,
            "env_steps": self.env_steps,
            "phase_s": dict(self.phase_s),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`; the episodes of another library's environments start anew."""
        restarted = self.env.load_state_dict(state["env"])
        self.algorithm.load_state_dict(state["algorithm"])
        self.obs = state["obs"] if restarted is None else restarted
        self.env_steps = state["env_steps"]
        self.phase_s = defaultdict(float, state["phase_s"])


def refuse_no_steps(total_steps: int) -> None:
    """Refuse to train on no environment steps, for loops that learn from nothing else.

    Raises:
        UsageError: there are none.
    """
    if total_steps < 1:
        raise UsageError(f"nothing would be learned: set total_steps above 0, got {total_steps}")


class EpisodeStatistics:
    """Means over the episodes that ended in one iteration."""

    def __init__(self) -> None:
        self._values: dict[str, list[Tensor]] = defaultdict(list)

    def add(self, log: dict[str, Tensor]) -> None:
        """Take the `Step.log` of one step."""
        for name, values in log.items():
            self._values[name].append(values)

    def means(self) -> dict[str, float]:
        """Return the mean of every statistic that was seen."""
        return {
            name: float(torch.cat(values).mean())
            for name, values in self._values.items()
            if not name.startswith("sim/")
        }
