"""The Python interface: what the command line does, in a few functions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from robotrl.compose import compose, compose_task
from robotrl.core.config import check_seed
from robotrl.core.errors import UsageError
from robotrl.deploy.bundle import Bundle
from robotrl.envs import env
from robotrl.envs.env import AnyTask, Env
from robotrl.policies.policy import Policy


def make_env(task: str | AnyTask, num_envs: int = 1, seed: int = 0, **task_options: Any) -> Env:
    """Make environments of a task.

    Args:
        task: name of a task (`robotrl list tasks`) or `LIBRARY:ID` as in "gymnasium:Pendulum-v1", or an
            instance of one's own.
        num_envs: number of simulations stepped together.
        seed: of every draw the environments make.
        **task_options: fields of the task to change, for a task given by name.

    Raises:
        UsageError: there is no such task or option.
        RobotrlError: another library is not installed or does not work here.
    """
    check_seed(seed)
    if isinstance(task, str):
        return env.make_env(compose_task(task, task_options), num_envs, seed)
    if task_options:
        raise UsageError(f"options {sorted(task_options)} belong into the task instance that was given")
    return env.make_env(task, num_envs, seed)


def train(recipe: str | None = None, *overrides: str, show_progress: bool = True, **values: Any) -> Path:
    """Train, evaluate, export and verify; return the run folder.

    Args:
        recipe: name of a recipe (`robotrl list recipes`), or None.
        *overrides: words as on the command line, such as "algorithm.learning_rate=1e-4".
        show_progress: whether to draw a progress bar.
        **values: `task`, `algorithm` and `policy` by name, run options such as `seed` and
            `total_steps` by value.

    Raises:
        UsageError: a name, key, type or value is wrong.
    """
    from robotrl.training import train as training

    names = {key: values.pop(key) for key in ("task", "algorithm", "policy") if key in values}
    for key, name in names.items():
        if not isinstance(name, str):
            raise UsageError(
                f"{key} must be a name, got {name!r}: a class of your own is {key}._target_=PATH"
            )
    if recipe is not None and "=" in recipe:
        raise UsageError(f"the first argument names a recipe, got {recipe!r}: give None before words")
    words = [f"{key}={name}" for key, name in ({"recipe": recipe} | names).items() if name is not None]
    return training.train(compose([*words, *overrides], values), show_progress=show_progress)


def evaluate(run: str | Path, episodes: int = 32, seed: int = 1_000, video: bool = False) -> dict[str, Any]:
    """Evaluate a run's policy on fresh episodes.

    Args:
        run: folder of the run.
        episodes: number of episodes.
        seed: of the environments.
        video: whether to record one episode.

    Returns:
        `mean`, `ci_low`, `ci_high` (95 % bootstrap interval), `episodes`, `csv` and `video` (paths).
    """
    from robotrl.training import evaluation

    return evaluation.evaluate_run(Path(run), episodes, seed, video)


def load_policy(path: str | Path) -> Policy | Bundle:
    """Load the policy of a run's newest checkpoint, or an exported bundle.

    Args:
        path: a run folder or a bundle.

    Returns:
        A `Policy` (observation groups in, actions in [-1, 1] out, see `Policy.act`) for a run; for a
        bundle a `Bundle`, which is called with flat observations and returns physical commands.

    Raises:
        UsageError: `path` is neither.
        RobotrlError: the checkpoint or a part of the bundle is missing or damaged.
    """
    if (Path(path) / "contract.json").is_file():
        return Bundle.load(Path(path))
    from robotrl.training.restore import load_policy_and_config

    policy, _ = load_policy_and_config(Path(path))
    return policy
