"""Models of several files side by side: what must be equal, and what can be made equal.

MuJoCo runs the simulations of a batch on several models if their MjData has the same layout. That
includes a node per bounding box of the meshes' faces, so meshes with different numbers of faces do not
fit by themselves: unused meshes fill up what is missing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import mujoco
import numpy as np
from mujoco.batch import Batch

from robotrl.core.errors import UsageError
from robotrl.sim.batch_sim import KINDS

# sizes of what a model holds for itself, not of MjData
_OWN = (
    "nmesh", "ntex", "nskin", "nhfield", "nmat", "nname", "npath", "nkey", "ntuple", "nnumeric", "nuser_",
    "nbuffer", "npolygonmax", "noct", "nexclude", "npair",
)  # fmt: skip
# of a mesh of four faces
_FEWEST_NODES = 7


@dataclass(frozen=True)
class Filling:
    """What a model lacks to have the layout of others.

    Attributes:
        nodes: bounding boxes of meshes.
        general_bodies: whether bodies have entries in the inertia matrix that theirs do not need, as a body
            whose centre of mass is at its origin.
    """

    nodes: int = 0
    general_bodies: bool = False

    def fill(self, spec: mujoco.MjSpec) -> None:
        """Add it before the model is compiled; its physics is the same."""
        if self.general_bodies:
            for body in spec.bodies:
                body.simple = False
        # a mesh of F faces has 2 F - 1 nodes, always an odd number
        parts = [self.nodes] if self.nodes % 2 else [_FEWEST_NODES, self.nodes - _FEWEST_NODES]
        for i, nodes in enumerate(parts if self.nodes else []):
            _add_mesh(spec, f"filler_{i}", (nodes + 1) // 2)


def fillings(models: Sequence[mujoco.MjModel]) -> list[Filling]:
    """Return what each model lacks to have the layout of all, as far as that can be added."""
    nodes = [int(model.nbvh) for model in models]
    general = len({int(model.nC) for model in models}) > 1
    # room for two of the smallest meshes
    most = max(nodes) + 2 * _FEWEST_NODES
    return [Filling(most - each if len(set(nodes)) > 1 else 0, general) for each in nodes]


def _add_mesh(spec: mujoco.MjSpec, name: str, faces: int) -> None:
    # along a screw line, no four neighbours lie in a plane: each face is a polygon of its own
    turn = np.arange(faces + 2, dtype=np.float64)
    vertices = np.stack([np.cos(turn), np.sin(turn), turn / faces], axis=1)
    strip = np.arange(faces)[:, None] + np.arange(3)
    shell = mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL
    spec.add_mesh(name=name, uservert=vertices.ravel(), userface=strip.ravel(), inertia=shell)


def check_layouts(files: Sequence[Path], models: Sequence[mujoco.MjModel]) -> None:
    """Refuse models on which the simulations of one batch cannot run, or that name things differently.

    Args:
        files: of the models, for the message.
        models: all are compared with the first.

    Raises:
        UsageError: says which file and what differs.
    """
    first = models[0]
    batch = Batch(first, 1)
    for file, model in zip(files[1:], models[1:], strict=True):
        difference = _difference(first, model)
        if difference is None:
            try:
                batch.set_models(model)
            except mujoco.FatalError as error:
                difference = _sizes(first, model) or " ".join(str(error).split())
        if difference is not None:
            raise UsageError(f"{file} does not have the layout of {files[0]}: {difference}")


def _difference(first: mujoco.MjModel, other: mujoco.MjModel) -> str | None:
    for kind, size in KINDS.items():
        mine, theirs = (
            [getattr(model, kind)(i).name for i in range(getattr(model, size))] for model in (other, first)
        )
        if len(mine) != len(theirs):
            odd = sorted(set(mine) ^ set(theirs))
            which = f" ({', '.join(map(repr, odd[:4]))} in one only)" if odd else ""
            return f"it has {len(mine)} {kind} objects instead of {len(theirs)}{which}"
        for i, (name, expected) in enumerate(zip(mine, theirs, strict=True)):
            if name != expected:
                return f"its {kind} {i} is {name!r} instead of {expected!r}"
    if not math.isclose(first.opt.timestep, other.opt.timestep, rel_tol=1e-9):
        return f"its timestep is {other.opt.timestep:g} s instead of {first.opt.timestep:g} s"
    return None


def _sizes(first: mujoco.MjModel, other: mujoco.MjModel) -> str:
    names = [name for name in dir(first) if name.startswith("n") and not name.startswith(_OWN)]
    pairs = {name: (getattr(other, name), getattr(first, name)) for name in names}
    return ", ".join(
        f"{name} is {mine} instead of {theirs}"
        for name, (mine, theirs) in pairs.items()
        if isinstance(mine, int) and mine != theirs
    )
