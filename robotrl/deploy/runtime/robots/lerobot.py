"""Any arm that LeRobot drives, behind our packets. This file runs in LeRobot's own environment.

LeRobot pins other versions of torch than training here needs, so it stays in its environment and a server
there speaks packets over loopback; of robotrl it needs this package on the path and numpy:

    PYTHONPATH=/path/to/robotrl python -m robotrl.deploy.runtime.robots.lerobot arm.yaml

LeRobot's robots take positions only, in units of their own: stiffness and damping of commands do not reach
them. Where a command asks for no stiffness (damping, or the watchdog) the arm holds where it was measured.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from robotrl.core.errors import UsageError, unknown_name
from robotrl.deploy.runtime.rate import Rate
from robotrl.deploy.runtime.robots.robot import KP, POSITION, Command, Layout, Signal
from robotrl.deploy.runtime.robots.server import RobotServer
from robotrl.deploy.runtime.robots.udp import UdpChannel

TIMEOUT_S = 0.25


@dataclass(frozen=True)
class Motor:
    """How a joint of the bundle is a motor of LeRobot.

    Attributes:
        joint: name in the bundle.
        drive: name of the action in the bundle.
        feature: key in LeRobot's observations and actions, such as "shoulder_pan.pos".
        rad_per_unit: joint angle per unit of LeRobot's, pi/180 for degrees; negative where it turns the
            other way.
        zero_rad: joint angle at LeRobot's zero, rad.
    """

    joint: str
    drive: str
    feature: str
    rad_per_unit: float
    zero_rad: float = 0.0


@dataclass(frozen=True)
class ArmConfig:
    """The YAML file of the server.

    Attributes:
        robot: import path of LeRobot's robot, such as "lerobot.robots.so101_follower.SO101Follower".
        config: import path of its configuration class.
        options: of the configuration class.
        motors: of the arm.
        rate_hz: readings per second.
        velocity_filter_s: time constant of the joint velocities, which are differences of positions, s.
        port: UDP port on loopback.
    """

    robot: str
    config: str
    options: Mapping[str, Any]
    motors: tuple[Motor, ...]
    rate_hz: float = 50.0
    velocity_filter_s: float = 0.02
    port: int = 4000


class LeRobotArm(Protocol):
    """What is used of LeRobot's `Robot`."""

    def connect(self, calibrate: bool = True) -> None:
        """Open the bus."""

    def get_observation(self) -> dict[str, Any]:
        """Return feature -> value."""

    def send_action(self, action: dict[str, Any]) -> dict[str, Any]:
        """Command feature -> value."""

    def disconnect(self) -> None:
        """Close the bus."""


class Conversion:
    """Between LeRobot's dictionaries and the numbers of our packets; it touches no robot.

    Args:
        config: of the arm.
    """

    def __init__(self, config: ArmConfig) -> None:
        self._motors, self._filter_s = config.motors, config.velocity_filter_s
        self._scale = np.array([motor.rad_per_unit for motor in config.motors])
        self._zero = np.array([motor.zero_rad for motor in config.motors])
        if not config.motors or not np.all(np.isfinite(self._scale) & (self._scale != 0)):
            raise UsageError("motors: needs some, each with a rad_per_unit that is not 0")
        joints = tuple(motor.joint for motor in config.motors)
        self.layout = Layout(
            config.robot.rpartition(".")[2],
            (Signal("joint_position", "rad", joints), Signal("joint_velocity", "rad/s", joints)),
            tuple(motor.drive for motor in config.motors),
        )
        self._last: tuple[float, np.ndarray] | None = None
        self._velocity = np.zeros(len(joints))
        self._held: np.ndarray | None = None

    def reading(self, observation: Mapping[str, Any], time_s: float) -> np.ndarray:
        """Return positions and velocities (2 J,), rad and rad/s, of an observation measured at `time_s`.

        Raises:
            UsageError: a motor's feature is not in the observation.
        """
        for motor in self._motors:
            if motor.feature not in observation:
                raise unknown_name("feature of LeRobot's observation", motor.feature, observation)
        raw = np.array([float(observation[motor.feature]) for motor in self._motors])
        position = self._zero + self._scale * raw
        if self._last is not None and time_s > self._last[0]:
            dt_s = time_s - self._last[0]
            share = dt_s / (dt_s + self._filter_s)
            self._velocity = self._velocity + share * ((position - self._last[1]) / dt_s - self._velocity)
        self._last = time_s, position
        return np.concatenate([position, self._velocity])

    def action(self, command: Command) -> dict[str, float]:
        """Return LeRobot's action for a command: its positions, or where it is for those without stiffness.

        Raises:
            UsageError: a joint is to be held, and nothing has been measured.
        """
        stiff = command.rows[:, KP] > 0
        if not stiff.all() and self._held is None:
            if self._last is None:
                raise UsageError("nothing has been measured that could be held")
            self._held = self._last[1]
        if stiff.all():
            self._held = None
        target = command.rows[:, POSITION]
        if self._held is not None:
            target = np.where(stiff, target, self._held)
        raw = (target - self._zero) / self._scale
        return {motor.feature: float(value) for motor, value in zip(self._motors, raw, strict=True)}


def serve(
    arm: LeRobotArm, config: ArmConfig, server: RobotServer, conversion: Conversion, steps: int | None
) -> None:
    """Publish readings and carry out commands at the configured rate.

    Args:
        arm: connected.
        config: its configuration.
        server: speaks packets.
        conversion: of this arm.
        steps: number of readings, None for no end.
    """
    rate = Rate(1.0 / config.rate_hz)
    nothing = np.zeros((len(config.motors), 5))
    count, stopped = 0, True
    while steps is None or count < steps:
        rate.wait()
        time_s = time.monotonic()
        values = conversion.reading(arm.get_observation(), time_s)
        server.publish(values, np.full(2, time_s))
        command = server.poll()
        if command is not None:
            arm.send_action(conversion.action(command))
            stopped = False
        elif not stopped and server.commanded_s is not None and time_s - server.commanded_s > TIMEOUT_S:
            arm.send_action(conversion.action(Command(nothing, 0)))
            stopped = True
        count += 1


def read_config(path: Path) -> ArmConfig:
    """Read the server's YAML file.

    Raises:
        UsageError: it is missing or malformed; says where.
    """
    import yaml

    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
        known = {field.name for field in dataclasses.fields(ArmConfig)}
        for name in given:
            if name not in known:
                raise unknown_name(f"key in {path}:", str(name), known)
        motors = tuple(Motor(**motor) for motor in given.pop("motors"))
        return ArmConfig(**given, motors=motors)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(f"{path}: {' '.join(str(error).split())}") from error


def _load(path: str) -> Any:
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(f"{path}: {error}; run this in LeRobot's environment") from error


def main() -> None:
    """Serve the arm of a YAML file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    config = read_config(parser.parse_args().config)
    conversion = Conversion(config)
    arm: LeRobotArm = _load(config.robot)(_load(config.config)(**config.options))
    server = RobotServer(UdpChannel("127.0.0.1", config.port, listen=True, key=b""), conversion.layout)
    arm.connect()
    try:
        sys.stdout.write(f"udp://127.0.0.1:{config.port}\n")
        sys.stdout.flush()
        serve(arm, config, server, conversion, None)
    finally:
        arm.disconnect()


if __name__ == "__main__":
    main()
