"""Acrobot, poles on a cart, finger, fish, point mass, swimmer and LQR against dm_control's own."""

from __future__ import annotations

import math
from typing import Any

import mujoco
import numpy as np
import pytest
import torch
from dm_control_parity import check_steps, copy_state, flat, load_original, make_task, total
from scipy import stats

from robotrl.core.errors import UsageError
from robotrl.core.paths import CONFIGS
from robotrl.envs.vec_env import VecEnv
from robotrl.sim.batch_sim import BatchSim
from robotrl.tasks.control_suite.cartpole import Cartpole
from robotrl.tasks.control_suite.finger import FingerTurn
from robotrl.tasks.control_suite.lqr import Lqr
from robotrl.tasks.control_suite.point_mass import random_directions
from robotrl.tasks.control_suite.swimmer import Swimmer

TASKS = {
    "acrobot_swingup": ("acrobot", "swingup"),
    "acrobot_swingup_sparse": ("acrobot", "swingup_sparse"),
    "cartpole_two_poles": ("cartpole", "two_poles"),
    "cartpole_three_poles": ("cartpole", "three_poles"),
    "finger_spin": ("finger", "spin"),
    "finger_turn_easy": ("finger", "turn_easy"),
    "finger_turn_hard": ("finger", "turn_hard"),
    "fish_upright": ("fish", "upright"),
    "fish_swim": ("fish", "swim"),
    "point_mass_easy": ("point_mass", "easy"),
    "point_mass_hard": ("point_mass", "hard"),
    "swimmer_swimmer6": ("swimmer", "swimmer6"),
    "swimmer_swimmer15": ("swimmer", "swimmer15"),
    "lqr_lqr_2_1": ("lqr", "lqr_2_1"),
    "lqr_lqr_6_2": ("lqr", "lqr_6_2"),
}
LQR = [name for name in TASKS if name.startswith("lqr")]
# model fields that dm_control draws anew in each episode
DRAWN = {
    "finger_turn_easy": {"site_pos"},
    "finger_turn_hard": {"site_pos"},
    "fish_swim": {"geom_pos"},
    "point_mass_hard": {"wrap_prm"},
    "swimmer_swimmer6": {"geom_pos", "light_pos"},
    "swimmer_swimmer15": {"geom_pos", "light_pos"},
}


@pytest.mark.parametrize("name", TASKS)
def test_same_observations_and_rewards_as_dm_control(name: str) -> None:
    # dm_control's copies of an LQR task are different systems
    check_steps(name, *TASKS[name], num_envs=1 if name in LQR else 3, tolerance=1e-12)


def public_values(struct: Any, prefix: str = "") -> dict[str, Any]:
    """Numbers, arrays and names of a MuJoCo struct, those of opt, stat and vis included."""
    values: dict[str, Any] = {}
    for name in dir(struct):
        value = getattr(struct, name) if not name.startswith("_") else None
        if isinstance(value, np.ndarray | int | float | bytes):
            values[prefix + name] = np.asarray(value)
        elif type(value).__module__.startswith("mujoco") and not callable(value):
            values |= public_values(value, f"{prefix}{name}.")
    return values


@pytest.mark.parametrize("name", TASKS)
def test_the_model_is_dm_controls_in_every_field(name: str) -> None:
    original = load_original(*TASKS[name])
    original.reset()
    ours, theirs = public_values(make_task(name).build_model()), public_values(original.physics.model.ptr)
    assert ours.keys() == theirs.keys() and {"names", "opt.timestep", "vis.map.zfar"} < ours.keys()
    differing = {field for field in ours if not np.array_equal(ours[field], theirs[field])}
    assert differing == DRAWN.get(name, set())


def near_reward(name: str, sim: BatchSim, rng: torch.Generator) -> None:
    """Draw states around the place where the reward is paid, targets as they are."""
    qpos, qvel, n = sim.data("qpos"), sim.data("qvel"), sim.num_envs

    def between(*half_widths: float) -> torch.Tensor:
        draws = 2 * torch.rand(n, len(half_widths), dtype=torch.float64, generator=rng) - 1
        return torch.tensor(half_widths, dtype=torch.float64) * draws

    qvel.copy_(3 * torch.randn(n, sim.model.nv, dtype=torch.float64, generator=rng))
    if name.startswith("acrobot"):
        qpos.copy_(between(0.2, 0.2) if name.endswith("sparse") else between(2.0, 2.0))
    elif name.startswith("cartpole"):
        qpos.copy_(between(1.5, 0.5, *[1.0] * (sim.model.nq - 2)))
    elif name == "finger_spin":
        qvel[:, 2] *= 5
    elif name.startswith("finger"):
        target = sim.named("site", "target").id
        x, _, z = (sim.param("site_pos")[:, target] - torch.tensor([0.2, 0.0, 0.4])).unbind(1)
        qpos[:, 2] = between(1.0)[:, 0] - torch.atan2(x, z)
    elif name == "fish_swim":
        qpos[:, :3] = sim.param("geom_pos")[:, sim.named("geom", "target").id] + between(0.15, 0.15, 0.15)
    elif name.startswith("point_mass"):
        qpos.copy_(between(0.03, 0.03))
    elif name.startswith("swimmer"):
        target = sim.param("geom_pos")[:, sim.named("geom", "target").id, :2]
        qpos[:, :2] = target + between(1.0, 1.0)
    elif name in LQR:
        qpos.copy_(between(*[0.3] * sim.model.nq))


