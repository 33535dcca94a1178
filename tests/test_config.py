"""Composition, typing and validation of configurations, on toy schemas and on every shipped file."""

from __future__ import annotations

import dataclasses
import enum
import importlib
import importlib.util
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from hydra import compose as hydra_compose
from hydra import initialize_config_dir

from robotrl import compose as composing
from robotrl.compose import compose, compose_task, split_sweep
from robotrl.core.catalog import available
from robotrl.core.config import SEEDS, Backend, RunOptions, evaluation_seed, from_yaml, learner_seed, to_yaml
from robotrl.core.errors import RobotrlError, UsageError
from robotrl.core.paths import ASSETS, CONFIGS
from robotrl.core.schema import fill, plain


class Gait(enum.Enum):
    WALK = "walk"
    RUN = "run"


@dataclass
class Noise:
    std: float = 0.1


@dataclass
class ToyTask:
    speed_m_s: float = 1.0
    gait: Gait = Gait.WALK
    mjcf: Path = ASSETS / "control_suite" / "walker.xml"
    noise: Noise = field(default_factory=Noise)

    def __post_init__(self) -> None:
        if self.speed_m_s < 0:
            raise ValueError(f"speed_m_s must be at least 0, got {self.speed_m_s}")


@dataclass
class ToyConfig:
    learning_rate: float = 1e-3
    num_steps: int = 8
    hidden: list[int] = field(default_factory=lambda: [64, 64])
    weights: dict[str, float] = field(default_factory=lambda: {"stand": 1.0, "move": 2.0})
    limit: int | None = 5
    fused: bool = True


@dataclass
class ToyPolicyConfig:
    width: int = 32


class ToyPolicy:
    config_class: ClassVar[type] = ToyPolicyConfig


class ToyAlgorithm:
    config_class: ClassVar[type] = ToyConfig
    default_policy: ClassVar[type] = ToyPolicy
    default_num_envs: ClassVar[int] = 16
    default_total_steps: ClassVar[int] = 500


@dataclass
class Incomplete:
    target_m: float


