"""The loop's clock: absolute deadlines, and periods that are missed stay missed."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from robotrl.deploy.runtime.histogram import Histogram

WINDOW_S = 10.0


@dataclass(frozen=True)
class Tick:
    """The beginning of a period.

    Attributes:
        time_s: now, on the monotonic clock.
        lateness_s: after the deadline.
        missed: periods that were skipped because it was too late for them.
        jumped: whether the clock went back.
    """

    time_s: float
    lateness_s: float
    missed: int
    jumped: bool


class Rate:
    """Waits for the deadlines start + n dt.

    A period that begins later than one dt after its deadline is an overrun: the periods whose deadlines have
    passed are skipped, so that a stall is never made up for by a burst.

    Args:
        dt_s: period, s.
        spin_s: of every wait, what is spent polling the clock instead of sleeping, s.
        clock: monotonic, s.
        sleep: for s.
    """

    def __init__(
        self,
        dt_s: float,
        spin_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self.dt_s, self._spin_s = dt_s, spin_s
        self._clock, self._sleep = clock, sleep
        self.restart()

    def restart(self) -> None:
        """Let the first period begin one dt from now, and forget how late the earlier ones were."""
        self._last_s = self._clock()
        self._next_s = self._last_s + self.dt_s
        self.lateness = Histogram()
        self.overruns = 0
        self.consecutive = 0
        self._recent: deque[float] = deque()

    def wait(self) -> Tick:
        """Return at the next deadline, or at once if it has passed."""
        left_s = self._next_s - self._clock()
        # a clock that went back must not make us sleep until it is where it was
        if 0.0 < left_s - self._spin_s <= 1.5 * self.dt_s:
            self._sleep(left_s - self._spin_s)
        while self._spin_s and self._last_s <= self._clock() < self._next_s:
            pass
        now_s = self._clock()
        jumped = not now_s >= self._last_s
        self._last_s = now_s
        if jumped:
            self._next_s = now_s
        lateness_s = now_s - self._next_s
        missed = max(0, math.floor(lateness_s / self.dt_s))
        self._next_s += (missed + 1) * self.dt_s
        self.lateness.add(max(0.0, lateness_s))
        self._count(now_s, missed > 0)
        return Tick(now_s, lateness_s, missed, jumped)

    def _count(self, now_s: float, overrun: bool) -> None:
        self.consecutive = self.consecutive + 1 if overrun else 0
        if overrun:
            self.overruns += 1
            self._recent.append(now_s)
        while self._recent and self._recent[0] < now_s - WINDOW_S:
            self._recent.popleft()

    @property
    def recent_share(self) -> float:
        """Overruns of the last 10 s, as a share of its periods."""
        return len(self._recent) * self.dt_s / WINDOW_S
