"""What a robustness sweep changes in a task, and by how much: delay, friction, mass, observation noise."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable

import numpy as np

from robotrl.core.errors import UsageError, unknown_name
from robotrl.sim.draws import matching
from robotrl.sim.latency import Delay
from robotrl.sim.randomization import FieldRandomization
from robotrl.tasks.realism import ObservationNoise, Realism
from robotrl.tasks.task import Task

_UNITS_S = {"": 1.0, "s": 1.0, "ms": 1e-3}
_NUMBER = r"([0-9.]+(?:e-?[0-9]+)?)(s|ms|)"
# what a sweep adds to the realism; no name of a user's
_KEY = "__sweep__"


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Values of one quantity.

    Attributes:
        name: "delay", "friction", "mass" or "noise".
        values: what is added to every actuator's delay, s; for the others factors.
    """

    name: str
    values: tuple[float, ...]

    @property
    def unit(self) -> str:
        """Of the values."""
        return "s" if self.name == "delay" else "1"

    @property
    def nominal(self) -> float:
        """The value that changes nothing."""
        return 0.0 if self.name == "delay" else 1.0


def parse_sweeps(text: str, points: int) -> list[Sweep]:
    """Read "delay=0..40ms,friction=0.5..1.5".

    Args:
        text: what the user wrote.
        points: values per sweep, evenly spaced, both ends included.

    Raises:
        UsageError: it is written otherwise, or names an unknown quantity.
    """
    if points < 2:
        raise UsageError(f"--points must be at least 2, got {points}")
    sweeps = []
    for part in text.split(","):
        name, _, bounds = part.strip().partition("=")
        if name not in _CHANGES:
            raise unknown_name("quantity to sweep", name, _CHANGES)
        found = re.fullmatch(rf"{_NUMBER}\.\.{_NUMBER}", bounds)
        ends = [_value(name, number, found[4]) for number in (found[1], found[3])] if found else []
        if found is None or found[2] not in ("", found[4]) or not ends[0] < ends[1]:
            raise UsageError(
                f"cannot read the sweep {part.strip()!r}: write NAME=LOW..HIGH with LOW < HIGH, such as "
                "delay=0..40ms or friction=0.5..1.5"
            )
        sweeps.append(Sweep(name, tuple(map(float, np.linspace(ends[0], ends[1], points)))))
    names = [sweep.name for sweep in sweeps]
    if len(set(names)) < len(names):
        raise UsageError(f"every quantity can be swept once, got {', '.join(names)}")
    return sweeps


def _value(name: str, number: str, unit: str) -> float:
    try:
        value = float(number)
    except ValueError:
        return math.nan
    return value * (_UNITS_S[unit] if name == "delay" else 1.0 if not unit else math.nan)


def changed(task: Task, sweep: Sweep, value: float) -> Task:
    """Return the task with one quantity changed; a curriculum is at its end.

    Raises:
        UsageError: the task has nothing that the sweep could change.
    """
    realism = task.realism.at_the_end()
    if value != sweep.nominal:
        _CHANGES[sweep.name](task, realism, value)
    return dataclasses.replace(task, realism=realism)


def _delay(task: Task, realism: Realism, added_s: float) -> None:
    model = task.build_model()
    names = [model.actuator(i).name for i in range(model.nu)]
    delayed: set[int] = set()
    for key, delay in realism.actuator_delays.items():
        delayed.update(matching(delay.names, names, "actuator", key))
        low, high = delay.range_s
        realism.actuator_delays[key] = dataclasses.replace(
            delay, range_s=(low + added_s, high + added_s), buffer_s=None
        )
    rest = {names[i] for i in range(model.nu) if i not in delayed}
    if rest:
        pattern = "|".join(re.escape(name) for name in sorted(rest))
        realism.actuator_delays[_KEY] = Delay((added_s, added_s), names=pattern)


def _scaled(*fields: str) -> Callable[[Task, Realism, float], None]:
    def change(task: Task, realism: Realism, factor: float) -> None:
        for field in fields:
            realism.randomize[_KEY + field] = FieldRandomization(field, (factor, factor))

    return change


def _noise(task: Task, realism: Realism, factor: float) -> None:
    if not realism.observation_noise:
        raise UsageError("the task has no observation noise that could be scaled: sweep something else")
    for key, noise in realism.observation_noise.items():
        realism.observation_noise[key] = _louder(noise, factor)


def _louder(noise: ObservationNoise, factor: float) -> ObservationNoise:
    low, high = noise.bias
    return dataclasses.replace(
        noise,
        std=noise.std * factor,
        half_width=noise.half_width * factor,
        bias=(low * factor, high * factor),
    )


_CHANGES: dict[str, Callable[[Task, Realism, float], None]] = {
    "delay": _delay,
    "friction": _scaled("geom_friction"),
    "mass": _scaled("body_mass", "body_inertia"),
    "noise": _noise,
}
