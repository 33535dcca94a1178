"""Planar swimmer of the DeepMind Control Suite (Tassa et al. 2018, arXiv:1801.00690), of Coulom (2002)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import mujoco
import torch
from torch import Tensor

from robotrl.core.errors import UsageError
from robotrl.core.paths import ASSETS
from robotrl.core.types import ObsTerm, Source
from robotrl.sim.sim import Sim
from robotrl.tasks.control_suite.randomizers import randomize_joints, uniform
from robotrl.tasks.rewards import tolerance
from robotrl.tasks.task import Task

LINK_LENGTH_M = 0.1
NEAR_TARGET_PROBABILITY = 0.2
NEAR_TARGET_M, FAR_TARGET_M = 0.3, 2.0


@dataclass
class Swimmer(Task):
    """Bring the nose of a chain of links in a viscous fluid to a target at a random place."""

    num_links: int = 6
    """Number of links, the head among them; 3 or more."""
    control_dt_s: float = 0.03
    """Time between two actions, s."""
    episode_length_s: float = 30.0
    """Time limit, s."""
    mjcf: Path = ASSETS / "control_suite" / "swimmer.xml"

    def __post_init__(self) -> None:
        if not self.num_links >= 3:
            raise UsageError(f"num_links must be 3 or more, got {self.num_links}")

    def edit_spec(self, spec: mujoco.MjSpec) -> None:
        """Append the links to the head, each with a motor, a velocimeter and a gyroscope."""
        parent = spec.body("head")
        for i in range(self.num_links - 1):
            parent = add_link(spec, parent, i, 360.0 / self.num_links)
        for name in ("tracking1", "tracking2"):
            spec.camera(name).pos *= self.num_links / 6

    def observation_terms(self, model: mujoco.MjModel) -> dict[str, tuple[ObsTerm, ...]]:
        """Joint angles, the way to the target, and the velocities of every link in its own frame."""
        joints = tuple(f"joint_{i}" for i in range(self.num_links - 1))
        axes = ("x", "y")
        velocities = []
        for link in self.links():
            velocities.append(ObsTerm(f"{link}_velocity", 2, "m/s", Source.ESTIMATOR, elements=axes))
            velocities.append(ObsTerm(f"{link}_yaw_rate", 1, "rad/s"))
        return {
            "policy": (
                ObsTerm("joint_position", len(joints), "rad", elements=joints),
                ObsTerm("nose_to_target_b", 2, "m", Source.ESTIMATOR, elements=axes),
                *velocities,
            )
        }

    def links(self) -> list[str]:
        """Names of the links, from head to tail."""
        return ["head", *(f"segment_{i}" for i in range(self.num_links - 1))]

    def reset(self, sim: Sim, ids: Tensor, rng: torch.Generator) -> None:
        """Draw heading and joint angles, and a target that is near in one of five episodes."""
        randomize_joints(sim, ids, rng)
        is_near = torch.rand((len(ids), 1), dtype=torch.float64, generator=rng) < NEAR_TARGET_PROBABILITY
        half_width = torch.where(is_near, NEAR_TARGET_M, FAR_TARGET_M)
        position = uniform((len(ids), 2), -half_width, half_width, rng)
        # nothing collides with the target and it weighs nothing: no model constant depends on its place
        sim.param("geom_pos")[ids, sim.named("geom", "target").id, :2] = position
        sim.param("light_pos")[ids, sim.named("light", "target_light").id, :2] = position

    def nose_to_target(self, sim: Sim) -> Tensor:
        """(N, 2) vector in the frame of the head, m."""
        way = (sim.named("geom", "target").xpos - sim.named("geom", "nose").xpos).unsqueeze(1)
        return (way @ sim.named("body", "head").xmat.unflatten(1, (3, 3)))[:, 0, :2]

    def observe(self, sim: Sim) -> dict[str, dict[str, Tensor]]:
        """See `observation_terms`."""
        values = {"joint_position": sim.data("qpos")[:, 3:], "nose_to_target_b": self.nose_to_target(sim)}
        # velocimeter and gyroscope of every link, behind the four vectors of the file's first sensors
        twist = sim.data("sensordata")[:, 12:].unflatten(1, (self.num_links, 6))
        velocities, yaw_rates = twist[:, :, :2].unbind(1), twist[:, :, 5].unbind(1)
        for link, velocity, yaw_rate in zip(self.links(), velocities, yaw_rates, strict=True):
            values[f"{link}_velocity"] = velocity
            values[f"{link}_yaw_rate"] = yaw_rate
        return {"policy": values}

    def reward_terms(self, sim: Sim, action: Tensor) -> dict[str, Tensor]:
        """1 while the nose is in the target, with a long tail outside."""
        radius_m = float(sim.model.geom("target").size[0])
        distance = self.nose_to_target(sim).norm(dim=1)
        near = tolerance(distance, (0.0, radius_m), margin=5 * radius_m, sigmoid="long_tail")
        return {"near_target": near}


def add_link(spec: mujoco.MjSpec, parent: mujoco.MjsBody, i: int, limit_deg: float) -> mujoco.MjsBody:
    """Return link `i`, hinged to the end of `parent`, its angle limited to +- `limit_deg` degrees."""
    link = parent.add_body(name=f"segment_{i}", pos=[0, LINK_LENGTH_M, 0])
    link.add_geom(spec.find_default("visual"), name=f"visual_{i}")
    link.add_geom(spec.find_default("inertial"), name=f"inertial_{i}")
    link.add_site(spec.find_default("swimmer"), name=f"site_{i}")
    link.add_joint(spec.find_default("swimmer"), name=f"joint_{i}", range=[-limit_deg, limit_deg])
    motor = spec.add_actuator(spec.default, name=f"motor_{i}", target=f"joint_{i}")
    motor.trntype = mujoco.mjtTrn.mjTRN_JOINT
    site = {"objtype": mujoco.mjtObj.mjOBJ_SITE, "objname": f"site_{i}"}
    spec.add_sensor(name=f"velocimeter_{i}", type=mujoco.mjtSensor.mjSENS_VELOCIMETER, **site)
    spec.add_sensor(name=f"gyro_{i}", type=mujoco.mjtSensor.mjSENS_GYRO, **site)
    return link