@pytest.mark.parametrize("name", TASKS)
def test_same_rewards_where_they_are_paid(name: str) -> None:
    env = VecEnv(make_task(name), 200, seed=5, num_threads=2)
    env.reset()
    sim, rng = env.sim, torch.Generator().manual_seed(1)
    near_reward(name, sim, rng)
    ctrl = env._to_ctrl(2 * torch.rand(200, env.specs.action_dim, generator=rng) - 1)
    sim.data("ctrl").copy_(ctrl)
    sim.forward()
    rewards = total(env.task.reward_terms(sim, ctrl))
    original = load_original(*TASKS[name])
    original.reset()
    theirs = np.empty(200)
    for row in range(200):
        copy_state(sim, row, original.physics)
        theirs[row] = original.task.get_reward(original.physics)
    np.testing.assert_allclose(rewards, theirs, rtol=0, atol=1e-12)
    assert theirs.min() < 0.35 and theirs.max() > 0.65, "the states must tell rewards apart"


@pytest.mark.parametrize("name", TASKS)
def test_same_interface_and_time_limit_as_dm_control(name: str) -> None:
    env = VecEnv(make_task(name), 2, num_threads=1)
    original = load_original(*TASKS[name])
    assert env.specs.control_dt_s == pytest.approx(original.control_timestep(), abs=1e-12)
    if name in LQR:  # no limits in dm_control
        assert original._step_limit == math.inf and env.max_steps == 1000
        assert (original.action_spec().maximum == mujoco.mjMAXVAL).all()
        assert env.specs.action_low.tolist() == [-10.0] * env.specs.action_dim
    else:
        assert env.max_steps == original._step_limit
        np.testing.assert_array_equal(original.action_spec().minimum, env.specs.action_low)
        np.testing.assert_array_equal(original.action_spec().maximum, env.specs.action_high)
    assert original.action_spec().shape == (env.specs.action_dim,)
    first = env.reset()["policy"]
    assert first.shape == (2, len(flat(original.reset().observation)))
    env.age[0] = env.max_steps - 2
    action = torch.zeros(2, env.specs.action_dim)
    assert not env.step(action).done.any()
    step = env.step(action)
    assert step.truncated.tolist() == [True, False]
    assert not step.terminated.any()
    assert env.step(action).done.tolist() == [False, False]


RESETS = 300
RANDOMIZABLE = ("geom_pos", "site_pos", "light_pos", "wrap_prm")


@pytest.mark.parametrize("name", [name for name in TASKS if "sparse" not in name])
def test_initial_states_are_distributed_as_dm_controls(name: str) -> None:
    env = VecEnv(make_task(name), RESETS, seed=11, num_threads=2)
    env.reset()
    assert env.sim.expanded().keys() & set(RANDOMIZABLE) == DRAWN.get(name, set())
    original = load_original(*TASKS[name], 1)
    theirs = []
    for _ in range(RESETS):
        original.reset()
        physics = original.physics
        fields = [getattr(physics.model, field).ravel() for field in RANDOMIZABLE]
        theirs.append(np.concatenate([physics.data.qpos, physics.data.qvel, *fields]))
    fields = [env.sim.param(field).flatten(1) for field in RANDOMIZABLE]
    ours = torch.cat([env.sim.data("qpos"), env.sim.data("qvel"), *fields], dim=1).numpy()
    columns = 0
    for mine, reference in zip(ours.T, np.array(theirs).T, strict=True):
        if np.ptp(reference) < 1e-9:
            np.testing.assert_allclose(mine, reference, atol=1e-9)
            continue
        columns += 1
        assert stats.ks_2samp(mine, reference).pvalue > 1e-3
    assert columns >= 2


def drawn(name: str, number: int = 500) -> VecEnv:
    env = VecEnv(make_task(name), number, seed=2, num_threads=2)
    env.reset()
    return env


