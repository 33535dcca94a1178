"""Quadruped of the DeepMind Control Suite (Tassa et al. 2018, arXiv:1801.00690): walk, run, escape, fetch."""

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
from robotrl.tasks.control_suite.randomizers import (
    azimuth_rotation,
    lift_off,
    normal,
    uniform,
    uniform_rotation,
)
from robotrl.tasks.control_suite.terrain import bumpy_bowls, draw_bumps
from robotrl.tasks.rewards import tolerance
from robotrl.tasks.task import Task

NUM_JOINTS = 16
LEGS = ("front_left", "front_right", "back_right", "back_left")
WALLS = ("wall_px", "wall_py", "wall_nx", "wall_ny")
RANGEFINDERS = tuple(f"rf_{row}{column}" for row in range(4) for column in range(5))
ESCAPE_FLOOR_M = 40.0
ESCAPE_ANGLE_RAD = math.radians(20)
BALL_HEIGHT_M, BALL_SPEED_M_S = 2.0, 5.0
XYZ = ("x", "y", "z")


@dataclass
class Quadruped(Task):
    """What the tasks share: the robot, how it senses itself, and being upright."""

    control_dt_s: float = 0.02
    """Time between two actions, s."""
    episode_length_s: float = 20.0
    """Time limit, s."""
    mjcf: Path = ASSETS / "control_suite" / "quadruped.xml"

    def observation_terms(self, model: mujoco.MjModel) -> dict[str, tuple[ObsTerm, ...]]:
        """Joints, actuators, IMU and toe loads; x, y, z are the torso's, at the toes the toe's, axes."""
        joints = tuple(model.joint(i).name for i in range(1, NUM_JOINTS + 1))
        actuators = tuple(model.actuator(i).name for i in range(model.nu))
        toes = tuple(f"{leg}.{axis}" for leg in LEGS for axis in XYZ)
        return {
            "policy": (
                ObsTerm("joint_position", NUM_JOINTS, "rad", elements=joints),
                ObsTerm("joint_velocity", NUM_JOINTS, "rad/s", elements=joints),
                ObsTerm("actuator_state", model.nu, "1", elements=actuators),
                ObsTerm("torso_velocity", 3, "m/s", Source.ESTIMATOR, elements=XYZ),
                ObsTerm("torso_upright", 1, "1", Source.ESTIMATOR, low=-1.0, high=1.0),
                ObsTerm("acceleration", 3, "m/s^2", elements=XYZ),
                ObsTerm("angular_velocity", 3, "rad/s", elements=XYZ),
                ObsTerm("toe_force", 12, "asinh(N)", elements=toes),
                ObsTerm("toe_torque", 12, "asinh(N m)", elements=toes),
            )
        }

    def torso_upright(self, sim: Sim) -> Tensor:
        """(N,) projection of the torso's z axis on the world's."""
        return sim.named("body", "torso").xmat[:, 8]

    def torso_velocity(self, sim: Sim) -> Tensor:
        """(N, 3) in the torso's axes, m/s."""
        return sim.named("sensor", "velocimeter").data

    def toe_loads(self, sim: Sim, kind: str) -> Tensor:
        """(N, 12) asinh of the "force" (N) or "torque" (N m) at the toes."""
        loads = [sim.named("sensor", f"{kind}_toe_{leg}").data for leg in LEGS]
        return torch.cat(loads, dim=1).asinh()

    def in_torso_axes(self, sim: Sim, vectors: Tensor) -> Tensor:
        """(N, 3 K) vectors turned from the world's into the torso's axes, of (N, K, 3)."""
        return (vectors @ sim.named("body", "torso").xmat.unflatten(1, (3, 3))).flatten(1)

    def observe(self, sim: Sim) -> dict[str, dict[str, Tensor]]:
        """See `observation_terms`."""
        return {
            "policy": {
                "joint_position": sim.data("qpos")[:, 7 : 7 + NUM_JOINTS],
                "joint_velocity": sim.data("qvel")[:, 6 : 6 + NUM_JOINTS],
                "actuator_state": sim.data("act"),
                "torso_velocity": self.torso_velocity(sim),
                "torso_upright": self.torso_upright(sim),
                "acceleration": sim.named("sensor", "imu_accel").data,
                "angular_velocity": sim.named("sensor", "imu_gyro").data,
                "toe_force": self.toe_loads(sim, "force"),
                "toe_torque": self.toe_loads(sim, "torque"),
            }
        }

    def upright_reward(self, sim: Sim, deviation_rad: float = 0.0) -> Tensor:
        """(N,) 1 while the torso leans less than `deviation_rad`, falling to 0 upside down."""
        cosine = math.cos(deviation_rad)
        return tolerance(
            self.torso_upright(sim),
            (cosine, math.inf),
            margin=1 + cosine,
            value_at_margin=0.0,
            sigmoid="linear",
        )


