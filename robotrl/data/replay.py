"""Replay: what N environments did, a row per control step in preallocated tensors; windows of h steps.

A window is the h rows of one environment from a start on. It ends early, after k < h of them, where no
row follows the last one: the episode ended there, or the simulation diverged in the next row. Both but a
true end state bootstrap from what came after the last row. Every row can be a start, except those of
diverged simulations, from which nothing is ever learned, and the newest ones, whose windows go on in rows
that are not written yet.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from robotrl.core.errors import RobotrlError, UsageError
from robotrl.core.types import Obs, Step

_MOST_DRAWS = 1000
"""How often what cannot be used is drawn again at most: where windows are there at all, a few times do."""


@dataclass
class Transitions:
    """A batch of B windows of h control steps, of which k <= h happened; h = 1 is the usual transition.

    A learner's target is `reward + discount * V(next_obs)`, whatever h is.

    Attributes:
        obs: group -> (B, D).
        action: (B, h*A) in [-1, 1], step after step; 0 in the steps that did not happen.
        reward: (B,), sum_{i<k} gamma^i r_i.
        discount: (B,), gamma^k, or 0 where the window ends in a true end state.
        next_obs: group -> (B, D), the true successor of the k-th step.
        mask: (B, h) float32, 1 in the k steps that happened.
    """

    obs: Obs
    action: Tensor
    reward: Tensor
    discount: Tensor
    next_obs: Obs
    mask: Tensor

    def whole(self) -> Transitions:
        """Return those windows in which all h steps happened."""
        rows = self.mask[:, -1].bool()
        return Transitions(
            {group: values[rows] for group, values in self.obs.items()},
            self.action[rows],
            self.reward[rows],
            self.discount[rows],
            {group: values[rows] for group, values in self.next_obs.items()},
            self.mask[rows],
        )


class Replay:
    """A ring of rows of N transitions, one row per control step; the oldest are overwritten.

    Args:
        capacity: transitions kept; rounded down to whole rows.
        num_envs: N.
        obs_dims: group -> D.
        action_dim: A.

    Attributes:
        num_added: sound transitions added so far, those overwritten since included.

    Raises:
        UsageError: not even one row fits.
    """

    _start: ClassVar[str] = "valid"
    """Field that says in which rows a window may start."""

    def __init__(self, capacity: int, num_envs: int, obs_dims: dict[str, int], action_dim: int) -> None:
        if capacity < num_envs:
            raise UsageError(
                f"replay_size {capacity} cannot take the {num_envs} transitions of one control step: "
                "raise algorithm.replay_size or lower num_envs"
            )
        self.num_envs = num_envs
        self.capacity = capacity // num_envs * num_envs
        self.num_added = 0
        self._groups = tuple(obs_dims)
        # row t of environment n is at t * N + n: N further on is the same environment a control step later
        self._fields: dict[str, Tensor] = {
            "action": torch.empty(self.capacity, action_dim),
            "reward": torch.empty(self.capacity),
            "bootstrap": torch.empty(self.capacity),
            "done": torch.empty(self.capacity, dtype=torch.bool),
            "valid": torch.empty(self.capacity, dtype=torch.bool),
            # no row follows in a window; kept up to date by `add`, so that sampling need not ask why
            "last": torch.empty(self.capacity, dtype=torch.bool),
        }
        for group, dim in obs_dims.items():
            self._fields[f"obs.{group}"] = torch.empty(self.capacity, dim)
            self._fields[f"next_obs.{group}"] = torch.empty(self.capacity, dim)
        self._held = 0
        self._barred = 0
        self._head = 0

    @classmethod
    def of_history(
        cls, obs: Obs, action: Tensor, reward: Tensor, terminated: Tensor, done: Tensor, next_obs: Obs
    ) -> Replay:
        """Return a full replay of one environment's S steps, in the order they happened.

        Args:
            obs: group -> (S, D), what was acted on.
            action: (S, A) in [-1, 1].
            reward: (S,).
            terminated: (S,) bool, a true end state.
            done: (S,) bool, the episode ended; also in the last step, as nothing is known to follow.
            next_obs: group -> (S, D), the true successor.
        """
        replay = cls(
            len(reward), 1, {group: values.shape[1] for group, values in obs.items()}, action.shape[1]
        )
        history = {
            "action": action,
            "reward": reward,
            "bootstrap": (~terminated).to(torch.float32),
            "done": done,
            "valid": torch.ones_like(done),
            "last": done,
            **{f"obs.{group}": values for group, values in obs.items()},
            **{f"next_obs.{group}": values for group, values in next_obs.items()},
        }
        for name, values in history.items():
            replay._fields[name].copy_(values)
        replay._held = replay.num_added = len(reward)
        return replay

    @property
    def size(self) -> int:
        """Transitions held that can be drawn."""
        return self._held - self._barred

    def decide(self, asked: Tensor, made_from: Tensor) -> None:
        """Say that decisions are made now; nothing is kept of them here but the actions that follow.

        Args:
            asked: (N,) bool, in which environments; their last decisions are over.
            made_from: (n, h*A), one row for each of those, as the learner's `decide` returned it.
        """

    def add(self, obs: Obs, action: Tensor, step: Step) -> None:
        """Store the N transitions of one control step.

        Args:
            obs: group -> (N, D), what was acted on.
            action: (N, A) in [-1, 1].
            step: what the environments answered.
        """
        rows = {
            "action": action,
            "reward": step.reward,
            "bootstrap": (~step.terminated).to(torch.float32),
            "done": step.done,
            "valid": step.valid,
            "last": torch.ones_like(step.valid),
        }
        for group in self._groups:
            rows[f"obs.{group}"] = obs[group]
            rows[f"next_obs.{group}"] = step.final_obs[group]
        diverged = self.num_envs - int(step.valid.sum())
        self.num_added += self.num_envs - diverged
        if self._held:
            before = self._newest()
            self._fields["last"][before] = self._fields["done"][before] | ~step.valid
        here = slice(self._head, self._head + self.num_envs)
        if self._held == self.capacity:
            self._barred -= int((~self._fields[self._start][here]).sum())
        for name, values in rows.items():
            self._fields[name][here] = values
        self._barred += diverged
        self._head = (self._head + self.num_envs) % self.capacity
        self._held = min(self._held + self.num_envs, self.capacity)

    def cut(self) -> None:
        """Let no window go on beyond the newest row: what comes next does not follow from it."""
        if self._held:
            self._fields["done"][self._newest()] = True

    def sample(
        self, batch_size: int, rng: torch.Generator, horizon: int = 1, gamma: float = 0.99
    ) -> Transitions:
        """Draw windows that are over, uniformly over their starts and with replacement.

        Args:
            batch_size: B.
            rng: where the draws come from.
            horizon: h, steps of a window.
            gamma: discount of one control step.

        Raises:
            RobotrlError: there is nothing to draw.
        """
        start = self._starts(batch_size, rng)
        if horizon > 1:
            for _ in range(_MOST_DRAWS):
                running = self._running(start, horizon).nonzero().squeeze(1)
                if not len(running):
                    break
                start[running] = self._starts(len(running), rng)
            else:
                raise RobotrlError(f"replay holds no windows of {horizon} control steps that are over")
        return self._windows(start, horizon, gamma)

    def can_sample(self, horizon: int) -> bool:
        """Whether there are windows of so many control steps that are over."""
        # only windows that start in the newest rows can still go on
        newest = min((horizon - 1) * self.num_envs, self._held)
        rows = (self._head - 1 - torch.arange(newest)) % self.capacity
        start = rows[self._gather(self._start, rows)]
        return self.size > int(self._running(start, horizon).sum())

    def _running(self, start: Tensor, horizon: int) -> Tensor:
        """Return which windows, (B,) bool, go on beyond the newest row."""
        steps = torch.arange(horizon)
        rows = (start.unsqueeze(1) + steps * self.num_envs) % self._held
        after = self._newest().start // self.num_envs - start // self.num_envs
        written = after % (self._held // self.num_envs) + 1
        ended = self._gather("done", rows) & (steps < written.unsqueeze(1))
        return (written < horizon) & ~ended.any(1)

    def _windows(self, start: Tensor, horizon: int, gamma: float) -> Transitions:
        """Return the windows that start in given rows, (B,)."""
        if horizon == 1:
            reward, action = self._gather("reward", start), self._gather("action", start)
            discount, mask, end = gamma * self._gather("bootstrap", start), torch.ones(len(start), 1), start
        else:
            # (B, h); the rows beyond the last one are read, as there is always something, and masked
            rows = (start.unsqueeze(1) + torch.arange(horizon) * self.num_envs) % self._held
            goes_on = ~self._gather("last", rows[:, :-1])
            happened = torch.cat([torch.ones(len(start), 1, dtype=torch.bool), goes_on.cumprod(1).bool()], 1)
            steps = happened.sum(1)
            end = rows.gather(1, (steps - 1).unsqueeze(1)).squeeze(1)
            mask = happened.to(torch.float32)
            reward = (self._gather("reward", rows) * mask) @ gamma ** torch.arange(horizon)
            action = (self._gather("action", rows) * mask.unsqueeze(2)).flatten(1)
            discount = gamma**steps * self._gather("bootstrap", end)
        return Transitions(
            {group: self._gather(f"obs.{group}", start) for group in self._groups},
            action,
            reward,
            discount,
            {group: self._gather(f"next_obs.{group}", end) for group in self._groups},
            mask,
        )

    def _starts(self, batch_size: int, rng: torch.Generator) -> Tensor:
        """Draw (B,) rows in which a window may start."""
        if not self.size:
            raise RobotrlError("replay holds no transition that could be drawn")
        start = torch.randint(self._held, (batch_size,), generator=rng)
        # what hits one where none may is drawn again, which leaves the others uniform
        while self._barred and len(missed := (~self._gather(self._start, start)).nonzero().squeeze(1)):
            start[missed] = torch.randint(self._held, (len(missed),), generator=rng)
        return start

    def _gather(self, name: str, rows: Tensor) -> Tensor:
        """Return (*rows.shape, ...) of a field; `index_select` takes half the time of indexing."""
        return self._fields[name].index_select(0, rows.flatten()).unflatten(0, rows.shape)

    def fingerprint(self) -> str:
        """Return a hash, SHA-256, of all that it holds: equal for equal transitions in the same order."""
        digest = hashlib.sha256()
        for name, values in sorted(self._fields.items()):
            held = values[: self._held]
            digest.update(f"{name} {tuple(held.shape)}".encode())
            digest.update(held.numpy().data)
        return digest.hexdigest()

    def _newest(self) -> slice:
        start = (self._head - self.num_envs) % self.capacity
        return slice(start, start + self.num_envs)

    def state_dict(self) -> dict[str, Any]:
        """Return the filled part of every field, and the counts."""
        return {
            "fields": {name: values[: self._held] for name, values in self._fields.items()},
            "num_envs": self.num_envs,
            "num_added": self.num_added,
            "head": self._head,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict` of a replay with the same capacity and sizes.

        Raises:
            RobotrlError: the capacity or the number of environments is another one.
        """
        held, num_envs = len(state["fields"]["valid"]), state["num_envs"]
        if num_envs != self.num_envs:
            raise RobotrlError(f"checkpoint is of {num_envs} environments, num_envs is {self.num_envs}")
        if held > self.capacity:
            raise RobotrlError(f"checkpoint holds {held} transitions, replay_size is {self.capacity}")
        for name, values in state["fields"].items():
            self._fields[name][:held] = values
        self._held, self._head, self.num_added = held, state["head"], state["num_added"]
        self._barred = int((~self._fields[self._start][:held]).sum())
