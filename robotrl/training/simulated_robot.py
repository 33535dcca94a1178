"""A simulated robot that a policy is deployed on: its own process, real time, and troubles of its own.

It is built from the task in a bundle, publishes the signals of the task's observation terms and takes
commands over the same packets as a real robot: joint forces kp (position - q) + kd (velocity - qd) +
feedforward. Gains other than the bundle's are made of the model's own actuators: a spring by moving the
target, a damper by joint damping.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import mujoco
import numpy as np
import torch

from robotrl.core.checks import at_least, within
from robotrl.core.errors import RobotrlError, UsageError
from robotrl.deploy.bundle import Bundle
from robotrl.deploy.runtime.binding import GRAVITY, JOINT_POSITION, JOINT_VELOCITY, element_names
from robotrl.deploy.runtime.machine import State
from robotrl.deploy.runtime.rate import Rate
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
from robotrl.deploy.runtime.robots.server import RobotServer
from robotrl.envs.vec_env import VecEnv
from robotrl.export.description import rebuild_task
from robotrl.sim.actuators import Kind
from robotrl.sim.threads import one_torch_thread
from robotrl.tasks.task import Task

TIMEOUT_S = 0.25
"""Without a command for so long the robot damps itself, s."""
READINGS_PER_STEP = 4
_LONGEST_CATCH_UP_S = 0.1
_MOST_LATE = 200


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

    It is held in the task's initial pose until it is armed where position drives move all its joints, and
    until the policy takes over where not: nothing else could hold it up. When commands end it damps itself,
    and a second later it is back in an initial pose.

    Args:
        bundle: whose task is simulated.
        troubles: that it has.

    Raises:
        UsageError: the bundle's task cannot be simulated as a robot; says why.
    """

    def __init__(self, bundle: Bundle, troubles: Troubles) -> None:
        self._task, self._contract, self._troubles = _own_task(bundle), bundle.contract, troubles
        body, dt_s = bundle.contract.robot, bundle.contract.control_dt_s
        if body is None or dt_s is None:
            raise UsageError(f"{bundle.path} does not say which robot it is for: export it again")
        self._body, self.control_dt_s = body, dt_s
        self._rng = np.random.default_rng(troubles.seed)
        self._env = VecEnv(self._task, 1, troubles.seed, num_threads=1)
        self._env.reset()
        self._sim, self._model = self._env.sim, self._env.sim.model
        substeps = max(1, round(dt_s / READINGS_PER_STEP / self._sim.dt_s))
        self.period_s, self._substeps = substeps * self._sim.dt_s, substeps
        self._joints = [self._model.joint(_joint_id(self._model, joint.name)) for joint in body.joints]
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
        self._released = False
        self.layout = self._layout()
        self._command = self._rest = self._damping_command()
        self._noise = self._noise_std(bundle)

    def _signals(self) -> list[Signal]:
        """Return what is published, in the task's order."""
        position = Signal(JOINT_POSITION, "rad", tuple(self._names))
        velocity = Signal(JOINT_VELOCITY, "rad/s", tuple(self._names))
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
        self._released = self._released or State(command.state) >= self._released_at

    def lie_down(self) -> None:
        """Damp, as no commands come."""
        self._command = self._rest

    def pick_up(self) -> None:
        """Go back to an initial pose, held."""
        if self._released:
            self._released = False
            self._env.reset()

    @property
    def time_s(self) -> float:
        """Simulated time, s."""
        return float(self._sim.data("time")[0])

    def advance(self, periods: int) -> None:
        """Simulate some periods."""
        for _ in range(self._substeps * periods if self._released else 0):
            self._task.advance(self._sim, torch.from_numpy(self._controls()).unsqueeze(0), 1)

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


@one_torch_thread()
def serve(robot: SimulatedRobot, server: RobotServer, troubles: Troubles, over: Callable[[], bool]) -> None:
    """Run a simulated robot in real time.

    Args:
        robot: to run.
        server: publishes its readings and takes its commands.
        troubles: delays and losses.
        over: whether to end.

    Raises:
        RobotrlError: this machine is too slow for real time.
    """
    rate = Rate(robot.period_s)
    rng = np.random.default_rng(troubles.seed)
    commands: deque[tuple[float, Command]] = deque()
    readings: deque[tuple[float, np.ndarray]] = deque()
    num_signals = len(robot.layout.signals)
    heard_s = time.monotonic()
    while not over():
        tick = rate.wait()
        if rate.consecutive >= _MOST_LATE:
            raise RobotrlError(
                "this machine is too slow to simulate the robot in real time: "
                f"{rate.consecutive} periods of {1e3 * robot.period_s:g} ms in a row began late"
            )
        command = server.poll()
        if command is not None:
            heard_s = tick.time_s
            commands.append((tick.time_s + troubles.command_delay_s, command))
        while commands and commands[0][0] <= tick.time_s:
            robot.obey(commands.popleft()[1])
        if tick.time_s - heard_s > TIMEOUT_S:
            robot.lie_down()
        if tick.time_s - heard_s > TIMEOUT_S + 1.0:
            robot.pick_up()
        robot.advance(min(tick.missed + 1, round(_LONGEST_CATCH_UP_S / robot.period_s) + 1))
        measured_s = time.monotonic()
        if rng.random() >= troubles.loss:
            readings.append((measured_s, robot.measure()))
        while readings and readings[0][0] <= measured_s - troubles.reading_delay_s:
            then_s, values = readings.popleft()
            server.publish(values, np.full(num_signals, then_s))


def _own_task(bundle: Bundle) -> Task:
    task = rebuild_task(bundle.contract.task)
    if not isinstance(task, Task):
        raise UsageError(
            f"{bundle.path}: its task {bundle.contract.task['name']} is simulated by another library, there "
            "is no robot in it that could be commanded"
        )
    if any(actuator.kind is Kind.NETWORK for actuator in task.realism.actuators.values()):
        raise UsageError(f"{bundle.path}: its task has learned actuators, which no simulated robot has")
    return task


def _joint_id(model: mujoco.MjModel, name: str) -> int:
    found = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_JOINT, name)
    return int(name.removeprefix("joint_")) if found < 0 else int(found)


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
