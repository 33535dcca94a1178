"""One contender of bench_sim.py in a process of its own, driven over stdin; see there.

usage: bench_sim_worker.py CONTENDER TASK NUM_ENVS EPISODE_STEPS

Answers one JSON line per command: "steps N" times N control steps inside an episode, "boundary N" the
automatic reset of N episodes of EPISODE_STEPS. It runs in the peer's own virtual environment, too, so
nothing is imported before a contender needs it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import numpy as np

SETTLING_CALLS = 20


class Contender:
    """Environments of one kind. A call is one control step of all of them, with float32 observations.

    Attributes:
        action_dim: A.
        action_scale: upper bounds of symmetric actions.
        resets_on_next_call: the call after an episode's end resets and steps nothing.
        note: what a reader of the figures should know.
    """

    resets_on_next_call = False
    note = ""
    action_dim = 6
    action_scale: float | np.ndarray = 1.0

    def __init__(self, task: str, num_envs: int, episode_steps: int) -> None:
        self.num_envs, self.episode_steps = num_envs, episode_steps
        self.build(task)
        rng = np.random.default_rng(0)
        actions = rng.uniform(-1, 1, (64, num_envs, self.action_dim)) * self.action_scale
        self.use(actions.astype(np.float32))

    def build(self, task: str) -> None:
        """Make the environments."""
        raise NotImplementedError

    def use(self, actions: np.ndarray) -> None:
        """Take the (64, N, A) float32 actions to step with."""
        self.actions = actions

    def reset(self) -> None:
        """Start new episodes everywhere."""
        raise NotImplementedError

    def step(self, index: int) -> Any:
        """Take a control step with the pre-drawn actions of this index; return who is done, or None."""
        raise NotImplementedError


class Ours(Contender):
    """robotrl's VecEnv."""

    def build(self, task: str) -> None:
        """Make a VecEnv of the task."""
        import torch

        from robotrl.compose import compose_task
        from robotrl.envs.vec_env import VecEnv

        torch.set_num_threads(1)
        instance = compose_task(task, {})
        instance.episode_length_s = self.episode_steps * instance.control_dt_s
        self.env = VecEnv(instance, self.num_envs)
        self.action_dim = self.env.specs.action_dim

    def use(self, actions: np.ndarray) -> None:
        """Take the actions as tensors."""
        import torch

        self.torch_actions = torch.from_numpy(actions)

    def reset(self) -> None:
        """Start new episodes everywhere."""
        self.env.reset()

    def step(self, index: int) -> Any:
        """Take a control step."""
        return self.env.step(self.torch_actions[index]).done


class Bare(Ours):
    """mujoco.batch.Batch.step of the same model from the same initial states, and nothing else."""

    persistent = False
    fresh = False

    def build(self, task: str) -> None:
        """Make the batch, and a VecEnv for its model and initial states."""
        from mujoco.batch import Batch

        super().build(task)
        cpus = len(os.sched_getaffinity(0))
        self.batch = Batch(self.env.sim.model, self.num_envs, min(cpus, self.num_envs), self.persistent)
        self.stage = self.env.task.stage.value if self.fresh else 0

    def use(self, actions: np.ndarray) -> None:
        """Take the actions as commands in physical units."""
        super().use(actions)
        self.ctrl = [self.env._to_ctrl(action).numpy() for action in self.torch_actions]

    def reset(self) -> None:
        """Copy initial states."""
        self.env.reset()
        self.batch.state[...] = self.env.sim.batch.state
        self.batch.forward()

    def step(self, index: int) -> Any:
        """Step the physics."""
        self.batch.ctrl = self.ctrl[index]
        self.batch.step(None, self.env.substeps, self.stage)


class BarePersistent(Bare):
    """The same, persistent."""

    persistent = True


class BareFresh(Bare):
    """The same, with the derived fields that the task reads made current."""

    fresh = True


class BareFreshPersistent(Bare):
    """The same, persistent and with current derived fields."""

    persistent = fresh = True


class EnvPool(Contender):
    """EnvPool, synchronous, one thread per CPU."""

    resets_on_next_call = True

    def build(self, task: str) -> None:
        """Make the pool."""
        import envpool

        self.note = f"EnvPool {envpool.__version__}, which bundles MuJoCo 3.6.0 (ours: 4.0)"
        # "humanoid_CMU_run" is HumanoidCMURun-v1 there, "HalfCheetah-v5" the same
        parts = [part[0].upper() + part[1:] for part in task.split("_")]
        name = task if task.endswith("-v5") else "".join(parts) + "-v1"
        threads = min(len(os.sched_getaffinity(0)), self.num_envs)
        self.env = envpool.make(
            name,
            env_type="gymnasium",
            num_envs=self.num_envs,
            num_threads=threads,
            seed=0,
            max_episode_steps=self.episode_steps,
        )
        space = self.env.action_space
        self.action_dim, self.action_scale = space.shape[0], space.high

    def use(self, actions: np.ndarray) -> None:
        """Take the actions in float64."""
        self.doubles = actions.astype(np.float64)

    def reset(self) -> None:
        """Start new episodes everywhere."""
        self.env.reset()

    def step(self, index: int) -> Any:
        """Take a control step."""
        obs, _, terminated, truncated, _ = self.env.step(self.doubles[index])
        if isinstance(obs, dict):
            groups = [value.reshape(self.num_envs, -1) for value in obs.values()]
            np.concatenate(groups, axis=1, dtype=np.float32, casting="same_kind")
        else:
            obs.astype(np.float32)
        return terminated | truncated


