"""Delays inside the physics, counted in physics steps."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest
import torch

from robotrl.core.errors import UsageError
from robotrl.sim.batch_sim import BatchSim
from robotrl.sim.draws import When
from robotrl.sim.latency import Delay, Delays, Interpolation, size_buffers
from robotrl.sim.sim import Stage

# a mass on a slide without gravity or friction: force shows in its acceleration at once
XML = """
<mujoco>
  <option timestep="0.002" gravity="0 0 0"/>
  <worldbody>
    <body name="mass"><joint name="x" type="slide" axis="1 0 0"/><geom size="0.1" mass="2"/></body>
  </worldbody>
  <actuator><motor name="push" joint="x" ctrllimited="true" ctrlrange="-1 1"/></actuator>
  <sensor><jointpos name="position" joint="x"/><jointvel name="velocity" joint="x"/></sensor>
</mujoco>
"""
DT_S = 0.002


def make(actuators: dict[str, Delay], sensors: dict[str, Delay], num_envs: int) -> tuple[BatchSim, Delays]:
    spec = mujoco.MjSpec.from_string(XML)
    size_buffers(spec, actuators, sensors)
    sim = BatchSim(spec.compile(), num_envs, num_threads=1, stage=Stage.VELOCITY)
    return sim, Delays(sim, actuators, sensors)


def reset(sim: BatchSim, delays: Delays, position: float = 0.0, seed: int = 0) -> None:
    ids = torch.arange(sim.num_envs)
    delays.reset(ids, torch.Generator().manual_seed(seed))
    sim.reset(ids)
    sim.data("qpos")[:] = position
    delays.fill(ids)


def test_a_command_acts_after_its_delay() -> None:
    delays_s = [0.0, 0.004, 0.01, 0.02]
    sim, delays = make({"all": Delay((0.0, 0.02))}, {}, 4)
    reset(sim, delays)
    sim.param("actuator_delay")[:, 0] = torch.tensor(delays_s, dtype=torch.float64)
    first = [-1] * 4
    for step in range(15):
        sim.step(torch.ones(4, 1, dtype=torch.float64))
        for row in range(4):
            if first[row] < 0 and sim.data("qvel")[row, 0] > 0:
                first[row] = step
    assert first == [0, 2, 5, 10]


def test_a_sensor_reads_the_past_and_starts_from_the_present() -> None:
    sim, delays = make({}, {"position": Delay((0.01, 0.01), names="position")}, 2)
    reset(sim, delays, position=0.7)
    reading, truth = sim.named("sensor", "position").data, sim.data("qpos")
    # MuJoCo alone would read 0 for the whole delay
    assert reading[:, 0].tolist() == [0.7, 0.7]
    seen = [0.7] * 5
    for _ in range(12):
        seen.append(float(truth[0, 0]))
        sim.step(torch.ones(2, 1, dtype=torch.float64))
        assert float(reading[0, 0]) == pytest.approx(seen[-5], abs=1e-15)
    assert sim.named("sensor", "velocity").data[0, 0] == sim.data("qvel")[0, 0]


def test_a_command_in_force_at_the_reset_is_what_is_delayed() -> None:
    sim, delays = make({"all": Delay((0.01, 0.01))}, {}, 1)
    ids = torch.arange(1)
    delays.reset(ids, torch.Generator().manual_seed(0))
    sim.reset(ids)
    sim.data("ctrl")[:] = 0.5
    delays.fill(ids)
    sim.step(torch.zeros(1, 1, dtype=torch.float64))
    assert float(sim.data("qvel")[0, 0]) == pytest.approx(0.5 / 2 * DT_S, rel=1e-12)


def test_buffers_follow_the_clock_of_the_simulation() -> None:
    """A task may let physics run in its reset: the samples' times must fit the present."""
    sim, delays = make({"all": Delay((0.01, 0.01))}, {}, 1)
    reset(sim, delays)
    sim.step(torch.ones(1, 1, dtype=torch.float64), 40)
    sim.data("time")[:] = 0.0
    sim.data("qvel")[:] = 0.0
    sim.data("ctrl")[:] = 0.0
    delays.fill(torch.arange(1))
    moved = []
    for _ in range(8):
        sim.step(torch.ones(1, 1, dtype=torch.float64))
        moved.append(bool(sim.data("qvel")[0, 0] > 0))
    assert moved == [False] * 5 + [True] * 3


def test_linear_interpolation_between_two_commands() -> None:
    delay = Delay((0.003, 0.003), interpolation=Interpolation.LINEAR, buffer_s=0.006)
    sim, delays = make({"all": delay}, {}, 1)
    reset(sim, delays)
    accelerations = []
    for _ in range(4):
        before = float(sim.data("qvel")[0, 0])
        sim.step(torch.ones(1, 1, dtype=torch.float64))
        accelerations.append((float(sim.data("qvel")[0, 0]) - before) / DT_S)
    # commands 0 at -2 ms, 1 from 0 ms on; at t = 2 ms the command of -1 ms acts
    np.testing.assert_allclose(accelerations, [0.0, 0.25, 0.5, 0.5], atol=1e-12)


def test_draws_are_shared_or_not_and_kept_or_not() -> None:
    spread = Delay((0.0, 0.02), shared=False, when=When.ONCE)
    sim, delays = make({}, {"all": spread}, 300)
    reset(sim, delays)
    first = sim.param("sensor_delay").clone()
    assert 0 <= first.min() < 0.001 and 0.019 < first.max() <= 0.02
    assert not (first[:, 0] == first[:, 1]).any()
    reset(sim, delays, seed=5)
    assert torch.equal(sim.param("sensor_delay"), first)
    sim, delays = make({}, {"all": Delay((0.0, 0.02))}, 300)
    reset(sim, delays)
    first = sim.param("sensor_delay").clone()
    assert (first[:, 0] == first[:, 1]).all()
    reset(sim, delays, seed=5)
    assert not (sim.param("sensor_delay") == first).any()


def test_a_delay_beyond_the_buffer_is_an_error_never_clamped() -> None:
    delay = Delay((0.0, 0.01))
    sim, delays = make({"all": delay}, {}, 1)
    delay.range_s = (0.0, 0.03)
    with pytest.raises(UsageError, match=r"reaches 0\.03 s, its buffer holds 0\.01 s"):
        reset(sim, delays)
    with pytest.raises(UsageError, match="beyond its buffer"):
        Delay((0.0, 0.03), buffer_s=0.02)


@pytest.mark.parametrize(
    ("delays", "message"),
    [
        ({"mine": Delay((0.0, 0.01), names="pull")}, "no actuator matches 'pull'"),
        ({"a": Delay((0.0, 0.01)), "b": Delay((0.0, 0.02))}, "delayed by actuator_delays.a already"),
    ],
)
def test_delays_that_fit_nothing_are_refused(delays: dict[str, Delay], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        size_buffers(mujoco.MjSpec.from_string(XML), delays, {})


@pytest.mark.parametrize("range_s", [(0.02, 0.01), (-0.01, 0.01), (0.0, float("inf"))])
def test_impossible_ranges_are_refused(range_s: tuple[float, float]) -> None:
    with pytest.raises(UsageError, match="range_s"):
        Delay(range_s)
