"""Read back what a deployment recorded."""

from __future__ import annotations

import contextlib
import json
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from robotrl.core.errors import RobotrlError, UsageError
from robotrl.deploy.runtime.frame_log import SCHEMAS, import_mcap
from robotrl.deploy.runtime.robots.robot import COMMAND_FIELDS


@dataclass(frozen=True)
class Log:
    """A log read back, T control steps.

    Attributes:
        times_s: (T,) seconds since the first control step.
        states: T names of the runtime's states.
        elements: signal name -> names of its elements.
        signals: signal name -> (T, n).
        commands: drive -> (T, 5), columns as `COMMAND_FIELDS`; NaN where nothing was sent.
        events: what guards said, as in the file, with "time_s".
    """

    times_s: np.ndarray
    states: list[str]
    elements: dict[str, list[str]]
    signals: dict[str, np.ndarray]
    commands: dict[str, np.ndarray]
    events: list[dict[str, Any]]


def read_log(path: Path) -> Log:
    """Read a file that `FrameLog` wrote.

    Raises:
        UsageError: the package mcap is missing, or there is no such file.
        RobotrlError: it is not such a log.
    """
    mcap = import_mcap()
    by_topic: dict[str, list[tuple[float, dict[str, Any]]]] = {topic: [] for topic in SCHEMAS}
    try:
        with open(path, "rb") as file:
            messages = mcap.reader.NonSeekingReader(file).iter_messages(log_time_order=False)
            # a runtime that was killed leaves a file without an end: what is whole in it is read
            with contextlib.suppress(mcap.exceptions.EndOfFile, struct.error):
                for _, channel, message in messages:
                    by_topic[channel.topic].append((message.log_time * 1e-9, json.loads(message.data)))
        whole = min(len(by_topic[topic]) for topic in ("/signals", "/command", "/status"))
        if not whole:
            raise ValueError("it holds no control step")
        for topic in ("/signals", "/command", "/status"):
            del by_topic[topic][whole:]
        times_s, signals = zip(*by_topic["/signals"], strict=True)
        states = [row["state"] for _, row in by_topic["/status"]]
        commands = [row for _, row in by_topic["/command"]]
        elements = {name: list(row) for name, row in signals[0].items()}
        drives = list(dict.fromkeys(name for row in commands for name in row))
        return Log(
            np.array(times_s) - times_s[0],
            states,
            elements,
            {name: _rows([row[name] for row in signals], names) for name, names in elements.items()},
            {name: _rows([row.get(name, {}) for row in commands], COMMAND_FIELDS) for name in drives},
            [row | {"time_s": time_s - times_s[0]} for time_s, row in by_topic["/event"]],
        )
    except FileNotFoundError as error:
        raise UsageError(f"log {path} does not exist") from error
    except (OSError, ValueError, KeyError, TypeError, mcap.exceptions.McapError) as error:
        raise RobotrlError(f"{path} is not a log of `robotrl deploy`: {error!r}") from error


def _rows(rows: list[dict[str, float | None]], names: Iterable[str]) -> np.ndarray:
    """Return (T, n) float64; what is null or missing is NaN."""
    names = list(names)
    return np.array([[row.get(name) for name in names] for row in rows], dtype=np.float64)
