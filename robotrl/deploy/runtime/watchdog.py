"""An independent process between the runtime and the robot, which damps the robot when the runtime is silent.

It holds the robot's connection. Every command passes through it; when none comes for `silence_s`, or the
runtime's end of the line is closed because it died, it sends the damping command it was given beforehand,
and refuses all others until a person resets. It acts within `silence_s` plus `REACTION_S`, or at once when
the runtime died, whatever state the runtime is in: killed, stopped, or stuck in an endless loop.
"""

from __future__ import annotations

import argparse
import gc
import os
import select
import signal
import socket
import sys
import time

import numpy as np

from robotrl.core.errors import RobotrlError
from robotrl.deploy.runtime.link import Link, Word
from robotrl.deploy.runtime.machine import State
from robotrl.deploy.runtime.priority import WATCHDOG, real_time
from robotrl.deploy.runtime.robots.client import open_robot
from robotrl.deploy.runtime.robots.robot import Command, Robot

REACTION_S = 0.02
"""From the end of the silence to the damping command, s, where the watchdog gets a CPU."""
LINGER_S = 5.0
"""For how long a robot is damped after the runtime died; then its own time-out takes over, s."""
REPEAT_S = 0.02
# a line that hung up is readable for ever and has nothing to read: from so many such wake-ups in a row on,
# it is looked at every millisecond, not waited for
_EMPTY_WAKES = 100
_LOOK_S = 0.001


class DeadMan:
    """Decides when the runtime has been silent for too long.

    Args:
        silence_s: longest accepted silence, s.
    """

    def __init__(self, silence_s: float) -> None:
        self._silence_s = silence_s
        self._heard_s: float | None = None
        self.tripped = False

    def heard(self, now_s: float) -> bool:
        """Take note of a command; return whether it may pass."""
        self.due(now_s)
        if not self.tripped:
            self._heard_s = now_s
        return not self.tripped

    def due(self, now_s: float) -> bool:
        """Return whether the robot has to be damped now."""
        if self._heard_s is not None and not now_s - self._heard_s <= self._silence_s:
            self.tripped = True
        return self.tripped

    def left_s(self, now_s: float) -> float:
        """Return the time until that may change, s; infinite before the first command."""
        if self._heard_s is None:
            return float("inf")
        return max(0.0, self._heard_s + self._silence_s - now_s)

    @property
    def armed(self) -> bool:
        """Whether a command has been heard."""
        return self._heard_s is not None

    def reset(self) -> None:
        """Begin anew: no command has been heard."""
        self._heard_s, self.tripped = None, False


class Watchdog:
    """Passes readings and commands on until the runtime falls silent or leaves.

    Args:
        robot: connected.
        link: to the runtime.
        silence_s: longest accepted silence, s.
    """

    def __init__(self, robot: Robot, link: Link, silence_s: float) -> None:
        self._robot, self._link = robot, link
        self._dead_man = DeadMan(silence_s)
        self._damping: np.ndarray | None = None
        self._damped_s = -np.inf

    def run(self) -> None:
        """Serve until the runtime leaves, or for `LINGER_S` after it died while it commanded."""
        self._link.send_layout(self._robot.layout)
        line, empty = self._robot.fileno(), 0
        while True:
            now_s = time.monotonic()
            wait_s = REPEAT_S if self._dead_man.tripped else min(1.0, self._dead_man.left_s(now_s))
            ends = [self._link.fileno(), line]
            if empty >= _EMPTY_WAKES:
                ends, wait_s = ends[:1], min(wait_s, _LOOK_S)
            ready, _, _ = select.select(ends, [], [], wait_s)
            last = self._obey()
            if last is not None:
                break
            if self._dead_man.due(time.monotonic()):
                self._damp()
            reading = self._robot.read()
            if reading is not None:
                empty = 0
                self._link.send_reading(reading, self._dead_man.tripped)
            elif line in ready:
                empty += 1
        if last is Word.GONE and self._dead_man.armed:
            self._linger()

    def _obey(self) -> Word | None:
        """Do what the runtime sent; return how it left, None if it is still there."""
        while (message := self._link.receive()) is not None:
            word, rows, state = message
            if word in (Word.GONE, Word.LEAVE):
                return word
            if word is Word.DAMPING:
                self._damping = rows
            elif word is Word.RESET:
                self._dead_man.reset()
            elif word is Word.COMMAND and self._dead_man.heard(time.monotonic()):
                self._robot.send(Command(rows, state))
        return None

    def _linger(self) -> None:
        until_s = time.monotonic() + LINGER_S
        while time.monotonic() < until_s:
            self._damped_s = -np.inf
            self._damp()
            self._robot.read()
            time.sleep(REPEAT_S)

    def _damp(self) -> None:
        now_s = time.monotonic()
        if self._damping is not None and now_s - self._damped_s >= 0.9 * REPEAT_S:
            self._damped_s = now_s
            self._robot.send(Command(self._damping, State.DAMPING))


def main() -> int:
    """Run a watchdog: the runtime starts it, with its end of the line and the key on stdin."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address")
    parser.add_argument("--silence-s", type=float, required=True)
    parser.add_argument("--link", type=int, required=True, help="file descriptor")
    parser.add_argument("--timeout-s", type=float, required=True)
    args = parser.parse_args()
    # Ctrl-C and the stop of a service are the runtime's to handle: this one ends when that one has
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    link = Link(socket.socket(fileno=args.link))
    try:
        robot = open_robot(args.address, sys.stdin.buffer.read(), args.timeout_s)
    except RobotrlError as error:
        link.send_error(str(error), error.exit_code)
        return error.exit_code
    real_time(WATCHDOG)
    gc.freeze()
    gc.disable()  # a pause for the collector is a late reaction; nothing here makes cycles
    try:
        Watchdog(robot, link, args.silence_s).run()
    finally:
        robot.close()
    return 0


if __name__ == "__main__":
    os._exit(main())
