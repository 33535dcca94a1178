"""The loop that runs a policy on a robot."""

from __future__ import annotations

import dataclasses
import gc
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Protocol

import numpy as np

from robotrl.core.errors import RobotrlError, UsageError
from robotrl.deploy.contract import Contract
from robotrl.deploy.runtime.binding import bind
from robotrl.deploy.runtime.chunks import Execution
from robotrl.deploy.runtime.drives import Drives
from robotrl.deploy.runtime.frame_log import Frame, FrameLog
from robotrl.deploy.runtime.guards import Event, Guards
from robotrl.deploy.runtime.limits import Limits
from robotrl.deploy.runtime.machine import Machine, State
from robotrl.deploy.runtime.observation import Observations
from robotrl.deploy.runtime.operator import QUIT, Operator
from robotrl.deploy.runtime.rate import Rate, Tick
from robotrl.deploy.runtime.robots.robot import Command, Reading, Robot
from robotrl.deploy.runtime.statistics import Statistics, Summary

LAST_DAMPING_S = 0.5
"""For how long the robot is damped by the runtime itself before it leaves, s."""


class GuardedRobot(Robot, Protocol):
    """A robot behind a watchdog."""

    alive: bool

    def set_damping(self, rows: np.ndarray) -> None:
        """Tell the watchdog what to send when we are silent."""

    def reset(self) -> None:
        """Let the watchdog pass commands again."""

    def leave(self) -> None:
        """Tell the watchdog that the robot was damped in good order."""


@dataclasses.dataclass(frozen=True)
class Status:
    """What a person sees while it runs."""

    state: State
    policy_s: float
    age_s: float
    lateness_s: float
    overruns: int
    note: str


