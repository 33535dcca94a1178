"""Terrain in a model: its height fields in place of the floor, and which of them each simulation has.

All height fields are in the one model; a simulation's floor shows one of them through `geom_dataid`,
which may differ between simulations. MuJoCo gives every geom on it the floor's contact parameters.
"""

from __future__ import annotations

import mujoco
import numpy as np
import torch
from torch import Tensor

from robotrl.core.errors import UsageError, unknown_name
from robotrl.sim.draws import Distribution, draw
from robotrl.sim.sim import Sim
from robotrl.sim.terrain import Terrain, heights_m

# of the solid below the lowest height, m; the plane around the map is as far below
_BASE_M = 0.05
_SURFACE = (
    "contype", "conaffinity", "condim", "priority", "friction", "solmix", "solref", "solimp", "margin", "gap",
    "material", "rgba", "group", "size",
)  # fmt: skip
_PLANE, _HFIELD = mujoco.mjtGeom.mjGEOM_PLANE, mujoco.mjtGeom.mjGEOM_HFIELD


def replace_floor(spec: mujoco.MjSpec, terrain: Terrain) -> None:
    """Make the floor geom a height field, before the model is compiled; its heights are 0 until `fill`.

    The geom keeps its name and contact parameters. Height 0 of the terrain is where the floor was; a plane
    like it, below the lowest height, goes on beyond the map.

    Raises:
        UsageError: the model has no floor plane, several, or a height field of its own.
    """
    if not terrain.shapes:
        return
    floor, (x, y, level) = _floor(spec, terrain.floor)
    lowest, span = _range_m(heights_m(terrain))
    outside = spec.worldbody.add_geom(name="terrain_outside", type=_PLANE)
    for attribute in _SURFACE:
        setattr(outside, attribute, getattr(floor, attribute))
    outside.pos = [x, y, level + lowest - _BASE_M]
    floor.type, floor.hfieldname = _HFIELD, _name(0)
    floor.set_frame(spec.worldbody.add_frame())
    floor.pos, floor.quat = [0.0, 0.0, level + lowest], [1.0, 0.0, 0.0, 0.0]
    floor.alt.type = mujoco.mjtOrientation.mjORIENTATION_QUAT
    for i in range(len(terrain.shapes) * terrain.levels):
        spec.add_hfield(
            name=_name(i),
            nrow=terrain.points,
            ncol=terrain.points,
            size=[terrain.size_m / 2, terrain.size_m / 2, span, _BASE_M],
            userdata=np.zeros(terrain.points**2),
        )


def fill(model: mujoco.MjModel, terrain: Terrain) -> None:
    """Write the heights into the compiled model: the compiler would scale each map to fill its range."""
    if not terrain.shapes:
        return
    heights = heights_m(terrain)
    lowest, span = _range_m(heights)
    start = int(model.hfield_adr[_first(model)])
    model.hfield_data[start : start + heights.numel()] = ((heights - lowest) / span).flatten().numpy()


class TerrainDraws:
    """Draws the terrain of each episode, and shows it to the simulation.

    Args:
        sim: of a model with the floor replaced.
        terrain: what it was replaced by; its `difficulty` may change meanwhile.
    """

    def __init__(self, sim: Sim, terrain: Terrain) -> None:
        self._terrain = terrain
        self._first = _first(sim.model)
        is_floor = (sim.model.geom_type == int(_HFIELD)) & (sim.model.geom_dataid == self._first)
        self._floor = int(np.flatnonzero(is_floor)[0])
        self._shown = sim.param("geom_dataid")

    def reset(self, ids: Tensor, rng: torch.Generator) -> None:
        """Draw the terrain of simulations `ids`, (n,) int64."""
        levels = self._terrain.levels
        shape = torch.randint(len(self._terrain.shapes), (len(ids),), generator=rng)
        difficulty = draw((len(ids),), self._terrain.difficulty, Distribution.UNIFORM, rng)
        level = (difficulty * levels).long().clamp(max=levels - 1)
        # the maps are as large as each other: no model constant depends on which it is
        self._shown[ids, self._floor] = (self._first + shape * levels + level).int().to(self._shown.device)


def _floor(spec: mujoco.MjSpec, name: str | None) -> tuple[mujoco.MjsGeom, list[float]]:
    """Return the horizontal plane that is fixed to the world, and where it is, m."""
    # the compiler knows where each geom ends up, however its frame and orientation were given
    model = spec.copy().compile()
    of_world = np.flatnonzero(model.geom_bodyid == 0)
    kinds = model.geom_type[of_world]
    if (kinds == int(_HFIELD)).any():
        raise UsageError("terrain: the model has a height field of its own for a floor")
    level = np.abs(model.geom_quat[of_world, 1:3]).max(axis=1, initial=0.0) < 1e-6
    found = np.flatnonzero(level & (kinds == int(_PLANE)))
    floors = [spec.worldbody.geoms[i] for i in found]
    if not floors:
        raise UsageError("terrain: no horizontal plane is fixed to the model's world: add one to the MJCF")
    names = [geom.name for geom in floors]
    if name is None and len(floors) > 1:
        raise UsageError(f"terrain: the model has several horizontal planes: give floor, one of {names}")
    if name is not None and name not in names:
        raise UsageError(f"terrain: {unknown_name('horizontal plane', name, names)}")
    chosen = 0 if name is None else names.index(name)
    return floors[chosen], model.geom_pos[of_world[found[chosen]]].tolist()


def _range_m(heights: Tensor) -> tuple[float, float]:
    """Return the lowest height and the span from it to the highest, m; the flat place, 0, is within."""
    lowest = float(heights.min())
    return lowest, max(float(heights.max()) - lowest, 1e-3)


def _name(index: int) -> str:
    return f"terrain_map_{index}"


def _first(model: mujoco.MjModel) -> int:
    return mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_HFIELD, _name(0))
