"""From a robot's clock to ours."""

from __future__ import annotations

import math

_DRIFT = 1e-4
"""Largest rate at which two clocks part, s/s: crystals stay within 5e-5 each."""
_SETTLING_S = 1.0
_WINDOW_S = 10.0
"""In every such time one packet at least travels as fast as any, s."""


class ClockMap:
    """Maps times of a robot's clock onto our monotonic clock.

    The offset is that of the packet that travelled fastest in the first second, so the age of a reading is
    short by that packet's travel time. From then on it follows the fastest packet of every ten seconds, as a
    packet can only be late, and by no more than the drift of two crystals: when the robot's clock jumps back
    its readings look old, when it jumps ahead they lie in the future, and both are noticed.
    """

    def __init__(self) -> None:
        self._offset_s, self._fastest_s = math.inf, math.inf
        self._first_s: float | None = None
        self._window_s = 0.0

    def to_local(self, robot_s: float, sent_s: float, received_s: float) -> float:
        """Return when, on our clock, it was `robot_s` on the robot's.

        Args:
            robot_s: time on the robot's clock.
            sent_s: when the packet left, on the robot's clock.
            received_s: when it came, on our clock.
        """
        seen_s = received_s - sent_s
        if self._first_s is None:
            self._first_s = self._window_s = received_s
        if received_s - self._first_s <= _SETTLING_S:
            self._offset_s = min(self._offset_s, seen_s)
        self._fastest_s = min(self._fastest_s, seen_s)
        past_s = received_s - self._window_s
        if past_s >= _WINDOW_S:
            room_s = _DRIFT * past_s
            self._offset_s += min(room_s, max(-room_s, self._fastest_s - self._offset_s))
            self._fastest_s, self._window_s = math.inf, received_s
        return robot_s + self._offset_s
