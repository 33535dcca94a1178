"""Pendulums, arms, swimmer and humanoids against Gymnasium itself, from the same states and actions."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch
import yaml
from gymnasium_parity import compare_resets, compare_steps, compare_vec_env, original

from robotrl.core.errors import UsageError
from robotrl.core.paths import CONFIGS
from robotrl.envs.vec_env import VecEnv
from robotrl.sim.actuators import Actuator, Kind
from robotrl.sim.sim import Stage
from robotrl.tasks.gymnasium.ant import Ant
from robotrl.tasks.gymnasium.humanoid import Humanoid
from robotrl.tasks.gymnasium.humanoid_standup import HumanoidStandup
from robotrl.tasks.gymnasium.inverted_double_pendulum import InvertedDoublePendulum
from robotrl.tasks.gymnasium.inverted_pendulum import InvertedPendulum
from robotrl.tasks.gymnasium.options import rejection_sample
from robotrl.tasks.gymnasium.pusher import Pusher
from robotrl.tasks.gymnasium.reacher import Reacher
from robotrl.tasks.gymnasium.swimmer import Swimmer
from robotrl.tasks.realism import Realism
from robotrl.tasks.task import Task

TASKS: dict[str, type[Task]] = {
    "InvertedPendulum-v5": InvertedPendulum,
    "InvertedDoublePendulum-v5": InvertedDoublePendulum,
    "Reacher-v5": Reacher,
    "Pusher-v5": Pusher,
    "Swimmer-v5": Swimmer,
    "Humanoid-v5": Humanoid,
    "HumanoidStandup-v5": HumanoidStandup,
}
HUMANOIDS = ("Humanoid-v5", "HumanoidStandup-v5")
# our reward term -> the name in Gymnasium's info
INFO = {
    "forward": "reward_forward",
    "healthy": "reward_survive",
    "ctrl_cost": "reward_ctrl",
    "contact_cost": "reward_contact",
    "distance": "reward_dist",
    "near": "reward_near",
    "distance_penalty": "distance_penalty",
    "velocity_penalty": "velocity_penalty",
    "height": "reward_linup",
    "impact_cost": "reward_impact",
}
OTHER_INFO = {"HumanoidStandup-v5": {"ctrl_cost": "reward_quadctrl"}}
OPTIONS = [
    ("InvertedPendulum-v5", {}),
    ("InvertedPendulum-v5", {"reset_noise_scale": 0.15}),
    ("InvertedDoublePendulum-v5", {}),
    ("InvertedDoublePendulum-v5", {"healthy_reward": 3.0, "reset_noise_scale": 0.3}),
    ("Reacher-v5", {}),
    ("Reacher-v5", {"reward_dist_weight": 3.0, "reward_control_weight": 0.2}),
    ("Pusher-v5", {}),
    ("Pusher-v5", {"reward_near_weight": 2.0, "reward_dist_weight": 0.7, "reward_control_weight": 0.3}),
    ("Swimmer-v5", {}),
    (
        "Swimmer-v5",
        {
            "exclude_current_positions_from_observation": False,
            "forward_reward_weight": 2.0,
            "ctrl_cost_weight": 0.1,
        },
    ),
    ("Humanoid-v5", {}),
    (
        "Humanoid-v5",
        {
            "exclude_current_positions_from_observation": False,
            "terminate_when_unhealthy": False,
            "contact_cost_weight": 1e-3,
            "contact_cost_range": (0.5, 4.0),
            "forward_reward_weight": 2.0,
            "ctrl_cost_weight": 0.3,
            "healthy_reward": 1.5,
            "healthy_z_range": (0.3, 1.38),
        },
    ),
    (
        "Humanoid-v5",
        {
            "include_cinert_in_observation": False,
            "include_qfrc_actuator_in_observation": False,
            "include_cfrc_ext_in_observation": False,
            "contact_cost_weight": 0.0,
            "contact_cost_range": (0.5, 4.0),
            "healthy_z_range": (0.2, 1.0),
        },
    ),
    ("HumanoidStandup-v5", {}),
    (
        "HumanoidStandup-v5",
        {
            "include_cvel_in_observation": False,
            "exclude_current_positions_from_observation": False,
            "ctrl_cost_weight": 0.3,
            "impact_cost_weight": 1e-4,
            "impact_cost_range": (0.1, 3.0),
        },
    ),
]


@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_float64_parity_without_resets(name, options):
    """Observation, every reward term and the end state, to the last float64 digits that physics leaves."""
    found = compare_steps(name, TASKS[name](**options), options, INFO | OTHER_INFO.get(name, {}))
    # forces of several thousand newtons keep fewer digits
    assert found.worst() < (1e-9 if name in HUMANOIDS else 1e-11)
    if name.startswith("Inverted") or (
        name == "Humanoid-v5" and options.get("terminate_when_unhealthy", True)
    ):
        assert found.ends > 20  # the comparison has met end states
    if name in (*HUMANOIDS, "Pusher-v5"):
        assert found.contact_force > 0.1  # and contacts


AGES = {"Reacher-v5": [0, 20, 49], "Pusher-v5": [0, 40, 99]}


@pytest.mark.parametrize("name", TASKS)
def test_parity_through_vec_env_with_resets(name):
    """The float32 `Step`, across ends of episodes and the first steps after them."""
    steps = 120 if name in HUMANOIDS else 200
    ends, limits = compare_vec_env(name, TASKS[name](), AGES.get(name, [0, 900, 950]), steps)
    if name.startswith("Inverted") or name == "Humanoid-v5":
        assert ends > 5
    else:
        assert ends == 0 and limits >= 2


@pytest.mark.parametrize("name", TASKS)
def test_reset_distribution(name):
    compare_resets(name, TASKS[name]())


@pytest.mark.parametrize("name", TASKS)
def test_interface(name):
    """Sizes, action ranges, control rate and time limit are Gymnasium's; every term has a unit and a name."""
    config = yaml.safe_load((CONFIGS / "task" / f"{name}.yaml").read_text())
    task = TASKS[name]()
    assert config == {"_target_": f"{TASKS[name].__module__}.{TASKS[name].__name__}"}
    env = VecEnv(task, 2, num_threads=1)
    env.reset()
    gym_env = original(name)
    assert env.specs.obs_dim("policy") == gym_env.observation_space.shape[0]
    np.testing.assert_array_equal(env.specs.action_low, gym_env.action_space.low)
    np.testing.assert_array_equal(env.specs.action_high, gym_env.action_space.high)
    assert task.control_dt_s == pytest.approx(gym_env.dt)
    assert env.max_steps == gymnasium.spec(name).max_episode_steps
    terms = env.specs.observation["policy"]
    assert len({term.name for term in terms}) == len(terms)
    joints = [env.sim.model.joint(i).name for i in range(env.sim.model.njnt)]
    assert {term.name for term in env.specs.action} <= {*joints, "slide"}
    # only Pusher's gears are 1, so that its commands are torques
    assert {term.unit for term in env.specs.action} == {"N m" if name == "Pusher-v5" else "1"}


