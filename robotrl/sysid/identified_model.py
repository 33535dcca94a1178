"""The fitted model as an MJCF file."""

from __future__ import annotations

import math
import os
from pathlib import Path

import mujoco
import numpy as np

from robotrl.core.errors import RobotrlError, UsageError
from robotrl.sim.latency import Interpolation
from robotrl.sim.model_fields import model_values
from robotrl.sysid.parameters import DELAYS, Unknown, with_values

# MJCF holds fewer digits than the model
_PRECISION = 1e-4


def read_spec(path: Path) -> mujoco.MjSpec:
    """Read an MJCF file that compiles.

    Raises:
        UsageError: it does not exist or MuJoCo refuses it.
    """
    if not path.is_file():
        raise UsageError(f"model file {path} does not exist")
    try:
        spec = mujoco.MjSpec.from_file(str(path))
        spec.compile()
    except ValueError as error:
        raise UsageError(f"model file {path} does not compile: {' '.join(str(error).split())}") from error
    return spec


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
        for folder in ("meshdir", "texturedir"):
            there = (source.parent / getattr(spec, folder)).resolve()
            setattr(spec, folder, Path(os.path.relpath(there, path.parent.resolve())).as_posix())
        path.write_text(spec.to_xml(), encoding="utf-8")
        written = mujoco.MjModel.from_xml_path(str(path))
    except ValueError as error:
        raise RobotrlError(f"the identified model cannot be written: {' '.join(str(error).split())}") from error
    for unknown, value in zip(unknowns, values, strict=True):
        for part in unknown.parts:
            asked = np.array(value) if part.field in DELAYS else model_values(wanted, part.field)
            got = model_values(written, part.field)
            rows = list(unknown.rows)
            if part.field in DELAYS:
                same = np.allclose(got[rows], value, rtol=_PRECISION, atol=1e-9)
            else:
                same = np.allclose(got, asked, rtol=_PRECISION, atol=1e-9)
            if not same:
                raise RobotrlError(f"the identified model cannot be written: MJCF does not keep {part.field}")


def _delay(element: mujoco.MjsActuator | mujoco.MjsSensor, delay_s: float, dt_s: float) -> None:
    element.nsample = max(1, math.ceil(delay_s / dt_s - 1e-9))
    element.interp = Interpolation.LINEAR.value
    element.delay = delay_s