@pytest.fixture
def toy_configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A config folder of toys in place of the shipped one."""
    files = {
        "train": (CONFIGS / "train.yaml").read_text(),
        "policy/default": "_target_: null\n",
        "task/toy": f"# A toy\n_target_: {__name__}.ToyTask\nspeed_m_s: 2.0\n",
        "algorithm/toy": f"_target_: {__name__}.ToyAlgorithm\nlearning_rate: 2.0\nnum_steps: 2\n",
        "recipe/toy": "# @package _global_\n# Toys\ndefaults:\n  - override /task: toy\n"
        "  - override /algorithm: toy\nalgorithm:\n  learning_rate: 3.0\n  num_steps: 3\ntotal_steps: 3\n",
    }
    for name, text in files.items():
        file = tmp_path / f"{name}.yaml"
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    monkeypatch.setattr(composing, "CONFIGS", tmp_path)
    return tmp_path


def test_later_sources_win(toy_configs: Path) -> None:
    """Dataclass default < group file < recipe < command line, shown on one key each."""
    config = compose(["recipe=toy", "algorithm.num_steps=4"])
    assert config.algorithm == ToyConfig(learning_rate=3.0, num_steps=4, fused=True)
    assert config.task == ToyTask(speed_m_s=2.0)
    assert (config.task_name, config.recipe, config.total_steps, config.seed) == ("toy", "toy", 3, 0)


def test_a_recipes_target_is_of_its_own_task(toy_configs: Path) -> None:
    with (toy_configs / "recipe/toy.yaml").open("a") as file:
        file.write("target_return: 5\n")
    assert compose(["recipe=toy"]).target_return == 5
    assert compose(["recipe=toy", "task=toy"]).target_return is None
    assert compose(["recipe=toy", "algorithm=toy", "target_return=7"]).target_return == 7


def test_algorithm_supplies_policy_environments_and_steps(toy_configs: Path) -> None:
    config = compose(["recipe=toy", "policy.width=7"])
    assert (config.policy_class, config.policy) == (ToyPolicy, ToyPolicyConfig(width=7))
    assert config.num_envs == 16
    assert compose(["recipe=toy", "num_envs=3"]).num_envs == 3
    assert compose(["task=toy", "algorithm=toy"]).total_steps == 500
    assert compose(["recipe=toy", "total_steps=0"]).total_steps == 0


def test_keys_that_no_yaml_mentions_can_be_set(toy_configs: Path) -> None:
    words = ["algorithm.hidden=[1,2,3]", "algorithm.fused=false", "algorithm.limit=null", "task.gait=run"]
    config = compose(["recipe=toy", *words, "task.noise.std=0.5", "algorithm.weights.move=9"])
    assert (config.algorithm.hidden, config.algorithm.fused, config.algorithm.limit) == (
        [1, 2, 3],
        False,
        None,
    )
    assert (config.task.gait, config.task.noise.std) == (Gait.RUN, 0.5)
    assert config.algorithm.weights == {"stand": 1.0, "move": 9.0}


def test_target_alone_names_a_task_of_ones_own(toy_configs: Path) -> None:
    config = compose([f"task._target_={__name__}.ToyTask", "algorithm=toy", "task.speed_m_s=3"])
    assert config.task == ToyTask(speed_m_s=3.0)
    assert config.task_name == "toy_task"


def test_an_algorithm_of_ones_own_is_named_after_its_class(toy_configs: Path) -> None:
    assert compose(["task=toy", "algorithm=toy"]).algorithm_name == "toy_algorithm"


@pytest.mark.parametrize("name", available("algorithm"))
def test_algorithms_have_the_name_they_are_chosen_by(name: str) -> None:
    assert compose(["task=pendulum_swingup", f"algorithm={name}"]).algorithm_name == name


def test_python_values_win_over_words(toy_configs: Path) -> None:
    config = compose(["recipe=toy", "seed=1"], {"seed": 2, "algorithm": {"hidden": [5]}})
    assert (config.seed, config.algorithm.hidden, config.algorithm.num_steps) == (2, [5], 3)


def test_composing_inside_another_hydra_program(toy_configs: Path) -> None:
    with initialize_config_dir(str(toy_configs), version_base="1.3"):
        assert compose(["recipe=toy"]).recipe == "toy"
        assert hydra_compose("task/toy").task.speed_m_s == 2.0  # the outer program is as it was


def test_sweep_expands_every_combination(toy_configs: Path) -> None:
    jobs = split_sweep(["recipe=toy", "seed=0,1", "algorithm.learning_rate=1e-3,1e-4,1e-5"])
    configs = [compose(job) for job in jobs]
    assert [(c.seed, c.algorithm.learning_rate) for c in configs] == [
        (seed, rate) for seed in (0, 1) for rate in (1e-3, 1e-4, 1e-5)
    ]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("algorithm.lerning_rate=1", "unknown key 'algorithm.lerning_rate' (did you mean 'learning_rate'?)"),
        ("task.noise.sdt=1", "unknown key 'task.noise.sdt' (did you mean 'std'?)"),
        ("learning_rate=1", "unknown key 'learning_rate' (did you mean 'algorithm.learning_rate'?)"),
        ("totl_steps=1", "unknown key 'totl_steps' (did you mean 'total_steps'?)"),
        ("tsk=toy", "unknown key 'tsk' (did you mean 'task'?)"),
        ("total_steps=abc", "total_steps: expected int or null, got 'abc'"),
        ("total_steps=1.5", "total_steps: expected int or null, got 1.5"),
        ("total_steps=true", "total_steps: expected int or null, got True"),
        ("total_steps=[1]", "total_steps: expected int or null, got [1]"),
        ("eval_every=null", "eval_every: expected int, got None"),
        ("algorithm.hidden=64", "algorithm.hidden: expected list[int], got 64"),
        ("algorithm.hidden=[a]", "algorithm.hidden: expected list[int], got ['a']"),
        ("algorithm.limit=x", "algorithm.limit: expected int or null, got 'x'"),
        ("algorithm.fused=2", "algorithm.fused: expected bool, got 2"),
        ("task.gait=hop", "task.gait: expected one of walk, run, got 'hop'"),
        ("task.noise=3", "task.noise: expected Noise, got 3"),
        ("task.speed_m_s=-1", "task: speed_m_s must be at least 0, got -1.0"),
        ("seed=-1", "seed must be at least 0, got -1"),
        ("seed=1073741824", "seed must be below 2^30, got 1073741824"),
        ("checkpoint_every_s=0", "checkpoint_every_s must be above 0, got 0.0"),
        ("checkpoint_every_s=.nan", "checkpoint_every_s: expected float, got '.nan'"),
        ("checkpoint_every_s=nan", "checkpoint_every_s must be finite, got nan"),
        ("num_envs=0", "num_envs must be at least 1, got 0"),
        ("policy._target_=nope.Policy", "policy target 'nope.Policy': there is no module 'nope'"),
        ("policy._target_=Policy", "expected an import path such as package.module.Class"),
        (f"policy._target_={__name__}.ToyPolicz", "no 'ToyPolicz' in the module (did you mean 'ToyPolicy'?)"),
        (f"policy._target_={__name__}.ToyTask", "must have a `config_class` that is a dataclass"),
        (f"task._target_={__name__}.ToyPolicy", "ToyPolicy' must be a dataclass"),
        (f"algorithm._target_={__name__}.ToyTask", "must have a `config_class` that is a dataclass"),
        ("seed=${nope}", "nope"),
        ("task=5", "each take one NAME"),
        ("task=zebra", "unknown task 'zebra'; known: toy; see `robotrl list tasks`"),
    ],
)
def test_wrong_input_is_one_clear_line(toy_configs: Path, word: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        compose(["recipe=toy", word])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_package_is_named(
    toy_configs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "needs_extra.py").write_text("import not_installed.part\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match=r"needs_extra\.Task needs the package 'not_installed': install it"):
        compose(["recipe=toy", "task._target_=needs_extra.Task"])


def test_a_field_without_default_must_be_given() -> None:
    with pytest.raises(UsageError, match="task: target_m must be given"):
        fill(Incomplete, {}, "task")
    assert fill(Incomplete, {"target_m": 2}, "task") == Incomplete(2.0)


def test_whole_floats_are_integers_for_yaml_writes_1e6_as_one() -> None:
    assert fill(RunOptions, {"total_steps": 1e6, "num_envs": 2e3}, "").total_steps == 1_000_000
    assert fill(RunOptions, {"total_steps": "1e6"}, "").total_steps == 1_000_000
    for wrong in ("1e-1", "one", 1.5):
        with pytest.raises(UsageError, match=f"seed: expected int, got {wrong!r}"):
            fill(RunOptions, {"seed": wrong}, "")


def test_plain_is_the_inverse_of_fill() -> None:
    task = ToyTask(speed_m_s=0.5, gait=Gait.RUN, mjcf=Path("/models/my robot.xml"), noise=Noise(0.0))
    assert plain(task) == {
        "speed_m_s": 0.5,
        "gait": "run",
        "mjcf": "/models/my robot.xml",
        "noise": {"std": 0.0},
    }
    assert fill(ToyTask, plain(task), "task") == task


@pytest.mark.parametrize("name", ["arm.xml", "models/it's {a} robot, v\\2: $x.xml"])
def test_a_file_in_the_package_of_its_task_is_saved_by_the_package(name: str, tmp_path: Path) -> None:
    task = ToyTask(mjcf=Path(__file__).parent / name)
    text = to_yaml(dataclasses.replace(compose(["task=pendulum_swingup", "algorithm=ppo"]), task=task))
    assert str(Path(__file__).parent) not in text, "an absolute path of this machine was saved"
    (tmp_path / "config.yaml").write_text(text)
    assert from_yaml(tmp_path / "config.yaml").task == task


@pytest.mark.parametrize("task", available("task"))
def test_every_shipped_task_survives_saving(task: str, tmp_path: Path) -> None:
    config = compose([f"task={task}", "algorithm=ppo", "seed=7"])
    text = to_yaml(config)
    (tmp_path / "config.yaml").write_text(text)
    assert from_yaml(tmp_path / "config.yaml") == config
    assert str(ASSETS) not in text, "an absolute path of this machine was saved"
    assert config.task == compose_task(task, {})


@pytest.mark.parametrize("recipe", available("recipe"))
def test_every_shipped_recipe_composes(recipe: str) -> None:
    config = compose([f"recipe={recipe}"])
    assert config.recipe == recipe
    assert config.target_return is not None, "a recipe states the figure it should reach"


@pytest.mark.parametrize("algorithm", available("algorithm"))
def test_every_shipped_algorithm_survives_saving(algorithm: str, tmp_path: Path) -> None:
    config = compose(["task=pendulum_swingup", f"algorithm={algorithm}"])
    assert config.num_envs >= 1
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert from_yaml(tmp_path / "config.yaml") == config


@pytest.mark.parametrize("policy", sorted(set(available("policy")) - {"default"}))
def test_every_shipped_policy_composes(policy: str) -> None:
    config = compose(["task=pendulum_swingup", "algorithm=ppo", f"policy={policy}"])
    assert config.policy == config.policy_class.config_class()


@pytest.mark.parametrize("group", ["task", "algorithm", "policy", "recipe"])
def test_every_file_is_described(group: str) -> None:
    assert available(group)
    assert [name for name, text in available(group).items() if not text] == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot read the configuration"),
        ("a: [", "is not a configuration"),
        ("- 1\n- 2\n", "expected keys and values"),
        ("seed: 0\n", "no task given"),
        ("\x00\x01", "is not a configuration"),
    ],
)
def test_damaged_configuration_file(tmp_path: Path, text: str | None, message: str) -> None:
    file = tmp_path / "config.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(RobotrlError, match=message) as caught:
        from_yaml(file)
    assert str(file) in str(caught.value)
    assert caught.value.exit_code == 1


def test_every_run_option_is_documented() -> None:
    source = (Path(composing.__file__).parent / "core" / "config.py").read_text()
    for option in dataclasses.fields(RunOptions):
        declaration = source.index(f"    {option.name}: ")
        assert source[declaration:].split("\n")[1].startswith('    """'), option.name


