"""How high geoms bounce: MuJoCo has no coefficient of restitution, but a spring and a damper make one.

A contact is the oscillator x'' = -k x - 2 zeta sqrt(k) x' until spring and damper no longer press. With
s = sqrt(1 - zeta^2) the speed after it, over that before, is

    e(zeta) = exp(-(zeta / s) (pi - atan2(2 zeta s, 1 - 2 zeta^2))),

for all masses. The spring is soft: k = 2e4 s^-2 makes a contact last 22 ms and holds e within 0.02 on average
at physics steps up to 2 ms (single bounces vary by 0.01 at 1 ms and by 0.015 at 2 ms); a stiffer one needs
smaller steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import mujoco
import torch
from torch import Tensor

from robotrl.core.errors import UsageError
from robotrl.sim.draws import Distribution, check_range, draw, matching
from robotrl.sim.sim import Sim

LOWEST = 0.5
"""Least restitution that can be asked for."""
# contacts as hard as their reference says, from the first micrometre on
_SOLIMP = (0.99, 0.99, 0.001, 0.5, 2.0)
_HIGHEST_DAMPING_RATIO = 0.3


@dataclass
class Restitution:
    """Restitution of some geoms against anything, drawn in every episode and simulation.

    The geoms get MuJoCo's contact priority 1: their friction counts, too, and not that of what they touch.
    """

    range: tuple[float, float]
    """Lowest and highest share of the speed that a bounce keeps; in [0.5, 1]."""
    names: str
    """Regular expression that the whole name of a geom matches."""
    stiffness_per_s2: float = 2e4
    """Of the contact's spring, for a mass of 1, s^-2; > 0."""

    def __post_init__(self) -> None:
        self.check()
        if not 0.0 < self.stiffness_per_s2 < float("inf"):
            given = self.stiffness_per_s2
            raise UsageError(f"restitution of {self.names!r}: stiffness_per_s2 must be above 0, got {given}")

    def check(self) -> None:
        """Refuse a range that is upside down or out of reach.

        Raises:
            UsageError: says which.
        """
        _, upper = check_range(f"restitution of {self.names!r}: range", self.range, LOWEST)
        if upper > 1.0:
            raise UsageError(
                f"restitution of {self.names!r}: a bounce keeps at most 1, got {list(self.range)}"
            )


def restitution(damping_ratio: Tensor) -> Tensor:
    """Return e(zeta), in (0, 1]."""
    s = (1.0 - damping_ratio.square()).sqrt()
    angle = torch.pi - torch.atan2(2.0 * damping_ratio * s, 1.0 - 2.0 * damping_ratio.square())
    return torch.exp(-damping_ratio / s * angle)


def damping_ratio(coefficient: Tensor) -> Tensor:
    """Return zeta of coefficients of restitution in [0.5, 1], to 1e-12, by bisection."""
    low, high = torch.zeros_like(coefficient), torch.full_like(coefficient, _HIGHEST_DAMPING_RATIO)
    for _ in range(40):
        middle = (low + high) / 2.0
        too_bouncy = restitution(middle) > coefficient
        low, high = torch.where(too_bouncy, middle, low), torch.where(too_bouncy, high, middle)
    return (low + high) / 2.0


def solref(coefficient: Tensor, stiffness_per_s2: float) -> Tensor:
    """Return MuJoCo's (..., 2) contact references of (...) coefficients of restitution."""
    damping = 2.0 * damping_ratio(coefficient) * stiffness_per_s2**0.5
    return torch.stack((torch.full_like(damping, -stiffness_per_s2), -damping), dim=-1)


def restitution_of(contact_reference: Tensor) -> Tensor:
    """Return the coefficients that (..., 2) references made by `solref` stand for."""
    stiffness, damping = -contact_reference[..., 0], -contact_reference[..., 1]
    return restitution(damping / (2.0 * stiffness.sqrt()))


def make_bouncy(spec: mujoco.MjSpec, items: Mapping[str, Restitution]) -> None:
    """Prepare the geoms of a model before it is compiled, with the upper end of each range.

    Raises:
        UsageError: a pattern matches nothing, or two items the same geom.
    """
    geoms, taken = list(spec.geoms), dict[int, str]()
    for name, item in items.items():
        where = f"restitution.{name}"
        for i in matching(item.names, [geom.name for geom in geoms], "geom", where):
            if i in taken:
                raise UsageError(f"{where}: geom {geoms[i].name!r} is set by {taken[i]} already")
            taken[i] = where
            highest = torch.tensor(item.range[1], dtype=torch.float64)
            geoms[i].priority, geoms[i].solimp[:] = 1, _SOLIMP
            geoms[i].solref[:] = solref(highest, item.stiffness_per_s2).numpy()


class Restitutions:
    """Draws the restitution of a `Sim`'s geoms; what was drawn is in its `geom_solref`.

    Args:
        sim: of a model that `make_bouncy` has prepared.
        items: name -> what to draw.
    """

    def __init__(self, sim: Sim, items: Mapping[str, Restitution]) -> None:
        names = [sim.model.geom(i).name for i in range(sim.model.ngeom)]
        self._sim = sim
        self._items = [
            (item, torch.tensor(matching(item.names, names, "geom", ""))) for item in items.values()
        ]

    def reset(self, ids: Tensor, rng: torch.Generator) -> None:
        """Draw for the new episodes of simulations `ids`, one coefficient for all geoms of an item."""
        for item, rows in self._items:
            item.check()
            drawn = draw((len(ids), 1), item.range, Distribution.UNIFORM, rng)
            references = solref(drawn, item.stiffness_per_s2).expand(-1, len(rows), -1)
            field = self._sim.param("geom_solref")
            field[ids.unsqueeze(1), rows] = references.to(field)
