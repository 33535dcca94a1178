"""The fitted model as an MJCF file."""

from __future__ import annotations

import math
import os
from pathlib import Path
from xml.etree import ElementTree

import mujoco
import numpy as np

from robotrl.core.errors import RobotrlError, UsageError
from robotrl.sim.latency import Interpolation
from robotrl.sim.model_fields import model_values
from robotrl.training.sysid.parameters import Unknown, with_values

_SINGLE = (int(mujoco.mjtJoint.mjJNT_HINGE), int(mujoco.mjtJoint.mjJNT_SLIDE))
_FOLLOWS_COMMAND = (
    int(mujoco.mjtDyn.mjDYN_NONE),
    int(mujoco.mjtDyn.mjDYN_FILTER),
    int(mujoco.mjtDyn.mjDYN_FILTEREXACT),
)
# MJCF holds fewer digits than the model
_PRECISION = 1e-4


def read_spec(path: Path) -> mujoco.MjSpec:
    """Read an MJCF file that compiles and whose motion a log of commands and joints determines.

    Raises:
        UsageError: it does not exist, MuJoCo refuses it, a joint is neither hinge nor slide, or an actuator's
            state is not its command.
    """
    if not path.is_file():
        raise UsageError(f"model file {path} does not exist")
    try:
        spec = mujoco.MjSpec.from_file(str(path))
        model = spec.compile()
    except ValueError as error:
        raise UsageError(f"model file {path} does not compile: {' '.join(str(error).split())}") from error
    _check(model)
    return spec


def _check(model: mujoco.MjModel) -> None:
    """Refuse a model that logs of commands and joints do not determine the motion of.

    Raises:
        UsageError: a joint is neither hinge nor slide, or an actuator's state is not its command.
    """
    for i in range(model.njnt):
        if int(model.jnt_type[i]) not in _SINGLE:
            raise UsageError(
                f"joint {model.joint(i).name!r} is neither a hinge nor a slide, no log tells its state: "
                "hang the robot on a stand and take that joint out of the model"
            )
    for i in range(model.nu):
        if int(model.actuator_dyntype[i]) not in _FOLLOWS_COMMAND:
            raise UsageError(
                f"actuator {model.actuator(i).name!r} has a state that a log does not tell: only first-order "
                "lags (filter, filterexact) can be simulated from a log"
            )


def write_model(path: Path, source: Path, unknowns: list[Unknown], values: np.ndarray) -> None:
    """Write the model of `source` with the values of unknowns.

    Meshes and textures stay where they are; the file names their folders relative to its own.

    Args:
        path: to write.
        source: MJCF file.
        unknowns: P of them.
        values: (P,).

    Raises:
        RobotrlError: MJCF cannot hold a value, or what was written does not read back.
    """
    spec = read_spec(source)
    wanted = with_values(spec.compile(), unknowns, values)
    try:
        spec.copy_back(wanted)
        spec.compiler.inertiafromgeom = mujoco.mjtInertiaFromGeom.mjINERTIAFROMGEOM_AUTO
        delays = {"actuator_delay": list(spec.actuators), "sensor_delay": list(spec.sensors)}
        for unknown, value in zip(unknowns, values, strict=True):
            for row in unknown.rows if unknown.is_delay else ():
                _delay(delays[unknown.entry.field][row], float(value), spec.option.timestep)
        text = _with_moved_folders(spec, source.parent, path.parent)
        path.write_text(text, encoding="utf-8")
        written = mujoco.MjModel.from_xml_path(str(path))
    except ValueError as error:
        raise RobotrlError(
            f"the identified model cannot be written: {' '.join(str(error).split())}"
        ) from error
    for unknown, value in zip(unknowns, values, strict=True):
        for part in unknown.parts:
            rows = list(unknown.rows)
            asked = value if unknown.is_delay else model_values(wanted, part.field)[rows]
            if not np.allclose(model_values(written, part.field)[rows], asked, rtol=_PRECISION, atol=1e-9):
                raise RobotrlError(f"the identified model cannot be written: MJCF does not keep {part.field}")


def _with_moved_folders(spec: mujoco.MjSpec, old: Path, new: Path) -> str:
    """Return a model's XML for a file in another folder."""
    root = ElementTree.fromstring(spec.to_xml())
    compiler = root.find("compiler")
    if compiler is not None and (spec.meshes or spec.textures or spec.hfields or spec.skins):
        for key in ("meshdir", "texturedir"):
            there = (old / getattr(spec, key)).resolve()
            compiler.set(key, Path(os.path.relpath(there, new.resolve())).as_posix())
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _delay(element: mujoco.MjsActuator | mujoco.MjsSensor, delay_s: float, dt_s: float) -> None:
    element.nsample = max(1, math.ceil(delay_s / dt_s - 1e-9))
    element.interp = Interpolation.LINEAR.value
    element.delay = delay_s
