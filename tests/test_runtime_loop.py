"""The runtime on a robot in memory: states, guards and log, one control step after another."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from runtime_common import AXES, DEFAULT, DT_S, JOINTS, KD_, KP_, Arm, Bench, contract, layout, term

from robotrl.core.errors import RobotrlError, UsageError
from robotrl.deploy.runtime.limits import Limits
from robotrl.deploy.runtime.machine import Machine, State
from robotrl.deploy.runtime.operator import Automatic
from robotrl.deploy.runtime.robots.robot import KD, KP, POSITION, Signal


def test_the_way_from_disarmed_to_the_policy(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    assert bench.machine.state is State.DISARMED
    bench.step(5)
    assert bench.machine.state is State.READY and not bench.arm.sent  # nothing moves before a person says so
    bench.step(1, "go")
    assert bench.machine.state is State.READY  # not without arm
    measured = bench.arm.q.copy()
    bench.step(1, "arm")
    assert bench.machine.state is State.MOVE_TO_DEFAULT
    first = bench.arm.last
    np.testing.assert_allclose(first[:, POSITION], measured, atol=1e-6)  # from where the robot is
    assert np.all(first[:, KP] < 0.02 * KP_)  # softly
    bench.step(round(1.0 / DT_S))
    np.testing.assert_allclose(bench.arm.last[:, POSITION], (measured + np.array(DEFAULT)) / 2)
    bench.step(round(1.0 / DT_S) + 2)
    assert bench.machine.state is State.HOLD
    np.testing.assert_allclose(bench.arm.last[:, POSITION], DEFAULT)
    np.testing.assert_allclose(bench.arm.last[:, KP], KP_)
    np.testing.assert_allclose(bench.arm.last[:, KD], KD_)
    bench.step(1, "go")
    # blended in over 0.5 s: 1/25 of the way after the first of 25 control steps
    expected = np.array(DEFAULT) + (np.array([0.5, 0.2]) - DEFAULT) / 25
    np.testing.assert_allclose(bench.arm.last[:, POSITION], expected, atol=1e-9)
    bench.step(30)
    np.testing.assert_allclose(bench.arm.last[:, POSITION], [0.5, 0.2])
    bench.step(1, "stop")
    assert bench.machine.state is State.DAMPING
    np.testing.assert_array_equal(bench.arm.last[:, [KP, KD]], [[0.0, KD_]] * 2)
    for word in ("arm", "go"):
        bench.step(1, word)
        assert bench.machine.state is State.DAMPING  # latched
    bench.step(1, "reset")
    assert bench.machine.state is State.READY and bench.arm.resets == 1
    assert bench.runtime.summary().events == []


def test_every_word_in_every_state() -> None:
    fitting = {("arm", State.READY), ("go", State.HOLD), ("reset", State.DAMPING)}
    for state in State:
        for word in ("arm", "go", "stop", "reset", "launch"):
            machine = Machine(0.0)
            machine.state = state
            if word == "stop":
                machine.say(word, 1.0)
                assert machine.state is State.DAMPING
            elif (word, state) in fitting:
                machine.say(word, 1.0)
                assert machine.state is not state
            else:
                with pytest.raises(UsageError, match=word):
                    machine.say(word, 1.0)
                assert machine.state is state


def test_a_robot_with_another_order_behaves_the_same(tmp_path: Path) -> None:
    def decide(observation: np.ndarray) -> np.ndarray:
        return np.array([[0.9 * observation[0] - 0.1, 0.2 * observation[3] - 0.5 * observation[1]]])

    sent = []
    for order in ((0, 1), (1, 0)):
        # an arm without stops, which this policy swings beyond its range
        bench = Bench(tmp_path, decide, Arm(order), Limits(range_share=2.0))
        bench.to_policy()
        bench.step(100)
        assert bench.machine.state is State.POLICY
        sent.append(np.array([c.rows[np.argsort(order)] for c in bench.arm.sent]))
        assert bool(bench.runtime.binding.moved) == (order == (1, 0))
    np.testing.assert_array_equal(sent[0], sent[1])
    assert np.ptp(sent[0][:, :, POSITION]) > 0.1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"drives": ("shoulder_servo",)}, "no drive 'elbow_servo'"),
        ({"drives": ("shoulder_servo", "elbow_servo", "elbow_servo")}, "drive 'elbow_servo' is there twice"),
        ({"drives": ("shoulder_servo", "elbow_servo", "gripper")}, "drive 'gripper' is unknown"),
        ({"control_dt_s": 0.0205}, r"a command every 0.0205 s, the policy gives one every 0.02 s"),
        ({"signals": layout().signals[1:]}, "no signal 'joint_position'"),
        ({"signals": layout().signals[:2]}, "no signal 'projected_gravity'"),
        ({"signals": layout().signals[:1] * 2 + layout().signals[1:]}, "'joint_position' is there twice"),
    ],
)
def test_a_robot_that_does_not_fit_is_refused(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(RobotrlError, match=message) as caught:
        Bench(tmp_path, arm=Arm(**changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("elements", "unit", "message"),
    [
        (("shoulder",), "rad", "no element 'elbow'"),
        (("shoulder", "elbw"), "rad", "no element 'elbow'.*did you mean 'elbw'"),
        (("shoulder", "elbow", "elbow"), "rad", "element 'elbow' is there twice"),
        (("shoulder", "elbow", "wrist"), "rad", "'wrist' is unknown"),
        (("shoulder", "elbow"), "deg", "is in 'deg'.*in 'rad'"),
    ],
)
def test_joints_that_do_not_fit_are_refused(
    tmp_path: Path, elements: tuple[str, ...], unit: str, message: str
) -> None:
    signals = (Signal("joint_position", unit, elements), *layout().signals[1:])
    with pytest.raises(RobotrlError, match=message):
        Bench(tmp_path, arm=Arm(signals=signals))


@pytest.mark.parametrize(
    ("units", "published", "message"),
    [
        (("rad", "rad"), ("deg", "deg/s"), r"'joint_position' is in 'deg', its joints in 'rad'"),
        (("rad", "rad"), ("rad", "rpm"), r"'joint_velocity' is in 'rpm', its joints in 'rad/s'"),
        (("m", "m"), ("rad", "rad/s"), r"'joint_position' is in 'rad', its joints in 'm'"),
        (("m", "rad"), ("mm", "rad/s"), r"is in 'mm', its joints in 'm' or 'rad'"),
        (("m", "rad"), ("rad", "rad/s"), None),
    ],
)
def test_joints_are_in_the_units_of_the_contract_although_no_policy_takes_them(
    tmp_path: Path, units: tuple[str, str], published: tuple[str, str], message: str | None
) -> None:
    made = contract(inputs=(term("projected_gravity", 0, "1", AXES),))
    assert made.robot is not None
    joints = tuple(dataclasses.replace(j, unit=u) for j, u in zip(made.robot.joints, units, strict=True))
    made = dataclasses.replace(made, robot=dataclasses.replace(made.robot, joints=joints))
    position, velocity = published
    of_joints = (Signal("joint_position", position, JOINTS), Signal("joint_velocity", velocity, JOINTS))
    arm = Arm(signals=(*of_joints, layout().signals[2]))
    if message is None:
        Bench(tmp_path, arm=arm, made=made)
        return
    with pytest.raises(RobotrlError, match=message):
        Bench(tmp_path, arm=arm, made=made)


def test_a_control_rate_within_a_percent_is_accepted(tmp_path: Path) -> None:
    Bench(tmp_path, arm=Arm(control_dt_s=0.0201))


def test_a_history_is_the_robots_last_control_steps_oldest_first(tmp_path: Path) -> None:
    """What training shows, by hand: q of 2 steps ago, 1 step ago and now, of reversed joints."""
    inputs = tuple(term("joint_position", 2 * i, "rad", JOINTS, age) for i, age in enumerate((2, 1, 0)))
    seen: list[np.ndarray] = []

    def decide(observation: np.ndarray) -> np.ndarray:
        seen.append(observation.copy())
        return np.array([[0.5, 0.2]])

    bench = Bench(tmp_path, decide, Arm((1, 0)), made=contract(inputs=inputs))
    bench.to_hold()
    poses = []
    bench.arm.spoil = lambda values: poses.append(values[[1, 0]].astype(np.float32))
    bench.step(1, "go")
    bench.step(4)
    first = poses[0]
    np.testing.assert_array_equal(seen[0], np.concatenate([first, first, first]))
    np.testing.assert_array_equal(seen[1], np.concatenate([first, first, poses[1]]))
    for i in range(2, 5):
        np.testing.assert_array_equal(seen[i], np.concatenate(poses[i - 2 : i + 1]))
    assert not np.array_equal(poses[0], poses[4])


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


def test_a_bad_reading_before_arm_is_not_where_the_move_begins(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.arm.spoil = lambda values: values.__setitem__(0, math.nan)
    bench.step(2)
    bench.arm.spoil = lambda values: None
    bench.step(1, "arm")
    np.testing.assert_allclose(bench.arm.last[:, POSITION], [-0.5, 0.6], atol=1e-6)
    bench.step(round(2.0 / DT_S) + 1)
    assert bench.machine.state is State.HOLD
    assert all(np.isfinite(command.rows).all() for command in bench.arm.sent)


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


def test_a_reading_that_was_bad_is_forgotten_when_it_is_armed_again(tmp_path: Path) -> None:
    inputs = tuple(term("joint_position", 2 * i, "rad", JOINTS, age) for i, age in enumerate((3, 2, 1, 0)))
    bench = Bench(tmp_path, made=contract(inputs=inputs))
    bench.to_policy()
    bench.arm.spoil = lambda values: values.__setitem__(0, math.nan)
    bench.step(1)
    assert bench.machine.state is State.DAMPING
    bench.arm.spoil = lambda values: None
    bench.step(2, "reset")
    bench.step(1, "arm")
    assert bench.machine.state is State.MOVE_TO_DEFAULT


@pytest.mark.parametrize("count", [0, 3])
def test_a_robot_that_was_never_armed_is_sent_nothing_at_the_end(tmp_path: Path, count: int) -> None:
    """In DISARMED and in READY."""
    bench, polls = Bench(tmp_path), iter(range(100))

    class Person:
        def poll(self, state: State) -> list[str]:
            return ["quit"] if next(polls) == count else []

        def answer(self, text: str) -> None:
            pass

    assert bench.runtime.run(Person(), None) is False
    assert not bench.machine.armed and not bench.arm.sent and next(polls) == count + 1


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


def test_without_any_reading_nothing_moves(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.arm.silent = True
    bench.step(2)
    bench.step(1, "arm")
    assert bench.machine.state is State.DAMPING


def test_a_stall_is_not_made_up_for(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.to_policy()
    before = len(bench.arm.sent)
    bench.arm.now_s += 5 * DT_S  # the loop was elsewhere
    began_s = bench.arm.now_s
    bench.step(10)
    # one late command, then those of the grid of deadlines: the first of these may be near
    assert len(bench.arm.sent) - before == 10
    assert bench.arm.now_s - began_s >= 7.9 * DT_S
    assert bench.rate.overruns == 1 and bench.machine.state is State.POLICY


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


def test_a_self_test_that_fails_keeps_the_robot_from_being_armed(tmp_path: Path) -> None:
    def self_test() -> None:
        raise RobotrlError("the recorded actions do not come out again")

    bench = Bench(tmp_path, self_test=self_test)
    bench.step(3)
    bench.step(3, "arm")
    assert bench.machine.state is State.DAMPING


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


def test_whatever_breaks_the_loop_the_last_command_damps(tmp_path: Path) -> None:
    def decide(observation: np.ndarray) -> np.ndarray:
        raise ZeroDivisionError

    bench = Bench(tmp_path, decide)
    with pytest.raises(ZeroDivisionError):
        bench.runtime.run(Automatic(), 10.0)
    assert bench.machine.state is State.POLICY
    np.testing.assert_array_equal(bench.arm.last, bench.arm.damping)
    assert not bench.arm.left  # one packet may be lost: the watchdog goes on damping