@dataclass
class QuadrupedMove(Quadruped):
    """Move forward at a given speed, upright, from any initial orientation."""

    move_speed_m_s: float = 0.5
    """Forward speed from which the reward is that of being upright, m/s."""

    def __post_init__(self) -> None:
        if not self.move_speed_m_s > 0:
            raise UsageError(f"move_speed_m_s must be above 0 m/s, got {self.move_speed_m_s}")

    def edit_spec(self, spec: mujoco.MjSpec) -> None:
        """Draw a floor as large as the way to go, with nothing else on it."""
        spec.geom("floor").size[:2] = self.move_speed_m_s * self.episode_length_s
        _remove_arena(spec)
        _remove_terrain(spec)

    def reset(self, sim: Sim, ids: Tensor, rng: torch.Generator) -> None:
        """Draw the orientation, just above the floor."""
        sim.data("qpos")[ids, 3:7] = uniform_rotation(len(ids), rng)
        lift_off(sim, ids)

    def reward_terms(self, sim: Sim, action: Tensor) -> dict[str, Tensor]:
        """Upright times forward speed."""
        move = tolerance(
            self.torso_velocity(sim)[:, 0],
            (self.move_speed_m_s, math.inf),
            margin=self.move_speed_m_s,
            value_at_margin=0.5,
            sigmoid="linear",
        )
        return {"move": self.upright_reward(sim) * move}


@dataclass
class QuadrupedEscape(Quadruped):
    """Climb out of a bumpy bowl of 30 m radius, with a fan of 20 range finders.

    dm_control draws a new terrain for every episode. The simulations here share their height fields, so
    `num_terrains` of them are drawn beforehand, from the same distribution, and every episode takes one
    of them at random.
    """

    num_terrains: int = 32
    """How many terrains there are; 0.16 MB each."""
    terrain_seed: int = 0
    """Of the terrains; independent of the environments' seed, so that the model does not depend on it."""

    def __post_init__(self) -> None:
        if self.num_terrains < 1:
            raise UsageError(f"num_terrains must be at least 1, got {self.num_terrains}")
        if not 0 <= self.terrain_seed < 2**63:
            raise UsageError(f"terrain_seed must be in [0, 2^63), got {self.terrain_seed}")

    def edit_spec(self, spec: mujoco.MjSpec) -> None:
        """Make room for the terrains."""
        spec.geom("floor").size[:2] = ESCAPE_FLOOR_M
        _remove_arena(spec)
        first = spec.hfield("terrain")
        for i in range(1, self.num_terrains):
            spec.add_hfield(
                name=f"terrain_{i}",
                nrow=first.nrow,
                ncol=first.ncol,
                size=first.size,
                userdata=first.userdata,
            )

    def edit_model(self, model: mujoco.MjModel) -> None:
        """Fill in the terrains: the compiler would scale each to heights from 0 to 1."""
        rng = torch.Generator().manual_seed(self.terrain_seed)
        bumps = draw_bumps(self.num_terrains, 2 * float(model.hfield_size[0, 0]), rng)
        model.hfield_data[:] = bumpy_bowls(bumps, int(model.hfield_nrow[0])).flatten().numpy()

    def observation_terms(self, model: mujoco.MjModel) -> dict[str, tuple[ObsTerm, ...]]:
        """The robot itself, the way to the middle of the bowl, and distances ahead."""
        common = super().observation_terms(model)["policy"]
        return {
            "policy": (
                *common,
                ObsTerm("origin", 3, "m", Source.ESTIMATOR, elements=XYZ),
                ObsTerm("rangefinder", 20, "tanh(m)", low=0.0, high=1.0, elements=RANGEFINDERS),
            )
        }

    def reset(self, sim: Sim, ids: Tensor, rng: torch.Generator) -> None:
        """Draw a terrain and the orientation, just above the middle of the bowl."""
        terrain = torch.randint(self.num_terrains, (len(ids),), generator=rng)
        # the height fields are as large as each other: no model constant depends on which it is
        sim.param("geom_dataid")[ids, sim.named("geom", "terrain").id] = terrain.int()
        sim.data("qpos")[ids, 3:7] = uniform_rotation(len(ids), rng)
        lift_off(sim, ids)

    def origin(self, sim: Sim) -> Tensor:
        """(N, 3) from the torso to the middle of the bowl, in the torso's axes, m."""
        return self.in_torso_axes(sim, -sim.named("body", "torso").xpos.unsqueeze(1))

    def rangefinder(self, sim: Sim) -> Tensor:
        """(N, 20) tanh of the distances in m, 1 where there is nothing."""
        ranges = torch.cat([sim.named("sensor", name).data for name in RANGEFINDERS], dim=1)
        return ranges.tanh().masked_fill(ranges == -1.0, 1.0)

    def observe(self, sim: Sim) -> dict[str, dict[str, Tensor]]:
        """See `observation_terms`."""
        values = super().observe(sim)["policy"]
        return {"policy": {**values, "origin": self.origin(sim), "rangefinder": self.rangefinder(sim)}}

    def reward_terms(self, sim: Sim, action: Tensor) -> dict[str, Tensor]:
        """Upright within 20 degrees times distance from the middle of the bowl."""
        radius = float(sim.model.hfield_size[0, 0])
        escape = tolerance(
            sim.named("site", "workspace").xpos.norm(dim=1),
            (radius, math.inf),
            margin=radius,
            value_at_margin=0.0,
            sigmoid="linear",
        )
        return {"escape": self.upright_reward(sim, ESCAPE_ANGLE_RAD) * escape}


