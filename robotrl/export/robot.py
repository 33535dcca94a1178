"""What a contract says about the robot, read from the compiled model and the task's realism."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import mujoco

from robotrl.core.types import Specs
from robotrl.deploy.robot_contract import Drive, Joint, Robot
from robotrl.sim.actuators import Actuator, Kind
from robotrl.sim.draws import matching
from robotrl.sim.latency import Delay
from robotrl.tasks.task import Task

HOME = "home"
"""The keyframe of the pose in which a policy takes over; without it that is the model's own pose."""

_UNITS = {int(mujoco.mjtJoint.mjJNT_HINGE): "rad", int(mujoco.mjtJoint.mjJNT_SLIDE): "m"}
_ON_JOINT = {int(mujoco.mjtTrn.mjTRN_JOINT), int(mujoco.mjtTrn.mjTRN_JOINTINPARENT)}
# none, or a first-order lag between command and effect
_DIRECT = {
    int(mujoco.mjtDyn.mjDYN_NONE),
    int(mujoco.mjtDyn.mjDYN_FILTER),
    int(mujoco.mjtDyn.mjDYN_FILTEREXACT),
}
_FIXED_GAIN = int(mujoco.mjtGain.mjGAIN_FIXED)
_BIAS_TERMS = {int(mujoco.mjtBias.mjBIAS_NONE): 0, int(mujoco.mjtBias.mjBIAS_AFFINE): 3}


def describe_robot(task: Task, specs: Specs) -> Robot:
    """Describe joints with one degree of freedom, what executes each action, and the delays of training.

    An output term is an actuator's command where it bears the actuator's name, or that of the joint of a
    nameless actuator; the drive of another one has mode "other".

    Args:
        task: its model and realism are read.
        specs: what the task commands.
    """
    model = task.build_model()
    realism = task.realism.at_the_end()
    names = [model.actuator(i).name for i in range(model.nu)]
    replaced = {
        i: chosen
        for key, chosen in realism.actuators.items()
        for i in matching(chosen.names, names, "actuator", f"actuators.{key}")
    }
    drives = []
    for i, term in enumerate(specs.action):
        rest = min(max(0.0, term.low), term.high)
        drive = Drive(term.name, "other", None, 0.0, 0.0, None, rest)
        if specs.action_dim == model.nu and term.name in _names(model, i):
            drive = _drive(model, i, drive, replaced.get(i))
        drives.append(drive)
    return Robot(
        name=bytes(model.names).split(b"\0")[0].decode(),
        joints=_joints(model),
        drives=tuple(drives),
        action_delay_s=_delay_s(realism.actuator_delays, names),
        observation_delay_s=_delay_s(
            realism.sensor_delays, [model.sensor(i).name for i in range(model.nsensor)]
        ),
    )


def _joints(model: mujoco.MjModel) -> tuple[Joint, ...]:
    homes = [i for i in range(model.nkey) if model.key(i).name == HOME]
    pose = model.key_qpos[homes[0]] if homes else model.qpos0
    joints = []
    for i in range(model.njnt):
        unit = _UNITS.get(int(model.jnt_type[i]))
        if unit is None:
            continue
        default = float(pose[model.jnt_qposadr[i]])
        joint = Joint(_joint_name(model, i), unit, None, None, default)
        if model.jnt_limited[i]:
            lower, upper = map(float, model.jnt_range[i])
            joint = dataclasses.replace(joint, lower=lower, upper=upper)
        joints.append(joint)
    return tuple(joints)


def _joint_name(model: mujoco.MjModel, joint: int) -> str:
    return model.joint(joint).name or f"joint_{joint}"


def joint_id(model: mujoco.MjModel, name: str) -> int:
    """Return the joint that a contract calls `name`."""
    found = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_JOINT, name)
    return int(name.removeprefix("joint_")) if found < 0 else int(found)


def _names(model: mujoco.MjModel, actuator: int) -> set[str]:
    """Return what an actuator's command may be called."""
    name = model.actuator(actuator).name
    if name:
        return {name}
    on_joint = int(model.actuator_trntype[actuator]) in _ON_JOINT
    joint = {_joint_name(model, int(model.actuator_trnid[actuator, 0]))} if on_joint else set[str]()
    return {f"actuator_{actuator}"} | joint


