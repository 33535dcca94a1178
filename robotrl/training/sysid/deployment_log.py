"""Logs of `robotrl deploy` (MCAP) as recordings to identify from.

The runtime takes a reading, decides and sends in one control step, so that a frame is a row as `Log` has it.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import mujoco
import numpy as np

from robotrl.core.errors import UsageError
from robotrl.deploy.runtime import log_reader
from robotrl.deploy.runtime.robots.robot import FEEDFORWARD, KD, KP, POSITION, VELOCITY
from robotrl.sim.model_fields import names_of
from robotrl.training.sysid.log import SIGNALS, Log

_JOINT_SIGNALS = tuple(kind.rstrip("/") for kind in SIGNALS[:2])


def read_deployment(path: Path, model: mujoco.MjModel) -> Log:
    """Read the longest stretch of a deployment in which all drives kept their gains.

    Position servos of the model take the drives' positions, other actuators their forces. Signals that are
    neither joints nor sensors of the model are left out.

    Raises:
        UsageError: the package mcap is missing, there is no such file, the drives are not the model's
            actuators, or were commanded what these cannot be.
        RobotrlError: it is no such log.
    """
    read = log_reader.read_log(path)
    actuators = names_of(model, "actuator")
    if set(read.commands) != set(actuators):
        raise UsageError(
            f"log {path} has commands of {', '.join(sorted(read.commands)) or 'nothing'}, the model's "
            f"actuators are {', '.join(sorted(actuators))}"
        )
    rows = np.stack([read.commands[name] for name in actuators], axis=1)
    at = _longest_stretch(rows)
    signals = {
        _column(model, name, element): read.signals[name][at, i]
        for name, elements in read.elements.items()
        if name in _JOINT_SIGNALS or name in names_of(model, "sensor")
        for i, element in enumerate(elements)
    }
    commands = {name: _ctrl(path, model, i, rows[at, i]) for i, name in enumerate(actuators)}
    return Log(path, read.times_s[at], commands, signals)


def _longest_stretch(rows: np.ndarray) -> slice:
    """Return where (T, A, 5) commands have the same gains for longest."""
    gains = rows[:, :, [KP, KD]].reshape(len(rows), -1)
    sent = np.isfinite(rows).all(axis=(1, 2))
    changes = np.flatnonzero((gains[1:] != gains[:-1]).any(axis=1) | (sent[1:] != sent[:-1])) + 1
    edges = [0, *changes.tolist(), len(rows)]
    stretches = [slice(a, b) for a, b in itertools.pairwise(edges) if sent[a]]
    return max(stretches, key=lambda each: each.stop - each.start, default=slice(0, 0))


def _ctrl(path: Path, model: mujoco.MjModel, i: int, rows: np.ndarray) -> np.ndarray:
    """(T,) control of an actuator from (T, 5) commands of its drive."""
    gear, gain = float(model.actuator_gear[i, 0]), float(model.actuator_gainprm[i, 0])
    is_servo = float(model.actuator_biasprm[i, 1]) != 0.0
    unused = [VELOCITY, FEEDFORWARD] if is_servo else [KP, KD]
    if rows[:, unused].any():
        kind = "a position servo" if is_servo else "no servo"
        raise UsageError(
            f"log {path}: drive {model.actuator(i).name!r} was commanded what the model's actuator, {kind}, "
            "cannot be: give the model the robot's kind of actuator"
        )
    if is_servo:
        return rows[:, POSITION] * gear
    is_joint = int(model.actuator_trntype[i]) == int(mujoco.mjtTrn.mjTRN_JOINT)
    return rows[:, FEEDFORWARD] / (gear * gain if is_joint else 1.0)


def _column(model: mujoco.MjModel, name: str, element: str) -> str:
    if name in _JOINT_SIGNALS:
        return f"{name}/{element}"
    width = int(model.sensor_dim[names_of(model, "sensor").index(name)])
    return f"sensor/{name}" if width == 1 else f"sensor/{name}/{element}"
