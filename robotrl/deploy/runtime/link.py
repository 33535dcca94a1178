"""The line between the runtime and its watchdog: messages over a pair of local sockets.

One byte says what a message is, the rest is JSON or float64 in this machine's order. A message that finds
the line full is lost: whoever is stopped must not block the other.
"""

from __future__ import annotations

import contextlib
import enum
import json
import socket
import subprocess
import sys

import numpy as np

from robotrl.core.errors import RobotrlError, UsageError
from robotrl.deploy.runtime.robots.robot import COMMAND_FIELDS, Command, Layout, Reading, check_rows

_LARGEST = 1 << 18
_LEAVE_S = 1.0
_NO_ROWS = np.empty((0, len(COMMAND_FIELDS)))


class Word(enum.IntEnum):
    """What a message is."""

    GONE = 0
    """There is nobody at the other end any more."""
    LAYOUT = 1
    ERROR = 2
    READING = 3
    COMMAND = 4
    DAMPING = 5
    RESET = 6
    LEAVE = 7
    """The runtime leaves in good order: it has damped the robot itself."""


class Link:
    """One end of the line.

    Args:
        end: a socket of messages (SOCK_SEQPACKET).
    """

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._end = end

    def fileno(self) -> int:
        """Return what `select` waits on."""
        return self._end.fileno()

    def close(self) -> None:
        """Close this end: the other is told so."""
        self._end.close()

    def send_layout(self, layout: Layout) -> None:
        """Tell the runtime that the robot is connected."""
        self._send(Word.LAYOUT, layout.to_json().encode())

    def send_error(self, message: str, exit_code: int) -> None:
        """Tell the runtime why the robot is not."""
        self._send(Word.ERROR, json.dumps([message, exit_code]).encode())

    def send_reading(self, reading: Reading, tripped: bool) -> None:
        """Pass a reading on."""
        numbers = np.concatenate([[float(tripped)], reading.times_s, reading.values])
        self._send(Word.READING, numbers.tobytes())

    def send_rows(self, word: Word, rows: np.ndarray, state: int = 0) -> None:
        """Pass a command, or what to send when there is none.

        Args:
            word: which of them.
            rows: (drives, 5), a row per drive as `robots.robot.Command` has it.
            state: of the state machine.
        """
        self._send(word, np.concatenate([[float(state)], rows.reshape(-1)]).tobytes())

    def send_word(self, word: Word) -> None:
        """Say RESET or LEAVE."""
        self._send(word, b"")

    def receive(self) -> tuple[Word, np.ndarray, int] | None:
        """Return the runtime's next message: word, rows and state; None if there is none."""
        data = self.receive_bytes()
        if data is None:
            return None
        word = Word(data[0]) if data else Word.GONE
        if word not in (Word.COMMAND, Word.DAMPING):
            return word, _NO_ROWS, 0
        numbers = np.frombuffer(data, dtype=np.float64, offset=1)
        return word, numbers[1:].reshape(-1, len(COMMAND_FIELDS)), int(numbers[0])

    def receive_bytes(self) -> bytes | None:
        """Return the next message, b"" if the other end is closed, None if there is none."""
        try:
            return self._end.recv(_LARGEST)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def _send(self, word: Word, body: bytes) -> None:
        with contextlib.suppress(OSError):
            self._end.send(bytes([word]) + body)


class WatchedRobot:
    """A robot behind a watchdog process, which is started here.

    Args:
        address: see `open_robot`.
        silence_s: longest silence between two commands that the watchdog accepts, s.
        key: shared with the robot.
        timeout_s: how long to wait for the robot, s.

    Raises:
        UsageError: see `open_robot`.
        RobotrlError: the robot cannot be reached.
    """

    def __init__(self, address: str, silence_s: float, key: bytes = b"", timeout_s: float = 10.0) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-m", "robotrl.deploy.runtime.watchdog", address]
        command += ["--silence-s", repr(silence_s), "--timeout-s", repr(timeout_s)]
        with theirs:
            self._process = subprocess.Popen(
                [*command, "--link", str(theirs.fileno())],
                stdin=subprocess.PIPE,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # a Ctrl-C in the terminal is not for it
            )
        assert self._process.stdin is not None
        with self._process.stdin as stdin:
            stdin.write(key)
        ours.settimeout(timeout_s + 20.0)  # its interpreter has to start as well
        self.layout = self._greeting(ours, address)
        self._link = Link(ours)
        self._num_signals = len(self.layout.signals)
        self.alive = True

    def _greeting(self, ours: socket.socket, address: str) -> Layout:
        try:
            data = ours.recv(_LARGEST)
        except TimeoutError:
            data = b""
        if data and data[0] == Word.LAYOUT:
            return Layout.from_json(data[1:], address)
        ours.close()
        if not data:
            raise RobotrlError(f"the watchdog of {address} ended or hangs: see its message above")
        message, exit_code = json.loads(data[1:])
        raise UsageError(message) if exit_code == UsageError.exit_code else RobotrlError(message)

    def fileno(self) -> int:
        """Return what `select` waits on."""
        return self._link.fileno()

    def read(self) -> Reading | None:
        """Return the newest reading since the last call."""
        newest = None
        while (data := self._link.receive_bytes()) is not None:
            if not data:
                self.alive = False
                break
            newest = data
        if newest is None:
            return None
        numbers = np.frombuffer(newest, dtype=np.float64, offset=1)
        values = 1 + self._num_signals
        return Reading(numbers[values:], numbers[1:values], bool(numbers[0]))

    def send(self, command: Command) -> None:
        """Send a command."""
        check_rows(command.rows, len(self.layout.drives))
        self._link.send_rows(Word.COMMAND, command.rows, command.state)

    def set_damping(self, rows: np.ndarray) -> None:
        """Tell the watchdog what to send when we are silent, (D, 5)."""
        check_rows(rows, len(self.layout.drives))
        self._link.send_rows(Word.DAMPING, rows)

    def reset(self) -> None:
        """Let commands pass again: a person said so."""
        self._link.send_word(Word.RESET)

    def leave(self) -> None:
        """Say that the robot was damped in good order: the watchdog ends too, at once."""
        self._link.send_word(Word.LEAVE)
        # closing a line with readings that nobody took makes its other end lose what it has not read yet
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_LEAVE_S)

    def close(self) -> None:
        """Close the line. Unless we left before, a watchdog that passed commands on damps the robot."""
        self._link.close()
