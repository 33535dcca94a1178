"""What a robot was told and what it measured: CSV files, checked cell by cell.

A row is an instant of the robot's clock. Measured values are those that hold at `time_s`; a command is in
force from `time_s` on, until the next row. Rows need not be evenly spaced.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from robotrl.core.errors import UsageError
from robotrl.training.csv_log import read_number, read_rows

TIME = "time_s"
COMMAND = "ctrl/"
SIGNALS = ("joint_position/", "joint_velocity/", "sensor/")

# a pause this much longer than the typical step is no sampling jitter: what happened in it is not known
_LONGEST_PAUSE = 10.0


@dataclass(frozen=True)
class Log:
    """One recording.

    Args:
        path: of the file, for messages.
        time_s: (T,) rising.
        commands: actuator -> (T,) commands, in the units of its control.
        signals: "joint_position/NAME", "joint_velocity/NAME", "sensor/NAME" or "sensor/NAME/INDEX" ->
            (T,) readings in MuJoCo's units; NaN where there is none.
    """

    path: Path
    time_s: np.ndarray
    commands: dict[str, np.ndarray]
    signals: dict[str, np.ndarray]

    def __post_init__(self) -> None:
        if len(self.time_s) < 2:
            raise UsageError(f"log {self.path} has {len(self.time_s)} rows of numbers, it needs at least 2")
        steps_s = np.diff(self.time_s)
        typical_s = float(np.median(steps_s))
        for wrong, what in (
            (steps_s <= 0.0, "it must rise from row to row"),
            (
                steps_s > _LONGEST_PAUSE * typical_s,
                f"elsewhere by {typical_s:g} s: cut it there into two",
            ),
        ):
            if wrong.any():
                row = int(np.argmax(wrong))
                raise UsageError(
                    f"log {self.path}, row {row + 3}: {TIME} rises by {steps_s[row]:g} s from the last, "
                    f"{what}"
                )
        if not self.commands:
            raise UsageError(f"log {self.path} has no command, a column {COMMAND}ACTUATOR")
        if not self.signals:
            raise UsageError(f"log {self.path} has nothing measured, a column {', '.join(SIGNALS)}NAME")


def read_log(path: Path) -> Log:
    """Read a CSV file with the columns `time_s`, `ctrl/ACTUATOR` and those of `Log.signals`, in any order.

    Columns of other names are not read; an empty cell of a measured column is no reading.

    Raises:
        UsageError: the file is missing or no such log; the message names the row of the file.
    """
    header, rows = read_rows(path)
    _check_header(path, header)
    cells = [
        [_number(path, number, name, cell) for name, cell in zip(header, row, strict=True)]
        for number, row in rows
    ]
    columns = dict(
        zip(header, np.array(cells, dtype=np.float64).reshape(len(cells), len(header)).T, strict=True)
    )
    return Log(
        path,
        columns[TIME],
        {name.removeprefix(COMMAND): column for name, column in columns.items() if name.startswith(COMMAND)},
        {name: column for name, column in columns.items() if name.startswith(SIGNALS)},
    )


def _check_header(path: Path, header: list[str]) -> None:
    if TIME not in header:
        raise UsageError(
            f"log {path} has no column {TIME!r}; a log has {TIME}, {COMMAND}ACTUATOR and measured "
            f"{', '.join(SIGNALS)}NAME"
        )
    for name in header:
        if _is_read(name) and header.count(name) > 1:
            raise UsageError(f"log {path} has two columns {name!r}")


def _is_read(name: str) -> bool:
    return name == TIME or name.startswith((COMMAND, *SIGNALS))


def _number(path: Path, row: int, name: str, cell: str) -> float:
    if not _is_read(name) or (not cell.strip() and name.startswith(SIGNALS)):
        return math.nan
    return read_number(path, row, name, cell)
