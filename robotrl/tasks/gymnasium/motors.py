"""Action terms of models that are driven by motors, some of them without a name of their own."""

from __future__ import annotations

import mujoco

from robotrl.core.types import ActionTerm

_HINGE = int(mujoco.mjtJoint.mjJNT_HINGE)


def motor_terms(model: mujoco.MjModel) -> tuple[ActionTerm, ...]:
    """Name every motor, or its joint where it has no name.

    A motor of gear 1 is commanded in newton metres (hinge) or newtons (slide); with another gear the
    command is a pure number that the gear turns into these.
    """
    terms = []
    for i in range(model.nu):
        joint = int(model.actuator_trnid[i, 0])
        unit = "N m" if int(model.jnt_type[joint]) == _HINGE else "N"
        low, high = (float(x) for x in model.actuator_ctrlrange[i])
        name = model.actuator(i).name or model.joint(joint).name
        terms.append(ActionTerm(name, unit if model.actuator_gear[i, 0] == 1.0 else "1", low, high))
    return tuple(terms)
