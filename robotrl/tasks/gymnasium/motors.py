"""Names and units of commands, beyond what a model's actuators say themselves."""

from __future__ import annotations

from dataclasses import replace

import mujoco

from robotrl.core.types import ActionTerm

_HINGE = int(mujoco.mjtJoint.mjJNT_HINGE)
_FIXED_GAIN = int(mujoco.mjtGain.mjGAIN_FIXED)
_NO_BIAS, _AFFINE_BIAS = int(mujoco.mjtBias.mjBIAS_NONE), int(mujoco.mjtBias.mjBIAS_AFFINE)


def describe_motors(terms: tuple[ActionTerm, ...], model: mujoco.MjModel) -> tuple[ActionTerm, ...]:
    """Name nameless actuators after the joint that each drives, and give commands a unit where they have one.

    A motor of gear 1 is commanded in newton metres (hinge) or newtons (slide), a velocity servo of gear 1
    in radians or metres per second. With another gear, as with other actuators, the command stays what it
    was, a pure number.
    """
    return tuple(_describe(term, model, i) for i, term in enumerate(terms))


def _describe(term: ActionTerm, model: mujoco.MjModel, actuator: int) -> ActionTerm:
    joint = int(model.actuator_trnid[actuator, 0])
    name = model.actuator(actuator).name or model.joint(joint).name
    hinge = int(model.jnt_type[joint]) == _HINGE
    gear, gain = float(model.actuator_gear[actuator, 0]), float(model.actuator_gainprm[actuator, 0])
    bias = int(model.actuator_biastype[actuator])
    if int(model.actuator_gaintype[actuator]) != _FIXED_GAIN:
        return replace(term, name=name)
    if bias == _NO_BIAS and gain * gear == 1.0:
        return replace(term, name=name, unit="N m" if hinge else "N")
    if (
        bias == _AFFINE_BIAS
        and gear == 1.0
        and model.actuator_biasprm[actuator, :3].tolist() == [0, 0, -gain]
    ):
        return replace(term, name=name, unit="rad/s" if hinge else "m/s")
    return replace(term, name=name)
