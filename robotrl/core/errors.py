"""Errors a user can cause: each says what was given, what was expected and how to fix it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class RobotrlError(Exception):
    """Something failed while running; the CLI prints it as one line and exits with 1."""

    exit_code = 1


class UsageError(RobotrlError):
    """The request itself is wrong (a name, a key, a value); the CLI exits with 2."""

    exit_code = 2


def nearest(name: str, candidates: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the candidate closest to `name`, or ``""``."""
    close = difflib.get_close_matches(name, list(candidates), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def unknown_name(kind: str, name: str, candidates: Iterable[str]) -> UsageError:
    """Build the error for a name that is not one of `candidates`.

    Args:
        kind: what the name should be, singular ("task", "joint").
        name: what was given.
        candidates: the valid names.
    """
    known = sorted(candidates)
    hint = nearest(name, known) or (f"; known: {', '.join(known)}" if len(known) <= 12 else "")
    return UsageError(f"unknown {kind} {name!r}{hint}")
