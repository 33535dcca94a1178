"""The Gymnasium tasks against Gymnasium itself, step by step from the same states and actions."""

from __future__ import annotations

import warnings

import gymnasium
import mujoco
import numpy as np
import pytest
import torch

from robotrl.core.errors import UsageError
from robotrl.core.types import ObsTerm
from robotrl.envs.vec_env import VecEnv
from robotrl.tasks.gymnasium.ant import Ant
from robotrl.tasks.gymnasium.half_cheetah import HalfCheetah
from robotrl.tasks.gymnasium.hopper import Hopper
from robotrl.tasks.gymnasium.walker2d import Walker2d
from robotrl.tasks.task import Task

TASKS: dict[str, type[Task]] = {
    "HalfCheetah-v5": HalfCheetah,
    "Hopper-v5": Hopper,
    "Walker2d-v5": Walker2d,
    "Ant-v5": Ant,
}
# our reward term -> the name in Gymnasium's info
INFO = {
    "forward": "reward_forward",
    "ctrl_cost": "reward_ctrl",
    "healthy": "reward_survive",
    "contact_cost": "reward_contact",
}
OPTIONS = [
    ("HalfCheetah-v5", {}),
    ("HalfCheetah-v5", {"forward_reward_weight": 2.0, "exclude_current_positions_from_observation": False}),
    ("Hopper-v5", {}),
    ("Hopper-v5", {"healthy_state_range": (-2.0, 3.0), "healthy_angle_range": (-0.1, 0.3)}),
    ("Walker2d-v5", {}),
    ("Walker2d-v5", {"healthy_z_range": (1.0, 1.6), "healthy_reward": 0.3, "ctrl_cost_weight": 0.1}),
    ("Ant-v5", {}),
    ("Ant-v5", {"contact_force_range": (-30.0, 50.0), "healthy_z_range": (0.4, 0.8), "main_body": "aux_1"}),
    ("Ant-v5", {"include_cfrc_ext_in_observation": False, "contact_cost_weight": 0.0}),
    ("Ant-v5", {"exclude_current_positions_from_observation": False, "terminate_when_unhealthy": False}),
]
STEPS = 250
NUM_ENVS = 3