class GymnasiumSync(Contender):
    """Gymnasium's SyncVectorEnv."""

    resets_on_next_call = True
    vectorization = "sync"

    def build(self, task: str) -> None:
        """Make the vector environment."""
        import gymnasium

        self.env = gymnasium.make_vec(
            task,
            self.num_envs,
            vectorization_mode=self.vectorization,
            max_episode_steps=self.episode_steps,
        )

    def reset(self) -> None:
        """Start new episodes everywhere."""
        self.env.reset(seed=0)

    def step(self, index: int) -> Any:
        """Take a control step."""
        obs, _, terminated, truncated, _ = self.env.step(self.actions[index])
        obs.astype(np.float32)
        return terminated | truncated


class GymnasiumAsync(GymnasiumSync):
    """Gymnasium's AsyncVectorEnv: a process per environment."""

    vectorization = "async"


class Sb3Subproc(Contender):
    """Stable-Baselines3's SubprocVecEnv over Gymnasium's environment."""

    def build(self, task: str) -> None:
        """Make the vector environment."""
        import gymnasium
        from stable_baselines3.common.vec_env import SubprocVecEnv

        def make() -> Any:
            return gymnasium.make(task, max_episode_steps=self.episode_steps)

        # forked processes start quickly; they step as fast as others
        self.env = SubprocVecEnv([make] * self.num_envs, start_method="fork")

    def reset(self) -> None:
        """Start new episodes everywhere."""
        self.env.reset()

    def step(self, index: int) -> Any:
        """Take a control step."""
        obs, _, done, _ = self.env.step(self.actions[index])
        obs.astype(np.float32)
        return done


class DmControl(Contender):
    """dm_control's own environments in a Python loop."""

    note = "a Python loop over dm_control environments, on MuJoCo 4"

    def build(self, task: str) -> None:
        """Load the task once per environment."""
        from robotrl.envs.dm_control_compat import load_suite

        domain, name = task.split("_", 1)
        suite = load_suite()
        limit_s = self.episode_steps * 0.01
        self.envs = [
            suite.load(domain, name, {"random": i, "time_limit": limit_s}) for i in range(self.num_envs)
        ]

    def use(self, actions: np.ndarray) -> None:
        """Take the actions in float64."""
        self.doubles = actions.astype(np.float64)

    def reset(self) -> None:
        """Start new episodes everywhere."""
        for env in self.envs:
            env.reset()

    def step(self, index: int) -> Any:
        """Take a control step."""
        obs = np.empty((self.num_envs, 17), dtype=np.float32)
        done = np.zeros(self.num_envs, dtype=bool)
        for i, env in enumerate(self.envs):
            time_step = env.step(self.doubles[index, i])
            if time_step.last():
                done[i] = True
                time_step = env.reset()
            obs[i] = np.concatenate(list(time_step.observation.values()))
        return done


CONTENDERS: dict[str, type[Contender]] = {
    "ours": Ours,
    "bare": Bare,
    "bare_persistent": BarePersistent,
    "bare_fresh": BareFresh,
    "bare_fresh_persistent": BareFreshPersistent,
    "envpool": EnvPool,
    "gymnasium_sync": GymnasiumSync,
    "gymnasium_async": GymnasiumAsync,
    "sb3_subproc": Sb3Subproc,
    "dm_control": DmControl,
}


class Timing:
    """Runs a contender and keeps it inside its episodes."""

    def __init__(self, contender: Contender) -> None:
        self.contender = contender
        self.count = 0
        self.left = 0

    def _call(self) -> Any:
        self.count += 1
        return self.contender.step(self.count % 64)

    def steps(self, count: int) -> dict[str, float]:
        """Time `count` calls, none of them at an episode's end; resets are not in the time."""
        seconds, done = 0.0, 0
        while done < count:
            if self.left == 0:
                self.contender.reset()
                for _ in range(SETTLING_CALLS):
                    self._call()
                self.left = self.contender.episode_steps - SETTLING_CALLS - 1
            now = min(self.left, count - done)
            start = time.perf_counter()
            for _ in range(now):
                self._call()
            seconds += time.perf_counter() - start
            done, self.left = done + now, self.left - now
        return {"calls": done, "seconds": seconds}

    def boundary(self, count: int) -> dict[str, float]:
        """Time what the automatic reset of all environments adds, mean of `count` episodes."""
        self.left = 0
        self.contender.reset()
        resets, plain, is_reset = [], [], False
        while len(resets) < count:
            start = time.perf_counter()
            done = self._call()
            seconds = time.perf_counter() - start
            ended = bool(done.all())
            if self.contender.resets_on_next_call:
                (resets if is_reset else plain).append(seconds)
                is_reset = ended
            else:
                (resets if ended else plain).append(seconds)
        step_s = 0.0 if self.contender.resets_on_next_call else float(np.median(plain))
        return {"reset_s": float(np.mean(resets)) - step_s}


def main() -> None:
    """Answer commands until stdin ends."""
    name, task, num_envs, episode_steps = sys.argv[1:]
    # libraries may print: keep the answers' channel to ourselves
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    contender = CONTENDERS[name](task, int(num_envs), int(episode_steps))
    timing = Timing(contender)
    print(json.dumps({"ready": True, "note": contender.note}), file=answers)
    for line in sys.stdin:
        command, count = line.split()
        print(json.dumps(getattr(timing, command)(int(count))), file=answers)


if __name__ == "__main__":
    main()
