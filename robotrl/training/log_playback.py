"""The log of a deployment, shown on the model of the policy's task."""

from __future__ import annotations

from pathlib import Path

import mujoco
import numpy as np
import torch

from robotrl.core.errors import RobotrlError
from robotrl.deploy.bundle import Bundle
from robotrl.deploy.robot_contract import Drive
from robotrl.deploy.runtime.binding import GRAVITY, JOINT_POSITION
from robotrl.deploy.runtime.log_reader import read_log
from robotrl.deploy.runtime.robots.robot import COMMAND_FIELDS, FEEDFORWARD, POSITION, VELOCITY
from robotrl.envs.vec_env import VecEnv
from robotrl.export.description import rebuild_task
from robotrl.export.robot import joint_id
from robotrl.training.playback import own_task

_COLUMN = {"position": POSITION, "velocity": VELOCITY}


class LogPlayback:
    """A robot's logged pose, again and again: what viewers show in place of a `Playback`.

    Joints stand where they were measured. A body that moves freely stays where an episode begins, tilted as
    `projected_gravity` says; where it was is in no log.

    Args:
        log: file of `robotrl deploy`.
        bundle: that was deployed.

    Attributes:
        env: one simulation with the present pose.
        task_name: name of the task, and the state of the runtime.
        dt_s: control step, s.
        episode: how often it was begun.
        terms_label: what `reward_terms` are here.
        reward_terms: drive -> its command in this control step.
        episode_return: None: no rewards are logged.
        last_return: None.

    Raises:
        UsageError: there is no such file, or the package mcap is missing.
        RobotrlError: the log or the bundle is damaged, or the log is of another robot.
    """

    terms_label = "Commands in this step"

    def __init__(self, log: Path, bundle: Path) -> None:
        contract = Bundle.load(bundle).contract
        task = own_task(rebuild_task(contract.task))
        body, self._log = contract.robot, read_log(log)
        if body is None or contract.control_dt_s is None:
            raise RobotrlError(f"{bundle} says nothing of its robot: it was not deployed")
        self.env = VecEnv(task, 1, num_threads=1)
        self.env.reset()
        self.dt_s = contract.control_dt_s
        self._name, self._drives = str(contract.task["name"]), body.drives
        model = task.build_model()
        if not self._log.commands:
            raise RobotrlError(f"{log} holds no command: the robot was never armed")
        measured = self._log.elements.get(JOINT_POSITION, [])
        missing = [joint.name for joint in body.joints if joint.name not in measured]
        missing += [drive.action for drive in body.drives if drive.action not in self._log.commands]
        if missing:
            raise RobotrlError(f"{log} is of another robot than {bundle}: it has no {missing[0]!r}")
        joints = [joint.name for joint in body.joints]
        self._columns = [measured.index(name) for name in joints]
        self._places = [int(model.jnt_qposadr[joint_id(model, name)]) for name in joints]
        self._base = _free_base(model)
        self._start = self.env.sim.data("qpos")[0].clone()
        self.episode = 0
        self.episode_return: float | None = None
        self.last_return: float | None = None
        self.restart()

    @property
    def time_s(self) -> float:
        """Since the first control step, s."""
        return float(self._log.times_s[self._shown])

    @property
    def task_name(self) -> str:
        """Name of the task, and the state of the runtime."""
        return f"{self._name}, {self._log.states[self._shown]}"

    @property
    def label(self) -> str:
        """What stands on a picture."""
        return f"{self.task_name}   {self.time_s:.2f} s"

    def restart(self) -> None:
        """Show the first control step."""
        self.episode += 1
        self._show(0)

    def advance(self) -> bool:
        """Show the next control step; True if that was the last one and the first is shown again."""
        if self._shown + 1 < len(self._log.states):
            self._show(self._shown + 1)
            return False
        self.restart()
        return True

    def _show(self, index: int) -> None:
        self._shown = index
        qpos = self._start.clone()
        measured = self._log.signals[JOINT_POSITION][index]
        qpos[self._places] = torch.from_numpy(np.nan_to_num(measured[self._columns]))
        gravity = self._log.signals.get(GRAVITY)
        if self._base is not None and gravity is not None and np.isfinite(gravity[index]).all():
            qpos[self._base : self._base + 4] = torch.from_numpy(tilt(gravity[index]))
        self.env.sim.data("qpos")[0] = qpos
        self.env.sim.forward(torch.zeros(1, dtype=torch.int64))
        self.reward_terms = {drive.action: self._command(drive, index) for drive in self._drives}

    def _command(self, drive: Drive, index: int) -> float:
        row = self._log.commands[drive.action][index]
        assert len(row) == len(COMMAND_FIELDS)
        return float(np.nan_to_num(row[_COLUMN.get(drive.mode, FEEDFORWARD)]))


def tilt(gravity: np.ndarray) -> np.ndarray:
    """Return the smallest rotation (w, x, y, z) after which a body sees gravity along (x, y, z)."""
    x, y, z = gravity / np.linalg.norm(gravity)
    # turns (0, 0, -1) of the world into `gravity` of the body: axis g x (0, 0, -1), half of its angle
    quat = np.array([1.0 - z, -y, x, 0.0])
    length = np.linalg.norm(quat)
    return quat / length if length > 1e-9 else np.array([0.0, 1.0, 0.0, 0.0])


def _free_base(model: mujoco.MjModel) -> int | None:
    """Return where the quaternion of the only free joint is in qpos, None where there is none or several."""
    free = [i for i in range(model.njnt) if int(model.jnt_type[i]) == int(mujoco.mjtJoint.mjJNT_FREE)]
    return int(model.jnt_qposadr[free[0]]) + 3 if len(free) == 1 else None