def _drive(model: mujoco.MjModel, i: int, other: Drive, replaced: Actuator | None) -> Drive:
    r"""Describe an actuator by its gain and bias, seen from its joint.

    MuJoCo's actuator of gear g makes the joint force g (k u + b_0 + b_1 g q + b_2 g qd). With b_0 = 0 that is
    kp (c u - q) - kd qd for kp = -b_1 g^2, kd = -b_2 g^2, c = k g / kp; kd (c u - qd) where b_1 = 0; and c u
    where both are.

    Args:
        model: compiled.
        i: the actuator.
        other: the drive it is if it is none of these.
        replaced: what the task's realism put in the actuator's place.
    """
    joint = int(model.actuator_trnid[i, 0])
    if (
        int(model.actuator_trntype[i]) not in _ON_JOINT
        or int(model.jnt_type[joint]) not in _UNITS
        or (replaced is not None and replaced.kind is Kind.NETWORK)
    ):
        return other
    name = _joint_name(model, joint)
    gear = float(model.actuator_gear[i, 0])
    effort_limit = _effort_limit(model, i, joint)
    if replaced is not None and replaced.kind is Kind.DC_MOTOR:
        assert replaced.kp is not None and replaced.kd is not None and replaced.stall_torque_nm is not None
        stall = min(replaced.stall_torque_nm, effort_limit or math.inf)
        return Drive(other.action, "position", name, replaced.kp, replaced.kd, stall, None)
    terms = _BIAS_TERMS.get(int(model.actuator_biastype[i]))
    if (
        terms is None
        or int(model.actuator_gaintype[i]) != _FIXED_GAIN
        or int(model.actuator_dyntype[i]) not in _DIRECT
    ):
        return other
    gain = float(model.actuator_gainprm[i, 0])
    b_0, b_1, b_2 = (*map(float, model.actuator_biasprm[i, :terms]), *[0.0] * (3 - terms))
    # adding 0 turns -0 into 0
    kp, kd = -b_1 * gear * gear + 0.0, -b_2 * gear * gear + 0.0
    if b_0 != 0.0 or gain * gear == 0.0 or kp < 0.0 or kd < 0.0:
        return other
    if kp > 0.0:
        return Drive(other.action, "position", name, kp, kd, effort_limit, None, gain * gear / kp)
    if kd > 0.0:
        return Drive(other.action, "velocity", name, 0.0, kd, effort_limit, other.safe, gain * gear / kd)
    if effort_limit is None and model.actuator_ctrllimited[i]:
        effort_limit = abs(gain * gear) * float(max(map(abs, model.actuator_ctrlrange[i])))
    return Drive(other.action, "effort", name, 0.0, 0.0, effort_limit, other.safe, gain * gear)


def _effort_limit(model: mujoco.MjModel, actuator: int, joint: int) -> float | None:
    """Return the largest force that an actuator can put on its joint in both directions, None for any.

    A direction in which there is none at all limits nothing: nothing can be asked for there.
    """
    gear = abs(float(model.actuator_gear[actuator, 0]))
    sides = [math.inf]
    if model.actuator_forcelimited[actuator]:
        sides += [gear * abs(float(side)) for side in model.actuator_forcerange[actuator]]
    if model.jnt_actfrclimited[joint]:
        sides += [abs(float(side)) for side in model.jnt_actfrcrange[joint]]
    limit = min(side for side in sides if side > 0.0)
    return limit if math.isfinite(limit) else None


def _delay_s(delays: Mapping[str, Delay], names: list[str]) -> tuple[float, float]:
    """Return the shortest and the longest delay of any named object, s."""
    ranges = dict.fromkeys(range(len(names)), (0.0, 0.0))
    for name, delay in delays.items():
        for i in matching(delay.names, names, "object", name):
            ranges[i] = (float(delay.range_s[0]), float(delay.range_s[1]))
    return min((low for low, _ in ranges.values()), default=0.0), max(
        (high for _, high in ranges.values()), default=0.0
    )
