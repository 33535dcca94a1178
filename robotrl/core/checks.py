"""Checks of a configuration's fields, for its `__post_init__`: numbers that are NaN or infinite pass none.

Each takes the names of the fields and raises a `ValueError` that names the first one out of bounds. None
passes where the field's annotation has it, and a field annotated `int` has to be a whole number.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from numbers import Integral, Real
from typing import Any, TypeGuard, get_args, get_type_hints

from robotrl.core.errors import UsageError, unknown_name


def choices(config: Any) -> None:
    """Turn text, as the command line has it, into the members of the enums that fields are.

    Raises:
        ValueError: there is no such member.
    """
    for name, kind in _hints(config.__class__).items():
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
        given = getattr(config, name)
        if not isinstance(given, Sequence) or not all(is_whole(width) and width >= 1 for width in given):
            raise ValueError(f"{name}: layer widths must be at least 1 and whole, got {given!r}")


def is_whole(value: object) -> TypeGuard[int]:
    """Whether a value is an integer; truth values are none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def whole_ratio(name: str, duration_s: float, unit_s: float) -> int:
    """Return duration / unit, which must be a whole number.

    Raises:
        UsageError: it is not.
    """
    ratio = duration_s / unit_s
    if not math.isfinite(ratio) or round(ratio) < 1 or abs(ratio - round(ratio)) > 1e-6 * ratio:
        raise UsageError(f"{name}={duration_s} s must be a whole multiple of {unit_s} s")
    return round(ratio)


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _check(config: Any, names: tuple[str, ...], holds: Callable[[Any], bool], expected: str) -> None:
    hints = _hints(config.__class__)
    for name in names:
        value, hint = getattr(config, name), hints.get(name)
        kinds = get_args(hint) or (hint,)
        if value is None and type(None) in kinds:
            continue
        if int in kinds and float not in kinds and not is_whole(value):
            raise ValueError(f"{name} must be a whole number, got {value!r}")
        is_number = isinstance(value, Real) and not isinstance(value, bool)
        if not is_number:
            raise ValueError(f"{name} must be a number, got {value!r}")
        if not abs(value) < math.inf:  # False for NaN; math.isfinite refuses integers beyond floats
            raise ValueError(f"{name} must be finite, got {value}")
        if not holds(value):
            raise ValueError(f"{name} must be {expected}, got {value}")
