"""What learners accept from outside: arrays of numbers of the right shape, finite and not absurdly large."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from robotrl.algorithms.streaming.compiled import kernel
from robotrl.algorithms.streaming.state import Transitions
from robotrl.core import checks
from robotrl.core.errors import UsageError

LARGEST = 1e15
"""The adaptive rules square the TD error times a trace in float32, which ends at 3.4e38: this leaves 18,000
for the trace."""

_REMEDIES = {
    "obs": "no episode has begun, give a sound observation",
    "reward": "nothing was learned from this step, set valid to False for it",
    "next_obs": "nothing was learned from this step, give the last sound one and set valid to False for it",
    "final_obs": "nothing was learned from this step, set valid to False for it",
}


def require_whole(name: str, value: object, low: int) -> None:
    """Refuse what is not a whole number of at least `low`.

    Raises:
        UsageError: it is not.
    """
    if not checks.is_whole(value) or value < low:
        raise UsageError(f"{name} must be a whole number of at least {low}, got {value!r}")


def as_numbers(name: str, values: npt.ArrayLike) -> npt.NDArray[Any]:
    """Return an array of real numbers or flags.

    Raises:
        UsageError: it is something else.
    """
    try:
        given = np.asarray(values)
    except ValueError as error:
        raise UsageError(f"{name} is no array of numbers: its rows differ in length") from error
    if given.dtype.kind not in "biuf":
        raise UsageError(f"{name} is an array of {given.dtype}, expected real numbers")
    return given


def fill(name: str, room: npt.NDArray[Any], values: npt.ArrayLike, one_for_all: bool = False) -> None:
    """Copy what was given into an array.

    Args:
        name: what it is called in errors.
        room: receives it.
        values: of the same shape.
        one_for_all: whether a single number may stand for all.

    Raises:
        UsageError: it does not fit.
    """
    given = as_numbers(name, values)
    if given.shape != room.shape and not (one_for_all and given.shape == ()):
        raise UsageError(f"{name} has shape {given.shape}, expected {room.shape} as at the start")
    room[...] = given


def refuse_large(name: str, values: npt.NDArray[Any]) -> None:
    """Refuse what is not finite or beyond 1e15.

    Raises:
        UsageError: there is such a number.
    """
    bad = np.argwhere(~(np.abs(values) <= LARGEST)).tolist()
    if bad:
        found = values[tuple(bad[0])]
        raise UsageError(f"{name}{bad[0]} is {found:g}, expected numbers within +-{LARGEST:.0e}")


def fill_flags(name: str, room: npt.NDArray[np.bool_], values: npt.ArrayLike) -> None:
    """Copy flags, or a single one for all, into an array.

    Raises:
        UsageError: they do not fit, or are neither booleans nor 0 or 1.
    """
    given = as_numbers(name, values)
    if given.dtype.kind != "b" and not ((given == 0) | (given == 1)).all():
        raise UsageError(f"{name} is {given.tolist()}, expected true or false")
    fill(name, room, given, one_for_all=True)


@kernel
def first_bad(batch: Transitions) -> tuple[int, int]:
    """Return 1 for a reward, 2 for next_obs, 3 for final_obs, 0 if all is well; and the stream."""
    for i in range(len(batch.reward)):
        if batch.valid[i] and not abs(batch.reward[i]) <= LARGEST:
            return 1, i
        ended = batch.valid[i] and (batch.terminated[i] or batch.truncated[i])
        for k in range(batch.next_obs.shape[1]):
            if not abs(batch.next_obs[i, k]) <= LARGEST:
                return 2, i
            if ended and not abs(batch.final_obs[i, k]) <= LARGEST:
                return 3, i
    return 0, 0


def refuse_bad(batch: Transitions, obs_name: str) -> None:
    """Refuse a step of which a number is not finite or beyond 1e15.

    Args:
        batch: of N streams.
        obs_name: what its next_obs is called in errors.

    Raises:
        UsageError: there is one.
    """
    what, stream = first_bad(batch)
    if not what:
        return
    name = ("", "reward", obs_name, "final_obs")[what]
    row = np.atleast_1d((batch.valid, batch.reward, batch.next_obs, batch.final_obs)[what][stream])
    k = np.argmin(np.abs(row) <= LARGEST)  # the first that is not
    index = "" if name == "reward" else f"[{k}]"
    raise UsageError(
        f"stream {stream}: {name}{index} is {row[k]:g}, expected numbers within +-{LARGEST:.0e}; "
        f"{_REMEDIES[name]}"
    )
