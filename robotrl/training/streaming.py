"""The streaming loop: every control step is learned from once, in the order in which it came.

Each environment is a stream of its own with a learner of its own, so that N of them are N seeds, or a
sweep over hyperparameters. Their online returns are kept in windows of a hundredth of the training.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from robotrl.algorithms.streaming.streaming_algorithm import StreamingAlgorithm
from robotrl.core.config import TrainConfig
from robotrl.core.errors import UsageError
from robotrl.core.types import Step
from robotrl.envs.env import Env
from robotrl.training.evaluation import evaluate
from robotrl.training.loop import EpisodeStatistics, Loop, refuse_no_steps
from robotrl.training.run_folder import RunFolder, write_json
from robotrl.training.streams_report import STREAMS_FILE

WINDOWS = 100
_SAMPLES_OF_ITERATION = 20


class OnlineReturns:
    """Returns of the episodes that each stream went through while it learned, in windows of the training.

    Args:
        num_streams: N.
        total_steps: of the training, in any unit that `add` is told of as well.

    Attributes:
        sums: (N, 100) sum of the returns of the episodes that ended in each window.
        counts: (N, 100) how many those were.
    """

    def __init__(self, num_streams: int, total_steps: int) -> None:
        self._total_steps = total_steps
        self.sums = torch.zeros(num_streams, WINDOWS, dtype=torch.float64)
        self.counts = torch.zeros(num_streams, WINDOWS, dtype=torch.int64)
        self._running = torch.zeros(num_streams, dtype=torch.float64)
        self._running_array = self._running.numpy()

    def add(self, step: Step, done: np.ndarray | None, steps: int) -> None:
        """Take a control step.

        Args:
            step: with its rewards.
            done: (N,) bool, or None where no episode ended.
            steps: of the training that are over with this one, at least 1. An episode that ends where a
                window does is the last of that window.
        """
        self._running_array += step.reward.numpy()
        if done is None:
            return
        window = min((steps * WINDOWS - 1) // self._total_steps, WINDOWS - 1)
        # the return of an episode that diverged is unknown
        sound = torch.from_numpy(done) & step.valid
        self.sums[sound, window] += self._running[sound]
        self.counts[sound, window] += 1
        self._running[torch.from_numpy(done)] = 0.0

    def forget_running(self) -> None:
        """Leave out what the episodes that were running had brought: new ones have begun."""
        self._running.zero_()

    def means(self) -> Tensor:
        """Return the mean return of each window, (N, 100), NaN where no episode ended."""
        return self.sums / self.counts

    def last_tenth(self) -> Tensor:
        """Return each stream's mean return over the last tenth of the training, (N,)."""
        tail = slice(WINDOWS - WINDOWS // 10, None)
        return self.sums[:, tail].sum(1) / self.counts[:, tail].sum(1)

    def best(self) -> int:
        """Return the stream with the highest mean return over its newest ten windows with episodes."""
        scores = []
        for sums, counts in zip(self.sums, self.counts, strict=True):
            newest = counts.nonzero().squeeze(1)[-(WINDOWS // 10) :]
            number = counts[newest].sum()
            scores.append(float(sums[newest].sum() / number) if number else -np.inf)
        return int(np.argmax(scores))

    def state_dict(self) -> dict[str, Tensor]:
        """Return everything that continues bit for bit."""
        return {"sums": self.sums, "counts": self.counts, "running": self._running}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from `state_dict`."""
        self.sums.copy_(state["sums"])
        self.counts.copy_(state["counts"])
        self._running.copy_(state["running"])


class StreamingLoop(Loop):
    """Acts, steps and learns, one control step at a time."""

    default_torch_threads: ClassVar[int | None] = 1
    stagger: ClassVar[bool] = False

    algorithm: StreamingAlgorithm

    def __init__(self, env: Env, algorithm: StreamingAlgorithm, total_steps: int, torch_threads: int) -> None:
        refuse_no_steps(total_steps)
        config, steps = algorithm.config, total_steps / env.num_envs
        rest = max(config.sweep.get("actor_rest_steps") or [config.actor_rest_steps])
        if rest >= steps:
            raise UsageError(
                f"actor_rest_steps={rest} is not below the {steps:g} steps of each stream: no "
                f"policy would be learned; raise total_steps, which counts those of all {env.num_envs}"
            )
        super().__init__(env, algorithm, total_steps, torch_threads)
        torch.set_num_threads(torch_threads)
        algorithm.start(self.obs, env.max_steps)
        self.returns = OnlineReturns(env.num_envs, total_steps)
        self._refused: str | None = None

    def iterate(self) -> dict[str, float]:
        """Take some control steps and learn from each."""
        statistics = EpisodeStatistics()
        env, algorithm, clock = self.env, self.algorithm, time.perf_counter
        simulation_s = update_s = 0.0
        steps = self.steps_of_iteration
        stride = math.ceil(steps / _SAMPLES_OF_ITERATION)
        inside: list[dict[str, float]] = []
        for i in range(steps):
            start = clock()
            step = env.step(self._act())
            stepped = clock()
            self._learn(step)
            update_s += clock() - stepped
            simulation_s += stepped - start
            self.env_steps += env.num_envs
            done = step.terminated.numpy() | step.truncated.numpy()
            ended = done if np.count_nonzero(done) else None
            self.returns.add(step, ended, self.env_steps)
            statistics.add(step.log)
            # not the last step's alone: it may always be an episode's end, where traces are 0
            if i % stride == stride // 2:
                inside.append(algorithm.diagnostics())
        self.obs = step.obs
        self.phase_s["simulation"] += simulation_s
        self.phase_s["update"] += update_s
        algorithm.show(self.returns.best())
        means = {name: float(np.mean([values[name] for values in inside])) for name in inside[0]}
        return statistics.means() | means | algorithm.durations()

    def _act(self) -> Tensor:
        try:
            return self.algorithm.act()
        except UsageError as error:
            self._refused = str(error)
            raise

    def _learn(self, step: Step) -> None:
        try:
            self.algorithm.update(step)
        except UsageError as error:
            self._refused = str(error)
            raise

    def not_finite(self, metrics: Mapping[str, float]) -> str | None:
        """Name what the learners refused to take in, too."""
        return self._refused or super().not_finite(metrics)

    def finish(self, run: RunFolder, config: TrainConfig) -> None:
        """Write `streams.json`: online returns and a deterministic evaluation of every stream."""
        streams = []
        online, curves = self.returns.last_tenth().tolist(), self.returns.means().tolist()
        for i, policy in enumerate(self.algorithm.policies()):
            result = evaluate(policy, config.task, config.eval_episodes, config.eval_seed, config.sim_threads)
            swept = {name: values[i] for name, values in self.algorithm.config.sweep.items()}
            streams.append(
                {
                    "swept": swept,
                    "online_return": _finite(online[i]),
                    "eval_return": _finite(result.mean),
                    "curve": [_finite(value) for value in curves[i]],
                }
            )
        document = {
            "env_steps_per_stream": self.env_steps // self.env.num_envs,
            "shown": self.algorithm.stream,
            "streams": streams,
        }
        write_json(run.path / STREAMS_FILE, document)

    def state_dict(self) -> dict[str, Any]:
        """Add the online returns."""
        return super().state_dict() | {"returns": self.returns.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        super().load_state_dict(state)
        self.returns.load_state_dict(state["returns"])
        if self.obs is not state["obs"]:  # another library's environments, whose episodes started anew
            self.algorithm.begin(self.obs)
            self.returns.forget_running()


def _finite(value: float) -> float | None:
    """JSON has no NaN: None where no episode ended."""
    return value if math.isfinite(value) else None
