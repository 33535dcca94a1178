"""The conversion between LeRobot's dictionaries and our packets. LeRobot itself is not run here."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runtime_common import udp_server

from robotrl.core.errors import UsageError
from robotrl.deploy.runtime.robots.lerobot import ArmConfig, Conversion, Motor, read_config, serve
from robotrl.deploy.runtime.robots.robot import KP, POSITION, Command

CONFIG = ArmConfig(
    robot="lerobot.robots.so101_follower.SO101Follower",
    config="lerobot.robots.so101_follower.SO101FollowerConfig",
    options={},
    motors=(
        Motor("pan", "pan_servo", "shoulder_pan.pos", math.pi / 180),
        Motor("jaw", "jaw_servo", "gripper.pos", -0.01, 0.5),
    ),
)


def command(kp: float, *position: float) -> Command:
    rows = np.zeros((2, 5))
    rows[:, KP], rows[:, POSITION] = kp, position
    return Command(rows, 4)


def test_positions_in_radians_and_velocities_as_filtered_differences() -> None:
    conversion = Conversion(CONFIG)
    assert conversion.layout.robot == "SO101Follower" and conversion.layout.drives == (
        "pan_servo",
        "jaw_servo",
    )
    first = conversion.reading({"gripper.pos": 50.0, "shoulder_pan.pos": 90.0, "front": object()}, 1.0)
    np.testing.assert_allclose(first, [math.pi / 2, 0.0, 0.0, 0.0])
    second = conversion.reading({"shoulder_pan.pos": 91.0, "gripper.pos": 50.0}, 1.02)
    # dt = the filter's time constant: half of the difference
    np.testing.assert_allclose(second, [math.radians(91), 0.0, math.radians(1) / 0.02 / 2, 0.0])
    with pytest.raises(UsageError, match=r"'gripper.pos'.*did you mean 'griper.pos'"):
        conversion.reading({"shoulder_pan.pos": 0.0, "griper.pos": 0.0}, 2.0)


def test_commands_go_back_into_lerobots_units() -> None:
    conversion = Conversion(CONFIG)
    observation = {"shoulder_pan.pos": -12.5, "gripper.pos": 31.0}
    values = conversion.reading(observation, 0.0)
    assert conversion.action(command(20.0, *values[:2])) == pytest.approx(observation)


def test_without_stiffness_it_holds_where_it_was_when_that_began() -> None:
    conversion = Conversion(CONFIG)
    with pytest.raises(UsageError, match="nothing has been measured"):
        conversion.action(command(0.0, 0.0, 0.0))
    conversion.reading({"shoulder_pan.pos": 10.0, "gripper.pos": 20.0}, 0.0)
    here = {"shoulder_pan.pos": 10.0, "gripper.pos": 20.0}
    assert conversion.action(command(0.0, 1.0, 1.0)) == pytest.approx(here)
    conversion.reading({"shoulder_pan.pos": 8.0, "gripper.pos": 20.0}, 0.1)  # it sags
    assert conversion.action(command(0.0, 1.0, 1.0)) == pytest.approx(here)
    assert conversion.action(command(5.0, 0.0, 0.5))["gripper.pos"] == pytest.approx(0.0)
    assert conversion.action(command(0.0, 1.0, 1.0))["shoulder_pan.pos"] == pytest.approx(8.0)


def test_the_server_reads_and_holds_when_commands_end() -> None:
    class Arm:
        """Takes any action."""

        def __init__(self) -> None:
            self.sent: list[dict[str, Any]] = []

        def connect(self, calibrate: bool = True) -> None:
            raise AssertionError("who serves has connected it")

        def get_observation(self) -> dict[str, Any]:
            return {"shoulder_pan.pos": 1.0, "gripper.pos": 2.0}

        def send_action(self, action: dict[str, Any]) -> dict[str, Any]:
            self.sent.append(action)
            return action

        def disconnect(self) -> None:
            pass

    arm, conversion = Arm(), Conversion(CONFIG)
    server, _ = udp_server(made=conversion.layout)
    commands = iter([command(5.0, 0.0, 0.5), None, None])
    server.poll = lambda: next(commands, None)  # type: ignore[method-assign]
    server.commanded_s = 0.0  # long ago
    serve(arm, CONFIG, server, conversion, 4)
    assert [action["gripper.pos"] for action in arm.sent] == pytest.approx([0.0, 2.0])
    server.close()


def test_the_servers_file(tmp_path: Path) -> None:
    file = tmp_path / "arm.yaml"
    good = (
        "robot: a.Robot\nconfig: a.Config\noptions: {port: /dev/ttyACM0}\n"
        "motors:\n- {joint: pan, drive: pan_servo, feature: shoulder_pan.pos, rad_per_unit: 0.0174532925}\n"
    )
    file.write_text(good)
    assert read_config(file).motors[0].zero_rad == 0.0
    for text, message in (
        (good + "rate: 3\n", "unknown key in .*'rate'"),
        ("robot: a.Robot\n", "motors"),
        (good.replace("joint: pan, ", ""), "joint"),
        ("- 1", "arm.yaml"),
    ):
        file.write_text(text)
        with pytest.raises(UsageError, match=message):
            read_config(file)
