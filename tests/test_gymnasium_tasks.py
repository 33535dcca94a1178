"""The Gymnasium tasks against Gymnasium itself, step by step from the same states and actions."""

from __future__ import annotations

import pytest
import torch
from gymnasium_parity import compare_resets, compare_steps, compare_vec_env

from robotrl.core.errors import UsageError
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


@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_float64_parity_without_resets(name, options, tmp_path, monkeypatch):
    """Observation, every reward term and the end state, to the last float64 digits that physics leaves."""
    monkeypatch.chdir(tmp_path)  # MuJoCo logs its warnings about Gymnasium's models into the folder
    # the cheetah's masses differ in the last bit, which contacts amplify over many steps
    found = compare_steps(name, TASKS[name](**options), options, INFO, resync=name == "HalfCheetah-v5")
    assert found.worst() < 1e-11
    if name in ("Hopper-v5", "Walker2d-v5") or "healthy_z_range" in options:
        assert found.ends > 20  # the comparison has met unhealthy states
    if name == "Ant-v5":
        assert found.contact_force > 20  # and contacts


@pytest.mark.parametrize("name", TASKS)
def test_parity_through_vec_env_with_resets(name, tmp_path, monkeypatch):
    """The float32 `Step`, across ends of episodes and the first steps after them."""
    monkeypatch.chdir(tmp_path)
    ends, limits = compare_vec_env(name, TASKS[name](), ages=[0, 850, 950], resync=name == "HalfCheetah-v5")
    if name in ("Hopper-v5", "Walker2d-v5"):
        assert ends > 5
    if name == "HalfCheetah-v5":
        assert limits == 2


@pytest.mark.parametrize("name", TASKS)
def test_reset_distribution(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    compare_resets(name, TASKS[name]())


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
