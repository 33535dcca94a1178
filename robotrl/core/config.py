"""Configuration: dataclasses are the truth, YAML and the command line only fill them in.

A section (task, algorithm, policy) names its class by import path in `_target_`. The schema is that
class itself where it is a dataclass (tasks), else the class's `config_class` (algorithms, policies).
Types, defaults, unknown keys and the checks in `__post_init__` all come from the schema.
"""

from __future__ import annotations

import dataclasses
import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from robotrl.core import checks
from robotrl.core.catalog import GROUPS, LISTED, name_of
from robotrl.core.errors import RobotrlError, UsageError
from robotrl.core.schema import (
    fill,
    first_line,
    load_target,
    path_of,
    plain,
    read_yaml,
    schema_of,
    unknown_key,
)

_SECTIONS = ("task", "algorithm", "policy", "origin")
SEEDS = 2**30
"""Seeds are at least 0 and below this: torch's generators keep the low 32 bits of a seed only."""


def learner_seed(seed: int) -> int:
    """Return the generator seed of weights and draws: in [2^30, 2^31), where no environment draws."""
    return seed + 2**30


def evaluation_seed(seed: int) -> int:
    """Return the generator seed of an evaluation: in [2^31, 2^31 + 2^30), where no training draws."""
    return seed + 2**31


def collection_seed(seed: int) -> int:
    """Return the generator seed of a collection: in [2^31 + 2^30, 2^32), where no evaluation draws."""
    return seed + 2**31 + 2**30


class Backend(enum.Enum):
    """Where the training's physics runs."""

    CPU = "cpu"
    WARP = "warp"


@dataclass
class RunOptions:
    """What a training run has besides its task, algorithm and policy."""

    task_name: str = ""
    """Name of the task in folders and tables; the task class's name where none is given."""
    recipe: str | None = None
    """Recipe the run was composed from."""
    seed: int = 0
    """Of every random draw of the run, at least 0 and below 2^30."""
    num_envs: int | None = None
    """Simulations stepped together, at least 1; null for the algorithm's default, at most the task's."""
    total_steps: int | None = None
    """Length of the training, environment steps over all simulations, at least 0; 0 to learn from `data`
    alone. Null for 1,000,000, or 0 of a method that takes none."""
    data: list[str] | None = None
    """Dataset that a method learns from beside its own experience: a Minari folder, an HDF5 file of D4RL's
    layout or an npz file of OGBench's; or several, [A, B], whose episodes are joined; null for none."""
    data_of_other_task: bool = False
    """Whether `data` may be recorded on another task, or with other options of it than physics, length of
    episodes and pictures: their rewards and ends are then learned from as they were recorded."""
    data_any_bounds: bool = False
    """Whether actions of files without names stand for the task's in [-1, 1] as they are, whatever physical
    bounds both have: true where their author scaled them so."""
    data_command: str | None = None
    """Command that records `data`, told to whoever does not have it; null where none is known."""
    eval_every: int = 0
    """Environment steps between two evaluations; 0 evaluates at the end only."""
    eval_episodes: int = 32
    """Episodes per evaluation, at least 1."""
    eval_seed: int = 1_000
    """Seed of the evaluation's environments, at least 0 and below 2^30."""
    checkpoint_every_s: float = 120.0
    """Time between two checkpoints, s, above 0."""
    keep_checkpoints: int = 2
    """Newest checkpoints kept, at least 1."""
    failure_recording_steps: int = 100
    """Control steps before a divergence that its file shows, at least 0; 0 writes no files. They are kept for
    every simulation: `robotrl.sim.guard` says what memory that takes."""
    backend: Backend = Backend.CPU
    """cpu, or warp: mujoco-warp on an NVIDIA GPU, in float32, with robotrl[warp] installed."""
    sim_threads: int | None = None
    """Physics threads, at least 1; null for one per CPU. Results do not depend on it."""
    torch_threads: int | None = None
    """Threads of the learner's tensor operations, at least 1; null lets the run choose."""
    export: bool = True
    """Whether the trained policy is exported and the bundle verified."""
    allow_simulation_only: bool = False
    """Whether a policy may be exported that acts on what exists in simulation only."""
    video: bool = False
    """Whether the final evaluation records a video."""
    runs_dir: str = "runs"
    """Folder in which the run makes its own folder."""
    target_return: float | None = None
    """Evaluation return the run should reach; null for none."""

    def __post_init__(self) -> None:
        checks.at_least(self, 1, "eval_episodes", "keep_checkpoints")
        checks.at_least(self, 1, "num_envs", "sim_threads", "torch_threads")
        checks.at_least(self, 0, "total_steps", "seed", "eval_every", "eval_seed", "failure_recording_steps")
        checks.above(self, 0, "checkpoint_every_s")
        checks.finite(self, "target_return")
        for name in ("seed", "eval_seed"):
            if getattr(self, name) >= SEEDS:
                raise ValueError(f"{name} must be below 2^30, got {getattr(self, name)}")
        if self.data == []:
            raise ValueError("data must name at least one dataset, or be null")
        if not self.runs_dir:
            raise ValueError("runs_dir must name a folder, got ''")
        if Path(self.task_name).is_absolute() or ".." in Path(self.task_name).parts:
            raise ValueError(f"task_name must be a folder within runs_dir, got {self.task_name!r}")