@dataclass
class QuadrupedFetch(Quadruped):
    """Push a ball to the middle of a walled arena."""

    def edit_spec(self, spec: mujoco.MjSpec) -> None:
        """Keep the arena with its ball."""
        _remove_terrain(spec)

    def observation_terms(self, model: mujoco.MjModel) -> dict[str, tuple[ObsTerm, ...]]:
        """The robot itself, and ball and target as seen from the torso."""
        common = super().observation_terms(model)["policy"]
        return {
            "policy": (
                *common,
                ObsTerm("ball_position", 3, "m", Source.ESTIMATOR, elements=XYZ),
                ObsTerm("ball_velocity", 3, "m/s", Source.ESTIMATOR, elements=XYZ),
                ObsTerm("ball_angular_velocity", 3, "rad/s", Source.SIMULATION, elements=XYZ),
                ObsTerm("target_position", 3, "m", Source.ESTIMATOR, elements=XYZ),
            )
        }

    def reset(self, sim: Sim, ids: Tensor, rng: torch.Generator) -> None:
        """Draw place and heading, and throw the ball in somewhere."""
        n, qpos = len(ids), sim.data("qpos")
        radius = 0.9 * float(sim.model.geom_size[sim.named("geom", "floor").id, 0])
        qpos[ids, 3:7] = azimuth_rotation(n, rng)
        qpos[ids, :2] = uniform((n, 2), -radius, radius, rng)
        lift_off(sim, ids)
        sim.named("joint", "ball_root").qpos[ids, :2] = uniform((n, 2), -radius, radius, rng)
        sim.named("joint", "ball_root").qpos[ids, 2] = BALL_HEIGHT_M
        sim.named("joint", "ball_root").qvel[ids, :2] = BALL_SPEED_M_S * normal((n, 2), rng)

    def ball_state(self, sim: Sim) -> Tensor:
        """(N, 9) position (m) and velocity (m/s) relative to the torso and angular velocity (rad/s).

        All turned into the torso's axes as if given in the world's; the angular velocity is in the
        ball's, which is dm_control's mistake.
        """
        position = sim.named("body", "ball").xpos - sim.named("body", "torso").xpos
        ball = sim.named("joint", "ball_root").qvel
        velocity = ball[:, :3] - sim.data("qvel")[:, :3]
        return self.in_torso_axes(sim, torch.stack((position, velocity, ball[:, 3:]), dim=1))

    def target_position(self, sim: Sim) -> Tensor:
        """(N, 3) from the torso to the target, in the torso's axes, m."""
        to_target = sim.named("site", "target").xpos - sim.named("body", "torso").xpos
        return self.in_torso_axes(sim, to_target.unsqueeze(1))

    def observe(self, sim: Sim) -> dict[str, dict[str, Tensor]]:
        """See `observation_terms`."""
        position, velocity, angular_velocity = self.ball_state(sim).split(3, dim=1)
        ball = {
            "ball_position": position,
            "ball_velocity": velocity,
            "ball_angular_velocity": angular_velocity,
            "target_position": self.target_position(sim),
        }
        return {"policy": super().observe(sim)["policy"] | ball}

    def reward_terms(self, sim: Sim, action: Tensor) -> dict[str, Tensor]:
        """Upright times closeness to the ball, doubled by the ball's closeness to the target."""
        ball = sim.named("body", "ball").xpos
        workspace, target = sim.named("site", "workspace"), sim.named("site", "target")
        model = sim.model
        arena = float(model.geom_size[sim.named("geom", "floor").id, 0]) * math.sqrt(2)
        within = float(model.site_size[workspace.id, 0] + model.geom_size[sim.named("geom", "ball").id, 0])
        reach = _closeness(workspace.xpos - ball, within, arena)
        fetch = _closeness(target.xpos - ball, float(model.site_size[target.id, 0]), arena)
        upright = self.upright_reward(sim)
        return {"reach": upright * reach / 2, "fetch": upright * reach * fetch / 2}


def _closeness(way: Tensor, within: float, arena: float) -> Tensor:
    """(N,) 1 where the horizontal part of `way`, (N, 3) m, is no longer than `within`, 0 far off."""
    return tolerance(
        way[:, :2].norm(dim=1), (0.0, within), margin=arena, value_at_margin=0.0, sigmoid="linear"
    )


def _remove_arena(spec: mujoco.MjSpec) -> None:
    """Take out what only fetch needs."""
    for wall in WALLS:
        spec.delete(spec.geom(wall))
    spec.delete(spec.body("ball"))
    spec.delete(spec.site("target"))


def _remove_terrain(spec: mujoco.MjSpec) -> None:
    """Take out what only escape needs."""
    spec.delete(spec.geom("terrain"))
    for name in RANGEFINDERS:
        spec.delete(spec.sensor(name))
