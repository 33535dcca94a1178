"""Replaced actuators by hand-computed torques."""

from __future__ import annotations

import math

import mujoco
import pytest

from robotrl.core.errors import UsageError
from robotrl.sim.actuators import Actuator, Kind, replace_actuators

XML = """
<mujoco>
  <option timestep="0.001" gravity="0 0 0"/>
  <worldbody>
    <body><joint name="knee" axis="0 1 0" range="-90 45" damping="0"/><geom size="0.1" pos="1 0 0"/></body>
    <body pos="0 0 5"><joint name="wheel" axis="0 1 0"/><geom size="0.1" pos="1 0 0"/></body>
  </worldbody>
  <actuator>
    <motor name="knee" joint="knee" gear="20" ctrllimited="true" ctrlrange="-1 1"/>
    <motor name="wheel" joint="wheel" gear="5" ctrllimited="true" ctrlrange="-1 1"/>
  </actuator>
</mujoco>
"""


def compiled(**actuators: Actuator) -> mujoco.MjModel:
    spec = mujoco.MjSpec.from_string(XML)
    replace_actuators(spec, actuators)
    return spec.compile()


def torque(model: mujoco.MjModel, command: float, angle: float = 0.0, speed: float = 0.0) -> float:
    """Of the knee, N m."""
    data = mujoco.MjData(model)
    data.qpos[0], data.qvel[0], data.ctrl[0] = angle, speed, command
    mujoco.mj_forward(model, data)
    return float(data.qfrc_actuator[0])


def test_position_servo() -> None:
    model = compiled(legs=Actuator(Kind.POSITION, "knee", kp=30.0, kd=2.0, torque_limit_nm=12.0))
    assert torque(model, 0.5, 0.2, 1.5) == pytest.approx(30 * (0.5 - 0.2) - 2 * 1.5)
    assert torque(model, 0.5, -0.5) == 12.0
    assert model.actuator_ctrlrange[0].tolist() == pytest.approx([-math.pi / 2, math.pi / 4])
    # the other actuator is as it was
    assert model.actuator_gear[1, 0] == 5.0 and model.actuator_ctrlrange[1].tolist() == [-1.0, 1.0]


def test_velocity_servo() -> None:
    model = compiled(legs=Actuator(Kind.VELOCITY, "knee", kd=3.0, command_range=(-4.0, 4.0)))
    assert torque(model, 2.0, 0.3, 0.5) == pytest.approx(3 * (2.0 - 0.5))


def test_torque_commands_are_in_newton_metres() -> None:
    model = compiled(all=Actuator(Kind.TORQUE))
    assert model.actuator_ctrlrange.tolist() == [[-20.0, 20.0], [-5.0, 5.0]]
    assert torque(model, 7.0) == 7.0
    model = compiled(all=Actuator(Kind.TORQUE, torque_limit_nm=3.0, armature_kg_m2=0.02))
    assert model.actuator_ctrlrange[0].tolist() == [-3.0, 3.0]
    assert model.dof_armature.tolist() == [0.02, 0.02]


@pytest.mark.parametrize("speed", [-6.0, 0.0, 1.0, 2.5, 4.0, 7.0])
def test_dc_motor_is_a_servo_below_its_torque_speed_line(speed: float) -> None:
    motor = Actuator(
        Kind.DC_MOTOR,
        "knee",
        kp=20.0,
        kd=0.5,
        stall_torque_nm=10.0,
        no_load_speed_rad_s=5.0,
        torque_limit_nm=8.0,
    )
    model = compiled(legs=motor)
    for command in (-1.2, 0.0, 0.7):
        wanted = 20.0 * (command - 0.1) - 0.5 * speed
        line = sorted([10.0 * (-1.0 - speed / 5.0), 10.0 * (1.0 - speed / 5.0)])
        expected = max(-8.0, min(8.0, max(line[0], min(line[1], wanted))))
        assert torque(model, command, 0.1, speed) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("kind", [Kind.TORQUE, Kind.POSITION])
def test_first_order_lag(kind: Kind) -> None:
    gains = {"kp": 10.0, "kd": 0.0} if kind is Kind.POSITION else {"torque_limit_nm": 10.0}
    model = compiled(legs=Actuator(kind, "knee", time_constant_s=0.02, **gains))
    data = mujoco.MjData(model)
    data.ctrl[0] = 0.5
    for _ in range(20):
        mujoco.mj_step(model, data)
    assert data.act[0] == pytest.approx(0.5 * (1 - math.exp(-0.020 / 0.02)), rel=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": Kind.POSITION, "kp": 1.0}, "position actuator needs kd"),
        ({"kind": Kind.TORQUE, "kp": 1.0}, "takes no kp"),
        ({"kind": Kind.DC_MOTOR, "kp": 1.0, "kd": 1.0, "stall_torque_nm": 1.0}, "no_load_speed_rad_s"),
        ({"kind": Kind.VELOCITY, "kd": 1.0}, "needs command_range"),
        ({"kind": Kind.POSITION, "kp": -1.0, "kd": 1.0}, "kp must be above"),
        ({"kind": Kind.TORQUE, "command_range": (2.0, 1.0)}, "low < high"),
    ],
)
def test_settings_that_make_no_actuator_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Actuator(**options)


def test_what_does_not_fit_the_model_is_refused() -> None:
    servo = {"kp": 1.0, "kd": 1.0}
    with pytest.raises(UsageError, match="no actuator matches"):
        compiled(legs=Actuator(Kind.POSITION, "hip", **servo))
    with pytest.raises(UsageError, match="joint 'wheel' has no range"):
        compiled(legs=Actuator(Kind.POSITION, "wheel", **servo))
    with pytest.raises(UsageError, match=r"set by actuators\.a already"):
        compiled(a=Actuator(Kind.TORQUE), b=Actuator(Kind.TORQUE, "knee"))
