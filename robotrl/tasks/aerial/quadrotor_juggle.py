"""JuggleRL: a quadrotor with a racket on top juggles a ball (2025, arXiv:2509.24892).

The reward is that of the paper's released training script, its term of 100 included, which the script
multiplies by a spin factor of zero where spin is not rewarded. Numbers of the vehicle: `flight_control`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import mujoco
import torch
from torch import Tensor

from robotrl.core import checks
from robotrl.core.checks import whole_ratio
from robotrl.core.paths import ASSETS
from robotrl.core.types import ActionTerm, ObsTerm, Source
from robotrl.sim.draws import Distribution, draw
from robotrl.sim.restitution import restitution_of
from robotrl.sim.sim import Sim, Stage
from robotrl.tasks.aerial import flight_control
from robotrl.tasks.aerial.flight_control import FlightController
from robotrl.tasks.memory import Memory
from robotrl.tasks.rotations import rotation_matrix, up_axis
from robotrl.tasks.task import Task

RACKET_HEIGHT_M = 0.055
"""Of the racket's plane above the drone's centre."""
HIT_RADIUS_M = 0.05
"""Only nearer to the racket's axis does a bounce count as a hit."""
HIT_SPEED_M_S = 0.5
"""Horizontal velocity jump that makes a hit."""
DEBOUNCE_STEPS, WRONG_STEPS, TRUE_STEPS = 3, 15, 30
"""Steps since the hit before: at most so many make it the same hit, a wrong hit; more make it a true one."""
START_M = 0.07
DRONE_START_M, BALL_START_M = (0.9, 1.1), (1.5, 2.0)
APEX_M = (1.6, 1.85)
"""Heights of the ball between which its turning point pays."""
LEVEL_M = (0.85, 1.15)
"""Heights of the drone between which a true hit pays."""
DRONE_ENDS_M, BALL_ENDS_M, BALL_AWAY_M = (0.3, 3.5), (0.2, 4.0), 2.0
NO_HIT_YET = 1e4
XYZ = ("x", "y", "z")

MEMORY = Memory(
    smoothed_rates=3,
    rate_integral=3,
    throttle=4,
    action=4,  # the last one, in [-1, 1]
    calmness=1,  # exp of minus the norm of the action's change, 0 in the first step
    steps_since_hit=1,
    highest=1,  # of the ball since the last true hit, m
    hits=1,  # that were not wrong
    # of the last control step
    apex=1,
    hit_height=1,  # `highest` at a true hit, 0 without one, m
    wrong_hit=1,
)


