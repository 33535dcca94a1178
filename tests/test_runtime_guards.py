"""The guards of the runtime on a robot in memory: what damps it, and what is told."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from runtime_common import AXES, DT_S, JOINTS, KD_, KP_, Arm, Bench, contract, layout, term

from robotrl.core.errors import RobotrlError, UsageError
from robotrl.deploy.runtime.limits import Limits
from robotrl.deploy.runtime.machine import State
from robotrl.deploy.runtime.robots.robot import Signal


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e300, 2e3])
@pytest.mark.parametrize("column", range(7))
def test_a_bad_number_in_any_input_damps(tmp_path: Path, column: int, bad: float) -> None:
    bench = Bench(tmp_path)
    bench.to_policy()

    def spoil(values: np.ndarray) -> None:
        values[column] = bad

    bench.arm.spoil = spoil
    before = len(bench.arm.sent)
    bench.step(3)
    assert bench.machine.state is State.DAMPING
    for command in bench.arm.sent[before:]:  # not one command of that observation
        np.testing.assert_array_equal(command.rows, bench.arm.damping)
    (event,) = bench.runtime.statistics.events
    assert event.guard in ("not finite", "observation")
    assert f"({(*JOINTS, *JOINTS, *AXES)[column]})" in event.what


def test_a_command_of_ours_that_is_not_finite_is_not_sent(tmp_path: Path) -> None:
    """Whatever mistake made it: here a gain that no contract read from a file could have."""
    made = contract()
    assert made.robot is not None
    first, second = made.robot.drives
    robot = dataclasses.replace(made.robot, drives=(first, dataclasses.replace(second, kp=math.nan)))
    bench = Bench(tmp_path, made=dataclasses.replace(made, robot=robot))
    bench.step(2)
    bench.step(2, "arm")
    assert bench.machine.state is State.DAMPING
    for command in bench.arm.sent:
        np.testing.assert_array_equal(command.rows, bench.arm.damping)
    assert str(bench.runtime.statistics.events[0]) == "command not finite: elbow_servo (rad)"


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 1])
def test_a_bad_action_damps_before_it_is_cut_to_a_range(tmp_path: Path, place: int, bad: float) -> None:
    action = np.array([[0.5, 0.2]])
    action[0, place] = bad
    bench = Bench(tmp_path, lambda observation: action)
    bench.to_policy()
    assert bench.machine.state is State.DAMPING
    np.testing.assert_array_equal(bench.arm.last, bench.arm.damping)
    assert bench.runtime.statistics.events[0].what == f"{JOINTS[place]}_servo (rad)"


def test_a_policy_that_fails_damps(tmp_path: Path) -> None:
    def decide(observation: np.ndarray) -> np.ndarray:
        raise RobotrlError("the network's action 'x' is not finite")

    bench = Bench(tmp_path, decide)
    bench.to_policy()
    assert bench.machine.state is State.DAMPING
    assert str(bench.runtime.statistics.events[0]) == "policy: the network's action 'x' is not finite"


def spoiled(column: int, value: float) -> object:
    def spoil(values: np.ndarray) -> None:
        values[column] = value

    return spoil


@pytest.mark.parametrize(
    ("change", "guard"),
    [
        ({"age_s": 0.07}, "age"),
        ({"age_s": -0.05}, "clock"),
        ({"age_s": math.nan}, "age"),
        ({"tripped": True}, "watchdog"),
        ({"alive": False}, "watchdog"),
        ({"spoil": spoiled(2, 31.0)}, "joint velocity"),
        ({"spoil": spoiled(4, 3.0)}, "tilt"),
        ({"spoil": spoiled(6, 0.0)}, "tilt"),
        ({"spoil": spoiled(6, 1.0)}, "tilt"),
    ],
)
@pytest.mark.parametrize("when", ["arm", "hold", "policy"])
def test_every_guard_damps_in_every_armed_state(
    tmp_path: Path, change: dict[str, object], guard: str, when: str
) -> None:
    bench = Bench(tmp_path)
    if when == "arm":
        bench.step(2)
        bench.step(1, "arm")
    else:
        (bench.to_hold if when == "hold" else bench.to_policy)()
    assert bench.runtime.statistics.events == []
    for name, value in change.items():
        setattr(bench.arm, name, value)
    bench.step(1)
    assert bench.machine.state is State.DAMPING
    assert [event.guard for event in bench.runtime.statistics.events] == [guard]
    np.testing.assert_array_equal(bench.arm.last, bench.arm.damping)


def test_the_mean_speed_of_all_joints_has_a_limit_of_its_own(tmp_path: Path) -> None:
    for speed, state in ((14.9, State.POLICY), (15.1, State.DAMPING)):
        bench = Bench(tmp_path)
        bench.to_policy()
        bench.arm.spoil = lambda values, speed=speed: values.__setitem__(slice(2, 4), [speed, -speed])  # type: ignore[misc]
        bench.step(1)
        assert bench.machine.state is state


def test_a_quaternion_has_norm_one(tmp_path: Path) -> None:
    """Its elements are found by name, in the robot's order."""
    signals = (*layout().signals, Signal("orientation", "1", ("x", "y", "z", "w")))
    inputs = (*contract().inputs, term("orientation", 7, "1", ("w", "x", "y", "z")))
    half = math.sqrt(0.5)
    for quaternion, state in (
        ([half, 0.0, 0.0, half], State.POLICY),
        ([half, 0.0, 0.0, half * 1.08], State.POLICY),  # norm 1.041
        ([half, 0.0, 0.0, half * 1.12], State.DAMPING),  # norm 1.062
        ([0.0, 0.0, 0.0, 0.0], State.DAMPING),
    ):

        class Oriented(Arm):
            shown = [half, 0.0, 0.0, half]  # noqa: RUF012

            def read(self):  # type: ignore[no-untyped-def]
                reading = super().read()
                return dataclasses.replace(reading, values=np.append(reading.values, self.shown))

        arm = Oriented(signals=signals)
        bench = Bench(tmp_path, arm=arm, made=contract(inputs=inputs))
        bench.to_policy()
        arm.shown = quaternion
        bench.step(1)
        assert bench.machine.state is state


