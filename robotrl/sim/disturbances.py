"""What pushes a robot from outside: wrenches on a body for a while, sudden changes of joint velocity."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mujoco
import torch
from torch import Tensor

from robotrl.core.checks import at_least
from robotrl.core.errors import UsageError, unknown_name
from robotrl.sim.draws import Distribution, Timer, check_range, draw, matching
from robotrl.sim.sim import Sim


class Direction(enum.Enum):
    """Where a push points, in world axes."""

    HORIZONTAL = "horizontal"
    ANY = "any"


@dataclass
class Push:
    """A force and a torque on one body, at random times, for `duration_s`."""

    body: str
    """Name of the body; the force acts at its centre of mass."""
    interval_s: tuple[float, float]
    """Shortest and longest time between the starts of two pushes, s."""
    force_n: tuple[float, float] = (0.0, 0.0)
    """Smallest and largest force, N."""
    torque_nm: tuple[float, float] = (0.0, 0.0)
    """Smallest and largest torque, N m."""
    duration_s: float = 0.1
    """How long a push lasts, s; rounded up to whole control steps."""
    direction: Direction = Direction.HORIZONTAL
    """horizontal (a random direction in the world's xy plane; torque about z) or any."""

    def __post_init__(self) -> None:
        self.check()
        at_least(self, 0.0, "duration_s")

    def check(self) -> None:
        """Refuse ranges that are upside down or negative.

        Raises:
            UsageError: says which.
        """
        for name in ("interval_s", "force_n", "torque_nm"):
            check_range(f"push of {self.body!r}: {name}", getattr(self, name), 0.0)


@dataclass
class Kick:
    """A sudden change of joint velocities at random times (a robot hit, or its floor moved)."""

    range: tuple[float, float]
    """Smallest and largest change, m/s for slides and free translations, rad/s for rotations."""
    interval_s: tuple[float, float]
    """Shortest and longest time between two kicks, s."""
    names: str = ".*"
    """Regular expression that the whole name of a joint matches."""
    columns: list[int] | None = None
    """Degrees of freedom of each joint, such as 0 and 1 for a free joint's x and y; null for all."""

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Refuse ranges that are upside down.

        Raises:
            UsageError: says which.
        """
        check_range(f"kick of {self.names!r}: range", self.range)
        check_range(f"kick of {self.names!r}: interval_s", self.interval_s, 0.0)


class Disturbances:
    """Pushes and kicks of a `Sim`.

    Args:
        sim: whose `xfrc_applied` and `qvel` are written; the bodies' `xfrc_applied` is owned by this.
        pushes: name -> push.
        kicks: name -> kick.
        dt_s: time between two calls of `step`, s.

    Raises:
        UsageError: a body or joint does not exist.
    """

    def __init__(self, sim: Sim, pushes: Mapping[str, Push], kicks: Mapping[str, Kick], dt_s: float) -> None:
        self._sim = sim
        bodies = [push.body for push in pushes.values()]
        if len(set(bodies)) < len(bodies):
            raise UsageError(f"pushes: one body takes one push, got {', '.join(bodies)}")
        self._pushes = {name: _PushState(sim, spec, dt_s) for name, spec in pushes.items()}
        self._kicks = {name: _KickState(sim, name, spec, dt_s) for name, spec in kicks.items()}
        self._timers = {f"push/{name}": push.timer for name, push in self._pushes.items()}
        self._timers |= {f"kick/{name}": kick.timer for name, kick in self._kicks.items()}

    def reset(self, ids: Tensor, rng: torch.Generator) -> None:
        """Start the time of simulations `ids` anew; their state is at the model's defaults."""
        for timer in self._timers.values():
            timer.reset(ids, rng)
        for push in self._pushes.values():
            push.left[ids] = 0

    def step(self, rng: torch.Generator) -> None:
        """Apply what is due in the coming control step."""
        for push in self._pushes.values():
            push.step(self._sim, rng)
        for kick in self._kicks.values():
            kick.step(self._sim, rng)

    def state_dict(self) -> dict[str, Any]:
        """Return all clocks; the wrenches in force belong to the simulator's state."""
        state: dict[str, Any] = {name: timer.left_s.clone() for name, timer in self._timers.items()}
        return state | {f"left/{name}": push.left.clone() for name, push in self._pushes.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        for name, timer in self._timers.items():
            timer.left_s.copy_(state[name])
        for name, push in self._pushes.items():
            push.left.copy_(state[f"left/{name}"])


class _PushState:
    def __init__(self, sim: Sim, spec: Push, dt_s: float) -> None:
        names = [sim.model.body(i).name for i in range(1, sim.model.nbody)]
        if spec.body not in names:
            raise unknown_name("body", spec.body, filter(None, names))
        self.spec, self._body = spec, 1 + names.index(spec.body)
        self.timer = Timer(sim.num_envs, spec, dt_s)
        self._length = max(1, math.ceil(spec.duration_s / dt_s - 1e-9))
        self.left = torch.zeros(sim.num_envs, dtype=torch.int64)

    def step(self, sim: Sim, rng: torch.Generator) -> None:
        wrench = sim.data("xfrc_applied")[:, self._body]
        wrench[self.left == 1] = 0.0
        self.left -= 1
        ids = self.timer.due(rng)
        if not len(ids):
            return
        self.left[ids] = self._length
        force = _vectors(len(ids), self.spec.force_n, rng)
        torque = _vectors(len(ids), self.spec.torque_nm, rng)
        if self.spec.direction is Direction.HORIZONTAL:
            force = _turned(force, torch.tensor([1.0, 1.0, 0.0]))
            torque = _turned(torque, torch.tensor([0.0, 0.0, 1.0]))
        wrench[ids] = torch.cat([force, torque], 1)


class _KickState:
    def __init__(self, sim: Sim, name: str, spec: Kick, dt_s: float) -> None:
        model = sim.model
        where = f"kicks.{name}"
        joints = matching(spec.names, [model.joint(i).name for i in range(model.njnt)], "joint", where)
        dofs: list[int] = []
        for joint in joints:
            width = _width(model, joint)
            columns = list(range(width)) if spec.columns is None else spec.columns
            if not all(0 <= column < width for column in columns):
                raise UsageError(
                    f"{where}: joint {model.joint(joint).name!r} has degrees of freedom 0 to {width - 1}, "
                    f"got columns {spec.columns}"
                )
            dofs += [int(model.jnt_dofadr[joint]) + column for column in columns]
        self.spec, self._dofs = spec, torch.tensor(dofs)
        self.timer = Timer(sim.num_envs, spec, dt_s)

    def step(self, sim: Sim, rng: torch.Generator) -> None:
        ids = self.timer.due(rng)
        if len(ids):
            change = draw((len(ids), len(self._dofs)), self.spec.range, Distribution.UNIFORM, rng)
            sim.data("qvel")[ids.unsqueeze(1), self._dofs] += change


def _width(model: mujoco.MjModel, joint: int) -> int:
    ends = [*model.jnt_dofadr[1:], model.nv]
    return int(ends[joint]) - int(model.jnt_dofadr[joint])


def _vectors(n: int, size: tuple[float, float], rng: torch.Generator) -> Tensor:
    """(n, 3) vectors of uniform size and uniformly distributed direction."""
    vectors = torch.randn(n, 3, dtype=torch.float64, generator=rng)
    return draw((n, 1), size, Distribution.UNIFORM, rng) * vectors / vectors.norm(dim=1, keepdim=True)


def _turned(vectors: Tensor, axes: Tensor) -> Tensor:
    """Turn (n, 3) vectors into the chosen axes, keeping their size."""
    flat = vectors * axes
    return flat * (vectors.norm(dim=1, keepdim=True) / flat.norm(dim=1, keepdim=True).clamp(min=1e-300))
