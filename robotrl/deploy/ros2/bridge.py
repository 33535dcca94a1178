"""A ROS 2 robot as a robot of `robotrl deploy`: messages in, commands out, without anything of ROS itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from robotrl.core.errors import RobotrlError
from robotrl.deploy.contract import Contract
from robotrl.deploy.ros2.conversion import Commands, Interface, Readings, layout_of
from robotrl.deploy.runtime.machine import State
from robotrl.deploy.runtime.robots.channel import Channel
from robotrl.deploy.runtime.robots.robot import COMMAND_FIELDS, FEEDFORWARD, KD, Command
from robotrl.deploy.runtime.robots.server import RobotServer


class Bridge:
    """Serves the runtime's packets; stops the robot by itself when commands cease.

    Efforts follow the joints: nothing is published before the first joint reading, and zero when they cease.

    Args:
        contract: of the policy.
        interface: of the robot's controllers.
        channel: carries the packets.
        publish: sends numbers to the controllers.
        silence_s: longest time without a command before the robot is damped, and without a joint reading
            before efforts are zero, s.
        damping_kd: gain of drives that have none of their own, N m s/rad.

    Raises:
        RobotrlError: the bundle says nothing of a robot, or the interface cannot command its drives.
    """

    def __init__(
        self,
        contract: Contract,
        interface: Interface,
        channel: Channel,
        publish: Callable[[list[float]], None],
        silence_s: float,
        damping_kd: float,
    ) -> None:
        body = contract.robot
        if body is None:
            raise RobotrlError("the bundle says nothing of its robot: export it again from one of our tasks")
        self.readings = Readings(layout_of(contract, body))
        self._commands = Commands(body, interface)
        self._server = RobotServer(channel, layout_of(contract, body))
        self._publish, self._silence_s = publish, silence_s
        self._follows_joints = interface is Interface.EFFORT
        self._command: Command | None = None
        self._measured_s: float | None = None
        self._damping = np.zeros((len(body.drives), len(COMMAND_FIELDS)))
        for row, drive in zip(self._damping, body.drives, strict=True):
            if drive.joint is None:
                row[FEEDFORWARD] = 0.0 if drive.safe is None else drive.safe
            else:
                row[KD] = drive.kd if drive.kd > 0.0 else damping_kd
        columns = layout_of(contract, body).columns
        nowhere = slice(0, 0)
        self._position = columns.get("joint_position", nowhere)
        self._velocity = columns.get("joint_velocity", nowhere)

    def joint_state(self, message: Any, time_s: float) -> None:
        """Take a JointState measured at `time_s` (monotonic clock); publish what is known as a reading."""
        self.readings.joint_state(message, time_s)
        self._measured_s = min(time_s, time.monotonic())
        if self.readings.complete:
            self._server.publish(self.readings.values, self.readings.times_s)
        if self._follows_joints and self._command is not None:
            self._send(self._command)

    def poll(self) -> None:
        """Pass on the newest command; damp a robot whose commands have ceased. Call it at 500 Hz or more."""
        command = self._server.poll()
        silent = self._command is not None and (
            self._server.commanded_s is None or time.monotonic() - self._server.commanded_s > self._silence_s
        )
        if command is not None:
            self._command = command
        elif silent:
            self._command = Command(self._damping, State.DAMPING)
        else:
            return
        self._send(self._command)

    def close(self) -> None:
        """Damp the robot and close the connection."""
        if self._command is not None:
            self._send(Command(self._damping, State.DAMPING))
        self._server.close()

    def _send(self, command: Command) -> None:
        numbers = self._numbers(command)
        if numbers is not None:
            self._publish(numbers)

    def _numbers(self, command: Command) -> list[float] | None:
        if self._follows_joints:
            if self._measured_s is None:
                return None
            if time.monotonic() - self._measured_s > self._silence_s:
                return [0.0] * len(command.rows)
        values, damped = self.readings.values, command.state == State.DAMPING
        return self._commands.message(command.rows, damped, values[self._position], values[self._velocity])
