"""A task's realism through the vectorised environment, the configuration and the command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from robotrl.compose import compose, compose_task
from robotrl.core import config
from robotrl.core.errors import UsageError
from robotrl.core.types import ObsTerm
from robotrl.envs.vec_env import VecEnv
from robotrl.sim.randomization import FieldRandomization
from robotrl.tasks.realism import Measure, ObservationNoise, Ramp, Realism
from robotrl.tasks.task import Task

XML = """
<mujoco>
  <option timestep="0.01" gravity="0 0 0"/>
  <worldbody>
    <body name="mass"><joint name="x" type="slide" axis="1 0 0"/><geom size="0.1" mass="2"/></body>
  </worldbody>
  <actuator><motor name="push" joint="x" ctrllimited="true" ctrlrange="-4 4"/></actuator>
</mujoco>
"""


@dataclass
class Slide(Task):
    """Stands still at a position that tells the episode, unless pushed; succeeds on the right half."""

    mjcf: Path = Path()
    control_dt_s: float = 0.01
    episode_length_s: float = 0.05

    def observation_terms(self, model):
        return {"policy": (ObsTerm("position", 1, "m"), ObsTerm("speed", 1, "m/s"))}

    def reset(self, sim, ids: Tensor, rng: torch.Generator) -> None:
        sim.data("qpos")[ids, 0] = 10.0 * torch.rand(len(ids), dtype=torch.float64, generator=rng) - 5.0

    def observe(self, sim):
        return {"policy": {"position": sim.data("qpos")[:, 0], "speed": sim.data("qvel")[:, 0]}}

    def reward_terms(self, sim, action: Tensor):
        return {"position": sim.data("qpos")[:, 0]}

    def success(self, sim):
        return sim.data("qpos")[:, 0] > 0


@pytest.fixture
def slide(tmp_path: Path):
    path = tmp_path / "slide.xml"
    path.write_text(XML)

    def make(num_envs: int, seed: int = 0, **realism) -> VecEnv:
        return VecEnv(Slide(mjcf=path, realism=Realism(**realism)), num_envs, seed, num_threads=1)

    return make


def still(env: VecEnv) -> Tensor:
    return torch.zeros(env.num_envs, 1)


def test_history_is_oldest_first_and_starts_anew_with_each_episode(slide) -> None:
    env = slide(3, history={"policy": 3})
    names = [term.name for term in env.specs.observation["policy"]]
    assert names == ["position@-2", "speed@-2", "position@-1", "speed@-1", "position", "speed"]
    obs = env.reset()["policy"]
    assert torch.equal(obs[:, 0], obs[:, 2]) and torch.equal(obs[:, 2], obs[:, 4])
    speeds = [0.0]
    for _ in range(4):
        step = env.step(still(env) + 1.0)
        speeds.append(speeds[-1] + 4.0 / 2 * 0.01)
        shown = step.obs["policy"][0, 1::2]
        expected = [speeds[max(0, len(speeds) - k)] for k in (3, 2, 1)]
        np.testing.assert_allclose(shown, expected, atol=1e-6)
    before = step.obs["policy"]
    step = env.step(still(env) + 1.0)
    assert step.truncated.all()
    torch.testing.assert_close(step.final_obs["policy"][:, :4], before[:, 2:])
    np.testing.assert_allclose(step.final_obs["policy"][:, 5], 0.1, atol=1e-6)
    first = step.obs["policy"]
    assert (first[:, 1::2] == 0).all() and torch.equal(first[:, 0], first[:, 4])
    assert not torch.isclose(first[:, 4], step.final_obs["policy"][:, 4], atol=0.2).any()
    step = env.step(still(env))
    assert torch.equal(step.obs["policy"][:, :4], first[:, 2:])


def test_noise_bias_and_dropout_have_their_declared_sizes(slide) -> None:
    noise = {
        "jitter": ObservationNoise(terms="speed", std=0.2),
        "offset": ObservationNoise(terms="position", bias=(0.5, 0.7)),
    }
    env = slide(4000, observation_noise=noise)
    first = env.reset()["policy"]
    truth = env.sim.data("qpos")[:, 0].float()
    offset = first[:, 0] - truth
    assert 0.5 <= offset.min() < 0.51 and 0.69 < offset.max() <= 0.7 + 1e-6
    second = env.step(still(env)).obs["policy"]
    torch.testing.assert_close(second[:, 0], first[:, 0])
    for reading in (first[:, 1], second[:, 1]):
        assert abs(float(reading.mean())) < 0.02 and 0.19 < float(reading.std()) < 0.21
    assert abs(float((first[:, 1] * second[:, 1]).mean())) < 0.005
    for _ in range(4):
        step = env.step(still(env))
    renewed = step.obs["policy"][:, 0] - env.sim.data("qpos")[:, 0].float()
    assert not torch.isclose(renewed, offset, atol=1e-4).all()


def test_dropped_readings_repeat_the_last_one(slide) -> None:
    env = slide(5000, observation_noise={"gaps": ObservationNoise(terms="speed", dropout=0.25)})
    env.reset()
    last = torch.zeros(5000)
    for i in range(1, 4):
        reading = env.step(still(env) + 1.0).obs["policy"][:, 1]
        dropped = reading == last
        assert 0.22 < float(dropped.float().mean()) < 0.28
        torch.testing.assert_close(reading[~dropped], torch.full((int((~dropped).sum()),), 0.02 * i))
        last = reading


def test_rewards_and_privileged_truth_take_no_noise(slide) -> None:
    env = slide(4, observation_noise={"all": ObservationNoise(std=1.0)})
    env.reset()
    step = env.step(still(env))
    torch.testing.assert_close(step.reward, env.sim.data("qpos")[:, 0].float())


def test_action_noise_is_a_share_of_the_command_range_and_stays_inside_it(slide) -> None:
    env = slide(6000, action_noise=0.1)
    env.reset()
    speed = env.step(still(env)).obs["policy"][:, 1]
    force = speed / 0.01 * 2
    assert abs(float(force.mean())) < 0.02 and 0.39 < float(force.std()) < 0.41
    env.reset()
    force = env.step(still(env) + 1.0).obs["policy"][:, 1] / 0.01 * 2
    assert float(force.max()) <= 4.0 + 1e-5 and 0.4 < float((force > 3.999).float().mean()) < 0.6


def test_a_ramp_follows_progress_and_is_at_its_end_in_evaluation(slide) -> None:
    realism = {
        "randomize": {"mass": FieldRandomization("body_mass", (1.0, 1.0))},
        "curriculum": {"load": Ramp("randomize.mass.range", [1.0, 1.0], [3.0, 5.0], begin=0.2, finish=0.6)},
    }
    env = slide(200, **realism)
    factor = lambda: env.sim.param("body_mass")[:, 1] / 2.0  # noqa: E731
    env.reset()
    assert factor().min() >= 3.0 and factor().max() > 4.9
    assert env.set_progress(0.1) == {"curriculum/load": 1.0}
    env.reset()
    assert (factor() == 1.0).all()
    assert env.set_progress(0.4) == pytest.approx({"curriculum/load": 3.0})
    env.reset()
    assert 2.0 <= factor().min() < 2.05 and 2.95 < factor().max() <= 3.0
    # what the user gave is as it was
    assert tuple(env.task.realism.randomize["mass"].range) == (1.0, 1.0)


def test_a_ramp_follows_the_success_rate(slide) -> None:
    realism = {
        "observation_noise": {"blur": ObservationNoise(std=0.0)},
        "curriculum": {"blur": Ramp("observation_noise.blur.std", [0.0], [1.0], by=Measure.SUCCESS_RATE)},
    }
    env = slide(400, **realism)
    assert env.set_progress(0.5) == {"curriculum/blur": 0.0}
    env.reset()
    for _ in range(5):
        step = env.step(still(env))
    rate = float(step.log["episode/success"].mean())
    assert 0.4 < rate < 0.6
    assert env.set_progress(0.5)["curriculum/blur"] == pytest.approx(rate, abs=1e-6)
    assert env.set_progress(1.0) == {"curriculum/blur": 1.0}


def typical(name: str = "walker_walk", **options) -> Task:
    realism = yaml.safe_load((config_dir() / "realism" / "typical.yaml").read_text())
    extra = {
        "pushes": {"shove": {"body": "torso", "force_n": [10, 30], "interval_s": [0.1, 0.2]}},
        "kicks": {"bump": {"names": "rootx", "range": [-0.3, 0.3], "interval_s": [0.1, 0.2]}},
        "action_noise": 0.02,
    }
    return compose_task(name, {"realism": realism | extra, **options})


def config_dir() -> Path:
    from robotrl.core.paths import CONFIGS

    return CONFIGS


def test_everything_together_continues_bit_for_bit_and_repeats_with_the_seed() -> None:
    def run(env: VecEnv, steps: int, rng: torch.Generator) -> list[Tensor]:
        shown = []
        for _ in range(steps):
            action = 2 * torch.rand(5, env.specs.action_dim, generator=rng) - 1
            step = env.step(action)
            shown += [step.obs["policy"], step.final_obs["policy"], step.reward]
        return shown

    task = typical(episode_length_s=0.25)
    env = VecEnv(task, 5, seed=3, num_threads=2, stagger=True)
    assert env.reset()["policy"].shape == (5, 3 * 24)
    rng = torch.Generator().manual_seed(0)
    run(env, 13, rng)
    state, rng_state = env.state_dict(), rng.get_state()
    expected = run(env, 14, rng)
    other = VecEnv(task, 5, seed=99, num_threads=1)
    other.reset()
    other.load_state_dict(state)
    rng.set_state(rng_state)
    assert all(map(torch.equal, expected, run(other, 14, rng)))

    again = VecEnv(task, 5, seed=3, num_threads=1, stagger=True)
    again.reset()
    rng.manual_seed(0)
    run(again, 13, rng)
    assert all(map(torch.equal, expected, run(again, 14, rng)))


def test_it_is_declared_in_yaml_and_on_the_command_line(tmp_path: Path) -> None:
    words = ["task=walker_walk", "realism=typical", "algorithm=ppo"]
    words += ["task.realism.randomize.body_mass.range=[0.5,2.0]", "task.realism.randomize.gravity=null"]
    words += ["task.realism.kicks.bump={range: [-1,1], interval_s: [1,2], names: rootx}"]
    words += ["task.realism.randomize.damping.distribution=log_uniform"]
    resolved = compose(words)
    realism = resolved.task.realism
    assert list(realism.randomize["body_mass"].range) == [0.5, 2.0]
    assert "gravity" not in realism.randomize and realism.kicks["bump"].names == "rootx"
    assert realism.randomize["damping"].distribution.value == "log_uniform"
    path = tmp_path / "config.yaml"
    path.write_text(config.to_yaml(resolved))
    assert config.from_yaml(path).task == resolved.task


def test_a_section_of_ones_own_is_named_by_its_path(tmp_path: Path) -> None:
    file = tmp_path / "my robot.yaml"
    file.write_text(
        "randomize: {m: {field: body_mass, range: [0.9, 1.1]}, d: {field: dof_damping, range: [1, 2]}}"
    )
    words = [
        "task=walker_walk",
        "algorithm=ppo",
        f"realism={file}",
        "task.realism.randomize.m.range=[0.5,2.0]",
    ]
    randomize = compose(words).task.realism.randomize
    # as with a name, what else is on the command line wins
    assert list(randomize["m"].range) == [0.5, 2.0] and list(randomize["d"].range) == [1.0, 2.0]
    # it takes the place of a named section, and leaves nothing behind
    assert "d" not in compose([*words[:2], "realism=typical"]).task.realism.randomize
    for content, message in (
        ("a: [", "is not a realism section"),
        ("- a", "expected keys and values"),
        ("randomise: {}", "'randomize'"),
    ):
        file.write_text(content)
        with pytest.raises(UsageError, match=message):
            compose(words[:3])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["realism=typicl"], "did you mean 'typical'"),
        (
            ["realism=none.yaml"],
            "cannot read the realism section none.yaml: No such file",
        ),
        (["task.realism.randomise={}"], "did you mean 'randomize'"),
        (["task.realism.randomize.m={field: body_mass}"], "range must be given"),
        (["task.realism.randomize.m={field: body_mass, range: [2, 1]}"], "upside down"),
        (["task.realism.randomize.m={field: body_mass, range: [1, 2], op: multiply}"], "scale, add, set"),
        (["task.realism.randomize.m=3"], "expected the keys of FieldRandomization"),
        (["task.realism.history.policy=0"], "at least 1"),
        (["task.realism.curriculum.c={parameter: randomize.x.range, start: [1, 1], end: [1, 2]}"], "'x'"),
        (
            [
                "task.realism.actuator_delays.d={range_s: [0, 0.01]}",
                "task.realism.curriculum.c={parameter: actuator_delays.d.range_s, start: [0,0], end: [0,1]}",
            ],
            "buffer holds 0.01 s: set actuator_delays.d.buffer_s",
        ),
    ],
)
def test_bad_declarations_get_one_clear_line(words: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message.replace("(", r"\(")) as error:
        compose(["task=walker_walk", "algorithm=ppo", *words])
    assert "\n" not in str(error.value)


def test_groups_and_terms_that_do_not_exist_are_refused(slide) -> None:
    with pytest.raises(UsageError, match="observation group in realism"):
        slide(1, history={"polcy": 2})
    with pytest.raises(UsageError, match=r"observation_noise\.n: no term matches 'sped'"):
        slide(1, observation_noise={"n": ObservationNoise(terms="sped", std=1.0)})
    with pytest.raises(UsageError, match=r"observation group in observation_noise\.n"):
        slide(1, observation_noise={"n": ObservationNoise(group="critic", std=1.0)})
