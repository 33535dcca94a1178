"""What is checked in every control step, in this order: readings, action, then the body.

Every comparison is written so that NaN fails, and NaN is looked for before anything is cut to a range: a
cut would turn it into a full command.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from robotrl.core.errors import UsageError, unknown_name
from robotrl.deploy.contract import Contract
from robotrl.deploy.runtime.binding import GRAVITY, Binding, element_names
from robotrl.deploy.runtime.drives import joint_ranges
from robotrl.deploy.runtime.limits import Limits
from robotrl.deploy.runtime.rate import Rate, Tick
from robotrl.deploy.runtime.robots.robot import Layout, Reading

_TILT_RAD = 1.0
_FUTURE_S = 0.01
"""A reading may lie so far ahead of our clock: the jitter of the packets that the clocks were matched by."""


@dataclass(frozen=True)
class Event:
    """A guard that was not satisfied.

    Attributes:
        guard: which.
        what: of which quantity, with its unit.
        value: measured.
        limit: that it exceeded; NaN where nothing was measured.
        time_s: on the monotonic clock.
    """

    guard: str
    what: str
    value: float
    limit: float
    time_s: float

    def __str__(self) -> str:
        if math.isnan(self.limit):
            return f"{self.guard}: {self.what}"
        return f"{self.guard}: {self.what} is {self.value:.6g}, limit {self.limit:.6g}"


class Guards:
    """The thresholds of a policy on a robot.

    Args:
        contract: of the policy.
        limits: of the user.
        layout: of the robot.
        binding: of both.

    Raises:
        UsageError: the limits name a signal that the robot does not publish.
    """

    def __init__(self, contract: Contract, limits: Limits, layout: Layout, binding: Binding) -> None:
        assert contract.control_dt_s is not None and contract.robot is not None
        self._limits, self._binding = limits, binding
        self._max_age_s = limits.age_s(contract.control_dt_s)
        names = [signal.name for signal in layout.signals]
        slow = [i for i, name in enumerate(names) if name in limits.signals and i not in binding.used_signals]
        self._aging = np.append(binding.used_signals, slow).astype(np.intp)
        self._aging_names = [names[i] for i in self._aging]
        self._max_ages_s = np.where(
            np.isin(self._aging, binding.used_signals), self._max_age_s, limits.max_signal_age_s
        )
        body = contract.robot
        self._joint_names = [f"position of {joint.name} ({joint.unit})" for joint in body.joints]
        lower, upper = joint_ranges(body, limits.range_share)
        # a model's own pose may lie outside of its ranges
        default = [joint.default for joint in body.joints]
        self._lower, self._upper = np.minimum(lower, default), np.maximum(upper, default)
        self._names = binding.input_names
        self._action_names = [f"{out.name} ({out.unit})" for out in contract.outputs]
        self._quaternions = [
            (term.name, slice(term.start, term.start + 4))
            for term in contract.inputs
            if sorted(element_names(term)) == ["w", "x", "y", "z"] and term.unit == "1"
        ]
        for name in limits.signals:
            if name not in layout.columns:
                raise unknown_name("signal in limits", name, layout.columns)
        self._bounded = [(name, layout.columns[name], ends) for name, ends in limits.signals.items()]
        self._tilt_rad = _TILT_RAD if limits.tilt_rad is None else limits.tilt_rad
        if binding.gravity is None and limits.tilt_rad is not None and limits.tilt_rad < math.pi:
            raise UsageError(f"limits: tilt_rad needs the robot to publish {GRAVITY!r}, which it does not")

    def clock(self, tick: Tick, rate: Rate) -> Event | None:
        """Check the loop's own time."""
        limits = self._limits
        if tick.jumped:
            return Event("clock", "time since the last period (s)", -math.inf, 0.0, tick.time_s)
        if not rate.consecutive < limits.consecutive_overruns:
            most = limits.consecutive_overruns
            return Event("overruns", "periods in a row begun late", rate.consecutive, most, tick.time_s)
        if not rate.recent_share <= limits.overrun_share:
            share = rate.recent_share
            return Event("overruns", "share begun late in 10 s", share, limits.overrun_share, tick.time_s)
        return None

    def age(self, reading: Reading | None, now_s: float) -> Event | None:
        """Check that what is acted on is not old, and was not measured in the future."""
        if reading is None:
            return Event("age", "first reading (s)", math.inf, self._max_age_s, now_s)
        if reading.tripped:
            return Event("watchdog", "silence of this program (s)", math.inf, self._max_age_s, now_s)
        ages_s = now_s - reading.times_s[self._aging]
        late = ~(ages_s <= self._max_ages_s)
        if late.any():
            return self._age_event("age", ages_s, late, float(self._max_ages_s[np.argmax(late)]), now_s)
        ahead = ~(ages_s >= -_FUTURE_S)
        return self._age_event("clock", ages_s, ahead, -_FUTURE_S, now_s) if ahead.any() else None

    def _age_event(
        self, guard: str, ages_s: np.ndarray, bad: np.ndarray, limit: float, now_s: float
    ) -> Event:
        first = int(np.argmax(bad))
        return Event(guard, f"age of {self._aging_names[first]} (s)", float(ages_s[first]), limit, now_s)

    def observation(self, observation: np.ndarray, now_s: float) -> Event | None:
        """Check what the network is fed, (D,) float32."""
        bad = ~np.isfinite(observation)
        if bad.any():
            return self._at("not finite", self._names, observation, bad, math.inf, now_s)
        bad = ~(np.abs(observation) <= self._limits.obs_abs_max)
        if bad.any():
            return self._at("observation", self._names, observation, bad, self._limits.obs_abs_max, now_s)
        for name, columns in self._quaternions:
            off = abs(float(np.linalg.norm(observation[columns])) - 1.0)
            if not off <= self._limits.quaternion_tolerance:
                limit = self._limits.quaternion_tolerance
                return Event("quaternion", f"distance of {name}'s norm from 1", off, limit, now_s)
        return None

    def action(self, action: np.ndarray, now_s: float) -> Event | None:
        """Check what the network returned, (A,), before it is cut to any range."""
        bad = ~np.isfinite(action)
        return (
            self._at("action not finite", self._action_names, action, bad, math.inf, now_s)
            if bad.any()
            else None
        )

    def command(self, rows: np.ndarray, now_s: float) -> Event | None:
        """Check what is about to be sent, (A, 5): the last thing in the way of a mistake of our own."""
        bad = ~np.isfinite(rows).all(axis=1)
        if not bad.any():
            return None
        return Event("command not finite", self._action_names[int(np.argmax(bad))], math.nan, math.nan, now_s)

    def body(self, values: np.ndarray, now_s: float) -> Event | None:
        """Check the body, given the numbers of a reading (W,)."""
        limits, binding = self._limits, self._binding
        if binding.gravity is not None:
            x, y, z = (float(v) for v in values[binding.gravity])
            tilt = math.atan2(math.hypot(x, y), -z)
            if not tilt <= self._tilt_rad:
                return Event("tilt", "angle from the vertical (rad)", tilt, self._tilt_rad, now_s)
        if len(binding.joint_velocity):
            speed = np.abs(values[binding.joint_velocity])
            for what, value, limit in (
                ("largest joint speed (rad/s)", float(speed.max()), limits.joint_velocity),
                ("mean joint speed (rad/s)", float(speed.mean()), limits.mean_joint_velocity),
            ):
                if not value <= limit:
                    return Event("joint velocity", what, value, limit, now_s)
            position = values[binding.joint_position]
            bad = ~(np.isfinite(position) & (self._lower <= position) & (position <= self._upper))
            if bad.any():
                first = int(np.argmax(bad))
                end = self._upper[first] if position[first] > self._upper[first] else self._lower[first]
                return self._at("joint position", self._joint_names, position, bad, float(end), now_s)
        for name, columns, (low, high) in self._bounded:
            for value in values[columns]:
                if not low <= value:
                    return Event("signal", name, float(value), low, now_s)
                if not value <= high:
                    return Event("signal", name, float(value), high, now_s)
        return None

    @staticmethod
    def _at(
        guard: str,
        names: tuple[str, ...] | list[str],
        values: np.ndarray,
        bad: np.ndarray,
        limit: float,
        now_s: float,
    ) -> Event:
        first = int(np.argmax(bad))
        return Event(guard, names[first], float(values[first]), limit, now_s)
