"""Plain data (what JSON holds) to frozen dataclasses, every value checked against its type annotation."""

from __future__ import annotations

import dataclasses
import math
import types
from typing import Any, get_args, get_origin, get_type_hints

from robotrl.core.errors import RobotrlError


def from_plain(value: Any, hint: Any, where: str) -> Any:
    """Turn lists into tuples and objects into dataclasses, as a type annotation says.

    Args:
        value: what JSON held.
        hint: a dataclass, tuple, str, int, float, bool or dict, or one of them or None.
        where: named in errors.

    Raises:
        RobotrlError: another type, a missing or unknown key, or a number that is not finite.
    """
    if dataclasses.is_dataclass(hint):
        return _object(value, hint, where)
    if isinstance(hint, types.UnionType):
        return None if value is None else from_plain(value, get_args(hint)[0], where)
    if get_origin(hint) is tuple:
        return _tuple(value, get_args(hint), where)
    if hint is float:
        return _number(value, where)
    kind = get_origin(hint) or hint
    if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
        raise RobotrlError(f"{where}: expected {kind.__name__}, got {_shown(value)}")
    if kind is dict:
        of = get_args(hint)[1]
        return value if of is Any else {k: from_plain(v, of, f"{where}: {k}") for k, v in value.items()}
    return value


def _tuple(value: Any, hints: tuple[Any, ...], where: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise RobotrlError(f"{where}: expected a list, got {_shown(value)}")
    if hints[-1] is Ellipsis:
        hints = hints[:1] * len(value)
    if len(value) != len(hints):
        raise RobotrlError(f"{where}: expected {len(hints)} values, got {_shown(value)}")
    return tuple(
        from_plain(item, hint, f"{where}[{i}]")
        for i, (item, hint) in enumerate(zip(value, hints, strict=True))
    )


def _number(value: Any, where: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise RobotrlError(f"{where}: expected float, got {_shown(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise RobotrlError(f"{where}: expected a finite number, got {_shown(value)}")
    return number


def _object(value: Any, cls: Any, where: str) -> Any:
    hints = get_type_hints(cls)
    if not isinstance(value, dict):
        raise RobotrlError(f"{where}: expected an object, got {_shown(value)}")
    missing, unknown = sorted(hints.keys() - value.keys()), sorted(value.keys() - hints.keys())
    if missing or unknown:
        problem = f"{missing[0]!r} is missing" if missing else f"unknown key {unknown[0]!r}"
        raise RobotrlError(f"{where}: {problem}")
    return cls(**{name: from_plain(value[name], hint, f"{where}: {name}") for name, hint in hints.items()})


def _shown(value: Any, most: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= most else text[:most] + "..."
