"""`robotrl collect`: what is stored is what a second simulation does, one episode of each environment."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import gymnasium
import pytest
import torch
from counter_env import Counter
from tiny_runs import PENDULUM
from torch import Tensor

from robotrl.cli import main
from robotrl.compose import compose, compose_task_words
from robotrl.core.catalog import available
from robotrl.core.config import collection_seed
from robotrl.core.errors import UsageError
from robotrl.data.dataset import Dataset
from robotrl.data.loading import load_dataset
from robotrl.envs.env import Env, make_env
from robotrl.sim.sim import Sim
from robotrl.tasks.control_suite.cartpole import Cartpole
from robotrl.training.collect import CollectOptions
from robotrl.training.restore import load_policy_and_config
from robotrl.training.train import train

pytest.importorskip("h5py")


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test runs in an empty folder."""
    monkeypatch.chdir(tmp_path)


@dataclass
class Falling(Cartpole):
    """A cart-pole whose episode ends when the cart leaves the middle; a success if it went right."""

    episode_length_s: float = 0.6

    def terminated(self, sim: Sim) -> Tensor:
        return sim.data("qpos")[:, 0].abs() > 0.3

    def success(self, sim: Sim) -> Tensor:
        return sim.data("qpos")[:, 0] > 0.0

    def expert(self, sim: Sim) -> Tensor:
        # beyond the actuator's bounds for some
        return 20.0 * sim.data("qpos")[:, :1]


@dataclass
class Diverging(Falling):
    """The same cart-pole, which is not finite any more where the cart goes too far right."""

    beyond_m: float = 0.25

    def before_step(self, sim: Sim) -> None:
        sim.data("qvel")[sim.data("qpos")[:, 0] > self.beyond_m] = torch.nan


@dataclass
class Contested(Falling):
    """The same cart-pole, while somebody else records under the name that was free."""

    def before_step(self, sim: Sim) -> None:
        for name in ("random-v0", "mine-v3"):
            Path(f"datasets/contested/{name}/data").mkdir(parents=True, exist_ok=True)


@dataclass
class NeverStepped(Falling):
    """A cart-pole that must not be stepped."""

    def before_step(self, sim: Sim) -> None:
        raise AssertionError("it was recorded before the place was made")


FALLING = "task._target_=test_collect.Falling"


def collect(*words: str) -> Dataset:
    """Collect on the command line; load what was written."""
    before = set(Path("datasets").rglob("metadata.json"))
    assert main(["collect", *words]) == 0
    (made,) = set(Path("datasets").rglob("metadata.json")) - before
    return load_dataset(made.parent.parent)


