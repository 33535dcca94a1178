"""Juggling: falling, hits, rewards by hand, end states, starts, going on from a checkpoint."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from robotrl.core.errors import UsageError
from robotrl.envs.vec_env import VecEnv
from robotrl.sim.restitution import Restitution
from robotrl.tasks.aerial.quadrotor_juggle import MEMORY, QuadrotorJuggle
from robotrl.tasks.realism import Realism

HOVER = torch.tensor([0.0, 0.0, 0.0, 2 * 9.8 / 15 - 1])


def bouncing(restitution: float = 0.8) -> Realism:
    return Realism(restitution={"ball": Restitution((restitution, restitution), "ball")})


def juggling(balls: list[list[float]], **options: Any) -> VecEnv:
    """Hovering drones at (0, 0, 1) and balls at rest."""
    env = VecEnv(QuadrotorJuggle(realism=bouncing(), **options), len(balls), num_threads=1)
    env.reset()
    env.sim.data("qpos")[:, :3] = torch.tensor([0.0, 0.0, 1.0])
    env.sim.data("qpos")[:, 7:10] = torch.tensor(balls, dtype=torch.float64)
    MEMORY.of(env.sim, "highest")[:] = env.sim.data("qpos")[:, 9:10]
    env.sim.forward()
    return env


def advance(env: VecEnv, steps: int) -> None:
    """Hover without end states and resets."""
    command = torch.tensor([0.0, 0.0, 0.0, 9.8]).double().expand(env.num_envs, 4)
    for _ in range(steps):
        env.task.before_step(env.sim)
        env.task.advance(env.sim, command, env.substeps)
        env.task.after_step(env.sim, command)


def test_the_ball_falls_freely() -> None:
    env = juggling([[0.5, 0.0, 1.9]])
    advance(env, 20)
    # semi-implicit Euler in 400 steps of 1 ms
    assert env.sim.data("qpos")[0, 9].item() == pytest.approx(1.9 - 9.8 * 1e-6 * 400 * 401 / 2, abs=1e-9)
    assert env.sim.data("qvel")[0, 8].item() == pytest.approx(-9.8 * 0.4, abs=1e-9)


def test_one_hit_for_every_bounce() -> None:
    """Where the ball bounces decides whether that is a hit."""
    env = juggling([[0.0, 0.0, 1.6], [0.0, 0.04, 1.6], [0.0, 0.06, 1.6], [0.2, 0.0, 1.6]])
    touching, touches, hits, true_hits = False, torch.zeros(4), torch.zeros(4), torch.zeros(4)
    for _ in range(35):
        before = MEMORY.of(env.sim, "hits")[:, 0].clone()
        advance(env, 1)
        contact = env.sim.data("ncon").view(-1) > 0
        touches += contact & ~torch.as_tensor(touching)
        touching = contact
        hits += MEMORY.of(env.sim, "hits")[:, 0] - before
        true_hits += MEMORY.of(env.sim, "hit_height")[:, 0] > 0
    assert touches.tolist() == [1, 1, 1, 0]
    # beyond 5 cm from the axis a bounce is no hit
    assert hits.tolist() == true_hits.tolist() == [1, 1, 0, 0]
    assert MEMORY.of(env.sim, "hit_height")[0, 0] == 0
    advance(env, 12)
    assert MEMORY.of(env.sim, "hits")[0, 0] == 2


@pytest.mark.parametrize(
    ("since", "counts", "true", "wrong"),
    [(1, 0, 0, 0), (10, 0, 0, 1), (14, 0, 0, 1), (15, 1, 0, 0), (29, 1, 0, 0), (30, 1, 1, 0)],
)
def test_the_time_since_the_last_hit_decides_what_a_hit_is(
    since: int, counts: int, true: int, wrong: int
) -> None:
    env = juggling([[0.0, 0.0, 1.0 + 0.055 + 0.04 + 0.001]])
    env.sim.data("qvel")[:, 8] = -3.0
    env.sim.forward()
    MEMORY.of(env.sim, "steps_since_hit")[:] = since
    MEMORY.of(env.sim, "highest")[:] = 1.7
    advance(env, 1)
    assert MEMORY.of(env.sim, "hits").item() == counts
    assert MEMORY.of(env.sim, "hit_height").item() == pytest.approx(1.7 * true)
    assert env.task.terminated(env.sim).tolist() == [bool(wrong)]
    known = since + 1 if not counts and not wrong else 0
    assert MEMORY.of(env.sim, "steps_since_hit").item() == known


def test_the_apex_is_noticed_where_it_pays() -> None:
    env = juggling([[0.5, 0.0, 1.65], [0.5, 0.0, 1.55], [0.5, 0.0, 1.9]])
    env.sim.data("qvel")[:, 8] = 0.3
    env.sim.forward()
    seen = []
    for _ in range(4):
        advance(env, 1)
        seen.append(MEMORY.of(env.sim, "apex")[:, 0].tolist())
    # 0.3 m/s last 31 ms: into the second step
    assert seen == [[0, 0, 0], [1, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert MEMORY.of(env.sim, "highest")[:, 0].tolist() == pytest.approx([1.6546, 1.5546, 1.9046], abs=1e-3)


def test_reward_terms_by_hand() -> None:
    env = juggling([[0.0, 0.0, 1.1]] * 2, reward_scale=0.5)
    sim = env.sim
    sim.data("qpos")[0, :7] = torch.tensor([0.3, -0.4, 1.1, math.cos(0.1), 0.0, 0.0, math.sin(0.1)])
    sim.data("qpos")[0, 7:10] = torch.tensor([0.33, -0.36, 1.19])
    MEMORY.of(sim, "calmness")[0], MEMORY.of(sim, "apex")[0] = math.exp(-0.7), 1.0
    MEMORY.of(sim, "hit_height")[0] = 1.9
    terms = env.task.reward_terms(sim, sim.data("ctrl"))
    assert {name: 2 * float(term[0]) for name, term in terms.items()} == pytest.approx(
        {
            "apex": 50.0,
            "hit_at_level": 50.0,
            "hit_height": 100 / 1.1 * math.exp(-0.09),
            "hit_centre": 10 * math.exp(-5 * 0.05),
            "below_ball": 1 / 1.05,
            "place": -0.5,
            "yaw": -2.0,
            "calm": 2 * math.exp(-0.7),
        }
    )
    # nothing happened in the other one, whose first step is not over
    others = {name: 2 * float(term[1]) for name, term in terms.items()}
    assert others == pytest.approx(dict.fromkeys(others, 0.0) | {"below_ball": 1.0})


def test_calm_commands_pay_from_the_second_step_on() -> None:
    env = juggling([[0.5, 0.0, 1.9]])
    change = torch.tensor([0.3, 0.0, -0.4, 0.0])
    calm = [float(env.step(a.unsqueeze(0)).log["reward/calm"]) for a in (HOVER, HOVER, HOVER + change)]
    assert calm == pytest.approx([0.0, 2.0, 2 * math.exp(-0.5)], rel=1e-5)


@pytest.mark.parametrize(
    ("drone_z", "ball", "ends"),
    [
        (1.0, (0.0, 0.0, 1.5), False),
        (0.29, (0.0, 0.0, 1.5), True),
        (3.51, (0.0, 0.0, 3.9), True),
        (1.0, (0.0, 0.0, 0.19), True),
        (1.0, (0.0, 0.0, 4.01), True),
        (1.0, (-2.01, 0.0, 1.5), True),
        (1.0, (0.0, 2.01, 1.5), True),
    ],
)
def test_end_states(drone_z: float, ball: tuple[float, ...], ends: bool) -> None:
    env = juggling([list(ball)])
    env.sim.data("qpos")[:, 2] = drone_z
    env.sim.forward()
    assert env.task.terminated(env.sim).tolist() == [ends]


def test_starts_and_what_is_seen() -> None:
    env = VecEnv(QuadrotorJuggle(ball_mass_kg=0.005, realism=bouncing(0.7)), 2000, num_threads=1)
    obs = env.reset()
    names = [term.name for term in env.specs.observation["policy"]]
    seen = dict(zip(names, obs["policy"].split(3, dim=1), strict=True))
    for name in ("position", "ball_position"):
        assert 0.0695 < seen[name][:, :2].abs().max() <= 0.07
    for name, low, high in (("position", 0.9, 1.1), ("ball_position", 1.5, 2.0)):
        z = seen[name][:, 2]
        assert low <= z.min() < low + 0.01 and high - 0.01 < z.max() <= high
    torch.testing.assert_close(seen["ball_offset"], seen["ball_position"] - seen["position"])
    assert not seen["linear_velocity"].any() and not seen["ball_velocity"].any()
    for name, axis in (("heading", 0), ("lateral", 1), ("up", 2)):
        assert (seen[name] == torch.eye(3)[axis]).all()
    restitution, mass_kg = obs["privileged"][:, 0], obs["privileged"][:, 1]
    assert restitution.sub(0.7).abs().max() < 1e-6 and mass_kg.sub(0.005).abs().max() < 1e-9
    actions = [(term.name, term.unit, round(term.low, 4), round(term.high, 4)) for term in env.specs.action]
    assert actions[2:] == [("yaw_rate", "rad/s", -3.1416, 3.1416), ("collective_thrust", "m/s^2", 0.0, 15.0)]


def test_a_checkpoint_in_mid_air_goes_on_bit_for_bit_and_hits_are_reported() -> None:
    first = juggling([[0.0, 0.0, 1.6], [0.0, 0.0, 1.5]])
    action = HOVER.expand(2, 4)
    for _ in range(15):
        first.step(action)
    second = VecEnv(QuadrotorJuggle(realism=bouncing()), 2, seed=9, num_threads=1)
    second.reset()
    second.load_state_dict(first.state_dict())
    logged = []
    for _ in range(400):
        ours, theirs = first.step(action), second.step(action)
        assert torch.equal(ours.obs["policy"], theirs.obs["policy"]) and torch.equal(
            ours.reward, theirs.reward
        )
        logged += ours.log.get("episode/hits", torch.tensor([])).tolist()
        assert ours.log.keys() == theirs.log.keys()
    assert logged and max(logged) >= 2


def test_impossible_options_are_refused() -> None:
    with pytest.raises(ValueError, match="ball_mass_kg must be above 0"):
        QuadrotorJuggle(ball_mass_kg=0.0)
    with pytest.raises(UsageError, match=r"must be a whole multiple of 0\.003 s"):
        QuadrotorJuggle(physics_dt_s=0.003)
