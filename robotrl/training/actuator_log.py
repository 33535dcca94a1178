"""Logs of a real joint: one CSV file per joint and run, checked row by row."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from robotrl.core.errors import UsageError, nearest
from robotrl.training.csv_log import read_number, read_rows

COLUMNS = ("time_s", "command_rad", "position_rad", "velocity_rad_s", "torque_nm")

# share of the time step by which single steps may differ from it: clocks and printed digits are not exact
_JITTER = 0.1


@dataclass(frozen=True)
class ActuatorLog:
    """What one joint was told and did, at a uniform time step.

    Args:
        path: of the file, for messages.
        dt_s: time step, s.
        error: (T,) command minus position, rad.
        velocity: (T,) rad/s.
        torque: (T,) N m.
    """

    path: Path
    dt_s: float
    error: np.ndarray
    velocity: np.ndarray
    torque: np.ndarray


def read_log(path: Path) -> ActuatorLog:
    """Read a CSV file with a header that names `COLUMNS`, in any order; other columns are not read.

    Raises:
        UsageError: the file is missing or no such log; the message names the row of the file.
    """
    header, rows = read_rows(path)
    places = [_place(path, header, name) for name in COLUMNS]
    values = [
        [read_number(path, number, name, row[place]) for name, place in zip(COLUMNS, places, strict=True)]
        for number, row in rows
    ]
    if len(values) < 2:
        raise UsageError(f"log {path} has {len(values)} rows of numbers, it needs at least 2")
    time, command, position, velocity, torque = np.array(values).T
    return ActuatorLog(path, _time_step(path, time), command - position, velocity, torque)


def _place(path: Path, header: list[str], name: str) -> int:
    if header.count(name) != 1:
        problem = "two columns" if name in header else "no column"
        # the header holds the mistake: the name nearest to what is missing is what was meant
        hint = "" if name in header else nearest(name, header).replace("did you mean", "is it")
        raise UsageError(f"log {path} has {problem} {name!r}{hint}; a log has {', '.join(COLUMNS)}")
    return header.index(name)


def _time_step(path: Path, time: np.ndarray) -> float:
    steps = np.diff(time)
    expected = float(np.median(steps))
    if expected <= 0.0:
        raise UsageError(f"log {path}: time_s must rise from row to row, its typical step is {expected:g} s")
    (uneven,) = np.nonzero(np.abs(steps - expected) > _JITTER * expected)
    if len(uneven):
        raise UsageError(
            f"log {path}, row {uneven[0] + 3}: {steps[uneven[0]]:g} s after the row before it, elsewhere "
            f"it is {expected:g} s: resample the log at a uniform time step, or cut it there into two"
        )
    return float((time[-1] - time[0]) / len(steps))