@dataclass(kw_only=True)
class PolicyConfig:
    """What the policy that a run trains is made of."""

    algorithm_class: Any
    """Class of the algorithm; `algorithm` is an instance of its `config_class`."""
    algorithm: Any
    """Algorithm configuration."""
    policy_class: Any
    """Class of the policy; `policy` is an instance of its `config_class`."""
    policy: Any
    """Policy configuration."""
    policy_given: bool = dataclasses.field(default=False, compare=False)
    """Whether a policy was asked for, or it is the algorithm's default."""
    origin: PolicyConfig | None = None
    """What the trained policy is made of that the algorithm builds on in place of a fresh `policy`; written
    by runs that keep such a policy as it is."""

    @property
    def algorithm_name(self) -> str:
        """As in `algorithm=NAME`."""
        return algorithm_name(self.algorithm_class)


@dataclass(kw_only=True)
class TrainConfig(RunOptions, PolicyConfig):
    """Everything that determines a training run, resolved and validated."""

    num_envs: int
    """Simulations stepped together, at least 1."""
    total_steps: int
    """Length of the training, environment steps over all simulations, at least 0."""
    task: Any
    """Task instance."""


def resolve(composed: DictConfig) -> TrainConfig:
    """Turn a composed document into typed, validated objects.

    Args:
        composed: sections `task`, `algorithm` and `policy` (each with `_target_`; the policy's may be
            null for the algorithm's own default) and the fields of `RunOptions`.

    Raises:
        UsageError: a section, key, type or value is wrong; the message names the key.
    """
    try:
        document: dict[str, Any] = OmegaConf.to_container(composed, resolve=True)  # type: ignore[assignment]
    except OmegaConfBaseException as error:
        raise UsageError(first_line(error)) from error
    task_class, task_options = _section(document, "task")
    task_schema = schema_of(task_class, "task")
    learned = _policy_config(document)
    algorithm_class = learned.algorithm_class
    run_options = {key: value for key, value in document.items() if key not in _SECTIONS}
    schemas = {"task": task_schema, "algorithm": type(learned.algorithm), "policy": type(learned.policy)}
    _refuse_misplaced(run_options, schemas)
    options = vars(fill(RunOptions, run_options, ""))
    options["task_name"] = options["task_name"] or snake_case(task_class.__name__)
    if options["num_envs"] is None:
        # copies of a single environment take memory and time that simulations of a batch do not
        most = getattr(task_class, "max_default_num_envs", algorithm_class.default_num_envs)
        options["num_envs"] = min(algorithm_class.default_num_envs, most)
    if options["total_steps"] is None:
        options["total_steps"] = algorithm_class.default_total_steps
    return TrainConfig(task=fill(task_schema, task_options, "task"), **vars(learned), **options)


