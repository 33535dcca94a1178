"""A quadrupedal robot of 12 kg follows velocity commands with position servos, IMU and encoders alone.

Rewards are the usual ones (Rudin et al. 2022, arXiv:2109.11978): exponential tracking of the commanded
velocity, pay for steps that last, penalties for what is not part of walking.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import mujoco
import torch
from torch import Tensor

from robotrl.core import checks
from robotrl.core.paths import ASSETS
from robotrl.core.types import ActionTerm, ObsTerm, Source
from robotrl.sim.draws import Distribution, check_range, draw
from robotrl.sim.sim import Sim
from robotrl.tasks.memory import Memory
from robotrl.tasks.task import Task

LEGS = ("front_left", "front_right", "back_left", "back_right")
XYZ = ("x", "y", "z")
COMMANDS = 4
"""Commands of an episode, one after another; it begins again with the first."""
COMMAND_S = 5.0
"""How long each holds."""
STILL_SHARE = 0.1
"""Of the commands: stand still."""
TRACKING_WIDTH = 0.25
"""Squared error, (m/s)^2 or (rad/s)^2, at which a tracking reward has fallen to exp(-1)."""
STEP_S = (0.1, 0.3)
"""A foot's time in the air from which a step is rewarded, and beyond which no more is paid."""
LOWEST_M, TILT_RAD = 0.16, math.radians(50)
"""Lower, or tilted further, the trunk has fallen."""

MEMORY = Memory(
    commands=3 * COMMANDS,
    air_time=4,  # of each foot since it left the ground, s
    long_steps=1,  # sum over the feet that came down of their time in the air within STEP_S, s
    error=1,  # sum of the distances from the commanded velocity over the control steps, m/s
)


