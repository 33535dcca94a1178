"""Collection: whole episodes of a policy, an expert or random actions, as a dataset on the disk."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor

from robotrl.core import checks
from robotrl.core.config import SEEDS, collection_seed, learner_seed, task_to_yaml
from robotrl.core.errors import RobotrlError, UsageError
from robotrl.core.files import writable_parent
from robotrl.core.types import Obs, Specs
from robotrl.data.dataset import Dataset
from robotrl.envs.action_queue import ActionQueue
from robotrl.envs.env import AnyTask, Env, make_env
from robotrl.sim.threads import one_torch_thread
from robotrl.tasks.task import Task
from robotrl.training.controller import Controller
from robotrl.training.demonstrators import Demonstrator, random_actions, scripted_expert, trained_policy
from robotrl.training.run_folder import RunFolder, versions

_MOST_ENVS = 64


@dataclass
class CollectOptions:
    """What is recorded, besides the task."""

    policy: str
    """Folder of a run, `expert` for the task's own demonstrator, or `random` for uniform actions."""
    episodes: int = 100
    """Whole episodes, at least 1."""
    deterministic: bool = True
    """Whether a run's policy acts as it is evaluated; false draws from its distribution."""
    noise_std: float = 0.0
    """Standard deviation of Gaussian noise on the actions in [-1, 1], which they do not leave; at least 0."""
    seed: int = 0
    """Of environments, noise and draws, at least 0 and below 2^30."""
    out: str | None = None
    """Folder to make, NAME-v0; null for datasets/TASK/POLICY-v0, or the next number that is free. What
    somebody else makes there meanwhile is left alone: the data then get the next number, too."""

    def __post_init__(self) -> None:
        checks.at_least(self, 1, "episodes")
        checks.at_least(self, 0, "noise_std", "seed")
        if self.seed >= SEEDS:
            raise ValueError(f"seed must be below 2^30, got {self.seed}")
        if self.policy not in ("expert", "random") and not Path(self.policy).exists():
            raise ValueError(f"policy={self.policy} is no run folder; give one, or expert or random")
        if self.policy == "random" and self.noise_std:
            raise ValueError("noise_std does not go with policy=random, whose actions are uniform already")
        if self.policy in ("expert", "random") and not self.deterministic:
            raise ValueError(f"deterministic=false is for the policy of a run, not policy={self.policy}")


@one_torch_thread()
@torch.no_grad()
def collect(
    options: CollectOptions, task: AnyTask | None, task_name: str, show_progress: bool = True
) -> tuple[Path, Dataset]:
    """Record `options.episodes` whole episodes and write them in Minari's layout.

    Each environment gives one episode a round, so that short episodes are not more frequent than they are
    under the policy. Episodes whose simulation diverged are left out, counted, and replaced.

    Args:
        options: what is recorded.
        task: where; None for the task of the run that `options.policy` names.
        task_name: of `task`.
        show_progress: whether to draw a progress bar.

    Returns:
        The folder that was made, and what is in it.

    Raises:
        UsageError: the folder exists or cannot be made, the policy does not fit the task, or the task
            observes pictures.
        RobotrlError: h5py is missing, or most simulations diverged.
    """
    from robotrl.data.minari import check_new  # needs an extra

    if task is None:
        if options.policy in ("expert", "random"):
            raise UsageError(
                f"policy={options.policy} needs a task: add task=NAME (see `robotrl list tasks`)"
            )
        config = RunFolder(Path(options.policy)).config()
        task, task_name = config.task, config.task_name
    if isinstance(task, Task) and task.images:
        raise UsageError(
            f"task.images ({', '.join(task.images)}): pictures cannot be stored in a dataset yet; collect "
            "without them, by a policy that does not need them"
        )
    if options.out is not None:
        check_new(Path(options.out))
    most = getattr(type(task), "max_default_num_envs", _MOST_ENVS)
    env = make_env(task, min(options.episodes, most, _MOST_ENVS), collection_seed(options.seed))
    rng = torch.Generator().manual_seed(learner_seed(options.seed))
    who = _demonstrator(options, task_name, env, rng)
    default = Path("datasets") / task_name / f"{who.name}-v0"
    folder = _free(default) if options.out is None else Path(options.out)
    with writable_parent(folder):
        episodes, diverged = _episodes(env, who, options, rng, task_name, show_progress)
        made_by = _provenance(options, task, task_name, who, env.num_envs, diverged)
        return _write(_joined(episodes, str(folder), env.specs, made_by), folder)


def _provenance(
    options: CollectOptions, task: AnyTask, task_name: str, who: Demonstrator, num_envs: int, diverged: int
) -> dict[str, Any]:
    return {
        "task_name": task_name,
        "task": task_to_yaml(task),
        "policy": options.policy,
        **who.provenance,
        "noise_std": options.noise_std,
        "seed": options.seed,
        "num_envs": num_envs,
        "diverged_episodes": diverged,
        **versions(),
    }


def _write(dataset: Dataset, folder: Path) -> tuple[Path, Dataset]:
    """Write to a folder, or to the next free number where somebody else took it while this was recorded."""
    from robotrl.data.minari import TakenError, write_minari

    while True:
        try:
            write_minari(dataset, folder)
            return folder, dataset
        except TakenError:
            folder = _free(folder, later=1)
            dataset = dataclasses.replace(dataset, origin=str(folder))


@dataclass(frozen=True)
class _Episode:
    obs: Obs
    action: Tensor
    reward: Tensor
    terminated: bool
    success: bool | None


