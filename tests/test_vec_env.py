"""The order and the bookkeeping of a control step, on robots small enough to compute by hand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from robotrl.core.errors import UsageError
from robotrl.core.types import ObsTerm, Source
from robotrl.envs.vec_env import VecEnv
from robotrl.sim.sim import Stage
from robotrl.tasks.task import Task

# 2 kg pushed without friction or gravity by up to 3 N to the right and 1 N to the left
SLIDER = """
<mujoco>
  <option timestep="0.1" gravity="0 0 0"/>
  <worldbody>
    <body name="cart">
      <joint name="slide" type="slide" axis="1 0 0"/>
      <geom size="0.1" mass="2"/>
    </body>
  </worldbody>
  <actuator><motor name="push" joint="slide" ctrllimited="true" ctrlrange="-1 3"/></actuator>
</mujoco>
"""
DT_S, MASS_KG = 0.1, 2.0


@dataclass
class Slider(Task):
    """Rewards: the position after the step, and minus a tenth of the force; ends beyond `goal_m`."""

    mjcf: Path = Path()
    goal_m: float = 1e9
    spread_m: float = 0.0
    control_dt_s: float = 2 * DT_S
    episode_length_s: float = 6 * DT_S
    stage = Stage.NONE

    def observation_terms(self, model):
        return {
            "policy": (ObsTerm("x", 1, "m"), ObsTerm("v", 1, "m/s")),
            "privileged": (
                ObsTerm("force", 1, "N", Source.SIMULATION),
                ObsTerm("body_x", 1, "m", Source.SIMULATION),  # lags by a substep, current after a reset
            ),
        }

    def reset(self, sim, ids, rng):
        draws = torch.rand(len(ids), 1, dtype=torch.float64, generator=rng)
        sim.data("qpos")[ids] = 0.5 + self.spread_m * draws

    def observe(self, sim):
        return {
            "policy": {"x": sim.data("qpos")[:, 0], "v": sim.data("qvel")},
            "privileged": {"force": sim.data("ctrl"), "body_x": sim.named("body", "cart").xpos[:, 0]},
        }

    def reward_terms(self, sim, action):
        return {"position": sim.data("qpos")[:, 0].clone(), "effort": -0.1 * action[:, 0]}

    def terminated(self, sim):
        return sim.data("qpos")[:, 0] > self.goal_m


@dataclass
class Moving(Slider):
    """Rewards the distance of each step; never ends by itself."""

    def before_step(self, sim):
        self._before = sim.data("qpos")[:, 0].clone()

    def reward_terms(self, sim, action):
        return {"moved": sim.data("qpos")[:, 0] - self._before}

    def terminated(self, sim):
        return None


@pytest.fixture
def mjcf(tmp_path):
    path = tmp_path / "slider.xml"
    path.write_text(SLIDER)
    return path


def by_hand(x: float, v: float, force_n: float) -> tuple[float, float]:
    """Two substeps of semi-implicit Euler."""
    for _ in range(2):
        v += DT_S * force_n / MASS_KG
        x += DT_S * v
    return x, v


def constant(env: VecEnv, value: float) -> torch.Tensor:
    return torch.full((env.num_envs, 1), value)


def test_one_step_by_hand(mjcf):
    env = VecEnv(Slider(mjcf), 2, num_threads=1)
    obs = env.reset()
    assert obs["policy"].tolist() == [[0.5, 0.0]] * 2
    assert obs["policy"].dtype == torch.float32
    # [-1, 1] maps to [-1, 3] N
    step = env.step(torch.tensor([[1.0], [-1.0]]))
    for row, force_n in enumerate((3.0, -1.0)):
        x, v = by_hand(0.5, 0.0, force_n)
        assert step.obs["policy"][row].tolist() == pytest.approx([x, v], rel=1e-6)
        lagging = 0.5 + DT_S**2 * force_n / MASS_KG
        assert step.obs["privileged"][row].tolist() == pytest.approx([force_n, lagging], rel=1e-6)
        assert float(step.reward[row]) == pytest.approx(x - 0.1 * force_n, rel=1e-6)
    assert step.reward.dtype == torch.float32
    assert step.final_obs is step.obs
    assert not step.done.any() and step.valid.all() and "episode/return" not in step.log


def test_results_are_no_views_of_the_state(mjcf):
    env = VecEnv(Slider(mjcf), 2, num_threads=1)
    env.reset()
    step = env.step(constant(env, 1.0))
    kept = {"obs": step.obs["policy"].clone(), "reward": step.reward.clone(), "end": step.terminated.clone()}
    env.step(constant(env, -1.0))
    assert torch.equal(step.obs["policy"], kept["obs"])
    assert torch.equal(step.reward, kept["reward"])
    assert torch.equal(step.terminated, kept["end"])


def test_time_limit_keeps_the_true_successor_and_logs_the_episode(mjcf):
    env = VecEnv(Slider(mjcf), 2, num_threads=1)
    env.reset()
    x, v, positions = 0.5, 0.0, 0.0
    for index in range(3):
        step = env.step(constant(env, 1.0))
        x, v = by_hand(x, v, 3.0)
        positions += x
        assert step.truncated.tolist() == [index == 2] * 2
    assert not step.terminated.any()
    assert step.final_obs["policy"][0].tolist() == pytest.approx([x, v], rel=1e-6)
    assert step.final_obs["privileged"][:, 0].tolist() == [3.0] * 2
    assert step.obs["policy"].tolist() == [[0.5, 0.0]] * 2
    assert step.obs["privileged"].tolist() == [[0.0, 0.5]] * 2
    assert step.log["reward/position"].tolist() == pytest.approx([x] * 2)
    assert step.log["reward/effort"].tolist() == pytest.approx([-0.3] * 2)
    assert step.log["reward/total"].tolist() == pytest.approx([x - 0.3] * 2)
    assert step.log["episode/return"].tolist() == pytest.approx([positions - 0.9] * 2)
    assert step.log["episode/length"].tolist() == [3.0, 3.0]
    # the next episode starts from nothing
    for _ in range(3):
        step = env.step(constant(env, 1.0))
    assert step.log["episode/return"].tolist() == pytest.approx([positions - 0.9] * 2)


def test_reward_compares_with_the_state_before_the_physics(mjcf):
    env = VecEnv(Moving(mjcf), 2, num_threads=1)
    env.reset()
    x, v = 0.5, 0.0
    for _ in range(3):
        before = x
        x, v = by_hand(x, v, 3.0)
        step = env.step(constant(env, 1.0))
        assert step.reward.tolist() == pytest.approx([x - before] * 2, rel=1e-6)
        assert not step.terminated.any()
        step.terminated[:] = True  # it is the caller's to change
    # a single term is the return itself
    assert step.log.keys() == {"reward/total", "episode/return", "episode/length"}
    assert step.log["episode/return"].tolist() == pytest.approx([x - 0.5] * 2)


def test_termination_wins_over_the_time_limit_and_spares_the_others(mjcf):
    # with full force the goal is crossed in the third and last step, at x = 0.5 + 0.015 * 21 = 0.815
    env = VecEnv(Slider(mjcf, goal_m=0.75), 3, num_threads=1)
    env.reset()
    action = torch.tensor([[1.0], [-0.5], [1.0]])
    for _ in range(2):
        assert not env.step(action).done.any()
    step = env.step(action)
    assert step.terminated.tolist() == [True, False, True]
    assert step.truncated.tolist() == [False, True, False]
    assert float(step.final_obs["policy"][0, 0]) == pytest.approx(0.815)

    env = VecEnv(Slider(mjcf, goal_m=0.6), 3, num_threads=1)
    env.reset()
    env.step(action)
    step = env.step(action)
    assert step.terminated.tolist() == [True, False, True]
    assert not step.truncated.any()
    assert step.log["episode/length"].tolist() == [2.0, 2.0]
    assert env.age.tolist() == [0, 2, 0]
    assert torch.equal(step.obs["policy"][1], step.final_obs["policy"][1])
    assert step.obs["policy"][0].tolist() == [0.5, 0.0]


@pytest.mark.parametrize("fault", [float("nan"), float("inf"), 1e12])
def test_diverged_simulation_is_truncated_and_alone(mjcf, fault):
    faulty, healthy = (VecEnv(Slider(mjcf, spread_m=0.1), 3, seed=1, num_threads=1) for _ in range(2))
    assert torch.equal(faulty.reset()["policy"], healthy.reset()["policy"])
    generator = torch.Generator().manual_seed(0)
    for index in range(8):
        if index == 1:
            faulty.sim.data("qpos")[1] = fault
        action = torch.rand(3, 1, generator=generator) * 2 - 1
        step, expected = faulty.step(action), healthy.step(action)
        hit = index == 1
        assert step.valid.tolist() == [True, not hit, True]
        for group in step.obs:
            assert step.obs[group].isfinite().all() and step.final_obs[group].isfinite().all()
        assert step.reward.isfinite().all()
        if index < 3:  # until the first time limit both draw the same initial states
            for row in (0, 2):
                assert torch.equal(step.final_obs["policy"][row], expected.final_obs["policy"][row])
                assert torch.equal(step.reward[row], expected.reward[row])
                assert bool(step.truncated[row]) == bool(expected.truncated[row])
        if hit:
            assert step.truncated.tolist() == [False, True, False]
            assert not step.terminated.any()
            assert float(step.reward[1]) == 0.0
            assert not any(name.startswith("episode/") for name in step.log)
            assert step.log["sim/diverged"].tolist() == [1.0]
            assert 0.5 <= float(step.obs["policy"][1, 0]) < 0.6  # a new episode
        if index == 2:
            assert step.log["episode/length"].tolist() == [3.0, 3.0]  # of the two others
    assert faulty.num_diverged == 1
    assert healthy.num_diverged == 0


def test_a_failure_in_the_last_step_of_an_episode_stays_out_of_the_statistics(mjcf):
    env = VecEnv(Slider(mjcf), 2, num_threads=1)
    env.reset()
    for _ in range(2):
        env.step(constant(env, 0.0))
    env.sim.data("qvel")[0] = float("nan")
    step = env.step(constant(env, 0.0))
    assert step.truncated.tolist() == [True, True]
    assert step.valid.tolist() == [False, True]
    assert step.log["episode/length"].tolist() == [3.0]
    assert env.step(constant(env, 0.0)).valid.all()


def test_a_diverged_simulation_never_counts_as_terminated(mjcf):
    env = VecEnv(Slider(mjcf, goal_m=-1.0), 2, num_threads=1)  # every state is an end state
    env.reset()
    env.sim.data("qpos")[0] = float("nan")
    step = env.step(constant(env, 0.0))
    assert step.terminated.tolist() == [False, True]
    assert step.truncated.tolist() == [True, False]


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (torch.zeros(3, 1), r"shape \(2, 1\), got \(3, 1\)"),
        (torch.zeros(2), r"shape \(2, 1\), got \(2,\)"),
        (torch.tensor([[0.0], [float("nan")]]), r"environment 1 got \[nan\]"),
        (torch.tensor([[float("-inf")], [0.0]]), r"environment 0 got \[-inf\]"),
        (torch.tensor([[0.0], [1.001]]), r"in \[-1, 1\], environment 1"),
    ],
)
def test_bad_actions_are_refused_and_change_nothing(mjcf, action, message):
    env = VecEnv(Slider(mjcf), 2, num_threads=1)
    env.reset()
    env.step(constant(env, 0.3))
    before, age = env.sim.batch.state.copy(), env.age.clone()
    with pytest.raises(UsageError, match=message):
        env.step(action)
    assert (env.sim.batch.state == before).all()
    assert torch.equal(env.age, age)
    twin = VecEnv(Slider(mjcf), 2, num_threads=1)
    twin.reset()
    twin.step(constant(twin, 0.3))
    assert torch.equal(
        env.step(constant(env, -0.2)).obs["policy"], twin.step(constant(twin, -0.2)).obs["policy"]
    )


def test_staggered_first_episodes_are_left_out_of_the_statistics(mjcf):
    env = VecEnv(Slider(mjcf, episode_length_s=4.0), 64, seed=3, num_threads=1, stagger=True)
    env.reset()
    ages = env.age.clone()
    assert int(ages.min()) >= 0 and int(ages.max()) < 20 and len(ages.unique()) > 10
    logged = 0
    for index in range(20):
        step = env.step(constant(env, 0.0))
        assert torch.equal(step.truncated, ages + index + 1 == 20)
        if "episode/length" in step.log:
            assert step.log["episode/length"].eq(20).all()
            logged += len(step.log["episode/length"])
    assert logged == int((ages == 0).sum())
    for _ in range(20):
        step = env.step(constant(env, 0.0))
        logged += len(step.log.get("episode/length", ()))
    assert logged == int((ages == 0).sum()) + 64


def run(env: VecEnv, steps: int, action_seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(action_seed)
    values = []
    for _ in range(steps):
        step = env.step(torch.rand(env.num_envs, 1, generator=generator) * 2 - 1)
        values += [*step.obs.values(), *step.final_obs.values(), step.reward, step.done, step.valid]
        values += [step.log[name] for name in sorted(step.log)]
    return values


def equal(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return len(first) == len(second) and all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_same_seed_same_bits_for_any_number_of_threads(mjcf):
    runs = {}
    for name, seed, threads in (("one", 5, 1), ("two", 5, 2), ("other", 6, 1)):
        env = VecEnv(Slider(mjcf, goal_m=0.62, spread_m=0.1), 7, seed, threads, stagger=True)
        runs[name] = [env.reset()["policy"], *run(env, 12, action_seed=0)]
    assert equal(runs["one"], runs["two"])
    assert not equal(runs["one"], runs["other"])


def test_resume_is_bit_exact_across_ends_of_episodes(mjcf):
    # the goal takes about 10 steps, the time limit is 20
    task = Slider(mjcf, goal_m=1.5, spread_m=0.1, episode_length_s=4.0)
    env = VecEnv(task, 5, seed=1, num_threads=1, stagger=True)
    env.reset()
    run(env, 2, action_seed=0)
    env.sim.data("qpos")[2] = float("nan")
    run(env, 1, action_seed=1)
    state = env.state_dict()
    resumed = VecEnv(task, 5, seed=99, num_threads=1)
    resumed.load_state_dict(state)
    expected, again = run(env, 40, action_seed=2), run(resumed, 40, action_seed=2)
    assert equal(expected, again)
    assert resumed.num_diverged == env.num_diverged == 1
    # the saved state is a copy, not the running one
    third = VecEnv(task, 5, seed=7, num_threads=1)
    third.load_state_dict(state)
    assert equal(run(third, 40, action_seed=2), expected)


def test_reset_starts_everything_anew(mjcf):
    env = VecEnv(Slider(mjcf, spread_m=0.1), 2, seed=0, num_threads=1)
    first = env.reset()["policy"]
    env.step(constant(env, 1.0))
    env.step(constant(env, 1.0))
    second = env.reset()["policy"]
    assert not torch.equal(first, second)
    assert env.age.tolist() == [0, 0]
    for _ in range(3):
        step = env.step(constant(env, 0.0))
    assert step.log["episode/length"].tolist() == [3.0, 3.0]
    # 1 N at every step: what was earned before the reset does not count
    for row, start in enumerate(second[:, 0].tolist()):
        x, v, total = start, 0.0, 0.0
        for _ in range(3):
            x, v = by_hand(x, v, 1.0)
            total += x - 0.1
        assert step.log["episode/return"][row].item() == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"control_dt_s": 0.15}, "control_dt_s=0.15 s must be a whole multiple of 0.1 s"),
        ({"control_dt_s": 0.0}, "control_dt_s=0.0 s must be"),
        ({"control_dt_s": float("nan")}, "control_dt_s=nan s must be"),
        ({"episode_length_s": 0.5}, "episode_length_s=0.5 s must be a whole multiple of 0.2 s"),
        ({"episode_length_s": -0.2}, "episode_length_s=-0.2 s must be"),
    ],
)
def test_impossible_times(mjcf, options, message):
    with pytest.raises(UsageError, match=message):
        VecEnv(Slider(mjcf, **options), 1)


@pytest.mark.parametrize(("num_envs", "num_threads"), [(0, 1), (-3, 1), (2, 0)])
def test_impossible_numbers(mjcf, num_envs, num_threads):
    with pytest.raises(UsageError, match="must be at least 1"):
        VecEnv(Slider(mjcf), num_envs, num_threads=num_threads)
