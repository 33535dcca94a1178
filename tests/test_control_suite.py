"""Every control-suite task against dm_control's own, and the task files against their defaults."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from dm_control_parity import check_steps, copy_state, flat, load_original, make_task, total
from scipy import stats

from robotrl.core.errors import UsageError
from robotrl.core.paths import CONFIGS
from robotrl.envs.vec_env import VecEnv
from robotrl.tasks.control_suite.cheetah import Cheetah
from robotrl.tasks.control_suite.hopper import Hopper
from robotrl.tasks.control_suite.reacher import Reacher
from robotrl.tasks.control_suite.walker import Walker

TASKS = {
    "cartpole_balance": ("cartpole", "balance"),
    "cartpole_balance_sparse": ("cartpole", "balance_sparse"),
    "cartpole_swingup": ("cartpole", "swingup"),
    "cartpole_swingup_sparse": ("cartpole", "swingup_sparse"),
    "cheetah_run": ("cheetah", "run"),
    "walker_stand": ("walker", "stand"),
    "walker_walk": ("walker", "walk"),
    "walker_run": ("walker", "run"),
    "hopper_stand": ("hopper", "stand"),
    "hopper_hop": ("hopper", "hop"),
    "reacher_easy": ("reacher", "easy"),
    "reacher_hard": ("reacher", "hard"),
    "ball_in_cup_catch": ("ball_in_cup", "catch"),
    "pendulum_swingup": ("pendulum", "swingup"),
}
SEVERAL = (
    "cartpole_swingup",
    "cheetah_run",
    "walker_walk",
    "hopper_stand",
    "reacher_easy",
    "ball_in_cup_catch",
    "pendulum_swingup",
)


@pytest.mark.parametrize("name", TASKS)
def test_same_observations_and_rewards_as_dm_control(name: str) -> None:
    check_steps(name, *TASKS[name], num_envs=3 if name in SEVERAL else 1)


# random actions seldom reach a sparse reward, so these states are drawn around the place where it is paid:
# middle and half width per coordinate of qpos; None keeps the task's own reset
NEAR_REWARD: dict[str, tuple[list[float], list[float]] | None] = {
    "cartpole_balance": ([0.0, 0.0], [2.0, 3.0]),
    "cartpole_balance_sparse": ([0.0, 0.0], [0.4, 0.2]),
    "cartpole_swingup": ([0.0, 0.0], [2.0, 3.0]),
    "cartpole_swingup_sparse": ([0.0, 0.0], [0.4, 0.2]),
    "cheetah_run": None,
    "walker_stand": ([0.0] * 9, [1.0, 0.4, 1.0] + [0.5] * 6),
    "walker_walk": ([0.0] * 9, [1.0, 0.4, 1.0] + [0.5] * 6),
    "walker_run": ([0.0] * 9, [1.0, 0.4, 1.0] + [0.5] * 6),
    "hopper_stand": ([0.0, 0.3, 0.0, 0.0, -0.5, 1.2, 0.0], [1.0, 0.1, 1.0, 0.5, 0.5, 1.0, 0.5]),
    "hopper_hop": ([0.0, 0.3, 0.0, 0.0, -0.5, 1.2, 0.0], [1.0, 0.1, 1.0, 0.5, 0.5, 1.0, 0.5]),
    "reacher_easy": None,
    "reacher_hard": None,
    "ball_in_cup_catch": ([0.0, 0.0, 0.0, 0.36], [0.0, 0.0, 0.04, 0.06]),
    "pendulum_swingup": ([0.0], [0.3]),
}


@pytest.mark.parametrize("name", TASKS)
def test_same_rewards_where_they_are_paid(name: str) -> None:
    env = VecEnv(make_task(name), 200, seed=5, num_threads=2)
    env.reset()
    sim, rng = env.sim, torch.Generator().manual_seed(1)
    if (near := NEAR_REWARD[name]) is not None:
        middle, width = torch.tensor(near, dtype=torch.float64)
        sim.data("qpos").copy_(middle + width * (2 * torch.rand(200, len(middle), generator=rng) - 1))
    if name != "cheetah_run":
        sim.data("qvel").copy_(3 * torch.randn(200, sim.model.nv, generator=rng))
    else:
        sim.data("qvel")[:, 0] = 20 * torch.rand(200, generator=rng) - 5
    action = 2 * torch.rand(200, env.specs.action_dim, generator=rng).double() - 1
    sim.data("ctrl").copy_(action)
    sim.forward()
    rewards = total(env.task.reward_terms(sim, action))
    original = load_original(*TASKS[name])
    original.reset()
    theirs = np.empty(200)
    for row in range(200):
        copy_state(sim, row, original.physics)
        theirs[row] = original.task.get_reward(original.physics)
    np.testing.assert_allclose(rewards, theirs, rtol=0, atol=1e-12)
    assert theirs.min() < 0.3 and theirs.max() > 0.7, "the states must tell rewards apart"


@pytest.mark.parametrize("name", TASKS)
def test_same_interface_and_time_limit_as_dm_control(name: str) -> None:
    env = VecEnv(make_task(name), 2, num_threads=1)
    original = load_original(*TASKS[name])
    assert env.max_steps == original._step_limit
    assert env.specs.control_dt_s == pytest.approx(original.control_timestep(), abs=1e-12)
    np.testing.assert_array_equal(original.action_spec().minimum, env.specs.action_low)
    np.testing.assert_array_equal(original.action_spec().maximum, env.specs.action_high)
    first = env.reset()["policy"]
    assert first.shape == (2, len(flat(original.reset().observation)))
    env.age[0] = env.max_steps - 2
    action = torch.zeros(2, env.specs.action_dim)
    assert not env.step(action).done.any()
    step = env.step(action)
    assert step.truncated.tolist() == [True, False]
    assert not step.terminated.any()
    assert env.step(action).done.tolist() == [False, False]


def test_the_models_are_dm_controls() -> None:
    for name in (
        "cartpole_balance",
        "cheetah_run",
        "walker_run",
        "hopper_hop",
        "reacher_hard",
        "pendulum_swingup",
    ):
        ours = make_task(name).build_model()
        original = load_original(*TASKS[name])
        original.reset()
        theirs = original.physics.model
        for field in ("body_mass", "body_inertia", "jnt_range", "dof_armature", "geom_size", "actuator_gear"):
            np.testing.assert_allclose(
                getattr(ours, field), getattr(theirs, field), rtol=1e-14, err_msg=field
            )


RESETS = 300
SETTLED_RESETS = 60


@pytest.mark.parametrize("name", [name for name in TASKS if "sparse" not in name])
def test_initial_states_are_distributed_as_dm_controls(name: str) -> None:
    resets = SETTLED_RESETS if name == "cheetah_run" else RESETS
    env = VecEnv(make_task(name), resets, seed=11, num_threads=2)
    env.reset()
    original = load_original(*TASKS[name], 7)
    theirs = []
    for _ in range(resets):
        original.reset()
        state = [original.physics.data.qpos, original.physics.data.qvel]
        theirs.append(np.concatenate([*state, original.physics.model.geom_pos.ravel()]))
    geom_pos = torch.as_tensor(env.sim.model.geom_pos).expand(resets, -1, -1)
    if name.startswith("reacher"):
        geom_pos = env.sim.param("geom_pos")
    ours = torch.cat([env.sim.data("qpos"), env.sim.data("qvel"), geom_pos.flatten(1)], dim=1).numpy()
    columns = 0
    for mine, reference in zip(ours.T, np.array(theirs).T, strict=True):
        if np.ptp(reference) < 1e-9:
            np.testing.assert_allclose(mine, reference, atol=1e-9)
            continue
        columns += 1
        assert stats.ks_2samp(mine, reference).pvalue > 1e-3
    assert columns >= 1


def test_initial_states_stay_in_their_ranges_and_reach_the_ends() -> None:
    def drawn(name: str) -> tuple[VecEnv, torch.Tensor]:
        env = VecEnv(make_task(name), 500, seed=2, num_threads=2)
        env.reset()
        return env, env.sim.data("qpos")

    _, qpos = drawn("pendulum_swingup")
    assert -np.pi <= qpos.min() < -3.0 and 3.0 < qpos.max() <= np.pi
    env, qpos = drawn("walker_walk")
    for joint in range(3, env.sim.model.njnt):
        low, high = env.sim.model.jnt_range[joint]
        assert low <= qpos[:, joint].min() < low + 0.02 * (high - low)
        assert high >= qpos[:, joint].max() > high - 0.02 * (high - low)
    assert (qpos[:, :2] == 0).all()
    env, qpos = drawn("ball_in_cup_catch")
    assert (env.sim.data("ncon") == 0).all()
    assert -0.2 <= qpos[:, 2].min() < -0.19 and 0.19 < qpos[:, 2].max() <= 0.2
    assert 0.2 <= qpos[:, 3].min() < 0.21 and 0.49 < qpos[:, 3].max() <= 0.5
    env, _ = drawn("reacher_hard")
    distance = env.sim.param("geom_pos")[:, env.sim.named("geom", "target").id, :2].norm(dim=1)
    assert 0.05 <= distance.min() < 0.052 and 0.198 < distance.max() <= 0.2


def test_cheetah_settles_as_dm_controls_and_leaves_the_others_alone() -> None:
    env = VecEnv(make_task("cheetah_run"), 4, seed=0, num_threads=2)
    env.reset()
    sim = env.sim
    before = sim.batch.state.copy()
    ids = torch.tensor([1, 3])
    sim.reset(ids)
    rng = torch.Generator().manual_seed(9)
    env.task.reset(sim, ids, rng)
    np.testing.assert_array_equal(sim.batch.state[[0, 2]], before[[0, 2]])
    assert (sim.data("time") == 0).all()

    original = load_original("cheetah", "run")
    original.reset()
    physics = original.physics
    limited = physics.model.jnt_limited == 1
    low, high = physics.model.jnt_range[limited].T
    draws = torch.rand(2, int(limited.sum()), dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    for row, draw in zip(ids.tolist(), draws.numpy(), strict=True):
        physics.reset()
        physics.data.qpos[limited] = low + (high - low) * draw
        physics.forward()
        physics.step(200)
        np.testing.assert_allclose(sim.data("qpos")[row], physics.data.qpos, atol=1e-8)
        np.testing.assert_allclose(sim.data("qvel")[row], physics.data.qvel, atol=1e-8)


@pytest.mark.parametrize("name", TASKS)
def test_reset_depends_on_the_seed_alone(name: str) -> None:
    draws = [VecEnv(make_task(name), 3, seed, num_threads=1) for seed in (4, 4, 5)]
    a, b, c = (env.reset()["policy"] for env in draws)
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_impossible_options_are_refused() -> None:
    with pytest.raises(UsageError, match="move_speed_m_s"):
        Walker(move_speed_m_s=-1.0)
    with pytest.raises(UsageError, match="hop_speed_m_s"):
        Hopper(hop_speed_m_s=float("nan"))
    with pytest.raises(UsageError, match="run_speed_m_s"):
        Cheetah(run_speed_m_s=0.0)
    with pytest.raises(UsageError, match="target_radius_m"):
        Reacher(target_radius_m=0.0)


def test_every_task_file_starts_with_its_description() -> None:
    for name in TASKS:
        first, second = (CONFIGS / "task" / f"{name}.yaml").read_text().splitlines()[:2]
        assert first.startswith("# ") and len(first) > 20
        assert second.startswith("_target_: robotrl.tasks.control_suite.")
