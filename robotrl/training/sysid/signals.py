"""Where a model shows what the logs hold: which number of its state or sensors each column is."""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np

from robotrl.core.errors import UsageError, unknown_name
from robotrl.sim.model_fields import names_of
from robotrl.training.sysid.log import COMMAND, Log

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
    """(2 nq,) first guess of positions and velocities at a row of the log."""
    near = slice(row, row + 5)
    time_s = log.time_s[near]
    found = {signal.column: log.signals[signal.name][near] for signal in signals}
    position, velocity = np.zeros(model.nq), np.zeros(model.nv)
    for i in range(model.njnt):
        readings = _first(found, [i, *_columns_of(model, mujoco.mjtSensor.mjSENS_JOINTPOS, i)])
        slope = np.polyfit(time_s, readings, 1)[0] if len(time_s) > 1 else 0.0
        position[i] = readings[0]
        speeds = [model.nq + i, *_columns_of(model, mujoco.mjtSensor.mjSENS_JOINTVEL, i)]
        velocity[i] = _first(found, speeds)[0] if any(column in found for column in speeds) else slope
    return np.concatenate([position, velocity])


def _first(found: dict[int, np.ndarray], columns: list[int]) -> np.ndarray:
    """Return the readings of the first column that there is, without its gaps."""
    readings = next(found[column] for column in columns if column in found)
    known = np.isfinite(readings)
    return (
        np.interp(np.arange(len(readings)), np.flatnonzero(known), readings[known])
        if known.any()
        else (np.zeros(len(readings)))
    )


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
