"""What a real robot has and a plain simulation lacks, declared in one place: `Task.realism`.

Every entry has a name of the user's choice, which logs, errors and the curriculum use. The defaults are
an ideal robot. References: sim-to-real with randomised dynamics (Peng et al. 2018, arXiv:1710.06537),
observation noise and pushes (Rudin et al. 2022, arXiv:2109.11978), delays (Tan et al. 2018,
arXiv:1804.10332).
"""

from __future__ import annotations

import copy
import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, is_dataclass, replace
from pathlib import Path
from typing import Any

import mujoco

from robotrl.core.checks import at_least, within
from robotrl.core.errors import UsageError, unknown_name
from robotrl.core.types import ObsTerm
from robotrl.sim.actuators import Actuator, Kind, replace_actuators
from robotrl.sim.disturbances import Kick, Push
from robotrl.sim.draws import check_range
from robotrl.sim.height_fields import fill, replace_floor
from robotrl.sim.latency import Delay, size_buffers
from robotrl.sim.randomization import FieldRandomization, keep_bodies_general
from robotrl.sim.restitution import Restitution, make_bouncy
from robotrl.sim.terrain import Terrain


@dataclass
class ObservationNoise:
    """What a sensor adds to some observation terms, in the terms' units."""

    terms: str = ".*"
    """Regular expression that the whole name of a term matches."""
    group: str = "policy"
    """Observation group."""
    std: float = 0.0
    """Standard deviation of normal noise, drawn anew in each control step."""
    half_width: float = 0.0
    """Half-width of uniform noise, drawn anew in each control step."""
    bias: tuple[float, float] = (0.0, 0.0)
    """Range of a constant offset per scalar, drawn anew in each episode."""
    dropout: float = 0.0
    """Probability that a term repeats its last reading in a control step, in [0, 1)."""

    def __post_init__(self) -> None:
        at_least(self, 0.0, "std", "half_width")
        within(self, "[0, 1)", "dropout")
        self.check()

    def check(self) -> None:
        """Refuse a bias range that is upside down.

        Raises:
            UsageError: says which.
        """
        check_range(f"observation noise of {self.terms!r}: bias", self.bias)


class Measure(enum.Enum):
    """What a curriculum follows."""

    PROGRESS = "progress"
    SUCCESS_RATE = "success_rate"


@dataclass
class Ramp:
    """A range that widens in training: from `start` to `end` as `by` goes from `begin` to `finish`."""

    parameter: str
    """Path of a range or number inside the realism section, such as "randomize.friction.range"."""
    start: list[float]
    """Value before `begin`; one number for a number, two for a range."""
    end: list[float]
    """Value after `finish`, and in evaluation."""
    by: Measure = Measure.PROGRESS
    """progress (share of the training's environment steps) or success_rate (of the task's `success`,
    averaged over recent episodes)."""
    begin: float = 0.0
    """Where the ramp begins, in [0, 1]."""
    finish: float = 1.0
    """Where the ramp ends, in (begin, 1]."""

    def __post_init__(self) -> None:
        within(self, "[0, 1]", "begin", "finish")
        if not self.begin < self.finish:
            raise ValueError(f"begin must be below finish, got {self.begin} and {self.finish}")
        if len(self.start) != len(self.end) or len(self.start) not in (1, 2):
            raise ValueError(f"start and end are one or two numbers each, got {self.start} and {self.end}")

    def at(self, measure: float) -> list[float]:
        """Return the value where the measure stands."""
        share = min(1.0, max(0.0, (measure - self.begin) / (self.finish - self.begin)))
        return [a + share * (b - a) for a, b in zip(self.start, self.end, strict=True)]


