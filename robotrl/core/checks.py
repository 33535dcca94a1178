"""Checks of a configuration's fields, for its `__post_init__`: numbers that are NaN or infinite pass none.

Each takes the names of the fields and raises a `ValueError` that names the first one out of bounds. A
field that is None is left unset on purpose and passes.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Iterable
from typing import Any, get_type_hints

from robotrl.core.errors import UsageError, unknown_name


def choices(config: Any) -> None:
    """Turn text, as the command line has it, into the members of the enums that fields are.

    Raises:
        ValueError: there is no such member.
    """
    for name, kind in get_type_hints(type(config)).items():
        if not isinstance(kind, enum.EnumMeta) or isinstance(value := getattr(config, name), kind):
            continue
        members: Iterable[enum.Enum] = kind
        known = [member.value for member in members]
        if value not in known:
            raise ValueError(str(unknown_name(name, str(value), known)))
        setattr(config, name, kind(value))


def finite(config: Any, *names: str) -> None:
    """Check that fields are finite."""
    _check(config, names, lambda value: True, "finite")


def above(config: Any, low: float, *names: str) -> None:
    """Check that fields are finite and > `low`."""
    _check(config, names, lambda value: value > low, f"above {low}")


def at_least(config: Any, low: float, *names: str) -> None:
    """Check that fields are finite and >= `low`."""
    _check(config, names, lambda value: value >= low, f"at least {low}")


def within(config: Any, interval: str, *names: str) -> None:
    """Check that fields lie in an interval, written as in mathematics: "[0, 1)"."""
    low, high = (float(end) for end in interval[1:-1].split(","))
    ends = ([low] if interval[0] == "[" else []) + ([high] if interval[-1] == "]" else [])
    _check(config, names, lambda value: low < value < high or value in ends, f"in {interval}")


def widths(config: Any, *names: str) -> None:
    """Check that fields are lists of layer widths, each >= 1."""
    for name in names:
        if any(width < 1 for width in getattr(config, name)):
            raise ValueError(f"{name}: layer widths must be at least 1, got {getattr(config, name)}")


def whole_ratio(name: str, duration_s: float, unit_s: float) -> int:
    """Return duration / unit, which must be a whole number.

    Raises:
        UsageError: it is not.
    """
    ratio = duration_s / unit_s
    if not math.isfinite(ratio) or round(ratio) < 1 or abs(ratio - round(ratio)) > 1e-6 * ratio:
        raise UsageError(f"{name}={duration_s} s must be a whole multiple of {unit_s} s")
    return round(ratio)


def _check(config: Any, names: tuple[str, ...], holds: Callable[[Any], bool], expected: str) -> None:
    for name in names:
        value = getattr(config, name)
        if value is None:
            continue
        if not abs(value) < math.inf:  # False for NaN; math.isfinite refuses integers beyond floats
            raise ValueError(f"{name} must be finite, got {value}")
        if not holds(value):
            raise ValueError(f"{name} must be {expected}, got {value}")
