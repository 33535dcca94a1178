"""Actuators of a model replaced before it is compiled: what drives a joint on the real robot.

All are evaluated at every physics step: servos close their loop at the physics rate whatever the control
rate. They are MuJoCo's own, except learned ones, whose torque `network_actuators` sets.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import mujoco

from robotrl.core.checks import above, at_least
from robotrl.core.errors import RobotrlError, UsageError
from robotrl.sim.actuator_network import ActuatorNetwork
from robotrl.sim.draws import matching


class Kind(enum.Enum):
    """What the command means."""

    TORQUE = "torque"
    POSITION = "position"
    VELOCITY = "velocity"
    DC_MOTOR = "dc_motor"
    NETWORK = "network"


_MOTOR = ("stall_torque_nm", "no_load_speed_rad_s")


@dataclass
class Actuator:
    """How some actuators of the model are driven. A field that is null keeps the model's value."""

    kind: Kind
    """torque; position (PD servo); velocity (P servo); dc_motor (position servo whose torque is bounded by
    the torque-speed line of a motor); network (position servo learned from logs of the real joint)."""
    names: str = ".*"
    """Regular expression that the whole name of an actuator matches."""
    kp: float | None = None
    """Position gain, N m/rad (N/m for slides); needed by position and dc_motor."""
    kd: float | None = None
    """Velocity gain, N m s/rad (N s/m for slides); needed by position, velocity and dc_motor."""
    torque_limit_nm: float | None = None
    """Largest torque, N m (N for slides); null for none, and for the largest in the logs of a network."""
    stall_torque_nm: float | None = None
    """Torque of a dc_motor at standstill and full voltage, N m; it falls linearly with speed."""
    no_load_speed_rad_s: float | None = None
    """Speed at which a dc_motor at full voltage has no torque left, rad/s."""
    time_constant_s: float | None = None
    """Of a first-order lag between command and effect, s; null for none. Not for dc_motor and network."""
    armature_kg_m2: float | None = None
    """Reflected rotor inertia (rotor inertia times gear ratio squared), kg m^2 (kg for slides)."""
    command_range: tuple[float, float] | None = None
    """Commands for an action of -1 and 1: N m, rad (m) or rad/s (m/s). Null: the torque limit for torque, the
    joint's range for position, dc_motor and network."""
    network: Path | None = None
    """File that `robotrl actuator-net` made; needed by network."""

    def __post_init__(self) -> None:
        above(self, 0.0, "kp", "torque_limit_nm", "time_constant_s", *_MOTOR)
        at_least(self, 0.0, "kd", "armature_kg_m2")
        needed = {
            Kind.TORQUE: (),
            Kind.POSITION: ("kp", "kd"),
            Kind.VELOCITY: ("kd", "command_range"),
            Kind.DC_MOTOR: ("kp", "kd", *_MOTOR),
            Kind.NETWORK: ("network",),
        }[self.kind]
        unused = {
            Kind.TORQUE: ("kp", "kd", *_MOTOR, "network"),
            Kind.POSITION: (*_MOTOR, "network"),
            Kind.VELOCITY: ("kp", *_MOTOR, "network"),
            Kind.DC_MOTOR: ("time_constant_s", "network"),
            Kind.NETWORK: ("kp", "kd", *_MOTOR, "time_constant_s"),
        }[self.kind]
        for name in needed:
            if getattr(self, name) is None:
                raise ValueError(f"a {self.kind.value} actuator needs {name}")
        for name in unused:
            if getattr(self, name) is not None:
                raise ValueError(f"a {self.kind.value} actuator takes no {name}")
        if self.command_range is not None:
            low, high = self.command_range
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise ValueError(f"command_range must be [low, high] with low < high, got {[low, high]}")


def replace_actuators(spec: mujoco.MjSpec, actuators: Mapping[str, Actuator]) -> None:
    """Change the actuators of a model before it is compiled.

    Raises:
        UsageError: a pattern matches nothing, an actuator does not drive a joint, or no command range is
            known.
    """
    taken: dict[int, str] = {}
    objects = list(spec.actuators)
    for name, chosen in actuators.items():
        where = f"actuators.{name}"
        for i in matching(chosen.names, [o.name for o in objects], "actuator", where):
            if i in taken:
                raise UsageError(f"{where}: actuator {objects[i].name!r} is set by {taken[i]} already")
            taken[i] = where
            _replace(spec, objects[i], chosen, where)


