"""Pushes and kicks by hand-computed momentum."""

from __future__ import annotations

import mujoco
import pytest
import torch

from robotrl.core.errors import UsageError
from robotrl.sim.batch_sim import BatchSim
from robotrl.sim.disturbances import Direction, Disturbances, Kick, Push

XML = """
<mujoco>
  <option timestep="0.01" gravity="0 0 0"/>
  <worldbody>
    <body name="ball"><freejoint name="free"/><geom size="0.1" mass="2"/></body>
    <body name="arm" pos="0 0 5"><joint name="hinge" axis="0 1 0"/><geom size="0.1" pos="1 0 0"/></body>
  </worldbody>
</mujoco>
"""
MASS_KG, DT_S = 2.0, 0.01
INERTIA = 0.4 * MASS_KG * 0.1**2


def make(num_envs: int, pushes: dict[str, Push], kicks: dict[str, Kick]) -> tuple[BatchSim, Disturbances]:
    sim = BatchSim(mujoco.MjModel.from_xml_string(XML), num_envs, num_threads=1)
    disturbances = Disturbances(sim, pushes, kicks, DT_S)
    sim.reset()
    sim.forward()
    return sim, disturbances


def run(sim: BatchSim, disturbances: Disturbances, steps: int, rng: torch.Generator) -> torch.Tensor:
    disturbances.reset(torch.arange(sim.num_envs), rng)
    velocities = []
    for _ in range(steps):
        disturbances.step(rng)
        sim.step()
        velocities.append(sim.data("qvel")[:, :6].clone())
    return torch.stack(velocities)


def test_a_push_changes_momentum_by_force_times_duration() -> None:
    push = Push("ball", interval_s=(0.05, 0.05), force_n=(3.0, 3.0), duration_s=0.03)
    sim, disturbances = make(50, {"shove": push}, {})
    velocity = run(sim, disturbances, 8, torch.Generator().manual_seed(0))
    speed = velocity[:, :, :3].norm(dim=2)
    gained = 3.0 * DT_S / MASS_KG
    # due after 5 steps of 10 ms, in force for 3 of them
    for step, steps_pushed in enumerate([0, 0, 0, 0, 1, 2, 3, 3]):
        torch.testing.assert_close(speed[step], torch.full((50,), steps_pushed * gained, dtype=torch.float64))
    assert (velocity[:, :, 2] == 0).all()
    angle = torch.atan2(velocity[-1, :, 1], velocity[-1, :, 0])
    assert angle.min() < -2 and angle.max() > 2


def test_torques_turn_about_the_vertical_or_any_axis() -> None:
    for direction, axes in ((Direction.HORIZONTAL, [False, False, True]), (Direction.ANY, [True] * 3)):
        push = Push("ball", (0.01, 0.01), torque_nm=(0.02, 0.02), duration_s=0.01, direction=direction)
        sim, disturbances = make(40, {"twist": push}, {})
        turn = run(sim, disturbances, 1, torch.Generator().manual_seed(0))[0, :, 3:]
        assert (turn.abs().max(0).values > 1e-6).tolist() == axes
        torch.testing.assert_close(
            turn.norm(dim=1), torch.full((40,), 0.02 * DT_S / INERTIA, dtype=torch.float64), rtol=1e-6, atol=0
        )


def test_a_kick_adds_to_the_chosen_velocities_only() -> None:
    kick = Kick((0.5, 1.5), interval_s=(0.02, 0.02), names="free", columns=[0, 1])
    sim, disturbances = make(60, {}, {"bump": kick})
    velocity = run(sim, disturbances, 3, torch.Generator().manual_seed(0))
    assert (velocity[0] == 0).all()
    assert velocity[1, :, :2].min() >= 0.5 and velocity[1, :, :2].max() <= 1.5
    assert (velocity[:, :, 2:] == 0).all()
    torch.testing.assert_close(velocity[2], velocity[1])


def test_a_reset_takes_back_the_push_in_force_and_its_clock() -> None:
    push = Push("ball", interval_s=(0.01, 0.01), force_n=(3.0, 3.0), duration_s=0.05)
    sim, disturbances = make(2, {"shove": push}, {})
    rng = torch.Generator().manual_seed(0)
    run(sim, disturbances, 1, rng)
    assert (sim.data("xfrc_applied")[:, 1].norm(dim=1) > 0).all()
    sim.reset(torch.tensor([1]))
    disturbances.reset(torch.tensor([1]), rng)
    assert sim.data("xfrc_applied")[1].abs().sum() == 0
    assert sim.data("xfrc_applied")[0].abs().sum() > 0


def test_what_does_not_exist_is_refused() -> None:
    with pytest.raises(UsageError, match="did you mean 'ball'"):
        make(1, {"a": Push("bal", (1, 2))}, {})
    with pytest.raises(UsageError, match="one body takes one push"):
        make(1, {"a": Push("ball", (1, 2)), "b": Push("ball", (1, 2))}, {})
    with pytest.raises(UsageError, match=r"kicks\.a: no joint matches"):
        make(1, {}, {"a": Kick((0, 1), (1, 2), names="elbow")})
    with pytest.raises(UsageError, match="degrees of freedom 0 to 0"):
        make(1, {}, {"a": Kick((0, 1), (1, 2), names="hinge", columns=[1])})
    with pytest.raises(UsageError, match="force_n is upside down"):
        Push("ball", (1, 2), force_n=(2, 1))
    with pytest.raises(UsageError, match="interval_s"):
        Kick((0, 1), (-1, 2))
