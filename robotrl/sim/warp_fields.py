"""Which of MuJoCo's fields mujoco-warp has, and how they look as torch tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import mujoco
import numpy as np
import torch
from torch import Tensor

from robotrl.core.errors import UsageError, unknown_name
from robotrl.sim.model_fields import model_values

if TYPE_CHECKING:
    from robotrl.sim.warp_sim import WarpSim

STATE = (
    "time", "qpos", "qvel", "act", "ctrl", "history", "qacc_warmstart", "qfrc_applied", "xfrc_applied",
    "eq_active", "mocap_pos", "mocap_quat", "userdata",
)  # fmt: skip
"""What a simulation continues from."""

BODY_FORCES = ("cacc", "cfrc_int", "cfrc_ext")
EXTRAS = ("ncon", *BODY_FORCES)
"""Outputs that cost extra: computed from the first request on."""

OUTPUTS = (
    "qacc", "act_dot", "sensordata", "xpos", "xquat", "xmat", "xipos", "ximat", "xanchor", "xaxis",
    "geom_xpos", "geom_xmat", "site_xpos", "site_xmat", "cam_xpos", "cam_xmat", "light_xpos", "light_xdir",
    "subtree_com", "cdof", "cinert", "crb", "cvel", "cdof_dot", "ten_length", "ten_velocity",
    "actuator_length", "actuator_velocity", "actuator_force", "qfrc_bias", "qfrc_spring", "qfrc_damper",
    "qfrc_gravcomp", "qfrc_fluid", "qfrc_passive", "qfrc_actuator", "qfrc_smooth", "qacc_smooth",
    "qfrc_constraint", *BODY_FORCES,
)  # fmt: skip

CONSTANTS = (
    "body_subtreemass", "body_invweight0", "dof_invweight0", "tendon_length0", "tendon_invweight0",
    "actuator_acc0", "geom_aabb", "geom_rbound", "eq_data", "cam_pos0", "cam_poscom0", "cam_mat0",
    "light_pos0", "light_poscom0", "light_dir0",
)  # fmt: skip
"""What mujoco-warp's `set_const` computes."""

POSES = ("body_pos", "body_quat", "geom_pos", "geom_quat")

# mujoco-warp decides from the model's own values whether it computes these at all
_SWITCHED = {
    field: group
    for group in (
        ("opt.density", "opt.viscosity", "opt.wind"),
        ("tendon_stiffness", "tendon_stiffnesspoly"),
        ("tendon_damping", "tendon_dampingpoly"),
        ("actuator_damping", "actuator_dampingpoly"),
        ("actuator_armature",),
    )
    for field in group
}


class Field(Tensor):
    """A live tensor that takes values of any floating type and device: `field[ids] = x`, `field[ids] += x`.

    Task and randomisation code draws in float64 on the CPU; the simulator holds float32 on its device.
    What is computed from a field is a plain tensor.
    """

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    def __setitem__(self, index: Any, values: Any) -> None:
        """Write values."""
        super().__setitem__(index, self._own(values))

    def __getitem__(self, index: Any) -> Field:
        """Return a part that takes values in the same way."""
        return super().__getitem__(index).as_subclass(Field)

    def __iadd__(self, values: Any) -> Field:  # type: ignore[misc]
        """Add values."""
        return super().__iadd__(self._own(values)).as_subclass(Field)

    def __imul__(self, values: Any) -> Field:  # type: ignore[misc]
        """Multiply by values."""
        return super().__imul__(self._own(values)).as_subclass(Field)

    def _own(self, values: Any) -> Any:
        return values.to(self) if isinstance(values, Tensor) else values


def check_data_field(field: str) -> None:
    """Refuse MjData fields that mujoco-warp does not compute as MuJoCo does.

    Raises:
        UsageError: says which, or that there is no such field.
    """
    if field in (*STATE, *OUTPUTS, *EXTRAS):
        return
    if hasattr(mujoco.MjData, field):
        raise UsageError(f"the warp backend does not offer MjData field {field}: use the cpu backend")
    raise unknown_name("MjData field", field, (*STATE, *OUTPUTS))


def check_model_field(model: mujoco.MjModel, field: str, batched: bool) -> None:
    """Refuse MjModel fields that cannot differ between simulations in mujoco-warp.

    Args:
        model: the model.
        field: its field.
        batched: whether mujoco-warp holds one value of it per simulation.

    Raises:
        UsageError: says which and why.
    """
    owner, name = (mujoco.MjOption, field[4:]) if field.startswith("opt.") else (mujoco.MjModel, field)
    if not hasattr(owner, name):
        raise UsageError(f"{field} is not an expandable MjModel field")
    if not batched:
        raise UsageError(f"{field} cannot differ between simulations on the warp backend: use backend=cpu")
    group = _SWITCHED.get(field, ())
    if group and not any(np.any(model_values(model, name)) for name in group):
        raise UsageError(
            f"{field} cannot differ between simulations on the warp backend where the model has none of "
            f"{', '.join(group)}: give the model a value above 0, or use the cpu backend"
        )
    if field == "qpos_spring" and model.ntendon:
        raise UsageError(
            "qpos_spring cannot differ between simulations on the warp backend where the model has tendons, "
            "whose spring lengths follow from it: use the cpu backend"
        )


class NamedSlices:
    """One object's slices of the per-simulation fields, as `batch_sim.NamedView`."""

    def __init__(self, sim: WarpSim, template: mujoco.MjData, kind: str, name: str) -> None:
        self._sim, self._name = sim, name
        self._views = [
            (getattr(template, kind)(name), template, sim.data),
            (getattr(sim.model, kind)(name), sim.model, sim.values),
        ]
        self.id: int = self._views[0][0].id

    def __getattr__(self, attribute: str) -> Tensor:
        """Return the (N, ...) slice of `attribute`, a live tensor for MjData attributes.

        Raises:
            UsageError: objects of this kind have no such attribute.
        """
        if attribute.startswith("_"):
            raise AttributeError(attribute)
        for view, owner, fields in self._views:
            piece = getattr(view, attribute, None)
            if not isinstance(piece, np.ndarray):
                continue
            field, start = _locate(owner, piece)
            columns = fields(field).flatten(1)[:, start : start + piece.size]
            tensor = columns.unflatten(1, piece.shape).as_subclass(Field)
            if isinstance(owner, mujoco.MjData):
                setattr(self, attribute, tensor)
            return tensor
        raise UsageError(f"{self._name!r} has no attribute {attribute!r}")


def _locate(owner: Any, piece: np.ndarray) -> tuple[str, int]:
    """Return the field of `owner` that `piece` is a view of, and where in it it starts."""
    address = piece.__array_interface__["data"][0]
    for field in dir(owner):
        whole = getattr(owner, field, None)
        if isinstance(whole, np.ndarray) and whole.size and whole.dtype == piece.dtype:
            offset = address - whole.__array_interface__["data"][0]
            if 0 <= offset < whole.nbytes:
                return field, offset // whole.itemsize
    raise UsageError("an empty attribute has no slice")
