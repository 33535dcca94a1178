"""N environments stepped together: the one place where the order of a control step is written."""

from __future__ import annotations

import copy
import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robotrl.core.checks import whole_ratio
from robotrl.core.errors import UsageError
from robotrl.core.types import Obs, Step
from robotrl.envs.effects import Effects
from robotrl.envs.observation import Observer
from robotrl.envs.task_check import check_rewards
from robotrl.sim.batch_sim import BatchSim
from robotrl.sim.guard import FailureRecorder
from robotrl.sim.sim import MakeSim, Sim
from robotrl.sim.variant_sim import VariantSim
from robotrl.tasks.task import Task

# one float32 rounding step above 1: tanh and clamp never exceed it
_ACTION_LIMIT = 1.0 + 1e-6


class VecEnv:
    """N copies of a task with auto-reset in the same step.

    A step is: act, substeps, failed, observe, reward, done, keep `final_obs`, reset, observe those.
    Actions are in [-1, 1] and mapped to physical units by the action terms. An episode that reaches
    the time limit, or whose simulation diverged, is truncated. Wherever the simulator computes, random
    draws, bookkeeping and what `step` returns are on the CPU, where the learners are.

    Args:
        task: what to simulate.
        num_envs: N.
        seed: of every draw the environments make.
        num_threads: physics threads, None for all CPUs; the results do not depend on it.
        stagger: start the first episodes at random ages, so that N environments do not all sit in the
            same phase of an episode; these shortened episodes are left out of the statistics.
        make_sim: makes the simulator, such as `WarpSim`; None for `BatchSim`, or `VariantSim` where the
            task's realism has variants.

    Raises:
        UsageError: the task's realism has variants, and `make_sim` is given; or it has learned actuators,
            which act between any two physics steps, and the task advances by several at once.
    """

    def __init__(
        self,
        task: Task,
        num_envs: int,
        seed: int = 0,
        num_threads: int | None = None,
        stagger: bool = False,
        make_sim: MakeSim | None = None,
    ) -> None:
        if task.advance_dt_s is not None and task.realism.learned_actuators:
            raise UsageError(
                f"realism.actuators: task {type(task).__name__} has a controller of {task.advance_dt_s:g} s "
                "inside a control step, learned actuators act at every physics step: leave them out"
            )
        models = task.build_models()
        model = models[0]
        # a task may remember something from before the step: one object per environment
        self.task = copy.copy(task)
        self.num_envs = num_envs
        self.specs = task.specs(model)
        self.sim: Sim
        if len(models) == 1:
            make_sim = make_sim or functools.partial(BatchSim, num_threads=num_threads)
            self.sim = make_sim(model, num_envs, stage=task.stage)
        elif make_sim is None:
            self.sim = VariantSim(models, num_envs, num_threads, task.stage)
        else:
            raise UsageError("realism.variants: only the cpu backend runs models of several files")
        self.substeps = whole_ratio("control_dt_s", task.control_dt_s, self.sim.dt_s)
        self.max_steps = whole_ratio("episode_length_s", task.episode_length_s, task.control_dt_s)
        self.rng = torch.Generator().manual_seed(seed)
        self.stagger = stagger
        low, high = self.specs.action_low.double(), self.specs.action_high.double()
        self._action_scale, self._action_offset = ((high - low) / 2).numpy(), ((high + low) / 2).numpy()
        # of one reading: `specs` describes what is shown, with its history
        terms = task.observation_terms(model)
        self._observer = Observer(self.task, self.sim, terms)
        self._effects = Effects(task.realism, self.sim, terms, low, high, task.control_dt_s, self.rng)
        self._all_ids = torch.arange(num_envs)
        self.age = torch.zeros(num_envs, dtype=torch.int64)
        self._return = torch.zeros(num_envs, dtype=torch.float64)
        self._counted = torch.ones(num_envs, dtype=torch.bool)
        # the same memory: what is done in every step is done in NumPy, whose calls on small arrays cost a
        # third of torch's
        self._age_array, self._return_array = self.age.numpy(), self._return.numpy()
        self.num_diverged = 0
        # set from outside by who wants to see what led to a divergence
        self.recorder: FailureRecorder | None = None

    def reset(self) -> Obs:
        """Start a new episode everywhere and return its first observation."""
        self._reset(self._all_ids)
        self._observer.prepare()
        resting = torch.from_numpy(np.tile(self._action_offset, (self.num_envs, 1)))
        check_rewards(self.task, self.sim, resting.to(self.sim.device))
        if self.stagger:
            self.age.copy_(torch.randint(self.max_steps, (self.num_envs,), generator=self.rng))
            self._counted.copy_(self.age == 0)
        self.sim.failed()
        return self._first(self._all_ids)

    def set_progress(self, progress: float) -> dict[str, float]:
        """Tell the task's curriculum how much of the training is over, in [0, 1].

        Where nobody tells it is 1: every range at its end. Returns what was set, name -> value, to log.
        """
        return self._effects.set_progress(progress)

    def disturb(self) -> None:
        """Push, kick and change what the task's realism says; for who advances the physics without `step`."""
        self._effects.disturb()

    def step(self, action: Tensor) -> Step:
        """Advance every environment by one control step.

        Args:
            action: (N, A) in [-1, 1].

        Raises:
            UsageError: the action has the wrong shape, is not finite or leaves [-1, 1].
        """
        ctrl = self._to_ctrl(action)
        self.task.before_step(self.sim)
        self._effects.step(self.task, ctrl, self.substeps, self.recorder)
        failed = self.sim.failed()

        obs = final_obs = self._effects.observe(self._observer()) | self._observer.images()
        terms = self.task.reward_terms(self.sim, ctrl.to(self.sim.device))
        rewards = {name: term.cpu().numpy() for name, term in terms.items()}
        terminated = self._terminated()
        self._age_array += 1
        truncated = self._age_array >= self.max_steps
        if failed is not None:
            obs = final_obs = {group: _blanked(values, failed) for group, values in obs.items()}
            rewards = {name: np.where(failed.numpy(), 0.0, term) for name, term in rewards.items()}
            terminated &= ~failed.numpy()
            truncated |= failed.numpy()
            self.num_diverged += int(failed.sum())
            if self.recorder is not None:
                self.recorder.keep(failed)
        done = terminated | truncated
        truncated &= ~terminated
        log = {f"reward/{name}": _float32(term) for name, term in rewards.items()} if len(terms) > 1 else {}
        reward = functools.reduce(np.add, rewards.values())
        log["reward/total"] = _float32(reward)
        self._return_array += reward
        if np.count_nonzero(done):
            ids = torch.from_numpy(done.nonzero()[0])
            log |= self._finished(ids, failed)
            self._reset(ids)
            first = self._first(ids)
            obs = {group: values.index_copy(0, ids, first[group]) for group, values in obs.items()}
        valid = torch.ones(self.num_envs, dtype=torch.bool) if failed is None else ~failed
        ends = torch.from_numpy(terminated), torch.from_numpy(truncated)
        return Step(obs, log["reward/total"], *ends, final_obs, valid, log)

    def _to_ctrl(self, action: Tensor) -> Tensor:
        expected = (self.num_envs, self.specs.action_dim)
        if action.shape != expected:
            raise UsageError(f"actions must have shape {expected}, got {tuple(action.shape)}")
        values = action.detach().numpy()
        largest, smallest = np.maximum.reduce(values, None), np.minimum.reduce(values, None)
        # False for NaN
        if not -_ACTION_LIMIT <= smallest <= largest <= _ACTION_LIMIT:
            row = int((~(np.abs(values) <= _ACTION_LIMIT)).any(1).nonzero()[0][0])
            raise UsageError(
                f"actions must be finite and in [-1, 1], environment {row} got {action[row].tolist()}"
            )
        return torch.from_numpy(self._action_offset + values.astype(np.float64) * self._action_scale)

    def _terminated(self) -> np.ndarray:
        """Return the task's end states, (N,) bool, memory of their own."""
        terminated = self.task.terminated(self.sim)
        if terminated is None:
            return np.zeros(self.num_envs, dtype=bool)
        return np.array(terminated.cpu().numpy())

    def _first(self, ids: Tensor) -> Obs:
        """Return what the new episodes of simulations `ids` show first, group -> (n, ...)."""
        obs = {group: values[ids] for group, values in self._observer().items()}
        return self._effects.first(obs, ids) | self._observer.images(ids)

    def _finished(self, ids: Tensor, failed: Tensor | None) -> dict[str, Tensor]:
        """Return the statistics of the episodes that ended: whole ones, of sound simulations."""
        log = {}
        counted = ids[self._counted[ids]]
        if failed is not None:
            log["sim/diverged"] = failed.sum().float().reshape(1)
            counted = counted[~failed[counted]]
        if len(counted):
            log["episode/return"] = self._return[counted].float()
            log["episode/length"] = self.age[counted].float()
            success = self.task.success(self.sim)
            if success is not None:
                success = success.cpu()[counted]
                log["episode/success"] = success.float()
                self._effects.episodes_ended(success)
            for name, score in self.task.scores(self.sim).items():
                log[f"episode/{name}"] = score.cpu()[counted].float()
        return log

    def _reset(self, ids: Tensor) -> None:
        self._effects.before_reset(ids)
        self.sim.reset(ids)
        self.task.reset(self.sim, ids, self.rng)
        self._effects.after_reset(ids)
        self.age[ids] = 0
        self._counted[ids] = True
        self._return[ids] = 0.0

    def state_dict(self) -> dict[str, Any]:
        """Return everything that continues bit for bit."""
        return {
            "sim": self.sim.state_dict(),
            "rng": self.rng.get_state(),
            "age": self.age.clone(),
            "counted": self._counted.clone(),
            "return": self._return.clone(),
            "num_diverged": self.num_diverged,
            "effects": self._effects.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict` of an environment with the same task and number of copies."""
        self.sim.load_state_dict(state["sim"])
        self.rng.set_state(state["rng"])
        self.age.copy_(state["age"])
        self._counted.copy_(state["counted"])
        self._return.copy_(state["return"])
        self.num_diverged = state["num_diverged"]
        self._effects.load_state_dict(state["effects"])


def _blanked(values: Tensor, rows: Tensor) -> Tensor:
    """Set rows of (N, ...) values to 0."""
    return values.masked_fill(rows.view(-1, *[1] * (values.ndim - 1)), 0)


def _float32(values: np.ndarray) -> Tensor:
    """Return a copy: a term may be a live view of the state."""
    return torch.from_numpy(values.astype(np.float32))