def test_a_servo_in_place_of_a_motor_is_not_commanded_in_newton_metres():
    servo = Actuator(kind=Kind.POSITION, kp=10.0, kd=1.0, names="")
    task = Pusher(realism=Realism(actuators={"servo": servo}))
    terms = task.action_terms(task.build_model())
    assert {term.unit for term in terms} == {"1"}
    assert terms[0].name == "r_shoulder_pan_joint" and terms[0].high == pytest.approx(1.714602)


@pytest.mark.parametrize("cls", [Ant, Humanoid])
def test_contact_forces_follow_a_randomised_gear(cls):
    """Of two simulations with another gear and commands in proportion, both feel the same forces."""
    task = cls()
    env = VecEnv(task, 2, num_threads=1)
    env.reset()
    env.sim.data("qpos")[1], env.sim.data("qvel")[1] = env.sim.data("qpos")[0], env.sim.data("qvel")[0]
    env.sim.param("actuator_gear")[1] *= 2
    env.sim.refresh_constants()
    env.sim.forward()
    rng = torch.Generator().manual_seed(0)
    low, strongest = env.specs.action_low.double(), 0.0
    for _ in range(80):
        ctrl = low * (2.0 * torch.rand(2, len(low), dtype=torch.float64, generator=rng) - 1.0)
        ctrl[1] = ctrl[0] / 2
        task.before_step(env.sim)
        task.advance(env.sim, ctrl, env.substeps)
        forces = task.contact_forces(env.sim)
        strongest = max(strongest, float(forces.abs().max()))
        torch.testing.assert_close(forces[1], forces[0], rtol=1e-9, atol=1e-9)
    assert strongest > 0.5


