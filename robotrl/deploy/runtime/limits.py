"""What a robot may do, beyond what the bundle's contract says: a small YAML file of the user's."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from robotrl.core.checks import above, at_least, within
from robotrl.core.errors import UsageError, unknown_name


@dataclass(frozen=True)
class Limits:
    """Thresholds of the guards. Joint quantities are in rad, or m at slides."""

    tilt_rad: float | None = None
    """Largest angle between the body's z axis and the vertical, rad, from pi on none; needs the signal
    projected_gravity. Null for 1 where the robot publishes that, and none where it does not."""
    joint_velocity: float = 30.0
    """Largest speed of a joint, rad/s."""
    mean_joint_velocity: float = 15.0
    """Largest mean speed of all joints, rad/s."""
    range_share: float = 1.2
    """Share of a joint's range, about its middle, that it may be measured in."""
    soft_limit_share: float = 0.95
    """Share of a joint's range, about its middle, that position commands stay within."""
    command_rate: float | None = None
    """Largest speed of a position command, rad/s; null for none."""
    effort_share: float = 1.0
    """Share of the contract's effort limit that commands may ask for."""
    obs_abs_max: float = 1e3
    """Largest absolute value of an observation, in its unit."""
    max_obs_age_s: float | None = None
    """Largest age of a reading, s; null for the larger of 3 control steps and 0.05 s."""
    quaternion_tolerance: float = 0.05
    """Largest distance of a quaternion's norm from 1."""
    signals: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Further signals, such as a temperature or a battery's voltage -> lowest and highest value."""
    max_signal_age_s: float = 3.0
    """Largest age of those of them that no policy takes, s: they may be measured more slowly."""
    move_s: float = 2.0
    """Duration of the move to the default pose, s; longer where `command_rate` needs it."""
    pose_tolerance: float = 0.2
    """Largest distance of a joint from its default position when the policy may take over, rad."""
    blend_s: float = 0.5
    """Time over which the policy takes over, s."""
    damping_kd: float = 1.0
    """Damping gain where a drive has none of its own, N m s/rad."""
    watchdog_s: float | None = None
    """Time without a command after which the watchdog damps, s; null for the larger of 3 control steps and
    0.05 s."""
    consecutive_overruns: int = 3
    """Periods in a row that begin more than one period late."""
    overrun_share: float = 0.01
    """Share of such periods in 10 s."""
    hold_steps: int = 3
    """Control steps for which the last action is held when a decision is late (`--chunks realtime`)."""
    candidates: int = 8
    """Decisions that a policy with noise makes each time (`--chunks realtime`): the one that goes on best
    with the decision before is taken."""

    def __post_init__(self) -> None:
        positive = ("tilt_rad", "joint_velocity", "mean_joint_velocity", "command_rate", "obs_abs_max")
        above(self, 0.0, *positive, "max_obs_age_s", "max_signal_age_s", "move_s")
        above(self, 0.0, "pose_tolerance", "watchdog_s")
        at_least(self, 0.0, "quaternion_tolerance", "blend_s", "damping_kd", "hold_steps")
        at_least(self, 1, "range_share", "consecutive_overruns", "candidates")
        within(self, "(0, 1]", "soft_limit_share", "effort_share", "overrun_share")
        for name, (low, high) in self.signals.items():
            if not low < high:
                raise ValueError(f"signals: {name!r} needs [low, high] with low < high, got [{low}, {high}]")

    def age_s(self, dt_s: float) -> float:
        """Return the largest age of a reading, s."""
        return max(3 * dt_s, 0.05) if self.max_obs_age_s is None else self.max_obs_age_s

    def silence_s(self, dt_s: float) -> float:
        """Return the longest silence that the watchdog accepts, s."""
        return max(3 * dt_s, 0.05) if self.watchdog_s is None else self.watchdog_s


def read_limits(path: Path) -> Limits:
    """Read a YAML file of limits; what it does not name has its default.

    Raises:
        UsageError: the file is missing or malformed, or a name or value in it is none of a limit.
    """
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"limits {path}: {' '.join(str(error).split())}") from error
    given = {} if given is None else given
    if not isinstance(given, dict):
        raise UsageError(f"limits {path}: expected `name: value` lines, got {given!r}")
    kinds = {f.name: f for f in dataclasses.fields(Limits)}
    for name in given:
        if name not in kinds:
            raise unknown_name(f"limit in {path}:", str(name), kinds)
    try:
        return Limits(**{name: _value(name, value, kinds[name]) for name, value in given.items()})
    except ValueError as error:
        raise UsageError(f"limits {path}: {error}") from error


def _value(name: str, value: Any, kind: dataclasses.Field[Any]) -> Any:
    if name == "signals":
        if not isinstance(value, dict):
            raise ValueError(f"signals: expected `name: [low, high]` lines, got {value!r}")
        return {str(key): _bounds(key, pair) for key, pair in value.items()}
    if value is None and kind.default is None:
        return None
    whole = isinstance(kind.default, int)
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        raise ValueError(f"{name}: expected {'a whole number' if whole else 'a number'}, got {value!r}")
    return value if whole else float(value)


def _bounds(name: Any, pair: Any) -> tuple[float, float]:
    if not isinstance(pair, list) or len(pair) != 2:
        raise ValueError(f"signals: {name!r} needs [low, high], null for none, got {pair!r}")
    low, high = (
        open_end if end is None else end for end, open_end in zip(pair, (-math.inf, math.inf), strict=True)
    )
    if not isinstance(low, int | float) or not isinstance(high, int | float):
        raise ValueError(f"signals: {name!r} needs [low, high] numbers, got {pair!r}")
    return float(low), float(high)
