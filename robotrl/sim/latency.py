"""Delays of commands and sensors, inside the physics: MuJoCo's own history buffers, sub-step resolution.

A delayed command or reading is the one of `delay` seconds ago, zero-order-hold or interpolated. MuJoCo
sizes the buffers when the model is compiled and starts them from zeros; here they start from the
command in force and from the reading at the reset, and a delay beyond its buffer is refused.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mujoco
import torch
from torch import Tensor

from robotrl.core.errors import UsageError
from robotrl.sim.draws import Distribution, When, check_range, draw, matching
from robotrl.sim.sim import Sim


class Interpolation(enum.Enum):
    """What is read between two samples."""

    ZOH = 0
    LINEAR = 1
    CUBIC = 2


@dataclass
class Delay:
    """A delay of some actuators' commands or of some sensors' readings, drawn per simulation."""

    range_s: tuple[float, float]
    """Shortest and longest delay, s; 0 is none, and the shortest other one is a physics step."""
    names: str = ".*"
    """Regular expression that the whole name of an actuator or sensor matches."""
    interpolation: Interpolation = Interpolation.ZOH
    """zoh, linear or cubic."""
    shared: bool = True
    """Whether all matched actuators or sensors of a simulation take one draw."""
    when: When = When.EPISODE
    """once (at the start) or episode (at every reset)."""
    buffer_s: float | None = None
    """Longest delay the buffer holds, s, where a curriculum lengthens the range; null for `range_s[1]`."""

    def __post_init__(self) -> None:
        self.check()
        if self.when is When.INTERVAL:
            raise UsageError(f"delay of {self.names!r}: when must be once or episode, got interval")

    def check(self) -> None:
        """Refuse a range that is upside down, negative or beyond the buffer.

        Raises:
            UsageError: says which and why.
        """
        _, longest = check_range(f"delay of {self.names!r}: range_s", self.range_s, 0.0)
        if self.buffer_s is not None and longest > self.buffer_s + 1e-12:
            raise UsageError(
                f"delay of {self.names!r}: range_s reaches {longest:g} s, beyond its buffer of "
                f"{self.buffer_s:g} s: raise buffer_s"
            )

    @property
    def longest_s(self) -> float:
        """What the buffer must hold, s."""
        return float(self.range_s[1] if self.buffer_s is None else self.buffer_s)


def size_buffers(spec: mujoco.MjSpec, actuators: Mapping[str, Delay], sensors: Mapping[str, Delay]) -> None:
    """Give the delayed actuators and sensors of a model their buffers, before it is compiled.

    Raises:
        UsageError: a pattern matches nothing, or two delays the same object.
    """
    dt_s = spec.option.timestep
    for kind, objects, delays in (
        ("actuator", list(spec.actuators), actuators),
        ("sensor", list(spec.sensors), sensors),
    ):
        taken: dict[int, str] = {}
        for name, delay in delays.items():
            where = f"{kind}_delays.{name}"
            if delay.longest_s == 0.0:
                continue
            for i in matching(delay.names, [o.name for o in objects], kind, where):
                if i in taken:
                    raise UsageError(f"{where}: {kind} {objects[i].name!r} is delayed by {taken[i]} already")
                taken[i] = where
                objects[i].nsample = math.ceil(delay.longest_s / dt_s - 1e-9)
                objects[i].interp = delay.interpolation.value
                objects[i].delay = delay.longest_s


class Delays:
    """Draws the delays of a `Sim` whose model `size_buffers` has prepared, and fills its buffers.

    Args:
        sim: whose `actuator_delay` and `sensor_delay` are written.
        actuators: name -> delay of commands.
        sensors: name -> delay of readings.
    """

    def __init__(self, sim: Sim, actuators: Mapping[str, Delay], sensors: Mapping[str, Delay]) -> None:
        self._sim = sim
        self._drawn_once = torch.zeros(sim.num_envs, dtype=torch.bool)
        self._actuators = _Buffers(sim, "actuator", actuators)
        self._sensors = _Buffers(sim, "sensor", sensors)

    def reset(self, ids: Tensor, rng: torch.Generator) -> None:
        """Draw the delays of new episodes. The task writes the initial state after this."""
        new = ids[~self._drawn_once[ids]]
        for buffers in (self._actuators, self._sensors):
            buffers.draw(ids, new, rng)
        self._drawn_once[ids] = True

    def fill(self, ids: Tensor) -> None:
        """Fill the buffers of simulations `ids` as if their present state had always been.

        Call it after the initial state is written; derived fields are current afterwards.
        """
        if self._actuators.rows:
            self._actuators.fill(ids, self._sim.data("ctrl")[ids])
        if self._sensors.rows:
            # without delay the engine shows the present reading
            delay = self._sim.param("sensor_delay")
            drawn = delay[ids].clone()
            delay[ids] = 0.0
            self._sim.forward(ids)
            self._sensors.fill(ids, self._sim.data("sensordata")[ids])
            delay[ids] = drawn
        self._sim.forward(ids)

    def state_dict(self) -> dict[str, Any]:
        """Return who has drawn; the delays and buffers belong to the simulator's state."""
        return {"drawn_once": self._drawn_once.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        self._drawn_once.copy_(state["drawn_once"])


class _Buffers:
    """The history buffers of one kind of object."""

    def __init__(self, sim: Sim, kind: str, delays: Mapping[str, Delay]) -> None:
        self._sim, self._kind = sim, kind
        model = sim.model
        count = model.nu if kind == "actuator" else model.nsensor
        names = [getattr(model, kind)(i).name for i in range(count)]
        self._delays = [
            (delay, torch.tensor(matching(delay.names, names, kind, kind)))
            for delay in delays.values()
            if delay.longest_s > 0.0
        ]
        self.rows = [int(i) for _, found in self._delays for i in found]
        if self.rows:
            sim.param(f"{kind}_delay")

    def draw(self, ids: Tensor, new: Tensor, rng: torch.Generator) -> None:
        """Draw for the resets `ids`, of which `new` are the first ever."""
        for delay, rows in self._delays:
            self._check(delay, rows)
            chosen = new if delay.when is When.ONCE else ids
            if len(chosen):
                shape = (len(chosen), 1 if delay.shared else len(rows))
                drawn = draw(shape, delay.range_s, Distribution.UNIFORM, rng)
                self._sim.param(f"{self._kind}_delay")[chosen.unsqueeze(1), rows] = drawn

    def _check(self, delay: Delay, rows: Tensor) -> None:
        """Refuse what the buffers cannot hold: MuJoCo would read beyond them without a word."""
        held_s = min(self._place(int(row))[1] for row in rows) * self._sim.dt_s
        if delay.range_s[1] > held_s + 1e-9:
            raise UsageError(
                f"{self._kind}_delays: {delay.names!r} reaches {delay.range_s[1]:g} s, its buffer holds "
                f"{held_s:g} s: set buffer_s to the longest delay of the curriculum"
            )

    def fill(self, ids: Tensor, values: Tensor) -> None:
        """Write (n, all objects' values) into every sample of the buffers."""
        history, now = self._sim.data("history"), self._sim.data("time")[ids]
        for row in self.rows:
            start, samples, column, width = self._place(row)
            # a row holds: user, cursor (of the newest sample), times, values
            ages_s = self._sim.dt_s * torch.arange(samples, 0, -1, dtype=torch.float64, device=now.device)
            history[ids, start + 1] = float(samples - 1)
            history[ids, start + 2 : start + 2 + samples] = now.unsqueeze(1) - ages_s
            first = start + 2 + samples
            repeated = values[:, column : column + width].repeat(1, samples)
            history[ids, first : first + samples * width] = repeated

    def _place(self, row: int) -> tuple[int, int, int, int]:
        """Return where a buffer starts, its samples, and the first column and width of its object."""
        model = self._sim.model
        if self._kind == "actuator":
            fields = (
                model.actuator_historyadr,
                model.actuator_history[:, 0],
                model.actuator_ctrladr,
                model.actuator_ctrlnum,
            )
        else:
            fields = (
                model.sensor_historyadr,
                model.sensor_history[:, 0],
                model.sensor_adr,
                model.sensor_dim,
            )
        start, samples, column, width = (int(field[row]) for field in fields)
        return start, samples, column, width
