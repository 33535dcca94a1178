"""An arm of two position drives as a task: small enough for the tests of deployment on a simulated robot."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import mujoco
import torch
from torch import Tensor

from robotrl.core.types import ObsTerm
from robotrl.sim.sim import Sim
from robotrl.tasks.task import Task

JOINTS = ("shoulder", "elbow")


@dataclass
class ArmTask(Task):
    """Hold the arm where it is told."""

    mjcf: Path = Path(__file__).parent / "arm_task.xml"
    control_dt_s: float = 0.02
    episode_length_s: float = 2.0

    def observation_terms(self, model: mujoco.MjModel) -> dict[str, tuple[ObsTerm, ...]]:
        return {
            "policy": (
                ObsTerm("joint_position", 2, "rad", elements=JOINTS),
                ObsTerm("joint_velocity", 2, "rad/s", elements=JOINTS),
            )
        }

    def reset(self, sim: Sim, ids: Tensor, rng: torch.Generator) -> None:
        sim.data("qpos")[ids] = 0.2 * torch.randn(len(ids), 2, generator=rng, dtype=torch.float64)

    def observe(self, sim: Sim) -> dict[str, dict[str, Tensor]]:
        return {"policy": {"joint_position": sim.data("qpos"), "joint_velocity": sim.data("qvel")}}

    def reward_terms(self, sim: Sim, action: Tensor) -> dict[str, Tensor]:
        return {"still": -sim.data("qvel").square().sum(1)}