def test_initial_states_stay_in_their_ranges_and_reach_the_ends() -> None:
    def check(values: torch.Tensor, low: float, high: float) -> None:
        assert low <= values.min() < low + 0.02 * (high - low)
        assert high >= values.max() > high - 0.02 * (high - low)

    check(drawn("acrobot_swingup").sim.data("qpos"), -math.pi, math.pi)
    check(drawn("point_mass_easy").sim.data("qpos"), -0.29, 0.29)
    sim = drawn("fish_swim").sim
    check(sim.data("qpos")[:, 7:], -0.2, 0.2)
    target = sim.param("geom_pos")[:, sim.named("geom", "target").id]
    check(target[:, :2], -0.4, 0.4)
    check(target[:, 2], 0.1, 0.3)
    sim = drawn("swimmer_swimmer15").sim
    check(sim.data("qpos")[:, 2], -math.pi, math.pi)
    check(sim.data("qpos")[:, 3:], -math.radians(24), math.radians(24))
    check(sim.param("geom_pos")[:, sim.named("geom", "target").id, :2], -2.0, 2.0)
    qpos = drawn("cartpole_three_poles").sim.data("qpos")
    torch.testing.assert_close(qpos.std(0), torch.tensor([0.01, 0.01, 0.1, 0.1]).double(), rtol=0.1, atol=0)


def test_what_resets_draw_together_belongs_together() -> None:
    """What the distributions of single coordinates do not show."""
    sim = drawn("fish_swim").sim
    torch.testing.assert_close(sim.data("qpos")[:, 3:7].norm(dim=1), torch.ones(500).double())
    sim = drawn("lqr_lqr_6_2").sim
    torch.testing.assert_close(sim.data("qpos").norm(dim=1), torch.full((500,), math.sqrt(2)).double())
    env = drawn("finger_turn_hard")
    assert (env.sim.data("ncon") == 0).all()
    radius = env.task.target_position(env.sim).norm(dim=1)
    torch.testing.assert_close(radius, torch.full((500,), 0.13).double())
    sim = drawn("swimmer_swimmer6", 1000).sim
    target = sim.param("geom_pos")[:, sim.named("geom", "target").id, :2]
    lamp = sim.param("light_pos")[:, sim.named("light", "target_light").id, :2]
    assert torch.equal(target, lamp)
    # 0.2 near targets and 0.8 far ones, of which a share of 0.15^2 lies in the near box
    assert abs((target.abs() < 0.3).all(1).double().mean() - (0.2 + 0.8 * 0.15**2)) < 0.04


def test_random_directions_are_uniform_where_not_too_parallel() -> None:
    first, second = random_directions(4000, torch.Generator().manual_seed(0)).unbind(1)
    for directions in (first, second):
        torch.testing.assert_close(directions.norm(dim=1), torch.ones(4000).double())
    cosine, sine = (first * second).sum(1), first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]
    assert cosine.abs().max() <= 0.9 + 1e-12
    between = torch.atan2(sine, cosine)  # uniform on both sides of the first direction
    low, high = math.acos(0.9), math.pi - math.acos(0.9)
    for side in (between, -between):
        angles = side[side > 0]
        assert 1850 < len(angles) < 2150
        assert stats.kstest(angles.numpy(), "uniform", (low, high - low)).pvalue > 1e-3


def test_forces_act_along_the_drawn_directions() -> None:
    env = drawn("point_mass_hard", 8)
    sim = env.sim
    directions = sim.param("wrap_prm").unflatten(1, (2, 2)).clone()
    env.step(torch.tensor([[1.0, 0.0]]).expand(8, 2))
    torch.testing.assert_close(sim.data("qfrc_actuator"), 0.1 * directions[:, 0])
    assert torch.unique(directions[:, 0, 0]).numel() == 8


@pytest.mark.parametrize("name", LQR)
def test_lqr_ends_at_rest_as_dm_controls(name: str) -> None:
    env = VecEnv(make_task(name), 100, num_threads=1)
    env.reset()
    sim, rng = env.sim, torch.Generator().manual_seed(0)
    state = torch.randn(100, 2 * sim.model.nq, dtype=torch.float64, generator=rng)
    state *= torch.linspace(0, 2e-6, 100).unsqueeze(1) / state.norm(dim=1, keepdim=True)
    position, velocity = state.chunk(2, dim=1)
    sim.data("qpos").copy_(position)
    sim.data("qvel").copy_(velocity)
    sim.forward()
    original = load_original(*TASKS[name])
    original.reset()
    for row, ended in enumerate(env.task.terminated(sim)):
        copy_state(sim, row, original.physics)
        assert original.task.get_termination(original.physics) == (0.0 if ended else None)

    sim.data("qpos")[1:] = 1.0
    step = env.step(torch.zeros(100, env.specs.action_dim))
    assert step.terminated.nonzero().flatten().tolist() == [0]
    assert not step.truncated.any()
    assert step.reward[0] == 1.0


