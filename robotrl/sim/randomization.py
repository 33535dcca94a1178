"""Model fields that differ between simulations: masses, friction, damping, gains, gravity, colours, poses.

They are named as in MuJoCo's MjModel (Tobin et al. 2017, arXiv:1703.06907; Peng et al. 2018,
arXiv:1710.06537).
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mujoco
import torch
from torch import Tensor

from robotrl.core.errors import UsageError
from robotrl.sim.draws import Distribution, Timer, When, check_range, draw
from robotrl.sim.model_fields import NOT_NEGATIVE, Part, compiled_values, parts_of, rows_of
from robotrl.sim.sim import Sim


class Op(enum.Enum):
    """What is done with the draw."""

    SCALE = "scale"
    ADD = "add"
    SET = "set"


@dataclass
class FieldRandomization:
    """One field of the model, drawn per simulation."""

    field: str
    """MjModel field ("body_mass", "geom_friction", "opt.gravity", ...), in MuJoCo's units; also "actuator_kp"
    and "actuator_kd", the gains of position servos."""
    range: tuple[float, float]
    """Lower and upper end of the draws; mean and standard deviation for `normal`."""
    op: Op = Op.SCALE
    """scale multiplies the model's value by the draw, add adds it, set replaces it."""
    distribution: Distribution = Distribution.UNIFORM
    """uniform, log_uniform or normal."""
    names: str = ".*"
    """Regular expression that the whole name of an object matches (of the joint for dof_ and qpos fields)."""
    columns: list[int] | None = None
    """Columns of each object's row, such as 0 for sliding friction; null for all."""
    shared: bool = False
    """Whether all objects and columns of a simulation take one draw; otherwise each has its own."""
    when: When = When.EPISODE
    """once (at the start), episode (at every reset) or interval."""
    interval_s: tuple[float, float] | None = None
    """Shortest and longest time between two draws, s, for `interval`."""

    def __post_init__(self) -> None:
        self.check()
        if (self.when is When.INTERVAL) != (self.interval_s is not None):
            raise UsageError(f"{self.field}: give interval_s with when=interval, and only there")
        if self.interval_s is not None:
            self.interval_s = check_range(f"{self.field}: interval_s", self.interval_s, 0.0)

    def check(self) -> None:
        """Refuse a range that cannot be drawn from.

        Raises:
            UsageError: says which and why.
        """
        if self.distribution is Distribution.NORMAL:
            if len(self.range) != 2 or not self.range[1] >= 0.0:
                raise UsageError(
                    f"{self.field}: range of a normal is [mean, std >= 0], got {list(self.range)}"
                )
            return
        lower, _ = check_range(f"{self.field}: range", self.range)
        if self.distribution is Distribution.LOG_UNIFORM and not lower > 0.0:
            raise UsageError(f"{self.field}: a log_uniform range must lie above 0, got {list(self.range)}")


_REFUSED = {
    "actuator_delay": "its buffer must be sized before the model is compiled: use actuator_delays",
    "sensor_delay": "its buffer must be sized before the model is compiled: use sensor_delays",
    "opt.timestep": "the control rate would differ between simulations",
    "opt.integrator": "it is not a quantity",
}

# fields that can turn what MuJoCo compiled as a "simple" body, with a diagonal inertia, into a general one
_BODY_SHAPES = ("body_ipos", "body_iquat", "jnt_pos", "jnt_axis")


def keep_bodies_general(spec: mujoco.MjSpec, items: Mapping[str, FieldRandomization]) -> None:
    """Let bodies be compiled so that the fields of `items` may change them."""
    if any(item.field in _BODY_SHAPES for item in items.values()):
        for body in spec.bodies:
            body.simple = False


