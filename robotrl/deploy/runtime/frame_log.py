"""What happened in every control step: the last two seconds in memory, all of it in an MCAP file.

MCAP (mcap.dev) is what robot tools read. Four channels of JSON: `/signals`, `/command` and `/status` of every
control step, `/event` of guards and changes of state. Numbers are by name, {"joint_position": {"hip": 0.1}};
one that is not finite is null.
"""

from __future__ import annotations

import json
import queue
import threading
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from robotrl.core.errors import RobotrlError, UsageError
from robotrl.core.files import write_aside
from robotrl.deploy.runtime.guards import Event
from robotrl.deploy.runtime.robots.robot import COMMAND_FIELDS, Layout

RING_S = 2.0
_WAITING = 4096
# what may be lost of a file when the runtime is killed: some tens of control steps
_CHUNK = 1 << 16
_NUMBERS = {"type": "object", "additionalProperties": {"type": ["number", "null"]}}
_OF_NAMES = {"type": "object", "additionalProperties": _NUMBERS}
SCHEMAS: dict[str, dict[str, Any]] = {
    "/signals": _OF_NAMES,
    "/command": _OF_NAMES,
    "/status": {
        "type": "object",
        "properties": {
            "state": {"type": "string"},
            "age_s": {"type": ["number", "null"]},
            "lateness_s": {"type": "number"},
            "inference_s": {"type": "number"},
        },
    },
    "/event": {
        "type": "object",
        "properties": {
            "guard": {"type": "string"},
            "what": {"type": "string"},
            "value": {"type": ["number", "null"]},
            "limit": {"type": ["number", "null"]},
        },
    },
}


@dataclass(frozen=True)
class Frame:
    """One control step.

    Attributes:
        time_s: on the monotonic clock.
        state: name of the runtime's state.
        values: (W,) numbers of the reading.
        rows: (D, 5) command in the robot's order, None where none was sent.
        age_s: of the oldest signal in use, s.
        lateness_s: of the beginning of the period, s.
        inference_s: of the policy, s; 0 where it was not asked.
    """

    time_s: float
    state: str
    values: np.ndarray
    rows: np.ndarray | None
    age_s: float
    lateness_s: float
    inference_s: float


class FrameLog:
    """Keeps the last frames, and writes all of them to a file in another thread.

    Args:
        layout: of the robot.
        dt_s: between two frames, s.
        path: of the file, None for no file.
        dumps: beside it the frames around an event are written, numbered: `STEM-event1.mcap`; one that is
            there is replaced, so give it a name of its own.

    Attributes:
        lost: frames and events that are missing in the file: the disk was too slow for them.

    Raises:
        UsageError: the package mcap is missing, or something lies at `path`.
    """

    def __init__(self, layout: Layout, dt_s: float, path: Path | None, dumps: Path) -> None:
        import_mcap()
        self._layout, self._dumps = layout, dumps
        self._ring: deque[Frame] = deque(maxlen=max(1, round(RING_S / dt_s)))
        self._dumping: list[threading.Thread] = []
        self.lost = 0
        self._error: OSError | None = None
        self._file: _McapFile | None = None
        if path is not None:
            try:
                self._file = _McapFile(path, layout)
            except OSError as error:
                raise UsageError(f"--log {path}: {error.strerror}") from error
            self._waiting: queue.Queue[Frame | Event | None] = queue.Queue(_WAITING)
            self._thread = threading.Thread(target=self._drain, args=(self._file,), daemon=True)
            self._thread.start()

    def add(self, frame: Frame) -> None:
        """Take a control step."""
        self._ring.append(frame)
        self._put(frame)

    def event(self, event: Event) -> Path:
        """Take a guard's event; the frames before it go into a file of their own, whose path is returned."""
        self._put(event)
        path = self._dumps.with_name(f"{self._dumps.stem}-event{len(self._dumping) + 1}.mcap")
        frames = [*self._ring, event]
        thread = threading.Thread(target=self._dump, args=(path, frames))  # the loop must not wait for a disk
        thread.start()
        self._dumping.append(thread)
        return path

    def _dump(self, path: Path, items: list[Frame | Event]) -> None:
        try:
            write_mcap(path, self._layout, items)
        except OSError as error:
            self._error = error

    def close(self) -> None:
        """Write what is left.

        Raises:
            RobotrlError: the file could not be written.
        """
        if self._file is not None:
            self._waiting.put(None)
            self._thread.join()
            self._file = None
        for thread in self._dumping:
            thread.join()
        if self._error is not None:
            raise RobotrlError(f"the log is not complete: {self._error.strerror or self._error}")

    def _put(self, item: Frame | Event) -> None:
        if self._file is not None:
            try:
                self._waiting.put_nowait(item)
            except queue.Full:
                self.lost += 1

    def _drain(self, file: _McapFile) -> None:
        try:
            while (item := self._waiting.get()) is not None:
                file.add(item)
            file.close()
        except OSError as error:
            self._error = error
            while self._waiting.get() is not None:
                pass


