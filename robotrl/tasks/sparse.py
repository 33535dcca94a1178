"""Tasks that are only told at the end whether they succeeded."""

from __future__ import annotations

from abc import abstractmethod

import mujoco
from torch import Tensor

from robotrl.core.types import ActionTerm
from robotrl.sim.sim import Sim
from robotrl.tasks.gymnasium.motors import describe_motors
from robotrl.tasks.task import Task


class SparseTask(Task):
    """A task whose only reward is 1 for success, which ends the episode."""

    @abstractmethod
    def success(self, sim: Sim) -> Tensor:
        """Return (N,) bool, whether the task is done."""

    def terminated(self, sim: Sim) -> Tensor:
        """The task is done."""
        return self.success(sim)

    def reward_terms(self, sim: Sim, action: Tensor) -> dict[str, Tensor]:
        """1 when the task is done."""
        return {"success": self.success(sim).double()}

    def action_terms(self, model: mujoco.MjModel) -> tuple[ActionTerm, ...]:
        """Commands in N or m/s, as the actuators have it."""
        return describe_motors(super().action_terms(model), model)
