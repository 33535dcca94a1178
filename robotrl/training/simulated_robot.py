"""A simulated robot that a policy is deployed on: its own process, real time, and troubles of its own.

It is built from the task in a bundle, publishes the signals of the task's observation terms and takes
commands over the same packets as a real robot: joint forces kp (position - q) + kd (velocity - qd) +
feedforward. Gains other than the bundle's are made of the model's own actuators: a spring by moving the
target, a damper by joint damping.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mujoco
import numpy as np
import torch

from robotrl.core.checks import at_least, whole_ratio, within
from robotrl.core.errors import UsageError
from robotrl.deploy.bundle import Bundle
from robotrl.deploy.runtime.binding import GRAVITY, JOINT_POSITION, JOINT_VELOCITY, element_names
from robotrl.deploy.runtime.machine import State
from robotrl.deploy.runtime.robots.robot import (
    FEEDFORWARD,
    KD,
    KP,
    POSITION,
    VELOCITY,
    Command,
    Layout,
    Signal,
)
from robotrl.envs.vec_env import VecEnv
from robotrl.export.description import rebuild_task
from robotrl.export.robot import joint_id
from robotrl.tasks.task import Task
from robotrl.training.attempts import Attempt

READINGS_PER_STEP = 4


@dataclass(frozen=True)
class Troubles:
    """What a real robot has and the training may not have had.

    Attributes:
        command_delay_s: from a command's arrival to its effect, s.
        reading_delay_s: from a measurement to its departure, s.
        noise: standard deviation of each number, as a share of its spread in the bundle's recordings.
        loss: share of readings that are lost.
        shuffle: seed of an order of signals, elements and drives of its own; None for the task's.
        seed: of the initial state, the noise and the losses.
    """

    command_delay_s: float = 0.0
    reading_delay_s: float = 0.0
    noise: float = 0.0
    loss: float = 0.0
    shuffle: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        at_least(self, 0.0, "command_delay_s", "reading_delay_s", "noise")
        within(self, "[0, 1)", "loss")


class SimulatedRobot:
    """The robot of a bundle's task.

    Its masses, friction, delays and pushes are drawn as the task's realism says; noise is that of `troubles`.
    It is held in the task's initial pose until it is armed where position drives move all its joints, and
    until the policy takes over where not: nothing else could hold it up. When commands end it damps itself,
    and a second later it is back in an initial pose. What the policy does from taking over until the task
    ends, or until it is stopped, is scored as an episode of the task would be.

    Args:
        bundle: whose task is simulated.
        troubles: that it has.
        changes: options of the task that are others here, such as "realism.action_noise=0.1".

    Attributes:
        attempts: that ended.

    Raises:
        UsageError: the bundle's task cannot be simulated as a robot, or the changes do not fit; says why.
    """

    def __init__(self, bundle: Bundle, troubles: Troubles, changes: Sequence[str] = ()) -> None:
        self._task, self._contract, self._troubles = _own_task(bundle, changes), bundle.contract, troubles
        body, dt_s = bundle.contract.robot, bundle.contract.control_dt_s
        if body is None or dt_s is None:
            raise UsageError(f"{bundle.path} does not say which robot it is for: export it again")
        self._body, self.control_dt_s = body, dt_s
        self._rng = np.random.default_rng(troubles.seed)
        self._env = VecEnv(self._task, 1, troubles.seed, num_threads=1)
        self._env.reset()
        self._sim, self._model = self._env.sim, self._env.sim.model
        unit_s = self._task.advance_dt_s or self._sim.dt_s
        self._unit_steps = whole_ratio("advance_dt_s", unit_s, self._sim.dt_s)
        self._units = max(1, round(dt_s / READINGS_PER_STEP / unit_s))
        self.period_s = self._units * unit_s
        self._steps_done = 0
        self._attempt: Attempt | None = None
        self.attempts: list[Attempt] = []
        self._joints = [self._model.joint(joint_id(self._model, joint.name)) for joint in body.joints]
        self._qpos = np.array([int(joint.qposadr[0]) for joint in self._joints], dtype=np.intp)
        self._dof = np.array([int(joint.dofadr[0]) for joint in self._joints], dtype=np.intp)
        self._names = [joint.name for joint in body.joints]
        self._floating = _floating_base(
            self._model, [int(self._model.jnt_bodyid[j.id]) for j in self._joints]
        )
        driven = {drive.joint for drive in body.drives if drive.mode == "position"}
        stands = driven == set(self._names) and all(d.mode == "position" for d in body.drives)
        self._released_at = State.MOVE_TO_DEFAULT if stands and self._floating is None else State.POLICY
        self._damping = self._sim.param("dof_damping")
        self._model_damping = self._damping[0].clone()
        self._released = self._over = False
        self.layout = self._layout()
        self._command = self._rest = self._damping_command()
        self._noise = self._noise_std(bundle)

    def _signals(self) -> list[Signal]:
        """Return what is published, in the task's order."""
        unit = self._body.joints[0].unit if self._names else "rad"
        position = Signal(JOINT_POSITION, unit, tuple(self._names))
        velocity = Signal(JOINT_VELOCITY, f"{unit}/s", tuple(self._names))
        signals = {s.name: s for s in (position, velocity) if self._names}
        for term in self._contract.inputs:
            signal = Signal(term.of, term.unit, element_names(term))
            ours = signals.get(term.of)
            if term.of in (JOINT_POSITION, JOINT_VELOCITY) and ours is not None:
                self._check_joints(term.group, signal)
                signals[term.of] = Signal(term.of, term.unit, ours.elements)
            else:
                signals[term.of] = signal
        if self._floating is not None and GRAVITY not in signals:
            signals[GRAVITY] = Signal(GRAVITY, "1", ("x", "y", "z"))
        return list(signals.values())

    def _check_joints(self, group: str, signal: Signal) -> None:
        """Refuse a task whose term of the name of a joint signal is something else."""
        observed = self._task.observe(self._sim)[group][signal.name].numpy().reshape(-1)
        measured = self._joint_values(signal.name)
        for element, value in zip(signal.elements, observed, strict=True):
            if element not in self._names or abs(measured[self._names.index(element)] - value) > 1e-6:
                raise UsageError(
                    f"the task's {signal.name} ({element}) is not that of the joint of this name, so that "
                    "guards would be misled: give the term another name"
                )

    def _layout(self) -> Layout:
        signals = self._signals()
        drives = [drive.action for drive in self._body.drives]
        if self._troubles.shuffle is not None:
            rng = np.random.default_rng(self._troubles.shuffle)
            signals = [
                Signal(s.name, s.unit, tuple(s.elements[i] for i in rng.permutation(len(s.elements))))
                for s in (signals[i] for i in rng.permutation(len(signals)))
            ]
            drives = [drives[i] for i in rng.permutation(len(drives))]
        self._groups = {term.of: (term.group, element_names(term)) for term in self._contract.inputs}
        self._drive_rows = np.array(
            [drives.index(drive.action) for drive in self._body.drives], dtype=np.intp
        )
        return Layout(self._body.name or "simulated robot", tuple(signals), tuple(drives), self.control_dt_s)

    def _joint_values(self, name: str) -> np.ndarray:
        field, places = ("qpos", self._qpos) if name == JOINT_POSITION else ("qvel", self._dof)
        return np.asarray(self._sim.data(field)[0].numpy()[places])

    def _noise_std(self, bundle: Bundle) -> np.ndarray:
        spread: dict[tuple[str, str], float] = {}
        for term in bundle.contract.inputs:
            recorded = bundle.golden["observation"][:, term.start : term.start + term.size]
            std = recorded.std(axis=0)
            spread |= {(term.of, e): float(std[i]) for i, e in enumerate(element_names(term))}
        names = [(signal.name, element) for signal in self.layout.signals for element in signal.elements]
        return self._troubles.noise * np.array([spread.get(name, 0.0) for name in names])

    def measure(self) -> np.ndarray:
        """Return the numbers of a reading (W,), noise included."""
        observed = self._task.observe(self._sim)
        parts = []
        for signal in self.layout.signals:
            if self._names and signal.name in (JOINT_POSITION, JOINT_VELOCITY):
                names, values = tuple(self._names), self._joint_values(signal.name)
            elif signal.name in self._groups:
                group, names = self._groups[signal.name]
                values = observed[group][signal.name].numpy().reshape(-1)
            else:
                names, values = ("x", "y", "z"), self._projected_gravity()
            parts.append(values[[names.index(element) for element in signal.elements]])
        clean = np.concatenate(parts).astype(np.float64)
        return clean + self._noise * self._rng.standard_normal(len(clean))

    def _projected_gravity(self) -> np.ndarray:
        assert self._floating is not None
        rotation = np.empty(9)
        place = int(self._model.jnt_qposadr[self._floating]) + 3
        mujoco.mju_quat2Mat(rotation, self._sim.data("qpos")[0].numpy()[place : place + 4].copy())
        return -rotation.reshape(3, 3)[2]

    def _damping_command(self) -> np.ndarray:
        """Return what the robot's own electronics do without commands, rows in the order of the bundle."""
        rows = np.zeros((len(self._body.drives), 5))
        for row, drive in zip(rows, self._body.drives, strict=True):
            if drive.joint is None:
                row[FEEDFORWARD] = drive.safe or 0.0
            else:
                row[KD] = drive.kd or 1.0
        return rows

    def obey(self, command: Command) -> None:
        """Take a command."""
        self._command = command.rows[self._drive_rows]
        state = State(command.state)
        self._released = self._released or state >= self._released_at
        if state is not State.POLICY:
            self._end("a stop")
        elif self._attempt is None and not self._over:
            self._attempt = Attempt()

    def lie_down(self) -> None:
        """Damp, as no commands come."""
        self._command = self._rest
        self._end("silence")

    def pick_up(self) -> None:
        """Go back to an initial pose, held."""
        if self._released:
            self._released = self._over = False
            self._steps_done = 0
            self._env.reset()

    def _end(self, by: str) -> None:
        if self._attempt is not None:
            self.attempts.append(self._attempt.end(self._task, self._sim, by))
            self._attempt = None

    @property
    def time_s(self) -> float:
        """Simulated time, s."""
        return float(self._sim.data("time")[0])

    def advance(self, periods: int) -> None:
        """Simulate some periods."""
        for _ in range(self._units * periods if self._released else 0):
            if self._steps_done == 0:
                self._task.before_step(self._sim)
                self._env.disturb()
            ctrl = torch.from_numpy(self._controls()).unsqueeze(0)
            self._task.advance(self._sim, ctrl, self._unit_steps)
            self._steps_done += self._unit_steps
            if self._steps_done >= self._env.substeps:
                self._steps_done = 0
                self._task.after_step(self._sim, ctrl)
                self._score(ctrl)

    def _score(self, ctrl: torch.Tensor) -> None:
        """Take note of a control step under the policy."""
        if self._sim.failed() is not None:
            self._over = True
            self._end("a diverged simulation")
        elif self._attempt is not None:
            self._attempt.add(self._task, self._sim, ctrl)
            if self._attempt.terminated:
                self._over = True
                self._end("the task")

    def _controls(self) -> np.ndarray:
        """Return the model's commands (A,) that make the forces asked for."""
        q, qd = self._joint_values(JOINT_POSITION), self._joint_values(JOINT_VELOCITY)
        controls = np.empty(len(self._body.drives))
        damping = self._model_damping.clone()
        for i, (drive, row) in enumerate(zip(self._body.drives, self._command, strict=True)):
            if drive.joint is None:
                controls[i] = row[FEEDFORWARD]
                continue
            j = self._names.index(drive.joint)
            spring = row[KP] * (row[POSITION] - q[j]) + row[KD] * row[VELOCITY] + row[FEEDFORWARD]
            if drive.mode == "position":
                target, ours = q[j] + spring / drive.kp, drive.kd
            elif drive.mode == "velocity":
                target, ours = qd[j] + (spring - row[KD] * qd[j]) / drive.kd, row[KD]
            else:
                target, ours = spring, 0.0
            controls[i] = target / drive.ratio
            damping[self._dof[j]] += max(0.0, row[KD] - ours)
        if not torch.equal(damping, self._damping[0]):
            self._damping[0] = damping
        return controls


def _own_task(bundle: Bundle, changes: Sequence[str]) -> Task:
    task = rebuild_task(bundle.contract.task, changes)
    if not isinstance(task, Task):
        raise UsageError(
            f"{bundle.path}: its task {bundle.contract.task['name']} is simulated by another library, there "
            "is no robot in it that could be commanded"
        )
    if task.realism.learned_actuators:
        raise UsageError(f"{bundle.path}: its task has learned actuators, which no simulated robot has")
    return task


def _floating_base(model: mujoco.MjModel, bodies: list[int]) -> int | None:
    """Return the free joint that carries one of `bodies`, None where there is none."""
    for body in bodies:
        while body:
            joints = range(model.body_jntadr[body], model.body_jntadr[body] + model.body_jntnum[body])
            for joint in joints:
                if int(model.jnt_type[joint]) == int(mujoco.mjtJoint.mjJNT_FREE):
                    return joint
            body = int(model.body_parentid[body])
    return None
