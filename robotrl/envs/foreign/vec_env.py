"""Another library's vector environment as one of ours: the same `Step`, whatever its way to auto-reset.

Gymnasium's vector environments start a new episode in one of three ways (`metadata["autoreset_mode"]`):

* DISABLED: when told. They are told in the same step, so this way and our own look the same.
* SAME_STEP: at once; the last observation of the old episode is in `infos["final_obs"]`.
* NEXT_STEP: in the next call, which steps nothing in that row. Gymnasium's own `SyncVectorEnv` and
  `AsyncVectorEnv` can be told to reset before that. With any other one the call is hidden as far as it
  can be: its row is not `valid`, so nothing is learned from it, and no episode counts it.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from torch import Tensor

from robotrl.core.errors import RobotrlError, UsageError
from robotrl.core.types import Obs, Specs, Step
from robotrl.envs.foreign.spaces import ActionWriter, ObservationReader

# an episode this long has no end: training would wait for it, and evaluation for ever
_ENDLESS_STEPS = 100_000


class ForeignVecEnv:
    """N environments of another library, stepped as a `VecEnv` is.

    Actions are in [-1, 1] and mapped onto the bounds of the action space. A row whose observation or
    reward is not finite is truncated with reward 0 and is not valid, as a diverged simulation of our own.

    Args:
        vector: the environments; action and observation spaces as `ActionWriter` and
            `ObservationReader` take them.
        name: of the environment, for errors.
        seed: of the seeds that `reset` gives the environments.
        control_dt_s: time between two actions, s; None where nobody knows.
        max_steps: time limit, control steps: reaching it truncates; None leaves it to the environment.
        privileged: observation keys for critics only.
        stagger: start the first episodes at random ages, as `VecEnv` does; needs `max_steps`.

    Attributes:
        resets_in_next_call: whether a row's first call after an episode's end steps nothing, see above.

    Raises:
        UsageError: a space cannot be used, or a time limit is asked for that cannot be kept.
    """

    def __init__(
        self,
        vector: VectorEnv[Any, Any, Any],
        name: str,
        seed: int = 0,
        *,
        control_dt_s: float | None = None,
        max_steps: int | None = None,
        privileged: Collection[str] = (),
        stagger: bool = False,
    ) -> None:
        self.name = name
        self.num_envs = vector.num_envs
        self.rng = torch.Generator().manual_seed(seed)
        self.max_steps = max_steps
        self.stagger = stagger and max_steps is not None
        self._vector = vector
        self._reader = ObservationReader(vector.single_observation_space, name, privileged)
        self._writer = ActionWriter(vector.single_action_space, name)
        # not known is NaN, never a guess; `math.nan` is one object, so that equal specs compare equal
        dt_s = math.nan if control_dt_s is None else control_dt_s
        self.specs = Specs(self._reader.terms, self._writer.terms, dt_s)
        self._mode = _autoreset_mode(vector, name)
        self._resets_rows = self._mode is AutoresetMode.DISABLED or _is_gymnasiums_own(vector.unwrapped)
        self.resets_in_next_call = self._mode is AutoresetMode.NEXT_STEP and not self._resets_rows
        if max_steps is not None and not self._resets_rows:
            raise UsageError(f"{name} resets its environments itself and cannot be given a time limit")
        self.age = torch.zeros(self.num_envs, dtype=torch.int64)
        self.num_diverged = 0
        self._return = torch.zeros(self.num_envs, dtype=torch.float64)
        self._counted = torch.ones(self.num_envs, dtype=torch.bool)
        # rows whose next call resets and steps nothing
        self._due = torch.zeros(self.num_envs, dtype=torch.bool)

    def reset(self) -> Obs:
        """Start a new episode everywhere, from fresh seeds, and return its first observation."""
        # environment i gets seed + i, below 2^31
        seed = int(torch.randint(2**30, (), generator=self.rng))
        obs, _ = self._vector.reset(seed=seed)
        self.age.zero_()
        self._return.zero_()
        self._due.zero_()
        if self.stagger and self.max_steps is not None:
            self.age.copy_(torch.randint(self.max_steps, (self.num_envs,), generator=self.rng))
        self._counted.copy_(self.age == 0)
        return self._reader.batch(obs)

    def set_progress(self, progress: float) -> dict[str, float]:
        """Change nothing: another library's environments have no curriculum of ours."""
        return {}

    def step(self, action: Tensor) -> Step:
        """Advance every environment by one control step.

        Args:
            action: (N, A) in [-1, 1].

        Raises:
            UsageError: the action has the wrong shape, is not finite or leaves [-1, 1].
            RobotrlError: an episode does not end, or a row must be reset that cannot be.
        """
        command = self._writer.batch(action, self.num_envs)
        raw, rewards, terminations, truncations, infos = self._vector.step(command)
        skipped, self._due = self._due, torch.zeros_like(self._due)
        terminated, truncated = _bools(terminations), _bools(truncations)
        ended = terminated | truncated
        reward = torch.tensor(rewards, dtype=torch.float64).masked_fill(skipped, 0.0)
        obs = final_obs = self._reader.batch(raw)
        if self._mode is AutoresetMode.SAME_STEP and ended.any():
            final_obs = self._with_final_rows(obs, ended, infos)
        self.age += ~skipped

        failed = ~_finite(reward, final_obs)
        if failed.any():
            final_obs = {g: values.masked_fill(failed.unsqueeze(1), 0.0) for g, values in final_obs.items()}
            reward = reward.masked_fill(failed, 0.0)
            terminated &= ~failed
            self.num_diverged += int(failed.sum())
        truncated = (truncated | failed | self._out_of_time()) & ~terminated
        self._return += reward
        log = {"reward/total": reward.float()}
        done = terminated | truncated
        if done.any():
            log |= self._finished(done, failed)
            obs = self._begin(done, ended, obs, final_obs)
        else:
            obs = final_obs
        return Step(obs, log["reward/total"], terminated, truncated, final_obs, ~(failed | skipped), log)

    def _with_final_rows(self, obs: Obs, ended: Tensor, infos: dict[str, Any]) -> Obs:
        """Put the last observations of the episodes that ended into their rows."""
        if "final_obs" not in infos:
            raise RobotrlError(f"{self.name} resets in the same step but gives no infos['final_obs']")
        ids = ended.nonzero().squeeze(1)
        rows = self._reader.rows([_row(infos["final_obs"], i) for i in ids.tolist()])
        return {group: values.index_copy(0, ids, rows[group]) for group, values in obs.items()}

    def _out_of_time(self) -> Tensor:
        """Return (N,) bool, where the time limit is reached."""
        if self.max_steps is not None:
            return self.age >= self.max_steps
        if int(self.age.max()) >= _ENDLESS_STEPS:
            raise RobotrlError(
                f"an episode of {self.name} has not ended within {_ENDLESS_STEPS} control steps: give it a "
                "time limit with task.max_episode_steps=STEPS"
            )
        return torch.zeros(self.num_envs, dtype=torch.bool)

    def _begin(self, done: Tensor, ended: Tensor, obs: Obs, final_obs: Obs) -> Obs:
        """Begin the next episode where one is done; return what to act on next.

        Args:
            done: (N,) bool, where an episode is over.
            ended: (N,) bool, where the library knows it.
            obs: what the library returned.
            final_obs: the true successors.
        """
        begun = ended if self._mode is AutoresetMode.SAME_STEP else torch.zeros_like(ended)
        first, due = obs, done & ~begun
        if due.any():
            if self._resets_rows:
                raw, _ = self._vector.reset(options={"reset_mask": due.numpy().copy()})
                first = self._reader.batch(raw)
            elif (due & ~ended).any():
                row = int((due & ~ended).nonzero()[0])
                raise RobotrlError(
                    f"{self.name}: environment {row} returned what is not finite and cannot be reset alone"
                )
            else:
                self._due = due
        self.age[done] = 0
        self._counted[done] = True
        self._return[done] = 0.0
        rows = done.unsqueeze(1)
        return {group: torch.where(rows, first[group], values) for group, values in final_obs.items()}

    def _finished(self, done: Tensor, failed: Tensor) -> dict[str, Tensor]:
        """Return the statistics of the whole episodes that ended."""
        log = {}
        counted = done & self._counted & ~failed
        if failed.any():
            log["sim/diverged"] = failed.sum().float().reshape(1)
        if counted.any():
            log["episode/return"] = self._return[counted].float()
            log["episode/length"] = self.age[counted].float()
        return log

    def state_dict(self) -> dict[str, Any]:
        """Return what can be saved: the random numbers and counts, not the environments."""
        return {"rng": self.rng.get_state(), "num_diverged": self.num_diverged}

    def load_state_dict(self, state: dict[str, Any]) -> Obs:
        """Start new episodes, from seeds that were not used before, and return what to act on."""
        self.rng.set_state(state["rng"])
        self.num_diverged = state["num_diverged"]
        return self.reset()