def original(name: str, **options):
    """Gymnasium's own environment without wrappers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return gymnasium.make(name, **options).unwrapped


def copy_state(env: VecEnv, row: int, gym_env) -> None:
    """Put Gymnasium into the state of one of our simulations, as after a reset."""
    mujoco.mj_resetData(gym_env.model, gym_env.data)
    gym_env.set_state(env.sim.data("qpos")[row].numpy(), env.sim.data("qvel")[row].numpy())


def copy_integration_state(env: VecEnv, row: int, gym_env) -> None:
    spec = int(mujoco.mjtState.mjSTATE_INTEGRATION)
    mujoco.mj_setState(gym_env.model, gym_env.data, env.sim.batch.state[row], spec)


def flat(values: dict[str, torch.Tensor], terms: tuple[ObsTerm, ...]) -> np.ndarray:
    return torch.cat([values[term.name].reshape(NUM_ENVS, -1) for term in terms], 1).numpy()


@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_float64_parity_without_resets(name, options, tmp_path, monkeypatch):
    """Observation, every reward term and the end state, to the last float64 digits that physics leaves."""
    monkeypatch.chdir(tmp_path)  # MuJoCo logs its warnings about Gymnasium's models into the folder
    task = TASKS[name](**options)
    env = VecEnv(task, NUM_ENVS, seed=1, num_threads=1)
    env.reset()
    originals = [original(name, **options) for _ in range(NUM_ENVS)]
    for row, gym_env in enumerate(originals):
        copy_state(env, row, gym_env)
    terms = env.specs.observation["policy"]
    rng = np.random.default_rng(0)
    worst = {"obs": 0.0, "reward": 0.0, "term": 0.0}
    seen_end, seen_force = 0, 0.0
    for _ in range(STEPS):
        actions = rng.uniform(-1, 1, (NUM_ENVS, env.specs.action_dim))
        if name == "HalfCheetah-v5":
            # its masses differ in the last bit, which contacts amplify over many steps
            for row, gym_env in enumerate(originals):
                copy_integration_state(env, row, gym_env)
        task.before_step(env.sim)
        ctrl = torch.from_numpy(actions)
        env.sim.step(ctrl, env.substeps)
        # the order of VecEnv
        obs = flat(task.observe(env.sim)["policy"], terms)
        rewards = task.reward_terms(env.sim, ctrl)
        terminated = task.terminated(env.sim)
        for row, gym_env in enumerate(originals):
            true_obs, true_reward, true_end, _, info = gym_env.step(actions[row])
            assert true_obs.shape == obs[row].shape
            worst["obs"] = max(worst["obs"], np.abs(true_obs - obs[row]).max())
            ours = sum(float(values[row]) for values in rewards.values())
            worst["reward"] = max(worst["reward"], abs(true_reward - ours))
            for term, values in rewards.items():
                worst["term"] = max(worst["term"], abs(info[INFO[term]] - float(values[row])))
            assert (False if terminated is None else bool(terminated[row])) == true_end
            seen_end += true_end
            seen_force = max(seen_force, np.abs(gym_env.data.cfrc_ext[1:]).max())
    print(f"{name} {options}: {worst}")
    # once in a thousand steps Gymnasium's constraint solver stops early, and rounding shows in the forces
    tolerance = 1e-7 if name == "Ant-v5" else 1e-11
    assert max(worst.values()) < tolerance
    if name in ("Hopper-v5", "Walker2d-v5") or "healthy_z_range" in options:
        assert seen_end > 20  # the comparison has met unhealthy states
    if name == "Ant-v5":
        assert seen_force > 20  # and contacts


@pytest.mark.parametrize("name", TASKS)
def test_parity_through_vec_env_with_resets(name, tmp_path, monkeypatch):
    """The float32 `Step`, across ends of episodes and the first steps after them."""
    monkeypatch.chdir(tmp_path)
    env = VecEnv(TASKS[name](), NUM_ENVS, seed=2, num_threads=1)
    obs = env.reset()["policy"]
    originals = [original(name) for _ in range(NUM_ENVS)]
    for row, gym_env in enumerate(originals):
        copy_state(env, row, gym_env)
        np.testing.assert_allclose(obs[row], gym_env._get_obs(), rtol=1e-6, atol=1e-9)
    env.age[:] = torch.tensor([0, 850, 950])  # meet the time limit of 1000 steps, too
    rng = np.random.default_rng(3)
    ends, limits = 0, 0
    for _ in range(200):
        actions = torch.from_numpy(rng.uniform(-1, 1, (NUM_ENVS, env.specs.action_dim)))
        if name == "HalfCheetah-v5":
            for row, gym_env in enumerate(originals):
                copy_integration_state(env, row, gym_env)
        step = env.step(actions)
        assert bool(step.valid.all())
        for row, gym_env in enumerate(originals):
            true_obs, true_reward, true_end, _, _ = gym_env.step(actions[row].numpy())
            np.testing.assert_allclose(step.final_obs["policy"][row], true_obs, rtol=1e-6, atol=1e-6)
            assert float(step.reward[row]) == pytest.approx(true_reward, rel=1e-6, abs=1e-6)
            assert bool(step.terminated[row]) == true_end
            ends += true_end
            limits += int(step.truncated[row])
            if step.done[row]:
                copy_state(env, row, gym_env)
                first = gym_env._get_obs()
                np.testing.assert_allclose(step.obs["policy"][row], first, rtol=1e-6, atol=1e-9)
            else:
                assert torch.equal(step.obs["policy"][row], step.final_obs["policy"][row])
    assert env.max_steps == gymnasium.spec(name).max_episode_steps
    if name in ("Hopper-v5", "Walker2d-v5"):
        assert ends > 5
    if name == "HalfCheetah-v5":
        assert limits == 2


@pytest.mark.parametrize("name", TASKS)
def test_reset_distribution(name, tmp_path, monkeypatch):
    """Every position and velocity has Gymnasium's distribution (two-sample Kolmogorov-Smirnov)."""
    from scipy.stats import ks_2samp

    monkeypatch.chdir(tmp_path)
    env = VecEnv(TASKS[name](), 1000, seed=4, num_threads=1)
    env.reset()
    ours = torch.cat([env.sim.data("qpos"), env.sim.data("qvel")], 1).numpy()
    gym_env = original(name)
    gym_env.reset(seed=5)
    theirs = np.array([(gym_env.reset(), gym_env.state_vector())[1] for _ in range(1000)])
    p_values = [ks_2samp(ours[:, i], theirs[:, i]).pvalue for i in range(ours.shape[1])]
    assert min(p_values) > 1e-3
    # the draws of different quantities and simulations are independent
    correlation = np.corrcoef(ours.T) - np.eye(ours.shape[1])
    assert np.abs(correlation).max() < 0.15


