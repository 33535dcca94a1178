"""Time spent training, and stopping it cleanly."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


class Clock:
    """Wall-clock seconds of training; stands still during evaluations, continues after a resume."""

    def __init__(self, seconds: float = 0.0) -> None:
        self._counted = seconds
        self._since: float | None = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds counted so far."""
        running = 0.0 if self._since is None else time.perf_counter() - self._since
        return self._counted + running

    def pause(self) -> None:
        """Stop counting."""
        self._counted, self._since = self.seconds, None

    def go(self) -> None:
        """Count again."""
        self._since = time.perf_counter()


@dataclass
class StopFlag:
    """Set by Ctrl-C, read between two iterations."""

    requested: bool = False


@contextmanager
def stop_on_ctrl_c() -> Iterator[StopFlag]:
    """Let the first Ctrl-C (or SIGTERM) finish the iteration; the second one interrupts at once."""
    flag = StopFlag()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def request(number: int, _: object) -> None:
        flag.requested = True
        signal.signal(number, signal.default_int_handler)

    for number in previous:
        signal.signal(number, request)
    try:
        yield flag
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
