"""Commands of drives: their limits, the way to the default pose, gears and damping."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from runtime_common import DEFAULT, DT_S, EFFORT, KD_, KP_, contract

from robotrl.deploy.robot_contract import Drive
from robotrl.deploy.runtime.drives import Drives, minimum_jerk
from robotrl.deploy.runtime.limits import Limits
from robotrl.deploy.runtime.robots.robot import FEEDFORWARD, KD, KP, POSITION, VELOCITY


def drives(**changes: Any) -> Drives:
    made = contract()
    assert made.robot is not None
    return Drives(made, made.robot, Limits(**changes), DT_S)


def test_minimum_jerk_starts_and_ends_at_rest() -> None:
    assert (minimum_jerk(0.0), minimum_jerk(0.5), minimum_jerk(1.0)) == (0.0, 0.5, 1.0)
    h = 1e-4
    for end in (0.0, 1.0):
        inside = abs(end - h)
        assert abs(minimum_jerk(end) - minimum_jerk(inside)) < 11 * h**3  # neither speed nor acceleration


def test_commands_stay_within_the_soft_range() -> None:
    shaped = drives(effort_share=1.0).follow(np.array([1.5, -1.5]), 1.0, np.array([1.4, -1.4]), np.zeros(2))
    np.testing.assert_allclose(shaped.rows[:, POSITION], [0.95 * 1.5, -0.95 * 1.5])
    assert shaped.saturated.tolist() == [True, True]


def test_commands_ask_for_no_more_force_than_the_limit() -> None:
    """q_cmd in [q + (-tau + kd qd) / kp, q + (tau + kd qd) / kp], and the force is the limit at its end."""
    rng = np.random.default_rng(2)
    for _ in range(200):
        q, qd, action = rng.uniform(-1, 1, 2), rng.uniform(-3, 3, 2), rng.uniform(-1.4, 1.4, 2)
        shaped = drives().follow(action, 1.0, q, qd)
        force = KP_ * (shaped.rows[:, POSITION] - q) - KD_ * qd
        assert np.all(np.abs(force) <= EFFORT + 1e-9)
        asked = KP_ * (action - q) - KD_ * qd
        np.testing.assert_array_equal(shaped.saturated, np.abs(asked) > EFFORT)
        np.testing.assert_allclose(shaped.effort_share, np.abs(force) / EFFORT)


def test_commands_move_no_faster_than_the_rate() -> None:
    limited = drives(command_rate=2.0)
    at = np.array([0.1, -0.2])
    limited.start(at)
    for step in range(1, 6):
        shaped = limited.follow(np.array([0.5, -0.201]), 1.0, at, np.zeros(2))
        np.testing.assert_allclose(shaped.rows[:, POSITION], [0.1 + 2.0 * DT_S * step, -0.201])
        assert shaped.saturated.tolist() == [True, False]


def test_the_way_to_the_default_pose_asks_for_no_more_force_than_the_limit() -> None:
    """Total force within the limit, and the target never beyond the joint, however soft the gains."""
    rng = np.random.default_rng(3)
    for share in (0.0, 1e-6, 0.01, 0.5, 1.0):
        for _ in range(50):
            start, q, qd = rng.uniform(-1, 1, 2), rng.uniform(-1, 1, 2), rng.uniform(-2, 2, 2)
            free, cut = drives(), drives(effort_share=0.05)
            for each in (free, cut):
                each.start(start)
            wanted = free.move(share, q, np.zeros(2))[:, POSITION]
            rows = cut.move(share, q, qd)
            damping = -rows[:, KD] * qd
            force = rows[:, KP] * (rows[:, POSITION] - q) + damping
            assert np.all(np.abs(force) <= np.maximum(0.4, np.abs(damping)) + 1e-9)
            assert np.all((rows[:, POSITION] - q) * (rows[:, POSITION] - wanted) <= 1e-12)


def test_the_way_to_the_default_pose_is_no_faster_than_the_rate() -> None:
    limited = drives(command_rate=0.1)
    limited.start(np.array([-0.5, 0.6]))
    assert limited.move_s == pytest.approx(15 / 8 * 1.0 / 0.1)  # the elbow's 1 rad
    assert drives().move_s == 2.0 and drives(command_rate=5.0).move_s == 2.0
    steps = round(limited.move_s / DT_S)
    q = np.array([-0.5, 0.6])
    way = []
    for step in range(steps + 1):
        way.append(limited.move(step / steps, q, np.zeros(2))[:, POSITION])
        q = way[-1]
    speed = np.abs(np.diff(way, axis=0)).max(axis=0) / DT_S
    np.testing.assert_allclose(speed, [0.08, 0.1], rtol=1e-3)
    np.testing.assert_allclose(way[-1], DEFAULT, atol=1e-9)
    # pushed aside by 0.7 rad, which asks for 14 N m of 8; let go, it comes back at the rate too
    for q, expected in ((1.0, 0.6), (0.3, 0.6 - 0.1 * DT_S)):
        held = limited.move(1.0, np.array([q, -0.4]), np.zeros(2))
        np.testing.assert_allclose(held[:, POSITION], [expected, -0.4], atol=1e-9)


def test_blending_starts_at_the_default_pose() -> None:
    for blend in (0.0, 0.25, 1.0):
        shaped = drives().follow(np.array([0.5, -0.1]), blend, np.array(DEFAULT), np.zeros(2))
        expected = np.array(DEFAULT) + blend * (np.array([0.5, -0.1]) - DEFAULT)
        np.testing.assert_allclose(shaped.rows[:, POSITION], expected)


def test_every_mode_of_a_drive_with_its_gear_and_its_damping() -> None:
    made = contract()
    assert made.robot is not None
    body = made.robot
    for drive, row, damping in (
        (
            Drive("shoulder_servo", "position", "shoulder", 20.0, 1.0, None, None, -2.0),
            [-1.0, 0, 0, 20, 1],
            1.0,
        ),
        (Drive("shoulder_servo", "velocity", "shoulder", 0.0, 3.0, None, 0.0, 4.0), [0, 2.0, 0, 0, 3], 3.0),
        (Drive("shoulder_servo", "effort", "shoulder", 0.0, 0.0, 5.0, 0.0, 8.0), [0, 0, 4.0, 0, 0], 0.7),
        (Drive("shoulder_servo", "effort", "shoulder", 0.0, 0.0, 3.0, 0.0, 8.0), [0, 0, 3.0, 0, 0], 0.7),
    ):
        changed = type(body)(body.name, body.joints, (drive, body.drives[1]), (0.0, 0.0), (0.0, 0.0))
        made_drives = Drives(made, changed, Limits(damping_kd=0.7), DT_S)
        shaped = made_drives.follow(np.array([0.5, -0.4]), 1.0, np.array([-0.9, -0.4]), np.zeros(2))
        np.testing.assert_allclose(shaped.rows[0], row)
        np.testing.assert_array_equal(made_drives.damping[0], [0, 0, 0, 0, damping])
    thrust = Drive("shoulder_servo", "other", None, 0.0, 0.0, None, -0.25, 1.0)
    changed = type(body)(body.name, body.joints, (thrust, body.drives[1]), (0.0, 0.0), (0.0, 0.0))
    made_drives = Drives(made, changed, Limits(), DT_S)
    assert made_drives.damping[0, FEEDFORWARD] == -0.25 and made_drives.damping[0, KD] == 0
    shaped = made_drives.follow(np.array([0.75, -0.4]), 0.5, np.array([0.0, -0.4]), np.zeros(2))
    np.testing.assert_array_equal(
        shaped.rows[0, [POSITION, VELOCITY, FEEDFORWARD, KP, KD]], [0, 0, 0.25, 0, 0]
    )
