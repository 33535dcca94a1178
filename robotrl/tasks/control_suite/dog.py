"""Dog of the DeepMind Control Suite (Tunyasuvunakool et al. 2020, arXiv:2006.12983).

Tasks stand, walk, trot, run and fetch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import mujoco
import torch
from torch import Tensor

from robotrl.core.errors import UsageError
from robotrl.core.paths import ASSETS
from robotrl.core.types import ObsTerm, Source
from robotrl.sim.sim import Sim
from robotrl.tasks.control_suite.randomizers import azimuth_rotation, normal, uniform
from robotrl.tasks.rewards import tolerance
from robotrl.tasks.task import Task

NUM_JOINTS = 73
# heights of torso and pelvis in the model file's pose, m
TORSO_HEIGHT_M, PELVIS_HEIGHT_M = 0.41522, 0.4761649
STAND_HEIGHT_M = 0.9 * torch.tensor([TORSO_HEIGHT_M, PELVIS_HEIGHT_M], dtype=torch.float64)
UPRIGHT_COSINE = math.cos(math.radians(30))
UPRIGHT_BODIES = ("skull", "torso", "pelvis")
FEET = ("foot_L", "foot_R", "hand_L", "hand_R")
SOLES = ("palm_L", "palm_R", "sole_L", "sole_R")
REACH_MARGIN_M = 2.0
BALL_HEIGHT_M, MAX_THROW_HEIGHT_M, MAX_THROW_SPEED_M_S = 0.05, 3.0, 5.0
XYZ = ("x", "y", "z")


@dataclass
class Dog(Task):
    """What the tasks share: the robot, how it senses itself, and standing.

    The first observation of an episode differs from dm_control's in what feels forces (acceleration,
    foot forces, touch): there it is computed with the actuators switched off, here they are on.
    """

    control_dt_s: float = 0.015
    """Time between two actions, s."""
    episode_length_s: float = 15.0
    """Time limit, s."""
    mjcf: Path = ASSETS / "control_suite" / "dog.xml"

    def observation_terms(self, model: mujoco.MjModel) -> dict[str, tuple[ObsTerm, ...]]:
        """Joints, posture, inertial sensors in the head, feet; x, y, z are the body part's own axes."""
        joints = tuple(model.joint(i).name for i in range(1, NUM_JOINTS + 1))
        actuators = tuple(model.actuator(i).name for i in range(model.nu))
        up = tuple(f"{body}.{axis}_up" for body in UPRIGHT_BODIES for axis in XYZ)
        feet = tuple(f"{foot}.{axis}" for foot in FEET for axis in XYZ)
        return {
            "policy": (
                ObsTerm("joint_position", NUM_JOINTS, "rad", elements=joints),
                ObsTerm("joint_velocity", NUM_JOINTS, "rad/s", elements=joints),
                ObsTerm("height", 2, "m", Source.ESTIMATOR, elements=("torso", "pelvis")),
                ObsTerm("vertical", 9, "1", Source.ESTIMATOR, -1.0, 1.0, up),
                ObsTerm("com_velocity", 3, "m/s", Source.ESTIMATOR, elements=XYZ),
                ObsTerm("acceleration", 3, "m/s^2", elements=XYZ),
                ObsTerm("head_velocity", 3, "m/s", Source.ESTIMATOR, elements=XYZ),
                ObsTerm("angular_velocity", 3, "rad/s", elements=XYZ),
                ObsTerm("foot_force", 12, "N", elements=feet),
                ObsTerm("touch", 4, "N", low=0.0, elements=SOLES),
                ObsTerm("actuator_state", model.nu, "1", elements=actuators),
            )
        }

    def reset(self, sim: Sim, ids: Tensor, rng: torch.Generator) -> None:
        """Draw heading, horizontal and turning velocity, and the actuators' states."""
        n = len(ids)
        sim.data("qpos")[ids, 3:7] = azimuth_rotation(n, rng)
        # x and y in m/s, about z in rad/s
        sim.data("qvel")[ids.unsqueeze(1), torch.tensor([0, 1, 5])] = 2 * normal((n, 3), rng)
        low, high = torch.as_tensor(sim.model.actuator_ctrlrange).T
        sim.data("act")[ids] = uniform((n, len(low)), low, high, rng)

    def height(self, sim: Sim) -> Tensor:
        """(N, 2) of torso and pelvis, m."""
        heights = [sim.named("body", body).xpos[:, 2] for body in ("torso", "pelvis")]
        return torch.stack(heights, dim=1)

    def vertical(self, sim: Sim) -> Tensor:
        """(N, 9) how much the axes of skull, torso and pelvis point up."""
        return torch.cat([sim.named("body", body).xmat[:, 6:] for body in UPRIGHT_BODIES], dim=1)

    def com_velocity(self, sim: Sim) -> Tensor:
        """(N, 3) of the centre of mass, in the torso's axes, m/s."""
        return _turned(sim.named("sensor", "torso_linvel").data, sim.named("body", "torso").xmat)

    def touch(self, sim: Sim) -> Tensor:
        """(N, 4) contact force on front and hind soles, N."""
        return torch.cat([sim.named("sensor", sole).data for sole in SOLES], dim=1)

    def observe(self, sim: Sim) -> dict[str, dict[str, Tensor]]:
        """See `observation_terms`."""
        return {
            "policy": {
                "joint_position": sim.data("qpos")[:, 7 : 7 + NUM_JOINTS],
                "joint_velocity": sim.data("qvel")[:, 6 : 6 + NUM_JOINTS],
                "height": self.height(sim),
                "vertical": self.vertical(sim),
                "com_velocity": self.com_velocity(sim),
                "acceleration": sim.named("sensor", "accelerometer").data,
                "head_velocity": sim.named("sensor", "velocimeter").data,
                "angular_velocity": sim.named("sensor", "gyro").data,
                "foot_force": torch.cat([sim.named("sensor", foot).data for foot in FEET], dim=1),
                "touch": self.touch(sim),
                "actuator_state": sim.data("act"),
            }
        }

    def standing(self, sim: Sim) -> Tensor:
        """(N,) torso and pelvis high, head, torso and pelvis upright, the weight on the feet."""
        high = tolerance(self.height(sim) / STAND_HEIGHT_M.to(sim.device), (1.0, math.inf), margin=1.0)
        upright = tolerance(
            self.vertical(sim)[:, 2::3],
            (UPRIGHT_COSINE, math.inf),
            margin=1 + UPRIGHT_COSINE,
            value_at_margin=0.0,
            sigmoid="linear",
        )
        weight = sim.named("body", "torso").subtreemass * -float(sim.model.opt.gravity[2])
        on_feet = tolerance(
            self.touch(sim).sum(1) / weight.reshape(-1),
            (1.0, math.inf),
            margin=1.0,
            value_at_margin=0.9,
            sigmoid="linear",
        )
        return high.prod(1) * upright.prod(1) * on_feet


