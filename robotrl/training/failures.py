"""Files of simulations that diverged in training: what led to it, for `robotrl play FILE`.

One safetensors file per failure in the run's folder `failures`, for the first few of a run.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mujoco
from torch import Tensor

from robotrl.core import checkpoint
from robotrl.core.config import TrainConfig
from robotrl.core.errors import RobotrlError
from robotrl.core.schema import path_of, plain
from robotrl.envs.vec_env import VecEnv
from robotrl.sim.batch_sim import BatchSim
from robotrl.sim.guard import Failure, FailureRecorder
from robotrl.training.loop import Loop
from robotrl.training.run_folder import RunFolder

MAX_FILES = 10
"""Failures of a run that are written; all are counted."""

_KIND = "failure recording"


@dataclass(frozen=True)
class FailureRecording:
    """What a failure file says.

    Attributes:
        path: of the file.
        task: section that `rebuild_task` builds the task from; its "name".
        simulation: which of the run's simulations it was.
        env_steps: environment steps of the run when it failed.
        causes: what was found, in words.
        control_dt_s: time between two states, s.
        states: (T, nstate) float64 physics states, mjSTATE_INTEGRATION, each as a control step began; the
            simulation failed in the step from the last one. None if only the facts were read.
        commands: (T, A) float64 actuator commands of these steps, physical units. None as above.
        params: MjModel field -> values, where simulations differ.
        mujoco_version: that made the states.
        variant: which of the task's models it ran on, 0 the task's own; the others are realism.variants.
    """

    path: Path
    task: dict[str, Any]
    simulation: int
    env_steps: int
    causes: list[str]
    control_dt_s: float
    states: Tensor
    commands: Tensor
    params: dict[str, Tensor]
    mujoco_version: str
    variant: int

    @classmethod
    def load(cls, path: Path, *, facts_only: bool = False) -> FailureRecording:
        """Read a file.

        Args:
            path: written by `FailureFiles`.
            facts_only: leave the tensors in the file.

        Raises:
            RobotrlError: it is missing, damaged or no failure file.
        """
        tree = checkpoint.load(path, "-" if facts_only else "", kind=_KIND)
        try:
            recording = cls(path=path, **tree)
            if not facts_only and not 1 <= len(recording.states) == len(recording.commands):
                raise TypeError(f"{len(recording.states)} states, {len(recording.commands)} commands")
        except TypeError as error:
            raise RobotrlError(f"{_KIND} {path} is damaged: {error}") from error
        return recording


class FailureFiles:
    """Records the training environments of a run and writes a file for each of its first failures.

    A resumed run goes on from the files that its checkpoint knows; later ones it will write again, with
    less before the failure if that followed soon. Environments that are not simulated by `BatchSim`, or
    a run with `failure_recording_steps=0`, are not recorded.

    Args:
        run: whose folder `failures` takes the files.
        config: of the run.
        loop: before its first iteration, or as loaded from a checkpoint.
    """

    def __init__(self, run: RunFolder, config: TrainConfig, loop: Loop) -> None:
        self._folder = run.failures
        self._config = config
        self._recorder: FailureRecorder | None = None
        env = loop.env
        if config.failure_recording_steps == 0 or not isinstance(env, VecEnv):
            return
        if isinstance(env.sim, BatchSim):
            room = max(0, MAX_FILES - self._remove_later(loop.env_steps))
            steps = config.failure_recording_steps
            self._recorder = FailureRecorder(env.sim, env.substeps, env.specs.action_dim, steps, room)
            env.recorder = self._recorder
            self._recorder.control_steps = loop.env_steps // config.num_envs

    def save(self) -> None:
        """Write what failed since the last call.

        Raises:
            RobotrlError: the disk is full or the folder cannot be written.
        """
        for failure in self._recorder.take() if self._recorder is not None else ():
            env_steps = failure.control_step * self._config.num_envs
            path = self._folder / f"step_{env_steps:012d}_sim_{failure.simulation:05d}.safetensors"
            try:
                self._folder.mkdir(exist_ok=True)
            except OSError as error:
                raise RobotrlError(f"cannot make the folder {self._folder}: {error.strerror}") from error
            checkpoint.save(path, self._tree(failure, env_steps), kind=_KIND)

    def _tree(self, failure: Failure, env_steps: int) -> dict[str, Any]:
        task = self._config.task
        return {
            "task": {
                "name": self._config.task_name,
                "_target_": path_of(type(task)),
                "options": plain(task),
            },
            "simulation": failure.simulation,
            "env_steps": env_steps,
            "causes": failure.causes,
            "control_dt_s": task.control_dt_s,
            "states": failure.states,
            "commands": failure.commands,
            "params": failure.params,
            "mujoco_version": mujoco.__version__,
            "variant": failure.variant,
        }

    def _remove_later(self, env_steps: int) -> int:
        """Remove half-written files and those after `env_steps`; return how many remain."""
        for stale in self._folder.glob(".step_*.tmp"):
            stale.unlink()
        files = failure_files(self._folder)
        later = [file for file in files if int(file.name.split("_")[1]) > env_steps]
        for file in later:
            file.unlink()
        return len(files) - len(later)


def failure_files(folder: Path) -> list[Path]:
    """Return the files of a run's folder `failures`, earliest failure first."""
    return sorted(folder.glob("step_*_sim_*.safetensors"))
