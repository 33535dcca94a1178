"""Evaluation: whole episodes on seeds of their own, with a bootstrap interval of the mean."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robotrl.core.config import check_seed, evaluation_seed
from robotrl.core.errors import RobotrlError, UsageError
from robotrl.core.files import writable_parent, write_aside
from robotrl.core.types import Step
from robotrl.envs.action_queue import ActionQueue
from robotrl.envs.env import AnyTask, make_env
from robotrl.policies.policy import Policy
from robotrl.sim.sim import MakeSim
from robotrl.sim.threads import one_torch_thread
from robotrl.training.controller import Controller, deterministic
from robotrl.training.playback import own_task
from robotrl.training.run_folder import RunFolder, write_json
from robotrl.training.video import chosen_grid, record_video

_RESAMPLES = 10_000
_NUMBERS_AT_ONCE = 1_000_000
_EVERY_TASKS = ("episode/return", "episode/length")


@dataclass(frozen=True)
class Evaluation:
    """One episode per environment.

    Attributes:
        returns: (E,) undiscounted returns.
        lengths: (E,) control steps.
        terminated: (E,) whether the episode ended in a true end state.
        valid: (E,) False where the simulation diverged; left out of the mean.
        scores: name -> (E,), what the task counts (`Task.scores`, `Task.success`); NaN where not valid.
    """

    returns: np.ndarray
    lengths: np.ndarray
    terminated: np.ndarray
    valid: np.ndarray
    scores: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def mean(self) -> float:
        """Mean return of the valid episodes."""
        return self.summary(self.returns)["mean"]

    def interval(self) -> tuple[float, float]:
        """95 % percentile bootstrap interval of the mean (Efron 1979), same draws every time."""
        summary = self.summary(self.returns)
        return summary["ci_low"], summary["ci_high"]

    def summary(self, values: np.ndarray) -> dict[str, float]:
        """Return "mean", "ci_low" and "ci_high" of (E,) values over the valid episodes, NaN without any."""
        chosen = values[self.valid]
        if not len(chosen):
            return dict.fromkeys(("mean", "ci_low", "ci_high"), float("nan"))
        rng, size = np.random.default_rng(0), len(chosen)
        # in blocks: all at once they would be gigabytes of thousands of episodes
        block = max(1, _NUMBERS_AT_ONCE // size)
        counts = [min(block, _RESAMPLES - start) for start in range(0, _RESAMPLES, block)]
        means = [chosen[rng.integers(size, size=(count, size))].mean(axis=1) for count in counts]
        low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
        return {"mean": float(chosen.mean()), "ci_low": float(low), "ci_high": float(high)}


def evaluate(
    policy: Policy, task: AnyTask, episodes: int, seed: int, num_threads: int | None = None
) -> Evaluation:
    """Run `episodes` whole episodes with the deterministic policy, see `evaluate_controller`.

    A policy that needs noise draws it from the seed.
    """
    return evaluate_controller(deterministic(policy, seed), task, episodes, seed, num_threads)


@one_torch_thread()
@torch.no_grad()
def evaluate_controller(
    controller: Controller,
    task: AnyTask,
    episodes: int,
    seed: int,
    num_threads: int | None = None,
    make_sim: MakeSim | None = None,
) -> Evaluation:
    """Run `episodes` whole episodes, one environment each.

    One episode per environment, so that short episodes are not counted more often than long ones. No training
    draws from the evaluation's random numbers, whatever the two seeds.

    Args:
        controller: decides.
        task: what to run.
        episodes: E.
        seed: of the environments.
        num_threads: physics threads, None for all CPUs.
        make_sim: see `VecEnv`.
    """
    env = make_env(task, episodes, evaluation_seed(seed), num_threads, make_sim=make_sim)
    queue = ActionQueue(episodes, controller.horizon, env.specs.action_dim)
    obs = env.reset()
    returns = torch.zeros(episodes, dtype=torch.float64)
    lengths = torch.zeros(episodes, dtype=torch.int64)
    terminated = torch.zeros(episodes, dtype=torch.bool)
    valid = torch.ones(episodes, dtype=torch.bool)
    running = torch.ones(episodes, dtype=torch.bool)
    scores: dict[str, Tensor] = {}
    while bool(running.any()):
        step = env.step(queue.next(obs, controller.decide))
        queue.after(step)
        returns += torch.where(running, step.reward.double(), 0.0)
        lengths += running
        terminated |= running & step.terminated
        valid &= step.valid | ~running
        _note_scores(scores, step, running)
        running &= ~step.done
        obs = step.obs
    counted = {name: values.numpy() for name, values in scores.items()}
    return Evaluation(returns.numpy(), lengths.numpy(), terminated.numpy(), valid.numpy(), counted)


def _note_scores(scores: dict[str, Tensor], step: Step, running: Tensor) -> None:
    """Add what `step` logs of the episodes that ended in it and are `running`, (E,) bool, to name -> (E,)."""
    ended = step.done & step.valid
    first = running & ended
    if not first.any():
        return
    for key, values in step.log.items():
        if key.startswith("episode/") and key not in _EVERY_TASKS:
            name = key.removeprefix("episode/")
            score = scores.setdefault(name, torch.full((len(running),), math.nan))
            score[first] = values[running[ended]]


def save_evaluation(folder: Path, evaluation: Evaluation, seed: int, env_steps: int) -> dict[str, Any]:
    """Write `episodes.csv` and `summary.json`; return the summary.

    Mean and interval are None where every episode diverged.
    """
    folder.mkdir(exist_ok=True)
    columns = (evaluation.returns, evaluation.lengths, evaluation.terminated, evaluation.valid)

    def write(path: Path) -> None:
        with open(path, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["episode", "return", "length", "terminated", "valid", *evaluation.scores])
            for i, (ret, length, terminated, valid, *scores) in enumerate(
                zip(*columns, *evaluation.scores.values(), strict=True)
            ):
                row = [i, repr(float(ret)), int(length), bool(terminated), bool(valid)]
                writer.writerow([*row, *(repr(float(score)) for score in scores)])

    def finite(values: np.ndarray) -> dict[str, float | None]:
        numbers = evaluation.summary(values).items()
        return {name: number if math.isfinite(number) else None for name, number in numbers}

    write_aside(folder / "episodes.csv", write)
    summary = {
        **finite(evaluation.returns),
        "episodes": len(evaluation.returns),
        "seed": seed,
        "env_steps": env_steps,
        "scores": {name: finite(values) for name, values in evaluation.scores.items()},
    }
    write_json(folder / "summary.json", summary)
    return summary


def last_evaluation(run: RunFolder) -> tuple[int | None, float | None]:
    """Return the steps of the policy that was evaluated last and its mean return.

    None before an evaluation, and as the mean of one in which every episode diverged.

    Raises:
        RobotrlError: the summary of the evaluation is damaged.
    """
    path = run.evaluation / "summary.json"
    try:
        summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        mean = summary["mean"]
        return int(summary["env_steps"]), None if mean is None else float(mean)
    except FileNotFoundError:
        return None, None
    except (ValueError, KeyError, TypeError) as error:
        raise RobotrlError(f"{path} is damaged: {error}") from error


def evaluate_run(
    run: Path, episodes: int, seed: int, video: bool = False, video_grid: str | None = None
) -> dict[str, Any]:
    """Evaluate the newest checkpoint of a run.

    Args:
        run: the run folder.
        episodes: at least 1.
        seed: of the evaluation environments.
        video: also record first episodes as `video.mp4` in the run folder; one that is there is replaced.
        video_grid: "ROWSxCOLUMNS", how many simulations the video shows; None for one.

    Returns:
        The summary, with the path of the per-episode CSV under "csv" and of the video under "video".

    Raises:
        UsageError: there is no such run, or episodes, seed or grid are none.
        RobotrlError: its checkpoint is damaged, or nothing can be drawn here.
    """
    from robotrl.training.restore import load_trained

    grid = chosen_grid(video_grid, video)
    if episodes < 1:
        raise UsageError(f"episodes must be at least 1, got {episodes}")
    check_seed(seed)
    folder = RunFolder(run)
    policy, cfg, log_step = load_trained(run)
    if video:
        own_task(cfg.task)
    with writable_parent(folder.evaluation / "summary.json"):
        result = evaluate(policy, cfg.task, episodes, seed, cfg.sim_threads)
        summary = save_evaluation(folder.evaluation, result, seed, log_step)
    summary |= {"csv": str(folder.evaluation / "episodes.csv"), "video": None}
    if video:
        path = folder.path / "video.mp4"
        record_video(policy, cfg.task, path, seed=seed, grid=grid, task_name=cfg.task_name)
        summary["video"] = str(path)
    return summary
