"""What the runtime asks of a robot: named signals in, one row of numbers per drive out."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from robotrl.core.errors import RobotrlError, UsageError

COMMAND_FIELDS = ("position", "velocity", "feedforward", "kp", "kd")
"""Columns of a command. A drive that acts on a joint makes the force (N m, or N at a slide)
kp (position - q) + kd (velocity - qd) + feedforward; another one takes the feedforward as it is."""

POSITION, VELOCITY, FEEDFORWARD, KP, KD = range(len(COMMAND_FIELDS))


@dataclass(frozen=True)
class Signal:
    """One named quantity a robot publishes.

    Attributes:
        name: as the observation term that takes it.
        unit: SI unit of every element.
        elements: one name per number; "0", "1", ... where they have none.
    """

    name: str
    unit: str
    elements: tuple[str, ...]


@dataclass(frozen=True)
class Layout:
    """What a robot says about itself when a connection is made.

    Attributes:
        robot: its name.
        signals: what it publishes, in the order of the numbers of a reading.
        drives: what can be commanded, in the order of the rows of a command.
        control_dt_s: time between two commands it was set up for, s; None where it takes any.
    """

    robot: str
    signals: tuple[Signal, ...]
    drives: tuple[str, ...]
    control_dt_s: float | None = None

    @property
    def width(self) -> int:
        """Numbers in a reading."""
        return sum(len(signal.elements) for signal in self.signals)

    @property
    def columns(self) -> dict[str, slice]:
        """Signal name -> its numbers in a reading."""
        found, start = {}, 0
        for signal in self.signals:
            found[signal.name] = slice(start, start + len(signal.elements))
            start += len(signal.elements)
        return found

    def to_json(self) -> str:
        """Write as JSON that `from_json` reads back to an equal layout."""
        return json.dumps(asdict(self), allow_nan=False)

    @classmethod
    def from_json(cls, text: str | bytes, origin: str) -> Layout:
        """Read what a robot says about itself.

        Raises:
            RobotrlError: it is no layout; names the origin.
        """
        try:
            data = json.loads(text)
            signals = tuple(
                Signal(_text(row["name"]), _text(row["unit"]), tuple(map(_text, row["elements"])))
                for row in data["signals"]
            )
            dt_s = data["control_dt_s"]
            return cls(
                _text(data["robot"]),
                signals,
                tuple(map(_text, data["drives"])),
                None if dt_s is None else float(dt_s),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise RobotrlError(f"{origin} does not describe itself as a robot should: {error!r}") from error


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected text, got {value!r}")
    return value


@dataclass(frozen=True)
class Reading:
    """What a robot measured.

    Attributes:
        values: (W,) float64, signal after signal in the order of the robot's `Layout`.
        times_s: (S,) float64, when each signal was measured, on this machine's monotonic clock.
        tripped: whether a watchdog has taken the robot over.
    """

    values: np.ndarray
    times_s: np.ndarray
    tripped: bool = False


@dataclass(frozen=True)
class Command:
    """What a robot is to do until the next command.

    Attributes:
        rows: (D, 5) float64, one row of `COMMAND_FIELDS` per drive in the order of the robot's `Layout`.
        state: number of the runtime's state, for lamps and logs of the robot.
    """

    rows: np.ndarray
    state: int


class Robot(Protocol):
    """A connected robot. Nothing here waits."""

    layout: Layout

    def fileno(self) -> int:
        """Return what `select` waits on for a reading."""

    def read(self) -> Reading | None:
        """Return the newest reading since the last call, None if there is none."""

    def send(self, command: Command) -> None:
        """Send a command."""

    def close(self) -> None:
        """End the connection. The robot stops by its own time-out."""


def check_rows(rows: np.ndarray, drives: int) -> None:
    """Refuse commands of another shape.

    Raises:
        UsageError: says which.
    """
    if rows.shape != (drives, len(COMMAND_FIELDS)) or rows.dtype != np.float64:
        raise UsageError(
            f"commands must be ({drives}, {len(COMMAND_FIELDS)}) float64, got {rows.shape} {rows.dtype}"
        )