def test_a_sensor_that_falls_silent_damps_when_it_is_too_old(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.to_policy()
    bench.arm.silent = True
    bench.step(2)  # 41 ms old: accepted up to 60 ms
    assert bench.machine.state is State.POLICY
    bench.step(2)
    assert bench.machine.state is State.DAMPING
    assert bench.runtime.statistics.events[0].value == pytest.approx(0.061)


def test_a_clock_that_goes_back_damps(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.to_policy()
    bench.arm.now_s -= 10.0
    bench.step(1)
    assert [event.guard for event in bench.runtime.statistics.events] == ["clock"]


def test_overruns_in_a_row_damp(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.to_policy()
    for overruns in (1, 2, 3):
        bench.arm.now_s += 2 * DT_S
        bench.step(1)
        assert (bench.machine.state is State.DAMPING) == (overruns == 3)
    assert bench.runtime.statistics.events[0].guard == "overruns"


def test_overruns_of_a_percent_of_ten_seconds_damp(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.to_policy()
    for overruns in range(1, 7):  # 1 % of 500 periods is 5
        bench.arm.now_s += 2 * DT_S
        bench.step(20)
        assert (bench.machine.state is State.DAMPING) == (overruns == 6), overruns


def test_a_robot_that_does_not_reach_its_default_pose_is_damped(tmp_path: Path) -> None:
    bench = Bench(tmp_path, limits=Limits(pose_tolerance=0.05))
    bench.step(2)
    bench.step(1, "arm")
    bench.arm.spoil = lambda values: values.__setitem__(0, 0.2)  # 0.1 rad away, whatever is commanded
    bench.step(round(2.0 / DT_S) + 1)
    assert bench.machine.state is State.DAMPING
    assert bench.runtime.statistics.events[0].guard == "default pose"


def test_limits_of_further_signals(tmp_path: Path) -> None:
    signals = (*layout().signals, Signal("temperature", "degC", ("motor",)))
    for value, state in ((69.0, State.POLICY), (71.0, State.DAMPING), (math.nan, State.DAMPING)):

        class Warm(Arm):
            heat = value

            def read(self):  # type: ignore[no-untyped-def]
                reading = super().read()
                return dataclasses.replace(reading, values=np.append(reading.values, self.heat))

        arm = Warm(signals=signals)
        arm.heat = 20.0
        bench = Bench(tmp_path, arm=arm, limits=Limits(signals={"temperature": (-math.inf, 70.0)}))
        bench.to_policy()
        arm.heat = value
        bench.step(1)
        assert bench.machine.state is state
    with pytest.raises(UsageError, match="unknown signal in limits 'temprature'"):
        Bench(tmp_path, arm=Arm(signals=signals), limits=Limits(signals={"temprature": (0.0, 70.0)}))


def test_a_further_signal_that_is_never_measured_again_damps(tmp_path: Path) -> None:
    """Although slower than the control loop, such as a battery's voltage once a second."""
    signals = (*layout().signals, Signal("battery", "V", ("0",)))

    class Powered(Arm):
        battery_s = 100.0

        def read(self):  # type: ignore[no-untyped-def]
            reading = super().read()
            times_s = np.append(reading.times_s[:3], self.battery_s)
            return dataclasses.replace(reading, values=np.append(reading.values, 24.0), times_s=times_s)

    for limits, state in (({}, State.POLICY), ({"battery": (21.5, math.inf)}, State.DAMPING)):
        arm = Powered(signals=signals)
        bench = Bench(tmp_path, arm=arm, limits=Limits(signals=limits))
        bench.to_policy()
        arm.battery_s = arm.now_s
        bench.step(round(2.9 / DT_S))
        assert bench.machine.state is State.POLICY
        bench.step(round(0.2 / DT_S))
        assert bench.machine.state is state
        if limits:
            assert bench.runtime.statistics.events[0].what == "age of battery (s)"
        assert bench.runtime.statistics.age.summary()["worst_s"] < 0.002  # of what the policy takes


@pytest.mark.parametrize("mode", ["position", "velocity", "effort"])
def test_a_joint_beyond_its_range_damps(tmp_path: Path, mode: str) -> None:
    """Its range is [-1.5, 1.5] rad; 1.2 of it reaches to 1.8."""
    made = contract()
    assert made.robot is not None
    gains = {"position": (KP_, KD_), "velocity": (0.0, 3.0), "effort": (0.0, 0.0)}[mode]
    drives = tuple(
        dataclasses.replace(d, mode=mode, kp=gains[0], kd=gains[1], safe=None) for d in made.robot.drives
    )
    made = dataclasses.replace(made, robot=dataclasses.replace(made.robot, drives=drives))
    for position, state in ((1.79, State.POLICY), (1.81, State.DAMPING), (-1.81, State.DAMPING)):
        bench = Bench(tmp_path, made=made)
        bench.to_policy()
        bench.arm.spoil = lambda values, position=position: values.__setitem__(1, position)  # type: ignore[misc]
        bench.step(1)
        assert bench.machine.state is state
        if state is State.DAMPING:
            limit = math.copysign(1.8, position)
            (event,) = bench.runtime.statistics.events
            assert str(event) == f"joint position: position of elbow (rad) is {position}, limit {limit}"


def test_a_tilt_guard_that_was_asked_for_needs_its_signal(tmp_path: Path) -> None:
    made = contract(inputs=contract().inputs[:2])
    for limits, refused in ((Limits(), False), (Limits(tilt_rad=4.0), False), (Limits(tilt_rad=1.0), True)):
        arm = Arm(signals=layout().signals[:2])
        if refused:
            with pytest.raises(UsageError, match="tilt_rad needs the robot to publish 'projected_gravity'"):
                Bench(tmp_path, arm=arm, made=made, limits=limits)
        else:
            assert Bench(tmp_path, arm=arm, made=made, limits=limits).runtime.binding.gravity is None
