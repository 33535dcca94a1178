"""Humanoids, quadruped and dog against dm_control's own."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
import pytest
import torch
from dm_control_parity import (
    INTEGRATION,
    check_steps,
    copy_state,
    flat,
    load_original,
    make_task,
    observed,
    total,
)
from scipy import stats
from torch import Tensor

from robotrl.core.errors import UsageError
from robotrl.core.paths import CONFIGS
from robotrl.envs.vec_env import VecEnv
from robotrl.sim.batch_sim import BatchSim
from robotrl.tasks.control_suite import dog
from robotrl.tasks.control_suite.dog import DogMove
from robotrl.tasks.control_suite.humanoid import Humanoid
from robotrl.tasks.control_suite.humanoid_cmu import HumanoidCMU
from robotrl.tasks.control_suite.quadruped import QuadrupedEscape, QuadrupedMove
from robotrl.tasks.control_suite.terrain import bumpy_bowls, draw_bumps

TASKS = {
    "humanoid_stand": ("humanoid", "stand"),
    "humanoid_walk": ("humanoid", "walk"),
    "humanoid_run": ("humanoid", "run"),
    "humanoid_run_pure_state": ("humanoid", "run_pure_state"),
    "humanoid_CMU_stand": ("humanoid_CMU", "stand"),
    "humanoid_CMU_walk": ("humanoid_CMU", "walk"),
    "humanoid_CMU_run": ("humanoid_CMU", "run"),
    "quadruped_walk": ("quadruped", "walk"),
    "quadruped_run": ("quadruped", "run"),
    "quadruped_escape": ("quadruped", "escape"),
    "quadruped_fetch": ("quadruped", "fetch"),
    "dog_stand": ("dog", "stand"),
    "dog_walk": ("dog", "walk"),
    "dog_trot": ("dog", "trot"),
    "dog_run": ("dog", "run"),
    "dog_fetch": ("dog", "fetch"),
}
# one task for every reset and observation there is
KINDS = (
    "humanoid_walk",
    "humanoid_run_pure_state",
    "humanoid_CMU_walk",
    "quadruped_walk",
    "quadruped_escape",
    "quadruped_fetch",
    "dog_walk",
    "dog_fetch",
)


@pytest.mark.parametrize("name", TASKS)
def test_same_observations_and_rewards_as_dm_control(name: str) -> None:
    check_steps(name, *TASKS[name])


ROWS = 60


def near_reward(name: str, env: VecEnv) -> None:
    """Draw states around those where the reward is paid: about upright, at all speeds and places."""
    sim, rng = env.sim, torch.Generator().manual_seed(1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(ROWS, *shape, generator=rng).double()

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(ROWS, *shape, generator=rng).double()

    qpos, qvel = sim.data("qpos"), sim.data("qvel")
    default = torch.from_numpy(sim.model.qpos0.copy())
    joints = slice(7, {"quadruped": 23, "dog": 80}.get(name.split("_")[0]))
    qpos[:] = default
    qpos[:, joints] += 0.05 * normal(*qpos[:, joints].shape[1:])
    qpos[:, 2] += 0.1 * normal()
    # half the angle; the dog is paid little when it leans
    tilt = uniform(-0.6, 0.6) if name.startswith("dog") else uniform(-1.4, 1.4)
    upright = default[3:7].clone()
    turn = torch.stack((tilt.cos(), tilt.sin(), 0 * tilt, 0 * tilt), dim=1)
    for row in range(ROWS):
        mujoco.mju_mulQuat(qpos[row, 3:7].numpy(), turn[row].numpy(), upright.numpy())
    qvel[:] = 0.2 * normal(sim.model.nv)
    if (speed := getattr(env.task, "move_speed_m_s", 0.0)) > 0:
        qvel[:, 0] = uniform(-0.2 * speed, 1.5 * speed)
    if name == "quadruped_escape":
        angle, radius = uniform(0.0, 6.28), uniform(0.0, 45.0)
        qpos[:, :2] = radius.unsqueeze(1) * torch.stack((angle.cos(), angle.sin()), dim=1)
        qpos[:, 2] = uniform(0.5, 6.0)
    if name in ("quadruped_fetch", "dog_fetch"):
        sim.named("joint", "ball_root").qpos[:, :2] = 0.4 * normal(2)
        qpos[:, :2] = uniform(-3.0, 3.0, 2)
    if name.startswith("dog"):
        sim.data("act")[:] = uniform(-1.0, 1.0, sim.model.na)
        qpos[:, 2] = default[2] + uniform(-0.05, 0.02)


@pytest.mark.parametrize("name", TASKS)
def test_same_rewards_where_they_are_paid(name: str) -> None:
    env = VecEnv(make_task(name), ROWS, seed=5, num_threads=2)
    env.reset()
    sim = env.sim
    near_reward(name, env)
    action = 2 * torch.rand(ROWS, env.specs.action_dim, generator=torch.Generator().manual_seed(2)) - 1
    ctrl = env._to_ctrl(action)
    sim.data("ctrl").copy_(ctrl)
    original = load_original(*TASKS[name])
    original.reset()
    rewards, observations = [], []
    for row in range(ROWS):
        copy_state(sim, row, original.physics)
        rewards.append(original.task.get_reward(original.physics))
        observations.append(flat(original.task.get_observation(original.physics)))
    sim.forward()
    ours = total(env.task.reward_terms(sim, ctrl))
    np.testing.assert_allclose(ours, rewards, rtol=0, atol=1e-12)
    np.testing.assert_allclose(observed(env.task, sim), observations, rtol=1e-9, atol=1e-9)
    assert min(rewards) < 0.3 and max(rewards) > 0.7, "the states must tell rewards apart"
    if name == "dog_fetch":
        near = env.task.ball_to_target_m(sim) < 0.2
        assert 5 < near.sum() < ROWS - 5, "some balls may be let go"


@pytest.mark.parametrize("name", TASKS)
def test_same_interface_and_time_limit_as_dm_control(name: str) -> None:
    env = VecEnv(make_task(name), 2, num_threads=1)
    original = load_original(*TASKS[name])
    assert env.max_steps == original._step_limit
    assert env.specs.control_dt_s == pytest.approx(original.control_timestep(), abs=1e-12)
    np.testing.assert_array_equal(
        original.action_spec().minimum.astype(np.float32), env.specs.action_low.numpy()
    )
    np.testing.assert_array_equal(
        original.action_spec().maximum.astype(np.float32), env.specs.action_high.numpy()
    )
    first = env.reset()["policy"]
    assert first.shape == (2, len(flat(original.reset().observation)))
    assert env.sim.failed() is None
    env.age[0] = env.max_steps - 2
    action = torch.zeros(2, env.specs.action_dim)
    assert not env.step(action).done.any()
    step = env.step(action)
    assert step.truncated.tolist() == [True, False]
    assert not step.terminated.any()
    assert env.step(action).done.tolist() == [False, False]


@pytest.mark.parametrize("name", ["humanoid_run", "humanoid_CMU_run", *(n for n in TASKS if n[0] in "qd")])
def test_the_models_are_dm_controls(name: str) -> None:
    ours = make_task(name).build_model()
    original = load_original(*TASKS[name])
    original.reset()
    theirs = original.physics.model.ptr
    for field in (
        "body_mass", "body_inertia", "body_ipos", "body_iquat", "body_invweight0", "body_subtreemass",
        "jnt_range", "jnt_stiffness", "dof_armature", "dof_damping", "qpos0", "actuator_gainprm",
        "actuator_ctrlrange", "sensor_type", "site_pos", "tendon_length0", "exclude_signature", "cam_pos",
    ):  # fmt: skip
        np.testing.assert_allclose(getattr(ours, field), getattr(theirs, field), rtol=1e-14, err_msg=field)
    hidden_bones = 0
    for i in range(theirs.ngeom):
        their_geom = theirs.geom(i)
        if name.startswith("dog") and int(their_geom.group[0]) == 5:
            assert int(their_geom.contype[0]) == int(their_geom.conaffinity[0]) == 0
            hidden_bones += 1
            continue
        our_geom = ours.geom(i - hidden_bones)
        assert our_geom.name == their_geom.name
        for field in (
            "type",
            "contype",
            "conaffinity",
            "size",
            "pos",
            "quat",
            "friction",
            "solref",
            "priority",
        ):
            np.testing.assert_allclose(
                getattr(our_geom, field), getattr(their_geom, field), rtol=1e-14, atol=1e-15
            )
    assert ours.ngeom == theirs.ngeom - hidden_bones
    assert hidden_bones == (144 if name.startswith("dog") else 0)


def state_of(original: Any) -> np.ndarray:
    data = original.physics.data
    return np.concatenate([data.qpos, data.qvel, data.act])


@pytest.mark.parametrize(
    ("name", "resets"),
    [
        ("humanoid_walk", 300),
        ("humanoid_CMU_walk", 100),
        ("quadruped_walk", 100),
        ("quadruped_fetch", 100),
        ("dog_walk", 150),
        ("dog_fetch", 150),
    ],
)
def test_initial_states_are_distributed_as_dm_controls(name: str, resets: int) -> None:
    env = VecEnv(make_task(name), resets, seed=11, num_threads=2)
    env.reset()
    assert env.sim.failed() is None
    original = load_original(*TASKS[name], 1)
    theirs = []
    for _ in range(resets):
        original.reset()
        theirs.append(state_of(original))
    ours = torch.cat([env.sim.data(field) for field in ("qpos", "qvel", "act")], dim=1).numpy()
    pvalues = []
    for mine, reference in zip(ours.T, np.array(theirs).T, strict=True):
        if np.ptp(reference) < 1e-9:
            np.testing.assert_allclose(mine, reference, atol=1e-9)
        else:
            pvalues.append(stats.ks_2samp(mine, reference).pvalue)
    assert len(pvalues) >= 5
    assert min(pvalues) > 1e-2 / len(pvalues)


@pytest.mark.parametrize("name", ["humanoid_walk", "humanoid_CMU_walk", "quadruped_walk", "quadruped_escape"])
def test_episodes_start_in_mid_air_and_leave_the_others_alone(name: str) -> None:
    env = VecEnv(make_task(name), 8, seed=0, num_threads=2)
    env.reset()
    sim = env.sim
    assert (sim.data("ncon") == 0).all()
    before = sim.batch.state.copy()
    ids = torch.tensor([1, 6])
    sim.reset(ids)
    env.task.reset(sim, ids, torch.Generator().manual_seed(9))
    changed = (sim.batch.state != before).any(1)
    assert changed.tolist() == [False, True, False, False, False, False, True, False]
    sim.forward()
    assert (sim.data("ncon") == 0).all()


@pytest.mark.parametrize(
    ("name", "rows"), [("quadruped_walk", 20), ("quadruped_fetch", 20), ("quadruped_escape", 4)]
)
def test_quadruped_is_lifted_as_high_as_dm_control_does(name: str, rows: int) -> None:
    from dm_control.suite import quadruped

    env = VecEnv(make_task(name), rows, seed=1, num_threads=2)
    env.reset()
    original = load_original(*TASKS[name])
    original.reset()
    for row in range(rows):
        copy_state(env.sim, row, original.physics)
        qpos = env.sim.data("qpos")[row].numpy()
        quadruped._find_non_contacting_height(original.physics, qpos[3:7], *qpos[:2])
        assert original.physics.data.qpos[2] == qpos[2]


def uniform_pvalue(values: Tensor, low: float, high: float) -> float:
    return stats.kstest(((values - low) / (high - low)).numpy(), "uniform").pvalue


def normal_pvalue(values: Tensor, scale: float) -> float:
    return stats.kstest(values.numpy() / scale, "norm").pvalue


def test_dog_is_pushed_and_its_ball_thrown_towards_the_middle() -> None:
    task = make_task("dog_fetch")
    sim, rng = BatchSim(task.build_model(), 100, num_threads=1), torch.Generator().manual_seed(3)
    draws = []
    for _ in range(20):
        sim.reset()
        task.reset(sim, torch.arange(100), rng)
        draws.append(torch.cat([sim.data(field) for field in ("qpos", "qvel", "act")], dim=1))
    qpos, qvel, act = torch.cat(draws).split([sim.model.nq, sim.model.nv, sim.model.na], dim=1)
    assert min(normal_pvalue(qvel[:, axis], 2.0) for axis in (0, 1, 5)) > 1e-3
    low, high = torch.from_numpy(sim.model.actuator_ctrlrange.copy()).T
    assert uniform_pvalue(((act - low) / (high - low)).flatten(), 0.0, 1.0) > 1e-3

    place, velocity = qpos[:, -7:-5], qvel[:, -6:-4]
    torch.testing.assert_close(place.norm(dim=1), torch.full((2000,), 7.5, dtype=torch.float64))
    inwards = -place / 7.5
    along = (velocity * inwards).sum(1)
    across = velocity[:, 0] * inwards[:, 1] - velocity[:, 1] * inwards[:, 0]
    # the speed is uniform up to 5 m/s, along with a factor that is normal about 1 within 0.05
    assert 4.9 < along.max() < 5.9 and 0.0 < along.min() < 0.02
    below = along[along < 4.0]
    assert uniform_pvalue(below, 0.0, 4.0) > 1e-3
    assert len(below) / 2000 == pytest.approx(0.8, abs=0.03)
    # the direction is off by a normal of 0.05
    assert normal_pvalue(across / along, 0.05) > 1e-3
    # a ball thrown up with v rises by v^2 / 2 g
    assert uniform_pvalue(qvel[:, -4].square() / (2 * 9.81), 0.0, 3.0) > 1e-3


def test_quadrupeds_ball_is_thrown_in() -> None:
    env = VecEnv(make_task("quadruped_fetch"), 500, seed=3, num_threads=2)
    env.reset()
    qpos, qvel = env.sim.data("qpos"), env.sim.data("qvel")
    assert min(uniform_pvalue(qpos[:, i], -13.5, 13.5) for i in (0, 1, 23, 24)) > 1e-3
    assert min(normal_pvalue(qvel[:, i], 5.0) for i in (22, 23)) > 1e-3
    assert (qpos[:, 25] == 2.0).all()


@pytest.mark.parametrize("name", KINDS)
def test_first_observation_is_dm_controls_apart_from_what_feels_the_dogs_actuators(name: str) -> None:
    env = VecEnv(make_task(name), 1, num_threads=1)
    env.reset()
    sim = env.sim
    original = load_original(*TASKS[name])
    original.reset()
    physics = original.physics
    if name == "quadruped_escape":
        sim.param("geom_dataid")[0, sim.named("geom", "terrain").id] = 0
        physics.model.hfield_data[...] = sim.model.hfield_data[: 201 * 201]
        physics.after_reset()
    theirs = flat(original.task.get_observation(physics))
    mujoco.mj_getState(physics.model.ptr, physics.data.ptr, sim.batch.state[0], INTEGRATION)
    sim.forward()
    ours = observed(env.task, sim)[0]
    feels = np.zeros(len(ours), dtype=bool)
    if name.startswith("dog"):
        terms = env.specs.observation["policy"]
        feels = np.concatenate(
            [np.full(term.size, term.name in ("acceleration", "foot_force", "touch")) for term in terms]
        )
        assert np.abs(ours - theirs)[feels].max() > 1.0
    np.testing.assert_allclose(ours[~feels], theirs[~feels], rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", KINDS)
def test_reset_depends_on_the_seed_alone(name: str) -> None:
    draws = [VecEnv(make_task(name), 3, seed, num_threads=1) for seed in (4, 4, 5)]
    a, b, c = (env.reset()["policy"] for env in draws)
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_dog_heights_are_those_of_the_model_file() -> None:
    model = DogMove().build_model()
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    assert data.body("torso").xpos[2] == pytest.approx(dog.TORSO_HEIGHT_M, abs=1e-12)
    assert data.body("pelvis").xpos[2] == pytest.approx(dog.PELVIS_HEIGHT_M, abs=1e-12)


def test_impossible_options_are_refused() -> None:
    for cls in (Humanoid, HumanoidCMU, DogMove):
        with pytest.raises(UsageError, match="move_speed_m_s must be 0 or above, got -1"):
            cls(move_speed_m_s=-1.0)
    for speed in (0.0, float("nan")):
        with pytest.raises(UsageError, match="move_speed_m_s must be above 0"):
            QuadrupedMove(move_speed_m_s=speed)
    with pytest.raises(UsageError, match="num_terrains must be at least 1, got 0"):
        QuadrupedEscape(num_terrains=0)
    with pytest.raises(UsageError, match=r"terrain_seed must be in .*, got -1"):
        QuadrupedEscape(terrain_seed=-1)


def test_every_task_file_starts_with_its_description() -> None:
    for name in TASKS:
        first, second = (CONFIGS / "task" / f"{name}.yaml").read_text().splitlines()[:2]
        assert first.startswith("# ") and len(first) > 20
        assert second.startswith("_target_: robotrl.tasks.control_suite.")


def test_terrain_is_dm_controls_from_the_same_bumps() -> None:
    original = load_original("quadruped", "escape", 5)
    original.reset()
    size = original.physics.model.hfield_size[0]
    assert size[0] == 30.0
    bumps = np.random.RandomState(5).uniform(0.15, 1, (30, 30))
    ours = bumpy_bowls(torch.from_numpy(bumps).unsqueeze(0), 201)[0]
    theirs = np.array(original.physics.model.hfield_data).reshape(201, 201)
    np.testing.assert_array_equal(ours.numpy().astype(np.float32), theirs)
    drawn = draw_bumps(3, 60.0, torch.Generator().manual_seed(0))
    assert drawn.shape == (3, 30, 30)
    assert stats.kstest((drawn.flatten().numpy() - 0.15) / 0.85, "uniform").pvalue > 1e-3