def test_no_model_prints_a_warning(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    for task in TASKS.values():
        task().build_model()
    assert capfd.readouterr() == ("", "")
    assert not list(tmp_path.iterdir())


def test_targets_and_objects_stay_in_their_regions():
    """Reacher's target in a disc of 0.2 m; Pusher's object in a box, further than 0.17 m from the goal."""
    reacher, pusher = VecEnv(Reacher(), 2000, num_threads=1), VecEnv(Pusher(), 2000, num_threads=1)
    reacher.reset(), pusher.reset()
    distance = reacher.sim.data("qpos")[:, 2:].norm(dim=1)
    assert 0.199 < distance.max() < 0.2
    place = pusher.sim.data("qpos")[:, 7:9]
    assert 0.17 < place.norm(dim=1).min() < 0.172
    assert (place[:, 0] <= 0).all() and (place[:, 0] >= -0.3).all() and (place[:, 1].abs() <= 0.2).all()


def test_rejection_sample_fills_the_accepted_region_evenly():
    rng = torch.Generator().manual_seed(0)
    points = rejection_sample(20000, (0.0, -1.0), (2.0, 1.0), lambda p: p[:, 0] > p[:, 1].abs(), rng)
    assert points.dtype == torch.float64 and points.shape == (20000, 2)
    assert (points[:, 0] > points[:, 1].abs()).all()
    # the triangle left of x = 1 has area 1, the rectangle right of it has area 2
    assert float((points[:, 0] < 1).double().mean()) == pytest.approx(1 / 3, abs=0.012)


def test_the_end_of_the_rail_pushes_with_a_clipped_force():
    task = InvertedDoublePendulum()
    env = VecEnv(task, 2, num_threads=1)
    env.reset()
    env.sim.data("qpos")[:, 0] = torch.tensor([-1.01, 1.01])
    env.sim.forward()
    force = task.observe(env.sim)["policy"]["cart_constraint_force"]
    assert env.sim.data("qfrc_constraint")[0, 0] > 10
    assert force.tolist() == [10.0, -10.0]


@pytest.mark.parametrize("name", ["InvertedPendulum-v5", "Reacher-v5", "Pusher-v5", "Humanoid-v5"])
def test_the_comparison_sees_derived_fields_of_another_instant(name):
    """Reading positions and forces fresh, not with Gymnasium's lag, would not pass for parity."""
    task = TASKS[name]()
    task.stage = Stage.VELOCITY
    found = compare_steps(name, task, {}, INFO)
    assert (found.worst() > 1e-6) == (name != "InvertedPendulum-v5")  # which reads the state only


def test_height_weight_scales_what_gymnasium_leaves_at_1():
    task = HumanoidStandup(uph_cost_weight=0.5)
    env = VecEnv(task, 1, num_threads=1)
    env.reset()
    env.sim.data("qpos")[:, 2] = 0.9
    terms = task.reward_terms(env.sim, torch.zeros(1, 17, dtype=torch.float64))
    assert float(terms["height"]) == pytest.approx(0.5 * 0.9 / 0.003)
    assert float(terms["constant"]) == 1.0


def test_body_terms_are_what_they_are_called():
    """Every body's mass, and a body's velocity where the whole humanoid moves as one."""
    task = Humanoid()
    env = VecEnv(task, 1, num_threads=1)
    env.reset()
    env.sim.data("qvel")[:] = 0.0
    env.sim.data("qvel")[:, :3] = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    env.sim.forward()
    values, model = task.observe(env.sim)["policy"], env.sim.model
    for body in range(1, model.nbody):
        name = model.body(body).name
        assert float(values[f"mass/{name}"]) == pytest.approx(model.body_mass[body])
        velocity = values[f"body_linear_velocity/{name}"][0]
        np.testing.assert_allclose(velocity, [1.0, 2.0, 3.0], atol=1e-12)
        assert values[f"body_angular_velocity/{name}"].abs().max() < 1e-12
    # mass times offset from the common centre of mass cancels over all bodies
    moments = [value for term, value in values.items() if term.startswith("mass_moment/")]
    np.testing.assert_allclose(sum(moments), 0.0, atol=1e-12)


@pytest.mark.parametrize("cls", [Humanoid, HumanoidStandup])
def test_humanoids_resume_bit_for_bit_and_share_a_task(cls):
    """Its contact forces and its forward velocity come from lagging outputs, which belong to the state."""
    shared = cls()
    env, other = VecEnv(shared, 2, seed=0, num_threads=1), VecEnv(shared, 3, seed=1, num_threads=1)
    env.reset(), other.reset()
    generator = torch.Generator().manual_seed(0)
    actions = torch.rand(30, 2, 17, generator=generator) * 2 - 1
    for action in actions[:15]:
        env.step(action)
        other.step(torch.zeros(3, 17))
    resumed = VecEnv(cls(), 2, seed=9, num_threads=2)
    resumed.load_state_dict(env.state_dict())
    for action in actions[15:]:
        step, again = env.step(action), resumed.step(action)
        other.step(torch.zeros(3, 17))
        assert torch.equal(step.obs["policy"], again.obs["policy"])
        assert torch.equal(step.reward, again.reward)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: InvertedPendulum(reset_noise_scale=-1.0), "reset_noise_scale must be"),
        (lambda: InvertedDoublePendulum(reset_noise_scale=float("inf")), "reset_noise_scale must be"),
        (lambda: InvertedDoublePendulum(healthy_reward=float("nan")), "healthy_reward must be finite"),
        (lambda: Reacher(reward_control_weight=float("nan")), "reward_control_weight must be finite"),
        (lambda: Pusher(reward_near_weight=float("inf")), "reward_near_weight must be finite"),
        (lambda: Swimmer(reset_noise_scale=-0.1), "reset_noise_scale must be"),
        (lambda: Humanoid(healthy_z_range=(2.0, 1.0)), "healthy_z_range must be"),
        (lambda: Humanoid(contact_cost_range=(1.0,)), "contact_cost_range must be"),
        (lambda: Humanoid(ctrl_cost_weight=float("nan")), "ctrl_cost_weight must be finite"),
        (lambda: HumanoidStandup(impact_cost_range=(3.0, 3.0)), "impact_cost_range must be"),
        (lambda: HumanoidStandup(uph_cost_weight=float("inf")), "uph_cost_weight must be finite"),
        (lambda: Humanoid(reset_noise_scale=float("nan")), "reset_noise_scale must be"),
    ],
)
def test_impossible_options(make, message):
    with pytest.raises(UsageError, match=message):
        make()


def test_velocity_servos_are_commanded_in_radians_per_second():
    servo = Actuator(kind=Kind.VELOCITY, kd=2.0, command_range=(-1.0, 1.0), names="")
    task = Pusher(realism=Realism(actuators={"servo": servo}))
    assert {term.unit for term in task.action_terms(task.build_model())} == {"rad/s"}
