"""Observation terms of MuJoCo fields that have one row per body: `cinert`, `cvel` and `cfrc_ext`.

All three refer to the centre of mass of the body's whole tree, in world axes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import mujoco
from torch import Tensor

from robotrl.core.types import ObsTerm, Source

_XYZ = ("x", "y", "z")


@dataclass(frozen=True)
class BodyQuantity:
    """One quantity that every body has: name, unit, names of its scalars."""

    name: str
    unit: str
    elements: tuple[str, ...]


QUANTITIES = {
    "cinert": (
        BodyQuantity("inertia", "kg m^2", ("xx", "yy", "zz", "xy", "xz", "yz")),
        BodyQuantity("mass_moment", "kg m", _XYZ),
        BodyQuantity("mass", "kg", ("mass",)),
    ),
    "cvel": (
        BodyQuantity("body_angular_velocity", "rad/s", _XYZ),
        BodyQuantity("body_linear_velocity", "m/s", _XYZ),
    ),
    "cfrc_ext": (
        BodyQuantity("contact_torque", "N m", _XYZ),
        BodyQuantity("contact_force", "N", _XYZ),
    ),
}
"""What the columns of each field are, in their order."""


class BodyTerms:
    """The terms of one field of a model, body after body; the world is left out.

    Args:
        model: names the bodies.
        field: one of `QUANTITIES`.
        low: lower bound of every value, in its unit.
        high: upper bound of every value, in its unit.
    """

    def __init__(
        self, model: mujoco.MjModel, field: str, low: float = -math.inf, high: float = math.inf
    ) -> None:
        self.terms = tuple(
            ObsTerm(
                f"{quantity.name}/{_body_name(model, body)}",
                len(quantity.elements),
                quantity.unit,
                Source.SIMULATION,
                low,
                high,
                quantity.elements,
            )
            for body in range(1, model.nbody)
            for quantity in QUANTITIES[field]
        )
        self._names = [term.name for term in self.terms]
        self._sizes = [term.size for term in self.terms]

    def values(self, field: Tensor) -> dict[str, Tensor]:
        """Name the columns of the (N, nbody, k) field: term -> (N, size)."""
        columns = field[:, 1:].flatten(1).split(self._sizes, dim=1)
        return dict(zip(self._names, columns, strict=True))


def _body_name(model: mujoco.MjModel, body: int) -> str:
    """The body's name or, where it has none, its joint's."""
    return model.body(body).name or model.joint(int(model.body_jntadr[body])).name