@dataclass
class QuadrotorJuggle(Task):
    """Keep a ball bouncing on the racket, apex between 1.6 and 1.85 m, drone near (0, 0, 1)."""

    ball_mass_kg: float = 0.0472
    """Mass of the ball, kg; above 0."""
    physics_dt_s: float = 0.001
    """Physics step, s, at most 0.002: see `robotrl.sim.restitution` for what that does to bounces."""
    reward_scale: float = 1.0
    """Factor on every reward term; above 0. Critics that do not normalise returns want about 0.02."""
    control_dt_s: float = 0.02
    """Time between two actions, s."""
    episode_length_s: float = 10.0
    """Time limit, s."""
    mjcf: Path = ASSETS / "aerial" / "quadrotor_juggle.xml"

    # all that is read is the state itself, besides commands, which lag by a physics step
    stage = Stage.NONE
    advance_dt_s = flight_control.PERIOD_S

    def __post_init__(self) -> None:
        checks.above(self, 0.0, "ball_mass_kg", "physics_dt_s", "reward_scale")
        self._steps_per_update(self.physics_dt_s)
        whole_ratio("control_dt_s", self.control_dt_s, flight_control.PERIOD_S)

    def edit_spec(self, spec: mujoco.MjSpec) -> None:
        """Set step and ball, and make room for what is remembered."""
        spec.option.timestep = self.physics_dt_s
        spec.geom("ball").mass = self.ball_mass_kg
        MEMORY.reserve(spec)

    def action_terms(self, model: mujoco.MjModel) -> tuple[ActionTerm, ...]:
        """Body rates and collective thrust by mass."""
        units = ("rad/s", "rad/s", "rad/s", "m/s^2")
        terms = zip(super().action_terms(model), units, strict=True)
        return tuple(ActionTerm(term.name, unit, term.low, term.high) for term, unit in terms)

    def observation_terms(self, model: mujoco.MjModel) -> dict[str, tuple[ObsTerm, ...]]:
        """Drone and ball as motion capture has them, in world axes; what the simulation knows of both."""
        return {
            "policy": (
                ObsTerm("position", 3, "m", elements=XYZ),
                ObsTerm("linear_velocity", 3, "m/s", Source.ESTIMATOR, elements=XYZ),
                ObsTerm("heading", 3, "1", Source.ESTIMATOR, -1.0, 1.0, elements=XYZ),
                ObsTerm("lateral", 3, "1", Source.ESTIMATOR, -1.0, 1.0, elements=XYZ),
                ObsTerm("up", 3, "1", Source.ESTIMATOR, -1.0, 1.0, elements=XYZ),
                ObsTerm("ball_offset", 3, "m", elements=XYZ),
                ObsTerm("ball_position", 3, "m", elements=XYZ),
                ObsTerm("ball_velocity", 3, "m/s", Source.ESTIMATOR, elements=XYZ),
            ),
            "privileged": (
                ObsTerm("restitution", 1, "1", Source.SIMULATION, 0.5, 1.0),
                ObsTerm("ball_mass", 1, "kg", Source.SIMULATION),
                ObsTerm("time_share", 1, "1", Source.SIMULATION, 0.0, 1.0),
                ObsTerm("angular_velocity", 3, "rad/s", Source.SIMULATION, elements=XYZ),
                ObsTerm("time_since_hit", 1, "s", Source.SIMULATION, 0.0, 1.0),
                ObsTerm("highest", 1, "m", Source.SIMULATION),
            ),
        }

    def reset(self, sim: Sim, ids: Tensor, rng: torch.Generator) -> None:
        """Drone hovering and ball at rest above it, each somewhere near the axis."""
        n = len(ids)

        def uniform(low: float, high: float, columns: int) -> Tensor:
            return draw((n, columns), (low, high), Distribution.UNIFORM, rng)

        qpos, gravity = sim.data("qpos"), -float(sim.model.opt.gravity[2])
        qpos[ids, :2], qpos[ids, 7:9] = uniform(-START_M, START_M, 2), uniform(-START_M, START_M, 2)
        qpos[ids, 2:3], qpos[ids, 9:10] = uniform(*DRONE_START_M, 1), uniform(*BALL_START_M, 1)
        # a command that is delayed begins with this one
        sim.data("ctrl")[ids] = torch.tensor([0.0, 0.0, 0.0, gravity], dtype=torch.float64)
        mass_kg = float(sim.model.body("drone").mass[0])
        MEMORY.of(sim, "throttle")[ids] = flight_control.hover_throttle(mass_kg, gravity)
        MEMORY.of(sim, "steps_since_hit")[ids] = NO_HIT_YET
        MEMORY.of(sim, "highest")[ids] = qpos[ids, 9:10]

    # ---------------------------------------------------------------------------------------- quantities

    def ball_offset(self, sim: Sim) -> Tensor:
        """(N, 3) from the drone to the ball, m."""
        return sim.data("qpos")[:, 7:10] - sim.data("qpos")[:, :3]

    def rotation(self, sim: Sim) -> Tensor:
        """(N, 3, 3) of the drone; columns are its heading, lateral and up axes."""
        return rotation_matrix(sim.data("qpos")[:, 3:7])

    def above_racket(self, sim: Sim) -> tuple[Tensor, Tensor]:
        """(N,) height of the ball's centre above the racket's plane and distance from its axis, m."""
        offset = (self.ball_offset(sim).unsqueeze(1) @ self.rotation(sim)).squeeze(1)
        return offset[:, 2] - RACKET_HEIGHT_M, offset[:, :2].norm(dim=1)

    def in_reach(self, sim: Sim) -> Tensor:
        """(N,) bool, whether the ball is in the cylinder in which a bounce is a hit."""
        height, distance = self.above_racket(sim)
        ball_m = 2.0 * float(sim.model.geom("ball").size[0])
        return (height >= 0.0) & (height <= ball_m) & (distance <= HIT_RADIUS_M)

    # --------------------------------------------------------------------------------------------- a step

    def before_step(self, sim: Sim) -> None:
        """Remember where the ball was and how it flew."""
        self._first = sim.data("time") == 0.0
        self._ball_velocity, self._in_reach = sim.data("qvel")[:, 6:9].clone(), self.in_reach(sim)

    def advance(self, sim: Sim, ctrl: Tensor, substeps: int) -> None:
        """Fly under the flight controller."""
        remembered = [MEMORY.of(sim, name) for name in ("smoothed_rates", "rate_integral", "throttle")]
        controller = FlightController(float(sim.model.body("drone").mass[0]), remembered[0])
        # a command's "force" is the command itself, delayed where it has a delay
        command, gyro = sim.data("actuator_force"), sim.data("qvel")[:, 3:6]
        force, quaternion = sim.data("qfrc_applied"), sim.data("qpos")[:, 3:7]
        steps = self._steps_per_update(sim.dt_s)
        for _ in range(substeps // steps):
            wrench = controller.update(command, gyro, *remembered)
            force[:, :3], force[:, 3:6] = wrench[:, :1] * up_axis(quaternion), wrench[:, 1:]
            sim.step(ctrl, steps)

    def after_step(self, sim: Sim, ctrl: Tensor) -> None:
        """Compare the action with the last one, and look for a hit."""
        self._compare_actions(sim, ctrl, self._first)
        self._note_hits(sim, self._ball_velocity, self._in_reach | self.in_reach(sim))

    def _steps_per_update(self, physics_dt_s: float) -> int:
        return whole_ratio("the flight controller's period", flight_control.PERIOD_S, physics_dt_s)

    def _compare_actions(self, sim: Sim, ctrl: Tensor, first: Tensor) -> None:
        bounds = ctrl.new_tensor(sim.model.actuator_ctrlrange)
        action = (2.0 * ctrl - bounds.sum(1)) / (bounds[:, 1] - bounds[:, 0])
        last = MEMORY.of(sim, "action")
        calmness = torch.exp(-(action - last).norm(dim=1, keepdim=True))
        MEMORY.of(sim, "calmness")[:] = calmness.masked_fill(first.view(-1, 1), 0.0)
        last.copy_(action)

    def _note_hits(self, sim: Sim, velocity_before: Tensor, in_reach: Tensor) -> None:
        """Find what happened to the ball in the control step.

        Args:
            sim: after the step.
            velocity_before: (N, 3) of the ball before the step, m/s.
            in_reach: (N,) bool, before or after the step.
        """
        velocity, height = sim.data("qvel")[:, 6:9], sim.data("qpos")[:, 9]
        jump = velocity - velocity_before
        gravity = -float(sim.model.opt.gravity[2])
        jumped = (jump[:, 2] > gravity * self.control_dt_s) | (jump[:, :2].norm(dim=1) > HIT_SPEED_M_S)
        since = MEMORY.of(sim, "steps_since_hit")[:, 0]
        since += 1.0
        hit = in_reach & jumped & (since > DEBOUNCE_STEPS)
        true, wrong = hit & (since > TRUE_STEPS), hit & (since <= WRONG_STEPS)
        since.masked_fill_(hit, 0.0)
        highest = MEMORY.of(sim, "highest")[:, 0]
        highest.copy_(torch.maximum(highest, height))
        MEMORY.of(sim, "hit_height")[:, 0] = highest * true
        highest.masked_fill_(true, 0.0)
        MEMORY.of(sim, "hits")[:, 0] += hit & ~wrong
        MEMORY.of(sim, "wrong_hit")[:, 0] = wrong.double()
        turned = (velocity_before[:, 2] >= 0.0) & (velocity[:, 2] < 0.0)
        MEMORY.of(sim, "apex")[:, 0] = (turned & _between(height, APEX_M)).double()

    # ------------------------------------------------------------------------------- what a step shows

    def observe(self, sim: Sim) -> dict[str, dict[str, Tensor]]:
        """See `observation_terms`."""
        qpos, qvel, rotation = sim.data("qpos"), sim.data("qvel"), self.rotation(sim)
        ball = sim.named("body", "ball").id
        since_s = self.control_dt_s * MEMORY.of(sim, "steps_since_hit")
        return {
            "policy": {
                "position": qpos[:, :3],
                "linear_velocity": qvel[:, :3],
                "heading": rotation[:, :, 0],
                "lateral": rotation[:, :, 1],
                "up": rotation[:, :, 2],
                "ball_offset": self.ball_offset(sim),
                "ball_position": qpos[:, 7:10],
                "ball_velocity": qvel[:, 6:9],
            },
            "privileged": {
                "restitution": restitution_of(sim.param("geom_solref")[:, sim.named("geom", "ball").id]),
                "ball_mass": sim.param("body_mass")[:, ball],
                "time_share": sim.data("time") / self.episode_length_s,
                "angular_velocity": qvel[:, 3:6],
                "time_since_hit": since_s.clamp(max=1.0),
                "highest": MEMORY.of(sim, "highest"),
            },
        }

    def reward_terms(self, sim: Sim, action: Tensor) -> dict[str, Tensor]:
        """Pay for true hits and the apex between them, and for flying calmly below the ball."""
        position, rotation = sim.data("qpos")[:, :3], self.rotation(sim)
        hit_height = MEMORY.of(sim, "hit_height")[:, 0]
        true_hit = hit_height > 0.0
        _, distance = self.above_racket(sim)
        yaw = torch.atan2(rotation[:, 1, 0], rotation[:, 0, 0])
        level = (position[:, 2] - 1.0).abs()
        terms = {
            "apex": 50.0 * MEMORY.of(sim, "apex")[:, 0],
            "hit_at_level": 50.0 * (true_hit & _between(position[:, 2], LEVEL_M)),
            "hit_height": 100.0 / (1.0 + level) * torch.exp(-((hit_height - APEX_M[0]) ** 2)) * true_hit,
            "hit_centre": 10.0 * torch.exp(-5.0 * distance) * true_hit,
            "below_ball": 1.0 / (1.0 + self.ball_offset(sim)[:, :2].norm(dim=1)),
            "place": -position[:, :2].norm(dim=1),
            "yaw": -10.0 * yaw.abs(),
            "calm": 2.0 * MEMORY.of(sim, "calmness")[:, 0],
        }
        return {name: self.reward_scale * term for name, term in terms.items()}

    def terminated(self, sim: Sim) -> Tensor:
        """Drone or ball too low, too high or too far off, or a hit too soon after the one before."""
        qpos = sim.data("qpos")
        flying = _between(qpos[:, 2], DRONE_ENDS_M) & _between(qpos[:, 9], BALL_ENDS_M)
        away = (qpos[:, 7:9].abs() > BALL_AWAY_M).any(1)
        return ~flying | away | (MEMORY.of(sim, "wrong_hit")[:, 0] > 0.0)

    def scores(self, sim: Sim) -> dict[str, Tensor]:
        """Count consecutive hits."""
        return {"hits": MEMORY.of(sim, "hits")[:, 0].clone()}


def _between(values: Tensor, bounds: tuple[float, float]) -> Tensor:
    return (values > bounds[0]) & (values < bounds[1])
