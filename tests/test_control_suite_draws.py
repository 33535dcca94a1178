"""What humanoids, quadruped and dog draw at a reset: terrain, joints, places where nothing touches."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from robotrl.core.errors import RobotrlError
from robotrl.envs.dm_control_compat import load_suite
from robotrl.envs.vec_env import VecEnv
from robotrl.sim.batch_sim import BatchSim
from robotrl.tasks.control_suite import randomizers
from robotrl.tasks.control_suite.quadruped import QuadrupedEscape
from robotrl.tasks.control_suite.randomizers import lift_off, randomize_joints, redraw_until_free


def test_every_escape_takes_one_of_the_terrains_at_random() -> None:
    task = QuadrupedEscape(num_terrains=3, terrain_seed=4)
    env = VecEnv(task, 24, seed=0, num_threads=2)
    terrains = env.sim.model.hfield_data.reshape(3, 201, 201)
    assert len(np.unique(terrains[:, 60, 60])) == 3
    again = QuadrupedEscape(num_terrains=3, terrain_seed=4).build_model().hfield_data
    np.testing.assert_array_equal(again, env.sim.model.hfield_data)
    other = QuadrupedEscape(num_terrains=3, terrain_seed=5).build_model().hfield_data
    assert (other != again).any()
    env.reset()
    chosen = env.sim.param("geom_dataid")[:, env.sim.named("geom", "terrain").id]
    assert set(chosen.tolist()) == {0, 1, 2}
    # straight down from high above the same place, the terrains lie at their own heights
    distance, _ = env.sim.batch.ray([-15.0, -12.0, 20.0], [0.0, 0.0, -1.0])
    column, row = (round((x + 30) / 60 * 200) for x in (-15.0, -12.0))
    expected = 20.0 - (5 * terrains[chosen.numpy(), row, column] - 0.01)
    np.testing.assert_allclose(distance[:, 0], expected, atol=1e-5)


JOINTS = """
<mujoco>
  <compiler angle="radian"/>
  <worldbody>
    <body><freejoint name="free"/><geom size=".1"/>
      <body><joint name="ball" type="ball"/><geom size=".1"/></body>
      <body><joint name="limited_ball" type="ball" limited="true" range="0 1.5"/><geom size=".1"/></body>
      <body><joint name="hinge" type="hinge"/><geom size=".1"/></body>
      <body><joint name="limited_slide" type="slide" limited="true" range="-.2 .3"/><geom size=".1"/></body>
      <body><joint name="slide" type="slide"/><geom size=".1"/></body>
    </body>
  </worldbody>
</mujoco>
"""


def test_every_kind_of_joint_is_drawn_as_dm_control_does() -> None:
    load_suite()  # with what dm_control lacks on this MuJoCo
    from dm_control import mujoco as dm_mujoco
    from dm_control.suite.utils import randomizers as dm_randomizers

    sim = BatchSim(mujoco.MjModel.from_xml_string(JOINTS), 500, num_threads=1)
    ids = torch.arange(0, 500, 2)
    randomize_joints(sim, ids, torch.Generator().manual_seed(0))
    default = torch.from_numpy(sim.model.qpos0.copy())
    assert (sim.data("qpos")[1::2] == default).all()
    ours = sim.data("qpos")[ids].numpy()
    physics = dm_mujoco.Physics.from_xml_string(JOINTS)
    random, theirs = np.random.RandomState(0), []
    for _ in range(400):
        dm_randomizers.randomize_limited_and_rotational_joints(physics, random)
        theirs.append(np.array(physics.data.qpos))
    drawn = 0
    for mine, reference in zip(ours.T, np.array(theirs).T, strict=True):
        if np.ptp(reference) == 0:
            assert np.ptp(mine) == 0
            continue
        drawn += 1
        assert stats.ks_2samp(mine, reference).pvalue > 1e-3
    assert drawn == 3 * 4 + 2
    for start in (3, 7, 11):
        np.testing.assert_allclose(np.linalg.norm(ours[:, start : start + 4], axis=1), 1.0, atol=1e-12)
    # the limited ball joint: any axis, an angle up to 1.5 rad
    angle = 2 * np.arccos(ours[:, 11])
    assert stats.kstest(angle / 1.5, "uniform").pvalue > 1e-3
    axis = ours[:, 12:15] / np.sin(angle / 2)[:, None]
    assert stats.kstest((axis[:, 2] + 1) / 2, "uniform").pvalue > 1e-3


TANGLED = """
<mujoco>
  <worldbody>
    <body pos="0 0 1"><freejoint/><geom size=".1"/></body>
    <body pos="5 0 1"><joint type="hinge"/><geom size=".1"/></body>
    <body pos="5 0 1.1"><joint type="hinge"/><geom size=".1"/></body>
  </worldbody>
</mujoco>
"""


def test_a_model_that_touches_itself_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(randomizers, "MAX_ROUNDS", 20)
    sim = BatchSim(mujoco.MjModel.from_xml_string(TANGLED), 3, num_threads=1)
    ids = torch.tensor([0, 2])
    with pytest.raises(RobotrlError, match="in 20 draws of 2 simulations"):
        redraw_until_free(sim, ids, lambda left: None)
    with pytest.raises(RobotrlError, match=r"no initial height without contacts up to 2.55 m"):
        lift_off(sim, ids)


def test_only_those_that_touch_are_drawn_again() -> None:
    sim = BatchSim(mujoco.MjModel.from_xml_string(TANGLED.replace("hinge", "slide")), 4, num_threads=1)
    calls = []

    def draw(ids: Tensor) -> None:
        calls.append(ids.tolist())
        sim.data("qpos")[ids, 7] = 0.0
        # the last one comes apart in every round
        sim.data("qpos")[ids[-1], 7] = -0.5

    redraw_until_free(sim, torch.tensor([0, 1, 3]), draw)
    assert calls == [[0, 1, 3], [0, 1], [0]]