def test_the_backend_is_chosen_by_name(toy_configs: Path, tmp_path: Path) -> None:
    assert compose(["task=toy", "algorithm=toy"]).backend is Backend.CPU
    config = compose(["task=toy", "algorithm=toy", "backend=warp"])
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert from_yaml(tmp_path / "config.yaml").backend is config.backend is Backend.WARP
    with pytest.raises(UsageError, match="backend: expected one of cpu, warp, got 'gpu'"):
        compose(["task=toy", "algorithm=toy", "backend=gpu"])


@pytest.mark.skipif(importlib.util.find_spec("mujoco_warp") is not None, reason="mujoco-warp is installed")
def test_the_warp_backend_names_its_extra() -> None:
    with pytest.raises(RobotrlError, match=r'pip install "robotrl\[warp\]"'):
        importlib.import_module("robotrl.sim.warp_sim")


def test_environments_learner_and_evaluation_never_draw_the_same_numbers():
    """torch's generator keeps 32 bits of a seed: streams that differ above them would be one."""

    def draws(seed):
        return tuple(torch.rand(4, generator=torch.Generator().manual_seed(seed)).tolist())

    seeds = (0, 1, 1000, SEEDS - 1)
    streams = [draws(f(seed)) for seed in seeds for f in (int, learner_seed, evaluation_seed)]
    assert len(set(streams)) == len(streams)
