"""Our environments as a TorchRL environment; needs `pip install "robotrl[torchrl]"`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from robotrl.core.errors import RobotrlError, UsageError
from robotrl.core.types import Obs
from robotrl.envs.vec_env import VecEnv

try:
    from tensordict import TensorDict, TensorDictBase
    from torchrl.data import Bounded, Categorical, Composite, Unbounded
    from torchrl.envs import EnvBase
except ImportError as error:
    raise RobotrlError(f'TorchRL cannot be imported ({error}): run pip install "robotrl[torchrl]"') from error


class TorchRLEnv(EnvBase):
    """A `VecEnv` as a TorchRL environment of batch size (N,).

    Actions stay in [-1, 1]. One observation group is the key "observation", several go by their names.
    ("next", ...) holds the true successor everywhere, also where an episode ended; `maybe_reset`, and so
    `step_and_maybe_reset`, rollouts and collectors, then hand out the first observations of the episodes
    that the `VecEnv` has begun. "valid" is False where the simulation diverged: do not learn from that
    transition.

    Args:
        env: what to wrap.
        groups: observation groups.

    Raises:
        UsageError: there is no such group, or none is asked for.
    """

    def __init__(self, env: VecEnv, groups: Sequence[str] = ("policy",)) -> None:
        env.specs.obs_dim(*groups)  # refuses unknown groups
        super().__init__(device="cpu", batch_size=(env.num_envs,))
        self.env = env
        self._keys = {group: group if len(groups) > 1 else "observation" for group in groups}
        self._ended = torch.zeros(env.num_envs, dtype=torch.bool)
        self._first: Obs = {}
        n = env.num_envs
        observations = {key: Unbounded((n, env.specs.obs_dim(group))) for group, key in self._keys.items()}
        self.observation_spec = Composite(
            **observations, valid=Categorical(2, (n, 1), dtype=torch.bool), shape=(n,)
        )
        self.action_spec = Bounded(-1.0, 1.0, (n, env.specs.action_dim), dtype=torch.float32)
        self.reward_spec = Unbounded((n, 1))
        self.full_done_spec = Composite(
            {key: Categorical(2, (n, 1), dtype=torch.bool) for key in ("done", "terminated", "truncated")},
            shape=(n,),
        )

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        if self._ended.any():
            ids = self._ended.nonzero().squeeze(1).tolist()
            raise UsageError(f"environments {ids} have ended: call maybe_reset before the next step")
        step = self.env.step(tensordict["action"])
        done = step.done
        self._ended, self._first = done, step.obs
        return self._tensordict(
            step.final_obs,
            valid=step.valid,
            reward=step.reward,
            done=done.clone(),
            terminated=step.terminated,
            truncated=step.truncated,
        )

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs: Any) -> TensorDictBase:
        """Start new episodes everywhere, or those that "_reset" asks for and the `VecEnv` has begun."""
        given = None if tensordict is None else tensordict.get("_reset", None)
        asked = torch.ones_like(self._ended) if given is None else given.reshape(-1)
        unasked_for = asked & ~self._ended
        if given is None or (asked.all() and unasked_for.any()):
            self._first = self.env.reset()
        elif unasked_for.any():
            ids = unasked_for.nonzero().squeeze(1).tolist()
            raise UsageError(
                f"environments {ids} cannot be reset alone in mid-episode: end them by the task's "
                "episode_length_s, or reset all"
            )
        self._ended = self._ended & ~asked
        ended = torch.zeros(3, self.env.num_envs, dtype=torch.bool)
        flags = dict(zip(("done", "terminated", "truncated"), ended, strict=True))
        return self._tensordict(self._first, valid=torch.ones_like(asked), **flags)

    def _set_seed(self, seed: int | None) -> None:
        if seed is None:
            self.env.rng.seed()
        else:
            self.env.rng.manual_seed(seed)

    def _tensordict(self, obs: Obs, **columns: Tensor) -> TensorDictBase:
        observations = {key: obs[group] for group, key in self._keys.items()}
        values = {name: column.unsqueeze(1) for name, column in columns.items()}
        return TensorDict({**observations, **values}, batch_size=self.batch_size)