def _policy_config(document: Mapping[str, Any], within: str = "") -> PolicyConfig:
    """Read the sections `algorithm`, `policy` and, where there is one, `origin`."""
    algorithm_class, algorithm_options = _section(document, "algorithm")
    algorithm_schema = schema_of(algorithm_class, "algorithm")
    policy_class, policy_options = _section(document, "policy", algorithm_class.default_policy)
    policy_schema = schema_of(policy_class, "policy")
    origin = document.get("origin")
    if not isinstance(origin, Mapping | None):
        raise UsageError(f"{within}origin: expected the sections algorithm and policy, got {origin!r}")
    return PolicyConfig(
        algorithm_class=algorithm_class,
        algorithm=fill(algorithm_schema, algorithm_options, f"{within}algorithm"),
        policy_class=policy_class,
        policy=fill(policy_schema, policy_options, f"{within}policy"),
        policy_given=any(value is not None for value in (document.get("policy") or {}).values()),
        origin=_policy_config(origin, f"{within}origin.") if origin else None,
    )


def resolve_task(section: Mapping[str, Any]) -> Any:
    """Return the task instance of a `task` section on its own."""
    task_class, options = _section({"task": section}, "task")
    return fill(schema_of(task_class, "task"), options, "task")


def _section(document: Mapping[str, Any], name: str, default: Any = None) -> tuple[Any, dict[str, Any]]:
    """Split a section into the class it names and the values it gives."""
    section = document.get(name) or {}
    if not isinstance(section, Mapping):
        raise UsageError(f"{name}: expected a section with `_target_`, got {section!r}")
    options = {key: value for key, value in section.items() if key != "_target_"}
    target = section.get("_target_")
    if target is not None:
        return load_target(target, name), options
    if default is None:
        raise UsageError(
            f"no {name} given: add {name}=NAME (`robotrl list {LISTED[name]}`), a recipe=NAME or "
            f"{name}._target_=package.module.Class"
        )
    return default, options


def _refuse_misplaced(run_options: Mapping[str, Any], schemas: Mapping[str, type]) -> None:
    """Point to the section of a key that was given without it: learning_rate for algorithm.learning_rate."""
    fields = [field.name for field in dataclasses.fields(RunOptions)]
    for key in run_options:
        if key in fields:
            continue
        for section, schema in schemas.items():
            if key in {field.name for field in dataclasses.fields(schema)}:
                raise UsageError(f"unknown key {key!r} (did you mean '{section}.{key}'?)")
        raise unknown_key(key, key, list(dict.fromkeys([*fields, *GROUPS])))


def algorithm_name(algorithm_class: type) -> str:
    """Return what `algorithm=NAME` calls a class; of one that has no such name, its own in snake case."""
    return name_of("algorithm", path_of(algorithm_class)) or snake_case(algorithm_class.__name__)


def check_seed(seed: int, name: str = "seed") -> None:
    """Refuse a seed outside of the range in which trainings, evaluations and collections share no draws.

    Raises:
        UsageError: it is.
    """
    if not 0 <= seed < SEEDS:
        raise UsageError(f"{name} must be at least 0 and below 2^30, got {seed}")


def snake_case(name: str) -> str:
    """Return the name of a class as folders and tables have it: WalkerWalk is walker_walk."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def task_to_yaml(task: Any) -> str:
    """Write the `task` section of a task on its own, as YAML."""
    return OmegaConf.to_yaml(OmegaConf.create({"_target_": path_of(type(task)), **plain(task)}))


def to_yaml(config: TrainConfig) -> str:
    """Write the resolved configuration as YAML that `from_yaml` reads back to an equal one."""
    document = {field.name: plain(getattr(config, field.name)) for field in dataclasses.fields(RunOptions)}
    document["task"] = {"_target_": path_of(type(config.task)), **plain(config.task)}
    return OmegaConf.to_yaml(OmegaConf.create(document | _sections(config)))


def _sections(config: PolicyConfig) -> dict[str, Any]:
    """Return what `_policy_config` reads."""
    sections: dict[str, Any] = {
        "algorithm": {"_target_": path_of(config.algorithm_class), **plain(config.algorithm)},
        "policy": {"_target_": path_of(config.policy_class), **plain(config.policy)},
    }
    return sections if config.origin is None else sections | {"origin": _sections(config.origin)}


def from_yaml(path: Path) -> TrainConfig:
    """Read a configuration written by `to_yaml`.

    Raises:
        RobotrlError: the file is missing, damaged or does not describe a run.
    """
    document = read_yaml(path, "configuration", RobotrlError)
    try:
        return resolve(document)
    except UsageError as error:
        raise RobotrlError(f"{path}: {error}") from error