@dataclass
class Realism:
    """What surrounds and troubles a task's robot; the defaults are an ideal robot on the model's floor."""

    terrain: Terrain = field(default_factory=Terrain)
    """Height fields in place of the floor."""
    variants: list[Path] = field(default_factory=list)
    """Further MJCF files of the task's model, with other meshes, sizes or masses; each episode draws the
    task's own file or one of these."""
    actuators: dict[str, Actuator] = field(default_factory=dict)
    """Actuators replaced by what drives the real joints."""
    randomize: dict[str, FieldRandomization] = field(default_factory=dict)
    """Model fields that differ between simulations."""
    restitution: dict[str, Restitution] = field(default_factory=dict)
    """How high geoms bounce."""
    actuator_delays: dict[str, Delay] = field(default_factory=dict)
    """Time between a command and its effect."""
    sensor_delays: dict[str, Delay] = field(default_factory=dict)
    """Time between a quantity and its reading, for observations made of MuJoCo sensors."""
    pushes: dict[str, Push] = field(default_factory=dict)
    """Wrenches on bodies."""
    kicks: dict[str, Kick] = field(default_factory=dict)
    """Sudden changes of joint velocity."""
    observation_noise: dict[str, ObservationNoise] = field(default_factory=dict)
    """Noise, bias and dropout of observation terms."""
    action_noise: float = 0.0
    """Standard deviation of normal noise on commands, as a share of half the command range."""
    history: dict[str, int] = field(default_factory=dict)
    """Observation group -> control steps it shows, oldest first, the present one included."""
    curriculum: dict[str, Ramp] = field(default_factory=dict)
    """Ranges that widen during training."""

    def __post_init__(self) -> None:
        at_least(self, 0.0, "action_noise")
        for group, length in self.history.items():
            if length < 1:
                raise UsageError(f"realism.history.{group} must be at least 1, got {length}")
        for name, ramp in self.curriculum.items():
            if ramp.parameter.startswith("terrain.") and ramp.parameter != "terrain.difficulty":
                raise UsageError(
                    f"realism.curriculum.{name}: {ramp.parameter} is fixed when the model is made: ramp "
                    "terrain.difficulty instead"
                )
            for value in (ramp.start, ramp.end):
                changed = copy.deepcopy(self)
                set_parameter(changed, ramp.parameter, value, f"curriculum.{name}")
                self._check_buffers(changed, name)

    @property
    def learned_actuators(self) -> bool:
        """Whether an actuator is a network."""
        return any(actuator.kind is Kind.NETWORK for actuator in self.actuators.values())

    def _check_buffers(self, changed: Realism, name: str) -> None:
        for group in ("actuator_delays", "sensor_delays"):
            for delay, after in getattr(changed, group).items():
                held_s = getattr(self, group)[delay].longest_s
                if after.longest_s > held_s:
                    raise UsageError(
                        f"realism.curriculum.{name}: {group}.{delay} would reach {after.longest_s:g} s, its "
                        f"buffer holds {held_s:g} s: set {group}.{delay}.buffer_s"
                    )

    def edit_spec(self, spec: mujoco.MjSpec) -> None:
        """Lay the terrain, change actuators and size the buffers of delays, before the model is compiled.

        Raises:
            UsageError: an entry names nothing in the model, or it has no floor to replace.
        """
        try:
            replace_floor(spec, self.terrain)
            replace_actuators(spec, self.actuators)
            keep_bodies_general(spec, self.randomize)
            make_bouncy(spec, self.restitution)
            size_buffers(spec, self.actuator_delays, self.sensor_delays)
        except UsageError as error:
            raise UsageError(f"realism.{error}") from error

    def edit_model(self, model: mujoco.MjModel) -> None:
        """Write the terrain's heights into the compiled model."""
        fill(model, self.terrain)

    def at_the_end(self) -> Realism:
        """Return a copy in which every ramp of the curriculum has reached its end, and is gone."""
        final = copy.deepcopy(self)
        for name, ramp in self.curriculum.items():
            set_parameter(final, ramp.parameter, ramp.end, f"curriculum.{name}")
        final.curriculum = {}
        return final

    def observation_terms(self, groups: Mapping[str, tuple[ObsTerm, ...]]) -> dict[str, tuple[ObsTerm, ...]]:
        """Repeat the terms of groups that show a history: `joint_position@-1` is that of one step ago.

        Raises:
            UsageError: there is no such group.
        """
        for group in self.history:
            if group not in groups:
                raise unknown_name("observation group in realism.history", group, groups)
        return {
            group: tuple(
                replace(term, name=f"{term.name}@-{age}" if age else term.name)
                for age in range(self.history.get(group, 1) - 1, -1, -1)
                for term in terms
            )
            for group, terms in groups.items()
        }


def set_parameter(realism: Realism, path: str, value: list[float], where: str) -> None:
    """Set a range (two numbers) or a number (one) by its path inside a realism section.

    Raises:
        UsageError: there is no such parameter, or it does not take this value.
    """
    owner: Any = realism
    *steps, last = path.split(".")
    for step in steps:
        known = owner if isinstance(owner, Mapping) else vars(owner)
        if step not in known:
            raise unknown_name(f"parameter in realism.{where}", step, known)
        owner = known[step]
    if not is_dataclass(owner) or last not in vars(owner):
        known = vars(owner) if is_dataclass(owner) else owner
        raise unknown_name(f"parameter in realism.{where}", last, known)
    old = getattr(owner, last)
    if isinstance(old, float | int) != (len(value) == 1):
        raise UsageError(f"realism.{where}: {path} is {old!r}, it cannot become {value}")
    setattr(owner, last, value[0] if len(value) == 1 else tuple(value))
    if hasattr(owner, "check"):
        owner.check()