def _replace(spec: mujoco.MjSpec, actuator: mujoco.MjsActuator, chosen: Actuator, where: str) -> None:
    joint = spec.joint(actuator.target)
    if int(actuator.trntype) != int(mujoco.mjtTrn.mjTRN_JOINT) or joint is None:
        raise UsageError(f"{where}: actuator {actuator.name!r} does not drive a joint")
    command_range = _command_range(spec, actuator, joint, chosen, where)
    if chosen.kind is Kind.DC_MOTOR:
        _set_dc_motor(actuator, chosen)
    elif chosen.kind is Kind.POSITION:
        actuator.set_to_position(kp=chosen.kp, kv=chosen.kd)
    elif chosen.kind is Kind.VELOCITY:
        actuator.set_to_velocity(kv=chosen.kd)
    elif chosen.kind is Kind.NETWORK:
        _set_network(actuator, joint, where)
    else:
        actuator.set_to_motor()
    if chosen.time_constant_s is not None:
        actuator.dyntype = mujoco.mjtDyn.mjDYN_FILTEREXACT
        actuator.dynprm[0] = chosen.time_constant_s
    actuator.gear[:] = [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    actuator.ctrllimited, actuator.ctrlrange[:] = True, command_range
    limit_nm = _torque_limit_nm(chosen, where)
    if limit_nm is not None:
        actuator.forcelimited = True
        actuator.forcerange[:] = [-limit_nm, limit_nm]
    if chosen.armature_kg_m2 is not None:
        joint.armature = chosen.armature_kg_m2


def _set_dc_motor(actuator: mujoco.MjsActuator, chosen: Actuator) -> None:
    """Close a PD loop around a motor whose voltage is bounded; voltages as shares of the full one."""
    full_voltage = 1.0
    actuator.set_to_dcmotor(
        motorconst=[0.0, 0.0],
        resistance=0.0,
        nominal=[full_voltage, chosen.stall_torque_nm, chosen.no_load_speed_rad_s],
        controller=[chosen.kp, 0.0, chosen.kd, 0.0, 0.0, full_voltage],
        ctrlspec=int(mujoco.mjtCtrlInput.mjINPUT_POS),
    )


def _set_network(actuator: mujoco.MjsActuator, joint: mujoco.MjsJoint, where: str) -> None:
    """Make an actuator whose command does nothing by itself and whose bias force is set from outside."""
    if int(joint.type) not in (int(mujoco.mjtJoint.mjJNT_HINGE), int(mujoco.mjtJoint.mjJNT_SLIDE)):
        raise UsageError(f"{where}: joint {joint.name!r} is neither a hinge nor a slide")
    actuator.set_to_motor()
    actuator.gainprm[0] = 0.0
    actuator.biastype = mujoco.mjtBias.mjBIAS_AFFINE


def _torque_limit_nm(chosen: Actuator, where: str) -> float | None:
    if chosen.network is None:
        return chosen.torque_limit_nm
    try:
        learned_nm = ActuatorNetwork.load(chosen.network).torque_limit_nm
    except RobotrlError as error:
        raise UsageError(f"{where}: {error}") from error
    return learned_nm if chosen.torque_limit_nm is None else min(learned_nm, chosen.torque_limit_nm)


def _command_range(
    spec: mujoco.MjSpec,
    actuator: mujoco.MjsActuator,
    joint: mujoco.MjsJoint,
    chosen: Actuator,
    where: str,
) -> tuple[float, float]:
    if chosen.command_range is not None:
        return chosen.command_range
    if chosen.kind is Kind.TORQUE:
        if chosen.torque_limit_nm is not None:
            return -chosen.torque_limit_nm, chosen.torque_limit_nm
        # a motor of gear g takes commands in units of g N m
        low, high = (float(end) * float(actuator.gear[0]) for end in actuator.ctrlrange)
    else:
        low, high = (float(end) for end in joint.range)
        if spec.compiler.degree and int(joint.type) == int(mujoco.mjtJoint.mjJNT_HINGE):
            low, high = math.radians(low), math.radians(high)
    if not low < high:
        raise UsageError(
            f"{where}: joint {joint.name!r} has no range to command actuator {actuator.name!r} in: "
            "give command_range"
        )
    return low, high