def _autoreset_mode(vector: VectorEnv[Any, Any, Any], name: str) -> AutoresetMode:
    try:
        return AutoresetMode(vector.metadata["autoreset_mode"])
    except (KeyError, ValueError) as error:
        raise UsageError(
            f"{name} does not say how it begins new episodes: its metadata['autoreset_mode'] must be one of "
            f"{', '.join(mode.value for mode in AutoresetMode)}"
        ) from error


def _is_gymnasiums_own(vector: VectorEnv[Any, Any, Any]) -> bool:
    """Whether a row of it can be reset at any time, in whatever mode."""
    # without shared memory Gymnasium's workers forget that they were reset
    return isinstance(vector, SyncVectorEnv) or (isinstance(vector, AsyncVectorEnv) and vector.shared_memory)


def _bools(values: Any) -> Tensor:
    return torch.tensor(np.asarray(values, dtype=bool))


def _finite(reward: Tensor, obs: Obs) -> Tensor:
    """Return (N,) bool, where reward and observations are finite."""
    finite = reward.isfinite()
    for values in obs.values():
        finite &= values.isfinite().all(1)
    return finite


def _row(final: Any, index: int) -> Any:
    """Return one environment's final observation: from an array of them, or from a dict of arrays."""
    return (
        {key: _row(values, index) for key, values in final.items()}
        if isinstance(final, dict)
        else final[index]
    )
