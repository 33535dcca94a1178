"""Online returns of stream Q(lambda), SARSA(lambda), QRC(lambda) and AC(lambda) with discrete actions.

    python scripts/bench_streaming_discrete.py [--tasks ...] [--methods ...]

One learner of N streams holds N seeds, each beside an environment of its own.

Classic control is Gymnasium's, by the protocol of arXiv:2410.14606, but with 200,000 steps instead of 500,000
for CartPole and Acrobot: networks of 2 x 32, epsilon from 1 to 0.01 within the first 5 %, and episodes of
up to 10,000 steps while learning. Afterwards each seed's policy is tried without exploration and learning for
100 episodes at the registered limits of 500, 500 and 200 steps: `greedy` is its mean return, `solved` counts
the seeds where that reaches the threshold which Gymnasium registers (475, -100, -110). `online` is the mean
return over the last tenth of the learning, exploration included; on CartPole it can go beyond 500.

MinAtar's pictures are flattened to 10 x 10 x C numbers for an MLP of 2 x 128, no convolutions; epsilon falls
within the first 10 %. It needs `pip install 'robotrl[minatar]'`.

Writes benchmarks/results/streaming_discrete.json after each task and method; what is in it is not run again.
Prints what it holds as a table at the end.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass, replace
from typing import Any

import gymnasium
import numpy as np
import torch
from bench_common import RESULTS, interval_of_mean, provenance, write_json

from robotrl.algorithms.streaming.actor_critic import StreamAC
from robotrl.algorithms.streaming.config import StreamACConfig, StreamQConfig, StreamQRCConfig
from robotrl.algorithms.streaming.q_learning import StreamQ
from robotrl.algorithms.streaming.qrc import StreamQRC
from robotrl.algorithms.streaming.rules.codes import Rule
from robotrl.core.errors import UsageError
from robotrl.core.types import Step
from robotrl.training.streaming import OnlineReturns

OUT = RESULTS / "streaming_discrete.json"
EVALUATION_EPISODES = 100
TRAINING_LIMIT = 10_000
"""Control steps of an episode while learning."""


@dataclass
class Setting:
    """How a task is trained."""

    steps: int
    """Of each seed."""
    hidden: int
    """Width of both hidden layers."""
    exploration_steps: int
    """Over which epsilon falls."""
    threshold: float | None = None
    """Mean return from which on the task counts as solved."""
    seeds: int = 10


CLASSIC = {
    "CartPole-v1": Setting(200_000, 32, 10_000, 475.0),
    "Acrobot-v1": Setting(200_000, 32, 10_000, -100.0),
    "MountainCar-v0": Setting(500_000, 32, 25_000, -110.0),
}
GAMES = ("asterix", "breakout", "freeway", "seaquest", "space_invaders")
MINATAR = {f"minatar/{name}": Setting(300_000, 128, 30_000, seeds=3) for name in GAMES}
TASKS = CLASSIC | MINATAR
Learner = StreamQ | StreamQRC | StreamAC
METHODS: dict[str, StreamQConfig | StreamQRCConfig | StreamACConfig] = {
    "q": StreamQConfig(),
    "sarsa": StreamQConfig(on_policy=True),
    "q_repeat": StreamQConfig(repeat_exponent=2.0),
    "sarsa_repeat": StreamQConfig(repeat_exponent=2.0, on_policy=True),
    "qrc": StreamQRCConfig(),
    "ac": StreamACConfig(),
    "ac_obgd": StreamACConfig(rule=Rule.OBGD),
}


class MinAtar(gymnasium.Env):
    """A game of MinAtar 1.0 with its smallest set of actions and its defaults: sticky actions, ramping."""

    def __init__(self, name: str) -> None:
        try:
            import minatar
        except ImportError as error:
            raise UsageError("MinAtar is not installed: pip install 'robotrl[minatar]'") from error
        self.game = minatar.Environment(name)
        self.actions = self.game.minimal_action_set()
        self.action_space = gymnasium.spaces.Discrete(len(self.actions))
        shape = (int(np.prod(self.game.state_shape())),)
        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, shape)

    def reset(self, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode."""
        if seed is not None:
            self.game.seed(seed)
        self.game.reset()
        return self._obs(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Play a frame."""
        reward, terminated = self.game.act(self.actions[action])
        return self._obs(), reward, terminated, False, {}

    def _obs(self) -> np.ndarray:
        return self.game.state().ravel().astype(np.float64)


class Environments:
    """N environments in a loop, reset in the step that ends an episode."""

    def __init__(self, task: str, num_envs: int, limit: int | None, seed: int) -> None:
        self.envs = [make(task, limit) for _ in range(num_envs)]
        space = self.envs[0].action_space
        assert isinstance(space, gymnasium.spaces.Discrete)
        self.num_actions = int(space.n)
        self.obs = np.array([env.reset(seed=seed + i)[0] for i, env in enumerate(self.envs)], np.float64)

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return reward, terminated, truncated, next_obs and final_obs, each with a row per environment."""
        n = len(self.envs)
        reward, terminated, truncated = np.zeros(n), np.zeros(n, bool), np.zeros(n, bool)
        final = np.empty_like(self.obs)
        for i, env in enumerate(self.envs):
            final[i], reward[i], terminated[i], truncated[i], _ = env.step(int(actions[i]))
        self.obs = final.copy()
        for ended in (terminated | truncated).nonzero()[0]:
            self.obs[ended], _ = self.envs[ended].reset()
        return reward, terminated, truncated, self.obs, final


def make(task: str, limit: int | None) -> gymnasium.Env:
    """Return one environment; `limit` None for the registered one."""
    library, _, name = task.rpartition("/")
    if library == "minatar":
        return gymnasium.wrappers.TimeLimit(MinAtar(name), TRAINING_LIMIT)
    return gymnasium.make(task, max_episode_steps=limit, disable_env_checker=True)


def make_learner(method: str, task: Setting, obs_dim: int, num_actions: int) -> Learner:
    """Return a learner with a stream per seed."""
    config = replace(METHODS[method], hidden=[task.hidden, task.hidden])
    if isinstance(config, StreamACConfig):
        return StreamAC(obs_dim, num_actions, task.seeds, config, discrete=True, num_threads=1)
    config = replace(config, exploration_steps=task.exploration_steps)
    if isinstance(config, StreamQRCConfig):
        return StreamQRC(obs_dim, num_actions, task.seeds, config, num_threads=1)
    return StreamQ(obs_dim, num_actions, task.seeds, config, num_threads=1)


def train(method: str, name: str, task: Setting) -> dict[str, Any]:
    """Train all seeds; return what came of it."""
    start = time.process_time()
    envs = Environments(name, task.seeds, TRAINING_LIMIT, seed=0)
    learner = make_learner(method, task, envs.obs.shape[1], envs.num_actions)
    returns, all_valid = OnlineReturns(task.seeds, task.steps), torch.ones(task.seeds, dtype=torch.bool)
    learner.start(envs.obs)
    for t in range(1, task.steps + 1):
        outcome = envs.step(learner.act()[:, 0])
        learner.update(*outcome)
        done = outcome[1] | outcome[2]
        ends = torch.from_numpy(outcome[1]), torch.from_numpy(outcome[2])
        step = Step({}, torch.from_numpy(outcome[0]), *ends, {}, all_valid)
        returns.add(step, done if done.any() else None, t)
    curves, greedy = returns.means().numpy(), evaluate(learner, name, task.seeds)
    return {
        "task": name,
        "method": method,
        "setting": asdict(task),
        "config": {key: str(getattr(value, "value", value)) for key, value in asdict(learner.config).items()},
        "online": summary(returns.last_tenth().numpy()),
        "area_under_curve": summary(np.nanmean(curves, axis=1)),
        "greedy": summary(greedy),
        "solved": None if task.threshold is None else int((greedy >= task.threshold).sum()),
        "curves": curves.tolist(),
        "cpu_s": time.process_time() - start,
        "provenance": provenance(),
    }


def evaluate(learner: Learner, name: str, seeds: int) -> np.ndarray:
    """Return each seed's mean return over episodes without exploration and learning, (N,)."""
    envs = Environments(name, seeds, None, seed=1000)
    sums, counts, running = np.zeros(seeds), np.zeros(seeds, int), np.zeros(seeds)
    while (counts < EVALUATION_EPISODES).any():
        reward, terminated, truncated, _, _ = envs.step(learner.deterministic_action(envs.obs)[:, 0])
        running += reward
        done = terminated | truncated
        counted = done & (counts < EVALUATION_EPISODES)
        sums[counted] += running[counted]
        counts[counted] += 1
        running[done] = 0.0
    return sums / EVALUATION_EPISODES


def summary(values: np.ndarray) -> dict[str, Any]:
    """Return mean, 95 % interval and the values."""
    return {"mean": float(values.mean()), "interval": interval_of_mean(values), "seeds": values.tolist()}


def main() -> None:
    """Run what is missing, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(CLASSIC))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    args = parser.parse_args()
    cells = json.loads(OUT.read_text())["cells"] if OUT.exists() else []
    known = {(cell["task"], cell["method"]) for cell in cells}
    for name in args.tasks:
        for method in args.methods:
            if (name, method) in known:
                continue
            cells.append(train(method, name, TASKS[name]))
            write_json(OUT, {"cells": cells})
            print(row(cells[-1]), f"{cells[-1]['cpu_s']:.0f} s", flush=True)
    print("| task | steps | method | online | greedy | solved |\n|---|--:|---|--:|--:|--:|")
    for cell in sorted(cells, key=lambda cell: list(TASKS).index(cell["task"])):
        print(row(cell))


def row(cell: dict[str, Any]) -> str:
    """Return a cell as a row of the table, means with 95 % intervals over the seeds."""
    setting, columns = cell["setting"], []
    for part in (cell["online"], cell["greedy"]):
        digits = 2 if abs(part["mean"]) < 20 else 0
        mean, low, high = (f"{x:,.{digits}f}" for x in (part["mean"], *part["interval"]))
        columns.append(f"{mean} ({low} to {high})")
    solved = "" if cell["solved"] is None else f"{cell['solved']} of {setting['seeds']}"
    name = cell["task"].removeprefix("minatar/")
    return f"| {name} | {setting['steps']:,} | `{cell['method']}` | {' | '.join(columns)} | {solved} |"


if __name__ == "__main__":
    main()
