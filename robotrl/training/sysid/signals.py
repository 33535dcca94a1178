"""Where a model shows what the logs hold: which number of its state or sensors each column is."""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np

from robotrl.core.errors import UsageError, unknown_name
from robotrl.sim.model_fields import names_of
from robotrl.training.sysid.log import COMMAND, Log

# readings whose slope is the velocity where none is measured
_FIRST = 5
_KINDS = {"joint_position": "jnt", "joint_velocity": "jnt", "sensor": "sensor"}


@dataclass(frozen=True)
class Signal:
    """A measured number.

    Args:
        name: of the column.
        column: in qpos, qvel and sensordata side by side.
        sensor: index of the sensor it is a reading of; -1 for a joint's state, which has no delay.
        unit: "" where it is not known.
    """

    name: str
    column: int
    sensor: int
    unit: str


def signals_of(model: mujoco.MjModel, log: Log) -> list[Signal]:
    """Return where the model shows a log's columns.

    Raises:
        UsageError: a column names what the model has not, or a command or a joint's position is missing.
    """
    for name in log.commands:
        if name not in names_of(model, "actuator"):
            raise UsageError(f"log {log.path}: {unknown_name('actuator', name, names_of(model, 'actuator'))}")
    for name in names_of(model, "actuator"):
        if name not in log.commands:
            raise UsageError(f"log {log.path} has no column {COMMAND + name!r}: every actuator's is needed")
    signals = [_signal(model, log, name) for name in log.signals]
    shown = {signal.column for signal in signals}
    for i, name in enumerate(names_of(model, "jnt")):
        if not shown & {i, *_columns_of(model, mujoco.mjtSensor.mjSENS_JOINTPOS, i)}:
            raise UsageError(
                f"log {log.path} has no column 'joint_position/{name}' and no position sensor of it: where "
                "the motion starts must be known"
            )
    return signals


def start_of(model: mujoco.MjModel, log: Log, signals: list[Signal], row: int) -> np.ndarray:
    """(2 nq,) first guess of positions and velocities at a row of the log.

    Raises:
        UsageError: a position is not read from there on.
    """
    names = {signal.column: signal.name for signal in signals}
    position, velocity = np.zeros(model.nq), np.zeros(model.nv)
    for i in range(model.njnt):
        places = [i, *_columns_of(model, mujoco.mjtSensor.mjSENS_JOINTPOS, i)]
        time_s, readings = _first_readings(log, names, places, row)
        if not len(readings):
            name = next(names[place] for place in places if place in names)
            raise UsageError(f"log {log.path}: {name} has no reading after {log.time_s[row]:g} s")
        position[i] = readings[0]
        velocity[i] = np.polyfit(time_s, readings, 1)[0] if len(readings) > 1 else 0.0
        places = [model.nq + i, *_columns_of(model, mujoco.mjtSensor.mjSENS_JOINTVEL, i)]
        _, readings = _first_readings(log, names, places, row)
        if len(readings):
            velocity[i] = readings[0]
    return np.concatenate([position, velocity])


def _first_readings(
    log: Log, names: dict[int, str], places: list[int], row: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return times and values of the first readings, from a row on, of the first column that there is."""
    name = next((names[place] for place in places if place in names), None)
    if name is None:
        return np.zeros(0), np.zeros(0)
    readings = log.signals[name][row:]
    known = np.flatnonzero(np.isfinite(readings))[:_FIRST]
    return log.time_s[row:][known], readings[known]


def _columns_of(model: mujoco.MjModel, kind: mujoco.mjtSensor, joint: int) -> list[int]:
    """Return the columns of a joint's sensors of a kind."""
    return [
        model.nq + model.nv + int(model.sensor_adr[i])
        for i in range(model.nsensor)
        if int(model.sensor_type[i]) == int(kind) and int(model.sensor_objid[i]) == joint
    ]


def _signal(model: mujoco.MjModel, log: Log, name: str) -> Signal:
    kind, _, rest = name.partition("/")
    names = names_of(model, _KINDS[kind])
    owner, index = rest, 0
    if kind == "sensor" and rest not in names and rest.rpartition("/")[2].isdigit():
        owner, index = rest.rpartition("/")[0], int(rest.rpartition("/")[2])
    if owner not in names:
        raise UsageError(f"log {log.path}: {unknown_name(kind.partition('_')[0], owner, names)}")
    at = names.index(owner)
    if kind == "sensor":
        width = int(model.sensor_dim[at])
        if not index < width or (width > 1 and owner == rest):
            last = f"sensor/{owner}/{width - 1}"
            raise UsageError(f"log {log.path}, column {name!r}: the columns are sensor/{owner}/0 to {last}")
        return Signal(name, model.nq + model.nv + int(model.sensor_adr[at]) + index, at, "")
    unit = "m" if int(model.jnt_type[at]) == int(mujoco.mjtJoint.mjJNT_SLIDE) else "rad"
    if kind == "joint_velocity":
        return Signal(name, model.nq + at, -1, f"{unit}/s")
    return Signal(name, at, -1, unit)