def test_a_system_seed_names_the_same_lqr_system_as_in_dm_control() -> None:
    original = load_original("lqr", "lqr_6_2", 3)
    model = Lqr(num_bodies=6, num_actuators=2, system_seed=3).build_model()
    np.testing.assert_array_equal(model.jnt_stiffness, original.physics.model.jnt_stiffness)
    other = Lqr(num_bodies=6, num_actuators=2, system_seed=4).build_model()
    assert not np.isin(other.jnt_stiffness, model.jnt_stiffness).any()
    assert (other.jnt_stiffness > 15).all() and (other.jnt_stiffness < 25).all()


def test_lqr_reward_by_hand() -> None:
    task = Lqr(control_cost_weight=0.2)
    sim = BatchSim(task.build_model(), 1, num_threads=1)
    sim.data("qpos").copy_(torch.tensor([[0.6, -0.8]]))
    terms = task.reward_terms(sim, torch.tensor([[3.0]]).double())
    assert terms["position"].item() == pytest.approx(1 - (0.36 + 0.64) / 2)
    assert terms["control_cost"].item() == pytest.approx(-0.2 * 9 / 2)


@pytest.mark.parametrize(("num_poles", "swing_up", "sparse"), [(2, False, True), (4, True, False)])
def test_any_number_of_poles(num_poles: int, swing_up: bool, sparse: bool) -> None:
    env = VecEnv(Cartpole(num_poles, swing_up, sparse), 20, num_threads=1)
    obs = env.reset()["policy"]
    assert obs.shape == (20, 2 + 3 * num_poles)
    cosines = obs[:, 1 : 1 + 2 * num_poles : 2]
    assert (cosines < 0).all() if swing_up else (cosines > 0.99).all()
    reward = env.step(torch.zeros(20, 1)).reward
    assert (reward < 0.3).all() if swing_up else (reward == 1).all()


@pytest.mark.parametrize("name", TASKS)
def test_reset_depends_on_the_seed_alone(name: str) -> None:
    draws = [VecEnv(make_task(name), 3, seed, num_threads=1) for seed in (4, 4, 5)]
    a, b, c = (env.reset()["policy"] for env in draws)
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


@pytest.mark.parametrize("name", TASKS)
def test_a_reset_leaves_the_other_simulations_alone(name: str) -> None:
    env = VecEnv(make_task(name), 4, seed=0, num_threads=1)
    env.reset()
    before = [env.sim.batch.state.copy(), *(v.numpy().copy() for v in env.sim.expanded().values())]
    env._reset(torch.tensor([1, 3]))
    after = [env.sim.batch.state, *(values.numpy() for values in env.sim.expanded().values())]
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(new[[0, 2]], old[[0, 2]])
        assert not np.array_equal(new[1], old[1]) and not np.array_equal(new[3], old[3])


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        (Cartpole, {"num_poles": 0}, "num_poles must be 1 or more, got 0"),
        (FingerTurn, {"target_radius_m": 0.0}, "target_radius_m must be above 0 m, got 0.0"),
        (FingerTurn, {"target_radius_m": math.nan}, "target_radius_m must be above 0 m, got nan"),
        (Swimmer, {"num_links": 2}, "num_links must be 3 or more, got 2"),
        (Lqr, {"num_bodies": 0}, "num_bodies must be 1 or more, got 0"),
        (Lqr, {"num_actuators": 3}, "num_actuators must be from 1 to num_bodies=2, got 3"),
        (Lqr, {"num_actuators": 0}, "num_actuators must be from 1 to num_bodies=2, got 0"),
        (Lqr, {"system_seed": -1}, "system_seed must be from 0 to 2**32 - 1, got -1"),
        (Lqr, {"control_cost_weight": 0.0}, "control_cost_weight must be above 0 and finite, got 0.0"),
        (Lqr, {"force_limit_n": math.inf}, "force_limit_n must be above 0 and finite, got inf"),
    ],
)
def test_impossible_options_are_refused(task: type, options: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        task(**options)
    assert str(caught.value) == message


def test_every_task_file_starts_with_its_description() -> None:
    for name, (domain, task) in TASKS.items():
        first, second = (CONFIGS / "task" / f"{name}.yaml").read_text().splitlines()[:2]
        assert first.startswith("# ") and first.endswith(f"(DM Control {domain} {task})")
        assert second.startswith(f"_target_: robotrl.tasks.control_suite.{domain}.")
