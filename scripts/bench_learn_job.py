"""One training of bench_learn.py: ours or Stable-Baselines3's own, evaluated at marks along the way.

usage: bench_learn_job.py JOB_AS_JSON

Prints one JSON line: the curve [[env_steps, train_s, mean return, low, high], ...]. `train_s` is wall
clock inside training only: no evaluation, no construction, on both sides. Both are evaluated by the same
function: `robotrl.training.evaluation.evaluate`, deterministic, on our tasks (which tests hold to the
originals step by step).
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from typing import Any, ClassVar

import gymnasium
import numpy as np
import torch

from robotrl.compose import compose, compose_task
from robotrl.training.evaluation import evaluate

EVAL_SEED = 77_000


class Cheetah(gymnasium.Env[np.ndarray, np.ndarray]):
    """dm_control's cheetah_run as its users train SB3 on it: a Gymnasium environment around it."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}

    def __init__(self, seed: int) -> None:
        from robotrl.envs.dm_control_compat import load_suite

        # the end of time is Gymnasium's TimeLimit, so that it counts as a truncation
        self.env = load_suite().load("cheetah", "run", {"random": seed, "time_limit": math.inf})
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (17,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (6,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode."""
        return _flat(self.env.reset().observation), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Take a control step."""
        result = self.env.step(action)
        return _flat(result.observation), result.reward, False, False, {}


def _flat(observation: Any) -> np.ndarray:
    return np.concatenate(list(observation.values()), dtype=np.float32, casting="same_kind")


def make_original(task: str, seed: int) -> gymnasium.Env[Any, Any]:
    """Make the environment that the peer's users use."""
    if task == "cheetah_run":
        return gymnasium.wrappers.TimeLimit(Cheetah(seed), 1000)
    return gymnasium.make(task)


class Ours:
    """Our algorithm, driven by its own loop."""

    def __init__(self, job: dict[str, Any]) -> None:
        from robotrl.training.train import make_loop

        words = [f"task={job['task']}", f"algorithm={job['algorithm']}", f"seed={job['seed']}"]
        words += [f"total_steps={job['steps']}", *job["settings"]["overrides"]]
        if not job["all_cpus"]:
            words += ["torch_threads=1", "sim_threads=1"]
        self.loop = make_loop(compose(words))
        self.policy = self.loop.algorithm.policy

    @property
    def env_steps(self) -> int:
        """Environment steps taken."""
        return self.loop.env_steps

    def train_until(self, env_steps: int) -> None:
        """Go on to the first iteration's end at or after `env_steps`."""
        while self.loop.env_steps < env_steps:
            self.loop.iterate()


class Sb3:
    """SB3's class on the original environments; acts for the evaluation through its own `predict`."""

    def __init__(self, job: dict[str, Any]) -> None:
        import stable_baselines3
        from stable_baselines3.common.env_util import make_vec_env
        from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize

        settings = job["settings"]
        torch.set_num_threads(len(os.sched_getaffinity(0)) if job["all_cpus"] else 1)
        seeds = iter(range(job["seed"] * 1000, job["seed"] * 1000 + settings["num_envs"]))
        vec_env: Any = make_vec_env(
            lambda: make_original(job["task"], next(seeds)),
            settings["num_envs"],
            seed=job["seed"],
            vec_env_cls=SubprocVecEnv if settings.get("subprocesses") else DummyVecEnv,
        )
        self.normalizer = None
        if settings.get("normalize"):
            vec_env = self.normalizer = VecNormalize(vec_env, gamma=settings["arguments"].get("gamma", 0.99))
        arguments = dict(settings["arguments"])
        if "policy_kwargs" in arguments:
            activations = {"relu": torch.nn.ReLU, "tanh": torch.nn.Tanh}
            kwargs = arguments["policy_kwargs"] = dict(arguments["policy_kwargs"])
            if "activation_fn" in kwargs:
                kwargs["activation_fn"] = activations[kwargs["activation_fn"]]
        algorithm = getattr(stable_baselines3, job["algorithm"].upper())
        self.model = algorithm("MlpPolicy", vec_env, seed=job["seed"], device="cpu", **arguments)
        self.policy = self

    @property
    def env_steps(self) -> int:
        """Environment steps taken."""
        return self.model.num_timesteps

    def train_until(self, env_steps: int) -> None:
        """Go on; that SB3 learns the same in parts is tested in tests/test_sb3.py."""
        self.model.learn(env_steps - self.env_steps, reset_num_timesteps=False)

    def act(self, obs: dict[str, torch.Tensor], deterministic: bool) -> torch.Tensor:
        """Return actions (B, A) in [-1, 1]."""
        raw = obs["policy"].numpy()
        given = raw if self.normalizer is None else self.normalizer.normalize_obs(raw)
        return torch.from_numpy(self.model.predict(given, deterministic=deterministic)[0])


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Train and evaluate; return the curve."""
    task = compose_task(job["task"], {})
    trainer: Any = Ours(job) if job["settings"]["kind"] == "ours" else Sb3(job)
    sim_threads = None if job["all_cpus"] else 1
    curve, train_s = [], 0.0
    for mark in range(0, job["evaluations"] + 1):
        start = time.perf_counter()
        target = job["steps"] * mark // job["evaluations"]
        if trainer.env_steps < target:
            trainer.train_until(target)
        train_s += time.perf_counter() - start
        threads = torch.get_num_threads()
        result = evaluate(trainer.policy, task, job["episodes"], EVAL_SEED + job["seed"], sim_threads)
        torch.set_num_threads(threads)
        curve.append([trainer.env_steps, train_s, result.mean, *result.interval()])
    return {"curve": curve}


if __name__ == "__main__":
    job = json.loads(sys.argv[1])
    # libraries may print: keep the answer's channel to ourselves
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    print(json.dumps(run(job)), file=answer, flush=True)
    # processes of SB3's environments are daemons: nothing to wait for
    os._exit(0)