@dataclass
class DogMove(Dog):
    """Stand and, with a speed to reach, move forward at it."""

    move_speed_m_s: float = 1.0
    """Forward speed from which the move reward is 1, m/s, up to twice that; 0 asks for standing only."""

    def __post_init__(self) -> None:
        if not self.move_speed_m_s >= 0:
            raise UsageError(f"move_speed_m_s must be 0 or above, got {self.move_speed_m_s}")

    def edit_spec(self, spec: mujoco.MjSpec) -> None:
        """Draw a floor as large as the way to go, with nothing else on it."""
        spec.geom("floor").size[:2] = max(1.0, self.move_speed_m_s) * self.episode_length_s
        for camera in ("ball", "head"):
            spec.delete(spec.camera(camera))
        spec.delete(spec.body("ball"))
        for geom in ("target", "wall_px", "wall_nx", "wall_py", "wall_ny"):
            spec.delete(spec.geom(geom))

    def reward_terms(self, sim: Sim, action: Tensor) -> dict[str, Tensor]:
        """Standing, times (1 + 4 move) / 5 as the sum of its standing and moving parts."""
        standing = self.standing(sim)
        if self.move_speed_m_s == 0:
            return {"stand": standing}
        move = tolerance(
            self.com_velocity(sim)[:, 0],
            (self.move_speed_m_s, 2 * self.move_speed_m_s),
            margin=max(1.0, self.move_speed_m_s),
            value_at_margin=0.0,
            sigmoid="linear",
        )
        return {"stand": standing / 5, "move": standing * move * (4 / 5)}