@dataclass
class QuadrupedVelocity(Task):
    """Walk as commanded: forward, sideways and turning."""

    forward_m_s: tuple[float, float] = (-0.5, 1.0)
    """Range of the commanded forward velocity, m/s."""
    sideways_m_s: tuple[float, float] = (-0.3, 0.3)
    """Range of the commanded velocity to the left, m/s."""
    turn_rad_s: tuple[float, float] = (-1.0, 1.0)
    """Range of the commanded rate of turn to the left, rad/s."""
    action_scale_rad: float = 0.5
    """Largest distance of a commanded joint position from the default one, rad; above 0."""
    control_dt_s: float = 0.02
    """Time between two actions, s."""
    episode_length_s: float = 20.0
    """Time limit, s."""
    mjcf: Path = ASSETS / "locomotion" / "quadruped_velocity.xml"

    def __post_init__(self) -> None:
        checks.above(self, 0.0, "action_scale_rad")
        for name in ("forward_m_s", "sideways_m_s", "turn_rad_s"):
            setattr(self, name, check_range(name, getattr(self, name)))

    def edit_spec(self, spec: mujoco.MjSpec) -> None:
        """Make room for what is remembered."""
        MEMORY.reserve(spec)

    def action_terms(self, model: mujoco.MjModel) -> tuple[ActionTerm, ...]:
        """Joint positions around those of standing."""
        default = self.default_pose(model).tolist()
        return tuple(
            ActionTerm(name, "rad", middle - self.action_scale_rad, middle + self.action_scale_rad)
            for name, middle in zip(joint_names(model), default, strict=True)
        )

    def observation_terms(self, model: mujoco.MjModel) -> dict[str, tuple[ObsTerm, ...]]:
        """What IMU, encoders and operator say; for critics what the simulation knows besides."""
        joints, planar = joint_names(model), ("x", "y")
        return {
            "policy": (
                ObsTerm("angular_velocity", 3, "rad/s", elements=XYZ),
                ObsTerm("projected_gravity", 3, "1", Source.ESTIMATOR, -1.0, 1.0, elements=XYZ),
                ObsTerm("joint_position", 12, "rad", elements=joints),
                ObsTerm("joint_velocity", 12, "rad/s", elements=joints),
                ObsTerm("last_action", 12, "rad", elements=joints),
                ObsTerm("velocity_command", 2, "m/s", elements=planar),
                ObsTerm("turn_command", 1, "rad/s"),
            ),
            "privileged": (
                ObsTerm("linear_velocity", 3, "m/s", Source.SIMULATION, elements=XYZ),
                ObsTerm("height", 1, "m", Source.SIMULATION),
                ObsTerm("foot_force", 4, "N", Source.SIMULATION, elements=LEGS),
                ObsTerm("foot_friction", 4, "1", Source.SIMULATION, elements=LEGS),
                ObsTerm("trunk_mass", 1, "kg", Source.SIMULATION),
            ),
        }

    def default_pose(self, model: mujoco.MjModel) -> Tensor:
        """(12,) joint positions of standing, rad."""
        return torch.from_numpy(model.key("home").qpos[7:].copy())

    def reset(self, sim: Sim, ids: Tensor, rng: torch.Generator) -> None:
        """Stand near the default pose, and draw what will be commanded."""
        n, model = len(ids), sim.model
        stand = torch.from_numpy(model.key("home").qpos.copy())
        noise = draw((n, 12), (-0.1, 0.1), Distribution.UNIFORM, rng)
        sim.data("qpos")[ids] = stand.expand(n, -1)
        sim.data("qpos")[ids, 7:] += noise
        sim.data("ctrl")[ids] = stand[7:].expand(n, -1)
        ranges = (self.forward_m_s, self.sideways_m_s, self.turn_rad_s)
        drawn = [draw((n, COMMANDS, 1), bounds, Distribution.UNIFORM, rng) for bounds in ranges]
        moving = torch.rand(n, COMMANDS, 1, generator=rng) >= STILL_SHARE
        MEMORY.of(sim, "commands")[ids] = (torch.cat(drawn, dim=2) * moving).flatten(1)

    # ---------------------------------------------------------------------------------------- quantities

    def command(self, sim: Sim) -> Tensor:
        """(N, 3) forward and left velocity, m/s, and rate of turn, rad/s."""
        which = (sim.data("time") / COMMAND_S + 1e-9).long() % COMMANDS
        commands = MEMORY.of(sim, "commands").unflatten(1, (COMMANDS, 3))
        return commands.gather(1, which.view(-1, 1, 1).expand(-1, 1, 3)).squeeze(1)

    def linear_velocity(self, sim: Sim) -> Tensor:
        """(N, 3) of the trunk in its own axes, m/s."""
        return sim.named("sensor", "velocimeter").data

    def projected_gravity(self, sim: Sim) -> Tensor:
        """(N, 3) direction of gravity in the trunk's axes."""
        return -sim.named("sensor", "up").data

    def foot_force(self, sim: Sim) -> Tensor:
        """(N, 4) N."""
        return _block(sim, f"{LEGS[0]}_foot", 4)

    # --------------------------------------------------------------------------------------------- a step

    def before_step(self, sim: Sim) -> None:
        """Remember the last command."""
        self._last_ctrl = sim.data("ctrl").clone()

    def after_step(self, sim: Sim, ctrl: Tensor) -> None:
        """See which feet came down and how far the velocity is from the command."""
        grounded, air_time = self.foot_force(sim) > 1.0, MEMORY.of(sim, "air_time")
        beyond = (air_time.clamp(*STEP_S) - STEP_S[0]) * grounded
        walking = self.command(sim).norm(dim=1) > 0.1
        MEMORY.of(sim, "long_steps")[:, 0] = beyond.sum(1) * walking
        air_time.copy_((air_time + self.control_dt_s) * ~grounded)
        MEMORY.of(sim, "error")[:, 0] += self._velocity_error(sim).norm(dim=1)

    def _velocity_error(self, sim: Sim) -> Tensor:
        return self.linear_velocity(sim)[:, :2] - self.command(sim)[:, :2]

    # ------------------------------------------------------------------------------- what a step shows

    def observe(self, sim: Sim) -> dict[str, dict[str, Tensor]]:
        """See `observation_terms`."""
        command = self.command(sim)
        feet = [sim.named("geom", f"{leg}_foot").id for leg in LEGS]
        return {
            "policy": {
                "angular_velocity": sim.named("sensor", "gyro").data,
                "projected_gravity": self.projected_gravity(sim),
                "joint_position": _block(sim, f"{LEGS[0]}_hip_position", 12),
                "joint_velocity": _block(sim, f"{LEGS[0]}_hip_velocity", 12),
                "last_action": sim.data("ctrl"),
                "velocity_command": command[:, :2],
                "turn_command": command[:, 2],
            },
            "privileged": {
                "linear_velocity": self.linear_velocity(sim),
                "height": sim.data("qpos")[:, 2],
                "foot_force": self.foot_force(sim),
                "foot_friction": sim.param("geom_friction")[:, feet, 0],
                "trunk_mass": sim.param("body_mass")[:, sim.named("body", "trunk").id],
            },
        }

    def reward_terms(self, sim: Sim, action: Tensor) -> dict[str, Tensor]:
        """Pay for following the command; all terms are rates, per second."""
        velocity, rates = self.linear_velocity(sim), sim.data("qvel")[:, 3:6]
        turn_error = rates[:, 2] - self.command(sim)[:, 2]
        pose = sim.data("qpos")[:, 7:] - self.default_pose(sim.model).to(sim.device)
        tilt = self.projected_gravity(sim)[:, :2]
        terms = {
            "track_velocity": 1.5 * torch.exp(-self._velocity_error(sim).square().sum(1) / TRACKING_WIDTH),
            "track_turn": 0.75 * torch.exp(-turn_error.square() / TRACKING_WIDTH),
            "long_steps": 1.0 * MEMORY.of(sim, "long_steps")[:, 0] / self.control_dt_s,
            "bouncing": -2.0 * velocity[:, 2].square(),
            "rocking": -0.05 * rates[:, :2].square().sum(1),
            "tilt": -1.0 * tilt.square().sum(1),
            "torque": -2e-4 * sim.data("actuator_force").square().sum(1),
            "jerk": -0.02 * (action - self._last_ctrl).square().sum(1) / self.action_scale_rad**2,
            "hips": -0.5 * pose[:, ::3].square().sum(1),
            "alive": torch.full_like(turn_error, 0.25),
        }
        return {name: self.control_dt_s * term for name, term in terms.items()}

    def terminated(self, sim: Sim) -> Tensor:
        """Fallen."""
        tilted = -self.projected_gravity(sim)[:, 2] < math.cos(TILT_RAD)
        return tilted | (sim.data("qpos")[:, 2] < LOWEST_M)

    def scores(self, sim: Sim) -> dict[str, Tensor]:
        """Mean distance from the commanded velocity, m/s."""
        steps = sim.data("time") / self.control_dt_s
        return {"velocity_error_m_s": MEMORY.of(sim, "error")[:, 0] / steps.clamp(min=1.0)}


def joint_names(model: mujoco.MjModel) -> tuple[str, ...]:
    """Return the names of the twelve driven joints, in the model's order."""
    return tuple(model.joint(i).name for i in range(1, model.njnt))


def _block(sim: Sim, first: str, width: int) -> Tensor:
    """(N, width) readings of neighbouring sensors, by the name of the first."""
    start = int(sim.model.sensor(first).adr[0])
    return sim.data("sensordata")[:, start : start + width]
