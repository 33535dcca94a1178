"""A task's realism at run time: what happens around a control step of `VecEnv`, and in which order."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from robotrl.core.types import Obs, ObsTerm
from robotrl.envs.observation import ObservationPipeline
from robotrl.sim.disturbances import Disturbances
from robotrl.sim.guard import FailureRecorder
from robotrl.sim.height_fields import TerrainDraws
from robotrl.sim.latency import Delays
from robotrl.sim.network_actuators import NetworkActuators
from robotrl.sim.randomization import Randomizer
from robotrl.sim.restitution import Restitutions
from robotrl.sim.sim import Sim
from robotrl.sim.variant_sim import VariantSim
from robotrl.tasks.realism import Measure, Realism, set_parameter
from robotrl.tasks.task import Task

# episodes over which the success rate is averaged
_RECENT_EPISODES = 200


class Effects:
    """Everything in a `Realism` that acts while the simulation runs.

    Args:
        realism: what to do; a curriculum changes a copy of it.
        sim: the simulations.
        terms: observation group -> terms of one reading, without history.
        action_low: (A,) float64 lower command bounds, physical units.
        action_high: (A,) float64 upper command bounds.
        control_dt_s: time between two actions, s.
        rng: of every draw.

    Raises:
        UsageError: an entry names nothing in the model or the observation.
    """

    def __init__(
        self,
        realism: Realism,
        sim: Sim,
        terms: Mapping[str, tuple[ObsTerm, ...]],
        action_low: Tensor,
        action_high: Tensor,
        control_dt_s: float,
        rng: torch.Generator,
    ) -> None:
        self._realism = realism = copy.deepcopy(realism)
        self._sim, self._rng = sim, rng
        self._low, self._high = action_low, action_high
        self._terrain = TerrainDraws(sim, realism.terrain) if realism.terrain.shapes else None
        self._randomizer = Randomizer(sim, realism.randomize, control_dt_s)
        self._restitutions = Restitutions(sim, realism.restitution)
        self._delays = Delays(sim, realism.actuator_delays, realism.sensor_delays)
        self._disturbances = Disturbances(sim, realism.pushes, realism.kicks, control_dt_s)
        self._networks = NetworkActuators(sim, realism.actuators)
        self._pipeline = ObservationPipeline(sim.num_envs, terms, realism.observation_noise, realism.history)
        self._parts: dict[str, Any] = {
            "randomizer": self._randomizer,
            "delays": self._delays,
            "disturbances": self._disturbances,
            "networks": self._networks,
            "observation": self._pipeline,
        }
        self._success_rate = 0.0
        self.set_progress(1.0)

    def before_reset(self, ids: Tensor) -> None:
        """Draw the models, terrain, delays and clocks of new episodes, before their states are drawn."""
        if isinstance(self._sim, VariantSim):
            which = torch.randint(len(self._sim.models), (len(ids),), generator=self._rng)
            self._sim.choose(ids, which)
        if self._terrain is not None:
            self._terrain.reset(ids, self._rng)
        self._randomizer.reset(ids, self._rng)
        self._restitutions.reset(ids, self._rng)
        self._delays.reset(ids, self._rng)
        self._disturbances.reset(ids, self._rng)

    def after_reset(self, ids: Tensor) -> None:
        """Fill the delay buffers from the drawn states; derived fields are current afterwards."""
        self._networks.reset(ids)
        self._delays.fill(ids)

    def disturb(self) -> None:
        """Let a control step begin: what changes during episodes changes, pushes and kicks act."""
        self._randomizer.step(self._rng)
        self._disturbances.step(self._rng)

    def step(self, task: Task, ctrl: Tensor, substeps: int, recorder: FailureRecorder | None = None) -> None:
        """Disturb the coming control step and advance the physics by it.

        Args:
            task: what is simulated.
            ctrl: (N, A) float64 actuator commands in physical units.
            substeps: physics steps in a control step.
            recorder: remembers the state and the commands as they are once disturbed.
        """
        self.disturb()
        if self._realism.action_noise:
            ctrl = self._noisy(ctrl)
        if recorder is not None:
            recorder.record(ctrl)
        sent = ctrl.to(self._sim.device)
        if not self._networks:
            task.advance(self._sim, sent, substeps)
        else:
            for _ in range(substeps):
                self._networks.apply(ctrl)
                task.advance(self._sim, sent, 1)
        task.after_step(self._sim, sent)

    def _noisy(self, ctrl: Tensor) -> Tensor:
        noise = torch.randn(ctrl.shape, dtype=ctrl.dtype, generator=self._rng)
        # actuators take no command beyond their range, whatever disturbs it
        noisy = ctrl + self._realism.action_noise * (self._high - self._low) / 2 * noise
        return torch.clamp(noisy, self._low, self._high)

    def first(self, obs: Obs, ids: Tensor) -> Obs:
        """Return what the new episodes of simulations `ids` show first, group -> (n, ...)."""
        return self._pipeline.start(obs, ids, self._rng)

    def observe(self, obs: Obs) -> Obs:
        """Return what a control step shows, group -> (N, ...)."""
        return self._pipeline.step(obs, self._rng)

    def episodes_ended(self, success: Tensor | None) -> None:
        """Take note of (K,) bool successes."""
        if success is not None and len(success):
            weight = min(1.0, len(success) / _RECENT_EPISODES)
            self._success_rate += weight * (float(success.double().mean()) - self._success_rate)

    def set_progress(self, progress: float) -> dict[str, float]:
        """Let the curriculum follow the training; return name -> upper end of what it set.

        Args:
            progress: share of the training that is over, in [0, 1]; 1 outside of training, where every ramp
                is at its end.
        """
        shown = {}
        for name, ramp in self._realism.curriculum.items():
            follows_success = ramp.by is Measure.SUCCESS_RATE and progress < 1.0
            value = ramp.at(self._success_rate if follows_success else progress)
            set_parameter(self._realism, ramp.parameter, value, f"curriculum.{name}")
            shown[f"curriculum/{name}"] = value[-1]
        return shown

    def state_dict(self) -> dict[str, Any]:
        """Return everything that continues bit for bit."""
        parts = {name: part.state_dict() for name, part in self._parts.items()}
        return parts | {"success_rate": self._success_rate}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict` of the same realism."""
        for name, part in self._parts.items():
            part.load_state_dict(state[name])
        self._success_rate = state["success_rate"]
