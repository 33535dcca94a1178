"""Fields of MjModel and MjOption by name; those of MjOption are named "opt.gravity" and so on.

Besides MuJoCo's own names there are `actuator_kp` and `actuator_kd`, the gains of position servos, each of
which MuJoCo keeps in one or two numbers of `actuator_gainprm` and `actuator_biasprm`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import mujoco
import numpy as np
import torch
from torch import Tensor

from robotrl.core.errors import UsageError
from robotrl.sim.draws import matching

if TYPE_CHECKING:
    from robotrl.sim.sim import Sim


NOT_NEGATIVE = (
    "body_mass", "body_inertia", "geom_size", "geom_friction", "dof_damping", "dof_armature",
    "dof_frictionloss", "jnt_stiffness", "tendon_damping", "tendon_stiffness", "tendon_frictionloss",
    "actuator_armature", "actuator_damping", "actuator_kp", "actuator_kd", "opt.density", "opt.viscosity",
)  # fmt: skip
"""Fields that physics keeps from being negative."""

# a field's prefix says whose rows it has
_OBJECTS = {
    "body": ("nbody", mujoco.mjtObj.mjOBJ_BODY),
    "jnt": ("njnt", mujoco.mjtObj.mjOBJ_JOINT),
    "geom": ("ngeom", mujoco.mjtObj.mjOBJ_GEOM),
    "site": ("nsite", mujoco.mjtObj.mjOBJ_SITE),
    "cam": ("ncam", mujoco.mjtObj.mjOBJ_CAMERA),
    "light": ("nlight", mujoco.mjtObj.mjOBJ_LIGHT),
    "mat": ("nmat", mujoco.mjtObj.mjOBJ_MATERIAL),
    "pair": ("npair", mujoco.mjtObj.mjOBJ_PAIR),
    "eq": ("neq", mujoco.mjtObj.mjOBJ_EQUALITY),
    "tendon": ("ntendon", mujoco.mjtObj.mjOBJ_TENDON),
    "actuator": ("nu", mujoco.mjtObj.mjOBJ_ACTUATOR),
    "sensor": ("nsensor", mujoco.mjtObj.mjOBJ_SENSOR),
}


class Part(NamedTuple):
    """Where MuJoCo keeps a quantity: some columns of a field's rows, possibly with the opposite sign."""

    field: str
    columns: tuple[int, ...] | None
    sign: float


# force = kp (ctrl - position) - kd velocity = gainprm[0] ctrl + biasprm[1] position + biasprm[2] velocity
_GAINS = {
    "actuator_kp": (Part("actuator_gainprm", (0,), 1.0), Part("actuator_biasprm", (1,), -1.0)),
    "actuator_kd": (Part("actuator_biasprm", (2,), -1.0),),
}


def parts_of(field: str, columns: list[int] | None, where: str) -> tuple[Part, ...]:
    """Return where a field is kept; for all but the gains of servos that is the field itself.

    Raises:
        UsageError: columns are given for a gain.
    """
    if field not in _GAINS:
        return (Part(field, None if columns is None else tuple(columns), 1.0),)
    if columns is not None:
        raise UsageError(f"{where}: {field} is one number per actuator: give no columns")
    return _GAINS[field]


def rows_of(model: mujoco.MjModel, field: str, names: str, where: str) -> list[int]:
    """Return the rows of a field that belong to the objects whose whole names match a pattern.

    Args:
        model: compiled.
        field: of MjModel, a gain or "opt....".
        names: regular expression; of joints for `dof_` and `qpos` fields.
        where: what asks, for messages.

    Raises:
        UsageError: nothing matches, the field has no named rows, or a gain is asked of what is no servo.
    """
    if field.startswith("opt."):
        return [0]
    if field.startswith("dof_") or field.startswith("qpos"):
        joints = matching(names, names_of(model, "jnt"), "joint", where)
        starts = model.jnt_dofadr if field.startswith("dof_") else model.jnt_qposadr
        ends = [*starts[1:], model.nv if field.startswith("dof_") else model.nq]
        return [row for joint in joints for row in range(int(starts[joint]), int(ends[joint]))]
    prefix = field.partition("_")[0]
    if prefix not in _OBJECTS:
        raise UsageError(
            f"{where}: {field} has no named rows; fields of {', '.join(_OBJECTS)}, dof, qpos0 and opt do"
        )
    rows = matching(names, names_of(model, prefix), prefix, where)
    for row in rows if field in _GAINS else []:
        affine = int(model.actuator_biastype[row]) == int(mujoco.mjtBias.mjBIAS_AFFINE)
        if not affine or model.actuator_biasprm[row, 1] != -model.actuator_gainprm[row, 0]:
            raise UsageError(f"{where}: actuator {model.actuator(row).name!r} is no position servo")
    return rows


def names_of(model: mujoco.MjModel, prefix: str) -> list[str]:
    """Return the names of the objects whose fields begin with `prefix`, "" where one has none."""
    count, kind = _OBJECTS[prefix]
    return [mujoco.mj_id2name(model, kind, i) or "" for i in range(getattr(model, count))]


def model_values(model: mujoco.MjModel, field: str) -> np.ndarray:
    """Return the values of a field."""
    owner, name = _place(model, field)
    return np.asarray(getattr(owner, name))


def write_model_values(model: mujoco.MjModel, field: str, values: np.ndarray) -> None:
    """Set the values of a field, an array or a number."""
    owner, name = _place(model, field)
    held = getattr(owner, name)
    if isinstance(held, np.ndarray):
        held[...] = values
    else:
        setattr(owner, name, values.item())


def compiled_values(sim: Sim, field: str) -> Tensor:
    """(K, ...) values of a field in each of the simulator's models, as compiled.

    Raises:
        UsageError: their sizes differ.
    """
    values = [torch.as_tensor(model_values(model, field)) for model in sim.models]
    if len({each.shape for each in values}) > 1:
        raise UsageError(
            f"{field} cannot differ between simulations whose models hold "
            f"{', '.join(str(len(each)) for each in values)} rows of it"
        )
    return torch.stack(values)


def _place(model: mujoco.MjModel, field: str) -> tuple[Any, str]:
    return (model.opt, field[4:]) if field.startswith("opt.") else (model, field)