@pytest.mark.parametrize("name", TASKS)
def test_terms_name_the_flat_observation(name):
    """Elements are as many as Gymnasium's, each term has one unit and unique names."""
    task = TASKS[name]()
    terms = task.observation_terms(task.build_model())["policy"]
    sizes = {"HalfCheetah-v5": 17, "Hopper-v5": 11, "Walker2d-v5": 17, "Ant-v5": 105}
    assert sum(term.size for term in terms) == sizes[name]
    assert len({term.name for term in terms}) == len(terms)


@pytest.mark.parametrize("task", [Hopper(), Walker2d()])
def test_velocities_are_clipped_to_the_declared_bounds(task):
    env = VecEnv(task, 1, num_threads=1)
    env.reset()
    env.sim.data("qvel")[:] = torch.linspace(-50, 50, env.sim.model.nv, dtype=torch.float64)
    observed = task.observe(env.sim)["policy"]
    for term in env.specs.observation["policy"]:
        if term.unit in ("m/s", "rad/s"):
            assert (term.low, term.high) == (-10.0, 10.0)
            assert observed[term.name].abs().max() <= 10.0
    assert observed["root_velocity"][0, 0] == -10.0
    assert observed["joint_velocity"][0, -1] == 10.0


def test_no_model_prints_a_warning(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    for task in TASKS.values():
        task().build_model()
    assert capfd.readouterr() == ("", "")
    assert not list(tmp_path.iterdir())


def test_half_cheetah_weighs_14_kg():
    assert HalfCheetah().build_model().body_mass.sum() == pytest.approx(14.0, abs=1e-12)


def test_one_ant_task_serves_two_environments():
    """What the task remembers of one environment's step never reaches the other."""
    shared = Ant()
    first, second = VecEnv(shared, 2, seed=0, num_threads=1), VecEnv(shared, 3, seed=1, num_threads=1)
    alone = VecEnv(Ant(), 2, seed=0, num_threads=1)
    assert torch.equal(first.reset()["policy"], alone.reset()["policy"])
    generator = torch.Generator().manual_seed(0)
    for _ in range(30):
        action = torch.rand(2, 8, generator=generator) * 2 - 1
        step, expected = first.step(action), alone.step(action)
        second.reset()
        second.step(torch.zeros(3, 8))
        assert torch.equal(step.obs["policy"], expected.obs["policy"])
        assert torch.equal(step.reward, expected.reward)


def test_ant_resumes_bit_for_bit_in_a_fresh_environment():
    """Its forward velocity is a difference of lagging outputs, which belong to the state."""
    env = VecEnv(Ant(), 2, seed=0, num_threads=1)
    env.reset()
    generator = torch.Generator().manual_seed(0)
    actions = torch.rand(40, 2, 8, generator=generator) * 2 - 1
    for action in actions[:20]:
        env.step(action)
    resumed = VecEnv(Ant(), 2, seed=9, num_threads=1)
    resumed.load_state_dict(env.state_dict())
    for action in actions[20:]:
        step, again = env.step(action), resumed.step(action)
        assert torch.equal(step.obs["policy"], again.obs["policy"])
        assert torch.equal(step.reward, again.reward)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Hopper(healthy_z_range=(2.0, 1.0)), "healthy_z_range must be"),
        (lambda: Hopper(healthy_state_range=(1.0,)), "healthy_state_range must be"),
        (lambda: Walker2d(healthy_angle_range=(0.0, float("nan"))), "healthy_angle_range must be"),
        (lambda: Ant(contact_force_range=(1.0, -1.0)), "contact_force_range must be"),
        (lambda: HalfCheetah(reset_noise_scale=-0.1), "reset_noise_scale must be"),
        (lambda: Ant(main_body="torsoo").build_model(), "did you mean 'torso'"),
    ],
)
def test_impossible_options(make, message):
    with pytest.raises(UsageError, match=message):
        make()
