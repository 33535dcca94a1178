"""Names and units of motor commands, beyond what a model's actuators say themselves."""

from __future__ import annotations

from dataclasses import replace

import mujoco

from robotrl.core.types import ActionTerm

_HINGE = int(mujoco.mjtJoint.mjJNT_HINGE)
_FIXED_GAIN, _NO_BIAS = int(mujoco.mjtGain.mjGAIN_FIXED), int(mujoco.mjtBias.mjBIAS_NONE)


def describe_motors(terms: tuple[ActionTerm, ...], model: mujoco.MjModel) -> tuple[ActionTerm, ...]:
    """Name nameless actuators after the joint that each drives, and give the commands of motors a unit.

    A motor of gear 1 is commanded in newton metres (hinge) or newtons (slide). With another gear, as
    with actuators that are no motors, the command stays what it was, a pure number.
    """
    return tuple(_describe(term, model, i) for i, term in enumerate(terms))


def _describe(term: ActionTerm, model: mujoco.MjModel, actuator: int) -> ActionTerm:
    joint = int(model.actuator_trnid[actuator, 0])
    name = model.actuator(actuator).name or model.joint(joint).name
    motor = (
        int(model.actuator_gaintype[actuator]) == _FIXED_GAIN
        and int(model.actuator_biastype[actuator]) == _NO_BIAS
        and model.actuator_gainprm[actuator, 0] * model.actuator_gear[actuator, 0] == 1.0
    )
    if not motor:
        return replace(term, name=name)
    return replace(term, name=name, unit="N m" if int(model.jnt_type[joint]) == _HINGE else "N")