def _episodes(
    env: Env, who: Demonstrator, options: CollectOptions, rng: torch.Generator, task_name: str, shown: bool
) -> tuple[list[_Episode], int]:
    """Return the episodes, and how many were left out because their simulation diverged."""
    bar = Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("episodes"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        disable=not shown,
    )
    episodes: list[_Episode] = []
    diverged = 0
    with bar:
        row = bar.add_task(f"{task_name} · {who.name}", total=options.episodes)
        while len(episodes) < options.episodes:
            wanted = min(env.num_envs, options.episodes - len(episodes))
            found = _Round(env, who.controller, options.noise_std, rng, wanted).play(lambda: bar.advance(row))
            episodes += found
            diverged += wanted - len(found)
            if diverged > len(episodes) and diverged >= env.num_envs:
                played = diverged + len(episodes)
                raise RobotrlError(
                    f"{diverged} of {played} episodes of {task_name} diverged: too many to go on"
                )
    return episodes, diverged


class _Round:
    """The first episode of each of the first `wanted` environments."""

    def __init__(
        self, env: Env, controller: Controller, noise_std: float, rng: torch.Generator, wanted: int
    ) -> None:
        self.env, self.controller, self.wanted = env, controller, wanted
        self.noise_std, self.rng = noise_std, rng
        num = env.num_envs
        self.running = torch.arange(num) < wanted
        self.lengths = torch.zeros(num, dtype=torch.int64)
        self.terminated = torch.zeros(num, dtype=torch.bool)
        self.valid = torch.ones(num, dtype=torch.bool)
        self.success: Tensor | None = None
        self.last_obs = {group: torch.empty(num, env.specs.obs_dim(group)) for group in env.specs.observation}

    def play(self, on_end: Callable[[], None]) -> list[_Episode]:
        """Return the sound episodes, in the order of the environments."""
        env = self.env
        queue = ActionQueue(env.num_envs, self.controller.horizon, env.specs.action_dim)
        rows: list[tuple[Obs, Tensor, Tensor]] = []
        obs = env.reset()
        while bool(self.running.any()):
            action = self._with_noise(queue.next(obs, self.controller.decide))
            step = env.step(action)
            queue.after(step)
            rows.append((obs, action, step.reward))
            self.lengths += self.running
            ended = self.running & step.done
            self.valid &= step.valid | ~self.running
            self.terminated |= ended & step.terminated
            if bool(ended.any()):
                for group, values in self.last_obs.items():
                    values[ended] = step.final_obs[group][ended]
                self._note_success(ended, step.done & step.valid, step.log.get("episode/success"))
                for _ in range(int(ended.sum())):
                    on_end()
            self.running &= ~step.done
            obs = step.obs
        return self._cut(rows)

    def _with_noise(self, action: Tensor) -> Tensor:
        if self.noise_std == 0.0:
            return action
        noise = torch.empty(action.shape).normal_(generator=self.rng)
        return action.add(noise, alpha=self.noise_std).clamp(-1.0, 1.0)

    def _note_success(self, ended: Tensor, told: Tensor, success: Tensor | None) -> None:
        """Note the successes that were logged for the environments `told`."""
        if success is None:
            return
        if self.success is None:
            self.success = torch.zeros_like(ended)
        now = torch.zeros_like(ended)
        now[told] = success.bool()
        self.success |= ended & now

    def _cut(self, rows: list[tuple[Obs, Tensor, Tensor]]) -> list[_Episode]:
        obs = {group: torch.stack([row[0][group] for row in rows]) for group in self.last_obs}
        action, reward = torch.stack([row[1] for row in rows]), torch.stack([row[2] for row in rows])
        episodes = []
        for n in range(self.wanted):
            if not self.valid[n]:
                continue
            length = int(self.lengths[n])
            episodes.append(
                _Episode(
                    {
                        g: torch.cat([obs[g][:length, n], last[n : n + 1]])
                        for g, last in self.last_obs.items()
                    },
                    action[:length, n],
                    reward[:length, n],
                    bool(self.terminated[n]),
                    None if self.success is None else bool(self.success[n]),
                )
            )
        return episodes


def _joined(episodes: list[_Episode], origin: str, specs: Specs, provenance: dict[str, Any]) -> Dataset:
    lengths = torch.tensor([len(episode.reward) for episode in episodes])
    terminated = torch.zeros(int(lengths.sum()), dtype=torch.bool)
    terminated[lengths.cumsum(0) - 1] = torch.tensor([episode.terminated for episode in episodes])
    successes = [episode.success for episode in episodes]
    return Dataset(
        origin,
        specs,
        {group: torch.cat([episode.obs[group] for episode in episodes]) for group in specs.observation},
        torch.cat([episode.action for episode in episodes]),
        torch.cat([episode.reward for episode in episodes]),
        terminated,
        lengths,
        None if None in successes else torch.tensor(successes, dtype=torch.bool),
        named=True,
        provenance=provenance,
    )


def _demonstrator(options: CollectOptions, task_name: str, env: Env, rng: torch.Generator) -> Demonstrator:
    if options.policy == "expert":
        return scripted_expert(env, task_name)
    if options.policy == "random":
        return random_actions(env, rng)
    return trained_policy(Path(options.policy), options.deterministic, env, rng)


def _free(folder: Path, later: int = 0) -> Path:
    """Return the first folder of NAME-vI, NAME-v(I+1), ... where nothing is; I is `later` than `folder`'s."""
    stem, _, number = folder.name.rpartition("-v")
    names = (f"{stem}-v{i}" for i in itertools.count(int(number) + later))
    return next(place for name in names if not (place := folder.with_name(name)).exists())
