"""Bounces of balls against the coefficients that were asked for; draws per simulation."""

from __future__ import annotations

import mujoco
import pytest
import torch

from robotrl.core.errors import UsageError
from robotrl.envs.vec_env import VecEnv
from robotrl.sim.batch_sim import BatchSim
from robotrl.sim.restitution import (
    Restitution,
    damping_ratio,
    make_bouncy,
    restitution,
    restitution_of,
    solref,
)
from robotrl.tasks.aerial.quadrotor_juggle import QuadrotorJuggle
from robotrl.tasks.realism import Ramp, Realism

XML = """
<mujoco>
  <option timestep="{dt}" gravity="0 0 -9.8"/>
  <worldbody>
    <geom name="floor" type="plane" size="1 1 1"/>
    <body name="ball" pos="0 0 1"><freejoint/><geom name="ball" size="0.04" mass="{mass}"/></body>
    <body name="cube" pos="3 0 1"><freejoint/><geom name="cube" type="box" size="0.1 0.1 0.1"/></body>
  </worldbody>
</mujoco>
"""


def bounces(coefficients: list[float], dt_s: float, mass_kg: float, phases: int = 16) -> torch.Tensor:
    """(len, phases) share of its speed at contact that a ball keeps which falls from about 0.6 m."""
    spec = mujoco.MjSpec.from_string(XML.format(dt=dt_s, mass=mass_kg))
    make_bouncy(spec, {"ball": Restitution((0.5, 1.0), "ball")})
    sim = BatchSim(spec.compile(), len(coefficients) * phases, num_threads=1)
    wanted = torch.tensor(coefficients, dtype=torch.float64).repeat_interleave(phases)
    sim.param("geom_solref")[:, sim.named("geom", "ball").id] = solref(wanted, 2e4)
    sim.data("qpos")[:, 2] = 0.04 + 0.6 + 0.004 * torch.arange(phases).repeat(len(coefficients)) / phases
    height, speed = sim.data("qpos")[:, 2], sim.data("qvel")[:, 2]
    before, after = torch.zeros(sim.num_envs), torch.zeros(sim.num_envs)
    for _ in range(round(0.42 / dt_s)):
        at_contact = (speed.square() + 2 * 9.8 * (height - 0.04)).sqrt()
        before = torch.where((height > 0.04) & (speed < 0), at_contact, before)
        sim.step()
        at_contact = (speed.square() + 2 * 9.8 * (height - 0.04)).sqrt()
        after = torch.where((height > 0.04) & (speed > 0) & (after == 0), at_contact, after)
    return (after / before).view(len(coefficients), phases)


@pytest.mark.parametrize("mass_kg", [0.0472, 0.005])
def test_a_ball_keeps_the_share_of_its_speed_that_was_asked_for(mass_kg: float) -> None:
    wanted = torch.tensor([1.0, 0.82, 0.7, 0.64], dtype=torch.float64)
    error = bounces(wanted.tolist(), 0.001, mass_kg) - wanted.unsqueeze(1)
    assert error.abs().max() < 0.02 and error.mean(1).abs().max() < 0.01
    coarse = bounces(wanted.tolist(), 0.002, mass_kg) - wanted.unsqueeze(1)
    assert coarse.mean(1).abs().max() < 0.02
    # why 2 ms is not the default: single bounces differ more
    assert coarse.abs().max() > error.abs().max()


def test_formula_and_its_inverse() -> None:
    table = {1.0: 0.0, 0.95: 0.0165, 0.9: 0.0343, 0.82: 0.0658, 0.7: 0.1222, 0.64: 0.1558, 0.5: 0.2553}
    coefficients = torch.tensor(list(table), dtype=torch.float64)
    ratios = damping_ratio(coefficients)
    torch.testing.assert_close(
        ratios, torch.tensor(list(table.values()), dtype=torch.float64), rtol=0, atol=6e-5
    )
    torch.testing.assert_close(restitution(ratios), coefficients, rtol=0, atol=1e-11)
    torch.testing.assert_close(restitution_of(solref(coefficients, 3e4)), coefficients, rtol=0, atol=1e-11)


def test_every_episode_of_a_simulation_draws_its_own_and_a_curriculum_widens_the_range() -> None:
    realism = Realism(
        restitution={"ball": Restitution((0.7, 0.7), "ball")},
        curriculum={"wider": Ramp("restitution.ball.range", [0.7, 0.7], [0.6, 0.9])},
    )
    env = VecEnv(QuadrotorJuggle(realism=realism), 200, num_threads=1)
    env.set_progress(0.0)
    assert env.reset()["privileged"][:, 0].sub(0.7).abs().max() < 1e-6
    env.set_progress(1.0)
    drawn = env.reset()["privileged"][:, 0]
    assert 0.6 <= drawn.min() < 0.62 and 0.88 < drawn.max() <= 0.9
    ids = torch.tensor([3, 7])
    env._reset(ids)
    changed = env._observer()["privileged"][:, 0] != drawn
    assert changed.nonzero().squeeze(1).tolist() == [3, 7]


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(UsageError, match=r"must be at least 0\.5"):
        Restitution((0.3, 0.9), "ball")
    with pytest.raises(UsageError, match="keeps at most 1"):
        Restitution((0.7, 1.2), "ball")
    with pytest.raises(UsageError, match="upside down"):
        Restitution((0.9, 0.7), "ball")
    with pytest.raises(UsageError, match="stiffness_per_s2 must be above 0"):
        Restitution((0.7, 0.9), "ball", stiffness_per_s2=0.0)
    wrong = Realism(restitution={"ball": Restitution((0.7, 0.9), "bal")})
    with pytest.raises(UsageError, match=r"realism\.restitution\.ball: no geom matches 'bal'"):
        QuadrotorJuggle(realism=wrong).build_model()
    twice = Realism(restitution={n: Restitution((0.7, 0.9), "ball") for n in ("a", "b")})
    with pytest.raises(UsageError, match=r"restitution\.b: geom 'ball' is set by restitution\.a already"):
        QuadrotorJuggle(realism=twice).build_model()