def write_mcap(path: Path, layout: Layout, items: Iterable[Frame | Event]) -> None:
    """Write frames and events to a file, whole or not at all."""

    def write(aside: Path) -> None:
        file = _McapFile(aside, layout)
        for item in items:
            file.add(item)
        file.close()

    write_aside(path, write)


class _McapFile:
    """A file being written, frame by frame; it must not exist."""

    def __init__(self, path: Path, layout: Layout) -> None:
        mcap = import_mcap()
        self._layout = layout
        self._stream = open(path, "xb")  # noqa: SIM115 - closed by `close`
        self._writer = mcap.writer.Writer(self._stream, chunk_size=_CHUNK)
        self._writer.start(profile="", library="robotrl")
        self._channels = {}
        for topic, schema in SCHEMAS.items():
            schema_id = self._writer.register_schema(
                topic.strip("/"), "jsonschema", json.dumps(schema).encode()
            )
            self._channels[topic] = self._writer.register_channel(topic, "json", schema_id)

    def add(self, item: Frame | Event) -> None:
        """Write a control step or an event."""
        if isinstance(item, Event):
            named = {"guard": item.guard, "what": item.what, "value": item.value, "limit": item.limit}
            self._write(
                "/event",
                item.time_s,
                {k: _number(v) if isinstance(v, float | int) else v for k, v in named.items()},
            )
            return
        values = list(map(_number, item.values.tolist()))
        signals, start = {}, 0
        for signal in self._layout.signals:
            end = start + len(signal.elements)
            signals[signal.name] = dict(zip(signal.elements, values[start:end], strict=True))
            start = end
        self._write("/signals", item.time_s, signals)
        rows = [] if item.rows is None else item.rows.tolist()
        command = {
            drive: dict(zip(COMMAND_FIELDS, map(_number, row), strict=True))
            for drive, row in zip(self._layout.drives, rows, strict=False)
        }
        self._write("/command", item.time_s, command)
        status = {"state": item.state, "age_s": _number(item.age_s), "lateness_s": item.lateness_s}
        self._write("/status", item.time_s, status | {"inference_s": item.inference_s})

    def close(self) -> None:
        """Write the index and close."""
        self._writer.finish()
        self._stream.close()

    def _write(self, topic: str, time_s: float, data: dict[str, Any]) -> None:
        stamp_ns = round((time_s + _WALL_CLOCK_S) * 1e9)
        message = json.dumps(data, allow_nan=False).encode()
        self._writer.add_message(self._channels[topic], stamp_ns, message, stamp_ns)


# from the monotonic clock to that of the calendar, once: a log must not jump with it
_WALL_CLOCK_S = time.time() - time.monotonic()


def _number(value: float) -> float | None:
    return value if abs(value) < float("inf") else None  # False for NaN


def import_mcap() -> Any:
    """Return the package mcap.

    Raises:
        UsageError: it is missing.
    """
    try:
        import mcap
        import mcap.exceptions
        import mcap.reader
        import mcap.writer
    except ImportError as error:
        raise UsageError('logs need the package mcap: pip install "robotrl[deploy]"') from error
    return mcap
