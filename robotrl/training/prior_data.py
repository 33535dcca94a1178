"""What a run learns from beside its own experience: `data=PATH`, or several, `data=[PATH, ...]`."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from robotrl.algorithms.off_policy.learner import ReplayLearner
from robotrl.core.config import TrainConfig, task_to_yaml
from robotrl.core.errors import RobotrlError, UsageError
from robotrl.data.dataset import Dataset
from robotrl.data.join import join
from robotrl.data.loading import load_dataset
from robotrl.data.replay import Replay
from robotrl.training.loop import Loop
from robotrl.training.off_policy import OffPolicyLoop
from robotrl.training.run_folder import RunFolder, write_json

DATA_FILE = "data.json"

# options of a task that change neither the rewards of a state nor which states end an episode
_HARMLESS = {
    "realism", "mjcf", "images", "physics_dt_s", "control_dt_s", "episode_length_s", "max_episode_steps",
    "vectorization",
}  # fmt: skip


def load_prior_data(
    config: TrainConfig, paths: Collection[str], algorithm: ReplayLearner, resumed: bool
) -> Replay:
    """Return what was collected before, and let the normalisers know it unless a checkpoint will.

    Args:
        config: of the run.
        paths: of the datasets.
        algorithm: what learns from them.
        resumed: whether the run goes on from a checkpoint.

    Raises:
        UsageError: a dataset is missing, not whole, of another task, or has other observations or actions.
    """
    groups, any_bounds = algorithm.obs_groups, config.data_any_bounds
    datasets = []
    for path in paths:
        if config.data_command is not None and not Path(path).exists():
            raise UsageError(f"dataset {path} does not exist: record it with `{config.data_command}`")
        dataset = load_dataset(path)
        dataset.check_fits(algorithm.specs, groups, any_bounds)
        if not config.data_of_other_task:
            _check_task(dataset, config)
        datasets.append(dataset)
    joined = join(datasets, groups, any_bounds)
    longest, horizon = int(joined.lengths.max()), algorithm.policy.horizon
    if horizon > longest:
        raise UsageError(
            f"policy.horizon={horizon} is longer than the longest episode of the data, {longest} control "
            "steps: the rest of a decision would be learned from nothing"
        )
    if not resumed:
        algorithm.observe(dict(joined.obs))
    return joined.to_replay(groups)


def missing_prior(config: TrainConfig) -> str | None:
    """Return a warning where a method begins with nothing that is made to begin with data or a policy."""
    name, learner = config.algorithm_class.__name__, config.algorithm_class
    if not (issubclass(learner, ReplayLearner) and learner.expects_prior):
        return None
    if config.data is not None or config.algorithm.init_from is not None:
        return None
    return f"{name} has neither data= nor algorithm.init_from=RUN to begin with, which it is made for"


def note_data(run: RunFolder, loop: Loop) -> None:
    """Write into a run what it learns from, for `check_same_data`."""
    data = _data_of(loop)
    if data is not None:
        write_json(run.path / DATA_FILE, {"transitions": data.size, "sha256": data.fingerprint()})


def check_same_data(run: RunFolder, config: TrainConfig, loop: Loop) -> None:
    """Check that a resumed run goes on with the data that it began with.

    Raises:
        UsageError: what lies at the paths of its datasets is something else now.
        RobotrlError: what the run noted of them is missing or damaged.
    """
    data = _data_of(loop)
    if data is None:
        return
    path = run.path / DATA_FILE
    try:
        noted = json.loads(path.read_text(encoding="utf-8"))["sha256"]
    except OSError as error:
        raise RobotrlError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise RobotrlError(f"{path} is damaged: {error}") from error
    if noted != data.fingerprint():
        raise UsageError(
            f"run {run.path} learned from other data than what is at {', '.join(config.data or [])} now: put "
            "back what was there, or train a new run"
        )


def _data_of(loop: Loop) -> Replay | None:
    return loop.data if isinstance(loop, OffPolicyLoop) else None


def _check_task(dataset: Dataset, config: TrainConfig) -> None:
    """Check that rewards and ends are the task's, as far as the dataset tells how it was recorded."""
    recorded = dataset.provenance.get("task")
    if recorded is None:
        return
    try:
        theirs, ours = _options(recorded), _options(task_to_yaml(config.task))
    except (yaml.YAMLError, OmegaConfBaseException, AttributeError) as error:
        raise UsageError(f"dataset {dataset.origin} names no task that can be read: {error}") from error
    name = dataset.provenance.get("task_name", "another task")
    differing = [key for key in theirs if key in ours and theirs[key] != ours[key]]
    if not differing:
        return
    if "_target_" in differing:
        what = f"on {name}, the task is {config.task_name}"
    else:
        what = f"on {name} with " + ", ".join(
            f"task.{key}={theirs[key]}, {config.task_name} has {ours[key]}" for key in differing
        )
    raise UsageError(
        f"dataset {dataset.origin} was recorded {what}: its rewards and ends may be others; choose data of "
        "this task, or add data_of_other_task=true to learn from them as they are"
    )


def _options(section: str) -> Mapping[str, Any]:
    """Return the class of a `task` section and its options that rewards and ends may depend on."""
    plain: Any = OmegaConf.to_container(OmegaConf.create(section))
    return {key: value for key, value in plain.items() if key not in _HARMLESS}
