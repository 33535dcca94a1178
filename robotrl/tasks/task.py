"""What a user writes: a robot task, for all simulations at once, in plain torch over MuJoCo's fields."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import mujoco
import torch
from torch import Tensor

from robotrl.core.errors import RobotrlError, UsageError
from robotrl.core.types import ActionTerm, ObsTerm, Specs
from robotrl.sim.cameras import ImageTerm
from robotrl.sim.layouts import Filling, check_layouts, fillings
from robotrl.sim.sim import Sim, Stage
from robotrl.tasks.realism import Realism


@dataclass(kw_only=True)
class _Options:
    """The options that every task has."""

    realism: Realism = field(default_factory=Realism)
    """Randomisation, delays, noise, actuators, pushes."""
    images: dict[str, ImageTerm] = field(default_factory=dict)
    """Observation groups that are pictures of a camera."""


class Task(_Options, ABC):
    """A robot task: model, reset distribution, observations, rewards and end states.

    Subclasses are dataclasses: their fields are the task's options, so that
    `task.move_speed_m_s=2` on the command line is checked against the type written here. The class
    holds no per-simulation state; everything is read from `sim` (N simulations at once).

    Attributes:
        mjcf: path of the MJCF file.
        control_dt_s: time between two actions, s; a whole multiple of the model's timestep.
        episode_length_s: time limit, s: reaching it truncates, it never terminates.
        stage: which derived fields are fresh after a step (see `Stage`).
        advance_dt_s: `advance` takes whole multiples of it, s; None: of a physics step.
    """

    mjcf: Path
    control_dt_s: float
    episode_length_s: float
    stage: Stage = Stage.VELOCITY
    advance_dt_s: ClassVar[float | None] = None

    def edit_spec(self, spec: mujoco.MjSpec) -> None:
        """Change the model before it is compiled: sensors, sites, sizes, actuators."""

    def edit_model(self, model: mujoco.MjModel) -> None:
        """Change the compiled model: what the compiler would scale, such as heights."""

    @abstractmethod
    def observation_terms(self, model: mujoco.MjModel) -> dict[str, tuple[ObsTerm, ...]]:
        """Describe every observation group: terms in the order in which `observe` returns them.

        The group "policy" is what the policy acts on; "privileged" is for critics only.
        """

    @abstractmethod
    def reset(self, sim: Sim, ids: Tensor, rng: torch.Generator) -> None:
        """Draw initial states for simulations `ids`, (n,) int64, whose state is at the model's defaults.

        Write state fields (`sim.data("qpos")[ids] = ...`) and `sim.param` fields; derived fields are
        recomputed afterwards. All randomness comes from `rng`.
        """

    def before_step(self, sim: Sim) -> None:
        """Remember what the reward compares with, before the physics advances."""

    def advance(self, sim: Sim, ctrl: Tensor, substeps: int) -> None:
        """Advance the physics, by a control step or a part of one.

        Args:
            sim: the state before.
            ctrl: (N, A) float64 actuator commands in physical units.
            substeps: physics steps to do.
        """
        sim.step(ctrl, substeps)

    def after_step(self, sim: Sim, ctrl: Tensor) -> None:
        """Take note of what a whole control step brought, before rewards and observations ask for it.

        Args:
            sim: the state after the step.
            ctrl: (N, A) float64 actuator commands of the step in physical units.
        """

    @abstractmethod
    def observe(self, sim: Sim) -> dict[str, dict[str, Tensor]]:
        """Return group -> term -> (N, size) or (N,) values in the units of `observation_terms`.

        What it returns depends on `sim` alone, in every call in the same way: where all terms of a group are
        views of the simulator's fields, `VecEnv` reads those from then on without calling this again.
        """

    @abstractmethod
    def reward_terms(self, sim: Sim, action: Tensor) -> dict[str, Tensor]:
        """Return named (N,) float64 terms; the reward is their sum.

        Args:
            sim: the state after the step.
            action: (N, A) float64 actuator commands in physical units.
        """

    def terminated(self, sim: Sim) -> Tensor | None:
        """Return (N,) bool true end states, or None for a task that has none."""
        return None

    def success(self, sim: Sim) -> Tensor | None:
        """Return (N,) bool, whether an episode that ends now counts as a success; None for no such notion."""
        return None

    def scores(self, sim: Sim) -> dict[str, Tensor]:
        """Return named (N,) results of episodes that end now: logged and evaluated as the return is."""
        return {}

    def expert(self, sim: Sim) -> Tensor | None:
        """Return what a scripted demonstrator would do now, or None for a task that has none.

        It may use all that the simulation knows; `robotrl collect policy=expert` records what it does.

        Returns:
            (N, A) actuator commands in physical units; beyond their bounds they saturate.
        """
        return None

    def action_terms(self, model: mujoco.MjModel) -> tuple[ActionTerm, ...]:
        """Describe the actuators; by default one term per actuator over its control range.

        Raises:
            UsageError: an actuator has no control range, so [-1, 1] has nothing to map to.
        """
        terms = []
        for i in range(model.nu):
            name = model.actuator(i).name or f"actuator_{i}"
            if not model.actuator_ctrllimited[i]:
                raise UsageError(
                    f"actuator {name!r} has no ctrlrange: add one to the MJCF or override action_terms()"
                )
            low, high = (float(x) for x in model.actuator_ctrlrange[i])
            terms.append(ActionTerm(name, "1", low, high))
        return tuple(terms)

    def build_model(self) -> mujoco.MjModel:
        """Read the MJCF, apply `edit_spec`, compile, apply `edit_model`.

        Raises:
            RobotrlError: the file is missing or MuJoCo refuses it; MuJoCo's message is passed on.
        """
        return self._compile(Path(self.mjcf), "mjcf")

    def build_models(self) -> list[mujoco.MjModel]:
        """Build what the simulations run on: the task's model, and its variants with the same layout.

        Raises:
            RobotrlError: as `build_model`, or the files do not fit together.
        """
        if not self.realism.variants:
            return [self.build_model()]
        files = [Path(self.mjcf), *map(Path, self.realism.variants)]
        options = ["mjcf"] + ["realism.variants"] * len(self.realism.variants)
        models = list(map(self._compile, files, options))
        models = list(map(self._compile, files, options, fillings(models)))
        check_layouts(files, models)
        return models

    def _compile(self, path: Path, option: str, filling: Filling | None = None) -> mujoco.MjModel:
        if not path.is_file():
            raise RobotrlError(f"model file {path} does not exist (task {type(self).__name__}.{option})")
        try:
            spec = mujoco.MjSpec.from_file(str(path))
            self.edit_spec(spec)
            self.realism.edit_spec(spec)
            if filling is not None:
                filling.fill(spec)
            model = spec.compile()
        except ValueError as error:
            raise RobotrlError(
                f"model file {path} does not compile: {' '.join(str(error).split())}"
            ) from error
        self.edit_model(model)
        self.realism.edit_model(model)
        return model

    def specs(self, model: mujoco.MjModel) -> Specs:
        """Collect observation terms (with their history), action terms and control rate."""
        observation = self.realism.observation_terms(self.observation_terms(model))
        return Specs(observation, self.action_terms(model), self.control_dt_s)