class Randomizer:
    """Draws model fields of a `Sim` and writes them, derived constants included.

    Draws on the same field apply in the order of their declaration, each on what the one before left.
    `ONCE` draws are part of the state; a `reset` of some simulations touches no other one.

    Args:
        sim: whose `param` fields are written.
        items: name -> what to draw.
        dt_s: time between two calls of `step`, s.

    Raises:
        UsageError: a field or an object does not exist, cannot differ between simulations or would become
            impossible (a negative mass).
    """

    def __init__(self, sim: Sim, items: dict[str, FieldRandomization], dt_s: float) -> None:
        self._sim = sim
        self._items = {name: _Item(sim, name, spec, dt_s) for name, spec in items.items()}
        self._fields: dict[str, list[tuple[_Item, Part]]] = {}
        for item in self._items.values():
            for part in item.parts:
                self._fields.setdefault(part.field, []).append((item, part))
        # per model of the simulator's
        self._nominal = {field: _nominal(sim, field) for field in self._fields}
        for item in self._items.values():
            item.check_extremes(self._nominal[item.parts[0].field])
        inputs = mujoco.MjModel._setconst_inputs
        self._feed_constants = any(field in inputs or field.startswith("opt.") for field in self._fields)
        self._timed = [item for item in self._items.values() if item.timer is not None]

    def reset(self, ids: Tensor, rng: torch.Generator) -> None:
        """Draw for the new episodes of simulations `ids`, (n,) int64."""
        for item in self._items.values():
            item.reset(ids, rng)
        self._write(list(self._fields), ids)

    def step(self, rng: torch.Generator) -> None:
        """Let one control step pass and draw again what is due."""
        for item in self._timed:
            assert item.timer is not None
            ids = item.timer.due(rng)
            if len(ids):
                item.draw(ids, rng)
                self._write([part.field for part in item.parts], ids)

    def _write(self, fields: list[str], ids: Tensor) -> None:
        for field in fields:
            values = self._nominal[field][self._sim.chosen[ids]]
            for item, part in self._fields[field]:
                item.apply(values, ids, part)
            param = self._sim.param(field)
            rows = torch.cat([item.rows for item, _ in self._fields[field]]).unique()
            flat = param.view(self._sim.num_envs, *values.shape[1:])
            flat[ids.unsqueeze(1), rows] = values[:, rows].to(param)
        if self._feed_constants:
            self._sim.refresh_constants(ids)

    def state_dict(self) -> dict[str, Any]:
        """Return the draws and timers; the fields themselves belong to the simulator's state."""
        return {name: item.state_dict() for name, item in self._items.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict` of the same items."""
        for name, item in self._items.items():
            item.load_state_dict(state[name])


class _Item:
    """A declared field together with its place in the model and its current draws."""

    def __init__(self, sim: Sim, name: str, spec: FieldRandomization, dt_s: float) -> None:
        self.spec, self.where = spec, f"randomize.{name}"
        parts = parts_of(spec.field, spec.columns, self.where)
        width = _nominal(sim, parts[0].field, self.where).shape[2]
        self.rows = torch.tensor(rows_of(sim.model, spec.field, spec.names, self.where))
        self.parts = [part._replace(columns=part.columns or tuple(range(width))) for part in parts]
        columns = self.parts[0].columns
        assert columns is not None
        if spec.columns == [] or not all(0 <= column < width for column in columns):
            raise UsageError(f"{self.where}: {spec.field} has columns 0 to {width - 1}, got {spec.columns}")
        shape = (1, 1) if spec.shared else (len(self.rows), len(columns))
        self._draws = torch.zeros(sim.num_envs, *shape, dtype=torch.float64)
        self._drawn_once = torch.zeros(sim.num_envs, dtype=torch.bool)
        self.timer = None if spec.interval_s is None else Timer(sim.num_envs, spec, dt_s)

    def reset(self, ids: Tensor, rng: torch.Generator) -> None:
        if self.spec.when is When.ONCE:
            ids = ids[~self._drawn_once[ids]]
            self._drawn_once[ids] = True
        if self.timer is not None:
            self.timer.reset(ids, rng)
        self.draw(ids, rng)

    def draw(self, ids: Tensor, rng: torch.Generator) -> None:
        shape = (len(ids), *self._draws.shape[1:])
        self._draws[ids] = draw(shape, self.spec.range, self.spec.distribution, rng)

    def apply(self, values: Tensor, ids: Tensor, part: Part) -> None:
        """Change the chosen rows and columns of (n, rows, columns) values in place."""
        chosen = (slice(None), self.rows.unsqueeze(1), torch.tensor(part.columns))
        values[chosen] = part.sign * self._combine(part.sign * values[chosen], self._draws[ids])

    def _combine(self, values: Tensor, draws: Tensor) -> Tensor:
        if self.spec.op is Op.SCALE:
            return values * draws
        return values + draws if self.spec.op is Op.ADD else draws.expand_as(values)

    def check_extremes(self, nominal: Tensor) -> None:
        """Refuse ranges that would make a mass, size or damping negative."""
        if self.spec.field not in NOT_NEGATIVE or self.spec.distribution is Distribution.NORMAL:
            return
        part = self.parts[0]
        chosen = part.sign * nominal[:, self.rows.unsqueeze(1), torch.tensor(part.columns)]
        lowest = min(
            float(self._combine(chosen, torch.full((1, 1, 1), float(end), dtype=torch.float64)).min())
            for end in self.spec.range
        )
        if lowest < 0.0:
            raise UsageError(
                f"{self.where}: {self.spec.op.value} by {list(self.spec.range)} would make "
                f"{self.spec.field} as low as {lowest:g}; it must not be negative"
            )

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = {"draws": self._draws.clone(), "drawn_once": self._drawn_once.clone()}
        return state if self.timer is None else state | {"left_s": self.timer.left_s.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._draws.copy_(state["draws"])
        self._drawn_once.copy_(state["drawn_once"])
        if self.timer is not None:
            self.timer.left_s.copy_(state["left_s"])


def _nominal(sim: Sim, field: str, where: str = "randomize") -> Tensor:
    """(K, rows, columns) float64 values of each of the simulator's models."""
    if field in _REFUSED:
        raise UsageError(f"{where}: {field} cannot be randomised: {_REFUSED[field]}")
    try:
        param = sim.param(field)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error
    if not param.dtype.is_floating_point:
        raise UsageError(f"{where}: {field} cannot be randomised: it holds whole numbers")
    values = compiled_values(sim, field).double()
    rows = 1 if field.startswith("opt.") or values.ndim == 1 else values.shape[1]
    return values.reshape(len(values), rows, -1)