def error_line(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert main(["collect", *words]) != 0
    line = capsys.readouterr().err.strip().splitlines()[-1]  # there may be a progress bar above
    return line.removeprefix("robotrl: error: ")


def again(env: Env, dataset: Dataset, numbers: range) -> None:
    """Simulate episodes once more: number i in environment i - numbers.start; compare every bit."""
    obs = env.reset()
    longest = int(dataset.lengths[numbers.start : numbers.stop].max())
    for t in range(longest):
        action = torch.zeros(env.num_envs, env.specs.action_dim)
        running = [(n, i) for n, i in enumerate(numbers) if t < dataset.lengths[i]]
        for n, i in running:
            action[n] = dataset.action[dataset.starts[i] + t]
            recorded = dataset.obs["policy"][dataset.starts[i] + i + t]
            assert torch.equal(recorded, obs["policy"][n])
        step = env.step(action)
        for n, i in running:
            at, last = dataset.starts[i] + t, t == dataset.lengths[i] - 1
            assert dataset.reward[at] == step.reward[n]
            assert last == bool(step.done[n])
            assert dataset.terminated[at] == step.terminated[n]
            if last:
                final = dataset.obs["policy"][at + i + 1]
                assert torch.equal(final, step.final_obs["policy"][n])
        obs = step.obs


def test_what_is_stored_is_what_a_second_simulation_does(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("robotrl.training.collect._MOST_ENVS", 8)
    dataset = collect(FALLING, "policy=random", "episodes=11", "seed=5")
    assert dataset.num_episodes == 11 and 0 < int(dataset.terminated.sum()) < 11
    task, name = compose_task_words([FALLING])
    assert name == "falling" and dataset.origin == "datasets/falling/random-v0"
    env = make_env(task, 8, collection_seed(5))
    again(env, dataset, range(0, 8))
    again(env, dataset, range(8, 11))
    ends = dataset.obs["policy"][dataset.ends + 1 + torch.arange(11), 0]
    assert dataset.success is not None and torch.equal(dataset.success, ends > 0)
    assert dataset.specs == env.specs and dataset.named


def test_the_expert_saturates_and_noise_stays_inside():
    calm = collect(FALLING, "policy=expert", "episodes=6")
    episode = torch.arange(6).repeat_interleave(calm.lengths)
    position = calm.obs["policy"][torch.arange(calm.num_steps) + episode, 0]
    torch.testing.assert_close(calm.action[:, 0], (20.0 * position).clamp(-1, 1))
    assert (calm.action.abs() == 1).any() and (calm.action.abs() < 1).any()
    noisy = collect(FALLING, "policy=expert", "episodes=6", "noise_std=0.2")
    assert noisy.origin == "datasets/falling/expert-v1"
    assert noisy.action.abs().max() <= 1 and noisy.provenance["noise_std"] == 0.2
    first = noisy.action[noisy.starts, 0] - calm.action[calm.starts, 0]
    assert 0.02 < first.abs().max() < 1.0


def test_a_runs_policy_on_its_own_task(capsys: pytest.CaptureFixture[str]):
    assert main(["train", *PENDULUM, "export=false"]) == 0
    (config,) = Path("runs").rglob("config.yaml")
    run = f"policy={config.parent}"
    dataset = collect(run, "episodes=3")
    assert dataset.origin == "datasets/pendulum_swingup/ppo-v0" and dataset.lengths.tolist() == [20, 20, 20]
    policy, _ = load_policy_and_config(config.parent)
    obs = dataset.obs["policy"].unflatten(0, (3, 21))[:, :20].flatten(0, 1)
    expected = policy.act({"policy": obs}, deterministic=True)
    torch.testing.assert_close(dataset.action, expected, rtol=0, atol=1e-6)
    drawn = collect(run, "episodes=3", "deterministic=false")
    assert (drawn.action[drawn.starts] - dataset.action[dataset.starts]).abs().min() > 1e-3
    assert drawn.provenance["policy_env_steps"] == 128 and drawn.provenance["deterministic"] is False
    assert "episode_length_s: 0.4" in drawn.provenance["task"]
    message = error_line(capsys, run, "task=walker_walk")
    assert "was trained on pendulum_swingup, which differs from the task given: " in message
    message = error_line(capsys, run, "task.episode_length_s=2")
    assert "task.episode_length_s=2 is an option of the task: name it, too (task=NAME)" in message
    message = error_line(capsys, "policy=exprt", "task=walker_walk")
    assert "policy=exprt is no run folder; give one, or expert or random" in message


def test_the_same_seed_records_the_same(tmp_path: Path):
    one, same, other = (
        collect(FALLING, "policy=random", "episodes=3", f"seed={seed}", f"out=datasets/{i}/a-v0")
        for i, seed in enumerate([1, 1, 2])
    )
    assert torch.equal(one.action, same.action) and torch.equal(one.obs["policy"], same.obs["policy"])
    assert not torch.equal(one.action[:5], other.action[:5])


def test_each_environment_of_another_library_gives_its_first_episode():
    """Counters take 2 to 5 steps: whoever waits for the first five to end has more of the short ones."""
    gymnasium.register("RobotrlCounter-v0", entry_point=Counter)
    words = ["task=gymnasium:RobotrlCounter-v0", "policy=random", "episodes=5", "task.vectorization=sync"]
    try:
        dataset = collect(*words)
    finally:
        del gymnasium.registry["RobotrlCounter-v0"]
    assert dataset.lengths.unique().numel() > 1
    assert (dataset.obs["policy"][:, 1] == 0).all()  # the number of the episode
    assert dataset.terminated[dataset.ends].all() and dataset.success is None


def test_episodes_that_diverge_are_left_out_counted_and_replaced(capsys: pytest.CaptureFixture[str]):
    target = "task._target_=test_collect.Diverging"
    dataset = collect(target, "policy=random", "episodes=8")
    left_out = dataset.provenance["diverged_episodes"]
    assert dataset.num_episodes == 8 and left_out > 0
    assert f"8, {left_out} diverged and left out" in capsys.readouterr().out
    assert dataset.success is not None and not dataset.success[dataset.terminated[dataset.ends]].any()
    message = error_line(capsys, target, "task.beyond_m=-9", "policy=random", "episodes=3")
    assert message == "3 of 3 episodes of diverging diverged: too many to go on"


@pytest.mark.parametrize(
    ("out", "made"), [([], "random-v1"), (["out=datasets/contested/mine-v3"], "mine-v4")]
)
def test_nothing_is_lost_where_somebody_else_takes_the_name_meanwhile(
    out: list[str], made: str, capsys: pytest.CaptureFixture[str]
):
    dataset = collect("task._target_=test_collect.Contested", "policy=random", "episodes=2", *out)
    assert dataset.origin == f"datasets/contested/{made}" and dataset.num_episodes == 2
    assert dataset.origin in capsys.readouterr().out
    metadata = json.loads(Path(dataset.origin, "data/metadata.json").read_text())
    assert metadata["dataset_id"] == f"contested/{made}"
    assert {path.name for path in Path("datasets/contested").iterdir()} == {"random-v0", "mine-v3", made}
    assert not list(Path("datasets/contested/random-v0/data").iterdir())  # theirs


@pytest.mark.parametrize("parent", ["/proc/nope", "file/inside"])
def test_the_place_is_made_before_anything_is_recorded(parent: str, capsys: pytest.CaptureFixture[str]):
    Path("file").touch()
    words = ["task._target_=test_collect.NeverStepped", "policy=random", f"out={parent}/x-v0"]
    assert error_line(capsys, *words).startswith(f"{parent}/x-v0 cannot be made: No")
    target = "task._target_=test_collect.Diverging"
    words = [target, "task.beyond_m=-9", "policy=random", "episodes=3", "out=a/b/x-v0"]
    assert "too many to go on" in error_line(capsys, *words)
    assert list(Path().iterdir()) == [Path("file")]


def test_the_summary_is_printed_and_stored(capsys: pytest.CaptureFixture[str]):
    dataset = collect(FALLING, "policy=random", "episodes=4")
    printed = capsys.readouterr().out
    metadata = json.loads(Path(dataset.origin, "data/metadata.json").read_text())
    assert metadata["robotrl"]["summary"] == json.loads(json.dumps(dataset.summary()))
    for text in (dataset.origin, f"{dataset.num_steps:,}", f"{dataset.summary()['return']['mean']:.4g}"):
        assert text in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["policy=random"], "policy=random needs a task: add task=NAME"),
        (["task=pendulum_swingup"], "policy must be given"),
        (["policy=x"], "policy=x is no run folder; give one, or expert or random"),
        (["policy=random", "task=pendulm_swingup"], "(did you mean 'pendulum_swingup'?)"),
        (["policy=random", FALLING, "episods=3"], "unknown key 'episods' (did you mean 'episodes'?)"),
        (["policy=random", FALLING, "episodes=0"], "episodes must be at least 1, got 0"),
        (["policy=random", FALLING, "noise_std=0.1"], "noise_std does not go with policy=random"),
        (["policy=expert", FALLING, "deterministic=false"], "deterministic=false is for the policy of a run"),
        (["policy=random", FALLING, "task.tim=1"], "unknown key 'task.tim'"),
        (["policy=random", FALLING, "out=a"], "named NAME-v0, -v1, ..."),
        (["policy=expert", "task=pendulum_swingup"], "pendulum_swingup has no expert (`Task.expert`)"),
        (
            ["policy=random", FALLING, "task.images.front.camera=fixed"],
            "task.images (front): pictures cannot be stored in a dataset yet",
        ),
        (["policy=random", FALLING, "episodes"], "cannot read 'episodes': expected key=value"),
    ],
)  # fmt: skip
def test_wrong_usage_is_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    assert message in error_line(capsys, *words)
    assert not list(Path().iterdir())


@pytest.mark.parametrize("task", ["point_mass_easy", "point_mass_hard"])
def test_the_expert_of_the_point_mass_gets_there(task: str):
    summary = collect(f"task={task}", "policy=expert", "episodes=5").summary()
    assert summary["return"]["min"] > 600  # of at most 1000


@pytest.mark.parametrize("recipe", [name for name in available("recipe") if compose([f"recipe={name}"]).data])
def test_recipes_say_how_their_data_are_recorded(recipe: str) -> None:
    """The command that a newcomer is told records the data that the recipe names, on its task."""
    config = compose([f"recipe={recipe}"])
    assert config.data_command is not None
    origin = getattr(config.algorithm, "init_from", None)
    what = "record it with `robotrl collect" if origin is None else f"recipe {recipe} says in its first line"
    with pytest.raises(UsageError, match=f"does not exist: .*{what}"):
        train(config)
    words = config.data_command.removeprefix("robotrl collect ").split()
    task = [word for word in words if word.startswith("task")]
    options = dict(word.split("=") for word in words if word not in task)
    assert compose_task_words(task)[0] == config.task
    assert options.keys() <= {field.name for field in dataclasses.fields(CollectOptions)}
    assert options["policy"] == "expert" and [options["out"]] == config.data