class Runtime:
    """A policy on a robot: states, guards, log and statistics around one control step after another.

    Args:
        contract: of the policy; it speaks of a robot.
        golden: the bundle's recordings.
        execution: gives the action of each control step.
        self_test: raises RobotrlError unless the policy reproduces its recordings on this machine.
        robot: connected, behind a watchdog.
        limits: of the user.
        rate: of the loop, with the contract's control step.
        log: path of the log, None for none.
        dumps: where frames around an event are written, see `FrameLog`.

    Attributes:
        machine: the state.
        binding: what of the robot is which input and drive.
        statistics: of the control steps under the policy.

    Raises:
        RobotrlError: the contract speaks of no robot, or robot, policy and limits do not fit each other.
    """

    def __init__(
        self,
        contract: Contract,
        golden: Mapping[str, np.ndarray],
        execution: Execution,
        self_test: Callable[[], None],
        robot: GuardedRobot,
        limits: Limits,
        rate: Rate,
        log: Path | None,
        dumps: Path,
    ) -> None:
        body = contract.robot
        if body is None:
            raise RobotrlError(
                "the bundle does not say which robot it is for: export it again, from a task of ours"
            )
        self.binding = bind(contract, body, robot.layout)
        dt_s = contract.control_dt_s
        assert dt_s is not None  # `bind` refuses it
        self._dt_s, self._limits, self._rate = dt_s, limits, rate
        self._robot, self._execution, self._self_test = robot, execution, self_test
        self._guards = Guards(contract, limits, robot.layout, self.binding)
        self._drives = Drives(contract, body, limits, dt_s)
        self._observations = Observations(self.binding)
        self.statistics = Statistics(contract, golden)
        self._log = FrameLog(robot.layout, dt_s, log, dumps)
        self.machine = Machine(time.monotonic())
        self._reading: Reading | None = None
        self._interrupted = self._moving = False
        self._note = ""
        robot.set_damping(self._in_robots_order(self._drives.damping))

    def run(
        self,
        operator: Operator,
        duration_s: float | None,
        show: Callable[[Status], None] = lambda status: None,
    ) -> bool:
        """Run until a person quits, Ctrl-C, or the policy has commanded for `duration_s`.

        Whatever ends it, the robot is damped then; after a failure the watchdog goes on with it.

        Args:
            operator: says what to do.
            duration_s: time under the policy, None for no end.
            show: is told a few times a second what is going on.

        Returns:
            Whether Ctrl-C ended it.
        """
        every = max(1, round(0.2 / self._dt_s))
        left: int | None = None
        count = 0
        gc.freeze()
        with self._interruptible():
            try:
                self._rate.restart()
                while left is None or left > 0:
                    tick = self._rate.wait()
                    over = duration_s is not None and self.statistics.steps * self._dt_s >= duration_s
                    if (self._listen(operator, tick.time_s) or self._interrupted or over) and left is None:
                        if not self.machine.armed:
                            break  # whoever was never armed is sent nothing
                        left = math.ceil(LAST_DAMPING_S / self._dt_s)
                        self.machine.damp(tick.time_s)
                    self.cycle(tick)
                    left = None if left is None else left - 1
                    count += 1
                    if count % every == 0:
                        show(self._status(tick))
            finally:
                if self.machine.armed:
                    self._send(self._drives.damping)
                self._log.close()
        self._robot.leave()
        return self._interrupted

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Let Ctrl-C end the loop between two control steps; the second one ends it anywhere."""

        def handle(number: int, frame: FrameType | None) -> None:
            if self._interrupted:
                raise KeyboardInterrupt
            self._interrupted = True

        before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _listen(self, operator: Operator, now_s: float) -> bool:
        """Do what the operator says; return whether that is to quit."""
        for word in operator.poll(self.machine.state):
            if word == QUIT:
                operator.answer("leaving")
                return True
            try:
                self.machine.say(word, now_s)
            except UsageError as error:
                operator.answer(str(error))
                continue
            operator.answer(self.machine.state.name)
            self._entered(now_s)
        return False

    def _entered(self, now_s: float) -> None:
        """Prepare what the new state needs."""
        state = self.machine.state
        self._note = ""
        if state is State.MOVE_TO_DEFAULT:
            self._rate.restart()
            self._observations.reset()
            self._moving = False
        elif state is State.POLICY:
            self._observations.reset()
            self._execution.reset()
        elif state is State.DISARMED:
            self._robot.reset()

    def cycle(self, tick: Tick) -> None:
        """Do one control step."""
        self._reading = self._robot.read() or self._reading
        reading, machine = self._reading, self.machine
        if machine.state is State.DISARMED:
            self._test(tick.time_s)
        age_s = self._age_s(tick.time_s)
        rows, inference_s = None, 0.0
        if machine.armed:
            rows, inference_s = self._command(tick, age_s)
            event = self._guards.command(rows, tick.time_s)
            if event is not None:
                rows = self._fault(event)
            self._send(rows)
        if reading is not None:
            sent = None if rows is None else self._in_robots_order(rows)
            lateness_s = tick.lateness_s
            self._log.add(
                Frame(tick.time_s, machine.state.name, reading.values, sent, age_s, lateness_s, inference_s)
            )

    def _test(self, now_s: float) -> None:
        try:
            self._self_test()
            self.machine.self_test_passed(now_s)
        except RobotrlError as error:
            self._fault(Event("self-test", str(error), math.nan, math.nan, now_s))

    def _command(self, tick: Tick, age_s: float) -> tuple[np.ndarray, float]:
        """Return the command of this control step (A, 5), and how long the policy took, s."""
        machine, now_s = self.machine, tick.time_s
        if machine.state is State.DAMPING:
            return self._drives.damping, 0.0
        event = self._guards.clock(tick, self._rate) or self._guards.age(self._reading, now_s)
        if not self._robot.alive:
            event = Event("watchdog", "the watchdog process ended", math.nan, math.nan, now_s)
        if event is not None:
            return self._fault(event), 0.0
        assert self._reading is not None
        values = self._reading.values
        observation = self._observations(values)
        event = self._guards.observation(observation, now_s)
        if event is not None:
            return self._fault(event), 0.0
        if machine.state is State.POLICY:
            return self._policy(observation, values, age_s, now_s)
        event = self._guards.body(values, now_s)
        return (self._pose(values, now_s) if event is None else self._fault(event)), 0.0

    def _pose(self, values: np.ndarray, now_s: float) -> np.ndarray:
        """Return the command on the way to the default pose, or in it."""
        machine, drives = self.machine, self._drives
        position, velocity = self._joints(values)
        if machine.state is State.HOLD:
            return drives.move(1.0, position, velocity)
        if not self._moving:  # from a reading that passed the guards
            drives.start(position)
            self._moving = True
        share = (now_s - machine.since_s) / drives.move_s
        if share >= 1.0:
            off = drives.pose_error(position)
            if not off <= self._limits.pose_tolerance:
                what, limit = "distance of a joint from its default (rad)", self._limits.pose_tolerance
                return self._fault(Event("default pose", what, off, limit, now_s))
            machine.pose_reached(now_s)
        return drives.move(share, position, velocity)

    def _joints(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the joints' positions and velocities, (J,) each."""
        return values[self.binding.joint_position], values[self.binding.joint_velocity]

    def _policy(
        self, observation: np.ndarray, values: np.ndarray, age_s: float, now_s: float
    ) -> tuple[np.ndarray, float]:
        began_s = time.perf_counter()
        try:
            action = np.asarray(self._execution(observation), dtype=np.float64)
        except RobotrlError as error:
            return self._fault(Event("policy", str(error), math.nan, math.nan, now_s)), 0.0
        inference_s = time.perf_counter() - began_s
        event = self._guards.action(action, now_s)
        if event is None:
            under_s = now_s - self.machine.since_s + self._dt_s
            blend = min(1.0, under_s / self._limits.blend_s) if self._limits.blend_s else 1.0
            event = self._guards.body(values, now_s)
        if event is not None:
            return self._fault(event), inference_s
        shaped = self._drives.follow(action, blend, *self._joints(values))
        self.statistics.add(observation, shaped, age_s, inference_s)
        return shaped.rows, inference_s

    def _fault(self, event: Event) -> np.ndarray:
        """Damp, latched, and keep what led to it; return the command."""
        self.machine.damp(event.time_s)
        self.statistics.events.append(event)
        rows = self._drives.damping
        self._note = f"{event} (frames: {self._log.event(event)})"
        return rows

    def _age_s(self, now_s: float) -> float:
        if self._reading is None:
            return math.inf
        return float(now_s - self._reading.times_s[self.binding.used_signals].min())

    def _send(self, rows: np.ndarray) -> None:
        self._robot.send(Command(self._in_robots_order(rows), int(self.machine.state)))

    def _in_robots_order(self, rows: np.ndarray) -> np.ndarray:
        ordered = np.empty_like(rows)
        ordered[self.binding.drives] = rows
        return ordered

    def summary(self) -> Summary:
        """Sum up the run."""
        return self.statistics.finish(self._rate, self._robot.alive, self._log.lost)

    def _status(self, tick: Tick) -> Status:
        return Status(
            self.machine.state,
            self.statistics.steps * self._dt_s,
            self._age_s(tick.time_s),
            tick.lateness_s,
            self._rate.overruns,
            self._note,
        )
