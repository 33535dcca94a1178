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


def test_a_self_test_that_fails_keeps_the_robot_from_being_armed(tmp_path: Path) -> None:
    def self_test() -> None:
        raise RobotrlError("the recorded actions do not come out again")

    bench = Bench(tmp_path, self_test=self_test)
    bench.step(3)
    bench.step(3, "arm")
    assert bench.machine.state is State.DAMPING


def test_whatever_breaks_the_loop_the_last_command_damps(tmp_path: Path) -> None:
    def decide(observation: np.ndarray) -> np.ndarray:
        raise ZeroDivisionError

    bench = Bench(tmp_path, decide)
    with pytest.raises(ZeroDivisionError):
        bench.runtime.run(Automatic(), 10.0)
    assert bench.machine.state is State.POLICY
    np.testing.assert_array_equal(bench.arm.last, bench.arm.damping)
    assert not bench.arm.left  # one packet may be lost: the watchdog goes on damping