@dataclass
class DogFetch(Dog):
    """Take a thrown ball between the teeth and bring it to the middle of a walled arena."""

    def observation_terms(self, model: mujoco.MjModel) -> dict[str, tuple[ObsTerm, ...]]:
        """The dog itself, and ball and target as seen from its head."""
        common = super().observation_terms(model)["policy"]
        return {
            "policy": (
                *common,
                ObsTerm("ball_position", 3, "m", Source.ESTIMATOR, elements=XYZ),
                ObsTerm("ball_velocity", 3, "m/s", Source.ESTIMATOR, elements=XYZ),
                ObsTerm("target_position", 3, "m", Source.ESTIMATOR, elements=XYZ),
            )
        }

    def reset(self, sim: Sim, ids: Tensor, rng: torch.Generator) -> None:
        """Draw the dog, and throw the ball roughly towards the middle from three quarters of the way out."""
        super().reset(sim, ids, rng)
        n, ball = len(ids), sim.named("joint", "ball_root")
        azimuth = uniform((n, 1), 0.0, 2 * math.pi, rng)
        outwards = torch.cat([azimuth.sin(), azimuth.cos()], dim=1)
        ball.qpos[ids, :2] = 0.75 * _size(sim, "floor") * outwards
        ball.qpos[ids, 2] = BALL_HEIGHT_M
        # thrown up to a height that it then falls from: v^2 / 2 = g h
        height = uniform((n,), 0.0, MAX_THROW_HEIGHT_M, rng)
        ball.qvel[ids, 2] = (-2 * float(sim.model.opt.gravity[2]) * height).sqrt()
        speed = uniform((n, 1), 0.0, MAX_THROW_SPEED_M_S, rng)
        ball.qvel[ids, :2] = speed * (0.05 * normal((n, 2), rng) - outwards)

    def in_head_axes(self, sim: Sim, name: str) -> Tensor:
        """(N, 3) from the head to geom `name`, in the head's axes, m."""
        head = sim.named("site", "head")
        return _turned(sim.named("geom", name).xpos - head.xpos, head.xmat)

    def ball_velocity(self, sim: Sim) -> Tensor:
        """(N, 3) relative to the head, in its axes, m/s."""
        ball = _turned(sim.named("joint", "ball_root").qvel[:, :3], sim.named("site", "head").xmat)
        return ball - sim.named("sensor", "velocimeter").data

    def ball_to_mouth_m(self, sim: Sim) -> Tensor:
        """(N,) mean distance from the ball to the two sides of the bite."""
        ball = sim.named("geom", "ball").xpos
        upper, lower = (sim.named("site", f"{side}_bite").xpos for side in ("upper", "lower"))
        return ((ball - upper).norm(dim=1) + (ball - lower).norm(dim=1)) / 2

    def ball_to_target_m(self, sim: Sim) -> Tensor:
        """(N,) distance from the ball to the middle of the arena."""
        return (sim.named("geom", "ball").xpos - sim.named("geom", "target").xpos).norm(dim=1)

    def observe(self, sim: Sim) -> dict[str, dict[str, Tensor]]:
        """See `observation_terms`."""
        ball = {
            "ball_position": self.in_head_axes(sim, "ball"),
            "ball_velocity": self.ball_velocity(sim),
            "target_position": self.in_head_axes(sim, "target"),
        }
        return {"policy": super().observe(sim)["policy"] | ball}

    def reward_terms(self, sim: Sim, action: Tensor) -> dict[str, Tensor]:
        """Standing, times (1 + 6 reach) / 7, times (1 + fetch) / 2; the ball may be let go at the target."""
        to_target, target_radius = self.ball_to_target_m(sim), _size(sim, "target")
        bite_radius = float(sim.model.site_size[sim.named("site", "upper_bite").id, 0])
        reach = tolerance(
            self.ball_to_mouth_m(sim), (0.0, bite_radius), margin=REACH_MARGIN_M, sigmoid="reciprocal"
        )
        reach = ((1 + 6 * reach) / 7).masked_fill(to_target < 2 * target_radius, 1.0)
        fetch = tolerance(to_target, (0.0, target_radius), margin=_size(sim, "floor"), sigmoid="reciprocal")
        reached = self.standing(sim) * reach / 2
        return {"reach": reached, "fetch": reached * fetch}


def _size(sim: Sim, geom: str) -> float:
    """First size of a geom, m."""
    return float(sim.model.geom_size[sim.named("geom", geom).id, 0])


def _turned(vectors: Tensor, xmat: Tensor) -> Tensor:
    """(N, 3) `vectors` of the world in the axes of the (N, 9) rotation matrices."""
    return (vectors.unsqueeze(1) @ xmat.unflatten(1, (3, 3))).squeeze(1)
