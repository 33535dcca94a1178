"""Datasets: whole episodes that somebody recorded, checked once, whatever file they come from."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from robotrl.core.errors import UsageError
from robotrl.core.types import ActionTerm, Obs, ObsTerm, Specs
from robotrl.data.replay import Replay

# of actions scaled in float32 from bounds that were printed or rounded themselves
_ROUNDING = 1e-5


@dataclass(frozen=True)
class Dataset:
    """E whole episodes of S control steps together, one after another.

    Attributes:
        origin: where it comes from, for messages.
        specs: what is known of the environment; see `named`.
        obs: group -> (S + E, D) float32. Each episode has one observation more than it has steps: what
            came after its last step.
        action: (S, A) float32 in [-1, 1], which the terms of `specs.action` map to physical units.
        reward: (S,) float32.
        terminated: (S,) bool, a true end state; only ever in the last step of an episode. Episodes that
            do not end so were truncated.
        lengths: (E,) int64, control steps of each episode.
        success: (E,) bool, or None where the file does not tell.
        named: whether names and units of the terms are the environment's. In files of other programs
            they are placeholders, and only widths and bounds mean something.
        provenance: how it was made, as JSON has it.

    Raises:
        UsageError: types are others, shapes do not fit each other, a number is not finite, an action leaves
            [-1, 1] or an episode goes on after its end.
    """

    origin: str
    specs: Specs
    obs: Obs
    action: Tensor
    reward: Tensor
    terminated: Tensor
    lengths: Tensor
    success: Tensor | None = None
    named: bool = False
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._check_types()
        self._check_shapes()
        for group, values in self.obs.items():
            self._check_finite(f"observation group {group!r}", values, self._episode_of_obs())
        self._check_finite("action", self.action, self._episode())
        self._check_finite("reward", self.reward, self._episode())
        beyond = (self.action.abs() > 1).any(1).nonzero()
        if len(beyond):
            at = int(beyond[0])
            worst = int(self.action[at].abs().argmax())
            term = self.specs.action[worst]
            raise self._error(
                f"action {worst} of {self._where(at)} is {_physical(self.action[at, worst], term):g}, beyond "
                f"its bounds [{term.low:g}, {term.high:g}]: declare wider ones, or clip what you recorded"
            )
        early = self.terminated.clone()
        early[self.ends] = False
        if bool(early.any()):
            at = int(early.nonzero()[0])
            raise self._error(f"{self._where(at)} is a true end state, but its episode goes on")

    @property
    def num_episodes(self) -> int:
        """E."""
        return len(self.lengths)

    @property
    def num_steps(self) -> int:
        """S."""
        return len(self.reward)

    @property
    def starts(self) -> Tensor:
        """(E,) int64, first step of each episode."""
        return self.lengths.cumsum(0) - self.lengths

    @property
    def ends(self) -> Tensor:
        """(E,) int64, last step of each episode."""
        return self.lengths.cumsum(0) - 1

    def check_fits(self, specs: Specs, groups: Collection[str], any_bounds: bool = False) -> None:
        """Check that a policy for `specs` can learn from the dataset.

        Args:
            specs: of the task.
            groups: observation groups that are learned from.
            any_bounds: whether actions in [-1, 1] of a file without names stand for those of `specs` in
                [-1, 1], whatever their physical bounds.

        Raises:
            UsageError: a group is missing, terms or widths differ, or actions mean something else.
        """
        for group in groups:
            if group not in self.obs:
                raise self._error(f"has the observation groups {', '.join(self.obs)}, not {group!r}")
            wanted = specs.observation[group]
            width, recorded = specs.obs_dim(group), self.obs[group].shape[1]
            if width != recorded:
                raise self._error(f"observation group {group!r} has {recorded} numbers, the task's {width}")
            if self.named:
                for ours, theirs in zip(self.specs.observation[group], wanted, strict=False):
                    if _identity(ours) != _identity(theirs):
                        raise self._error(
                            f"observation group {group!r} has {ours} where the task has {theirs}"
                        )
        dt_s = self.specs.control_dt_s
        if self.named and abs(dt_s - specs.control_dt_s) > 1e-6 * dt_s:  # False where one is not known
            raise self._error(f"was recorded every {dt_s:g} s, the task acts every {specs.control_dt_s:g} s")
        if len(self.specs.action) != specs.action_dim:
            raise self._error(f"has {len(self.specs.action)} actions, the task {specs.action_dim}")
        for have, want in zip(self.specs.action, specs.action, strict=True):
            off = abs(have.low - want.low) + abs(have.high - want.high)
            if any_bounds and not self.named:
                off = 0.0
            named_alike = not self.named or (have.name, have.unit) == (want.name, want.unit)
            if not named_alike or off > _ROUNDING * (want.high - want.low):
                hint = "" if self.named else "; data_any_bounds=true says that they are scaled to those"
                raise self._error(f"has the action {have} where the task has {want}{hint}")

    def monte_carlo_returns(self, gamma: float) -> Tensor:
        """(S,) float64, sum of gamma^i r_i from each step to the end of its episode.

        What would have come after a truncation is not in it.
        """
        returns = self.reward.double()
        starts, lengths = self.starts, self.lengths
        for t in range(int(lengths.max()) - 2, -1, -1):
            at = starts[lengths > t + 1] + t
            returns[at] += gamma * returns[at + 1]
        return returns

    def to_replay(self, groups: Collection[str] | None = None) -> Replay:
        """Copy it into a replay, one environment's history.

        Args:
            groups: observation groups to take, see `check_fits`; None for all.
        """
        groups = self.obs if groups is None else groups
        here = torch.arange(self.num_steps) + self._episode()
        done = torch.zeros(self.num_steps, dtype=torch.bool)
        done[self.ends] = True
        return Replay.of_history(
            {group: self.obs[group][here] for group in groups},
            self.action,
            self.reward,
            self.terminated,
            done,
            {group: self.obs[group][here + 1] for group in groups},
        )

    def summary(self) -> dict[str, Any]:
        """Return statistics of episodes and steps, as JSON has them."""
        returns = self.monte_carlo_returns(1.0)[self.starts]
        return {
            "episodes": self.num_episodes,
            "steps": self.num_steps,
            "return": _spread(returns),
            "length": _spread(self.lengths.double()),
            "terminated": float(self.terminated[self.ends].double().mean()),
            "success": None if self.success is None else float(self.success.double().mean()),
            "reward": _spread(self.reward.double()),
            "action_at_limit": float((self.action.abs() > 0.999).double().mean()),
            "observation": {group: values.shape[1] for group, values in self.obs.items()},
            "action": self.action.shape[1],
        }

    def _check_types(self) -> None:
        expected: dict[str, tuple[Any, torch.dtype]] = {
            "action": (self.action, torch.float32),
            "reward": (self.reward, torch.float32),
            "terminated": (self.terminated, torch.bool),
            "lengths": (self.lengths, torch.int64),
        }
        if self.success is not None:
            expected["success"] = (self.success, torch.bool)
        for group, values in self.obs.items():
            expected[f"observation group {group!r}"] = (values, torch.float32)
        for name, (values, dtype) in expected.items():
            found = values.dtype if isinstance(values, Tensor) else type(values).__name__
            if found != dtype:
                raise self._error(f"{name} is of {found}, expected a tensor of {dtype}: convert it")

    def _check_shapes(self) -> None:
        steps, episodes = self.reward.numel(), self.lengths.numel()
        if not episodes or int(self.lengths.min()) < 1 or int(self.lengths.sum()) != steps:
            raise self._error(
                f"{episodes} episodes of together {int(self.lengths.sum())} steps, {steps} rewards: expected "
                "an episode or more, a step or more in each, and a reward for each step"
            )
        expected: dict[str, tuple[Tensor, tuple[int, ...]]] = {
            "action": (self.action, (steps, len(self.specs.action)))
        }
        expected |= {"reward": (self.reward, (steps,)), "terminated": (self.terminated, (steps,))}
        expected["lengths"] = (self.lengths, (episodes,))
        if self.success is not None:
            expected["success"] = (self.success, (episodes,))
        for group in self.specs.observation:
            width = self.specs.obs_dim(group)
            expected[f"observation group {group!r}"] = (self.obs[group], (steps + episodes, width))
        for name, (values, shape) in expected.items():
            if values.shape != shape:
                raise self._error(f"{name} has the shape {tuple(values.shape)}, expected {shape}")

    def _check_finite(self, name: str, values: Tensor, episode: Tensor) -> None:
        bad = (~values.reshape(len(values), -1).isfinite()).any(1).nonzero()
        if len(bad):
            at = int(bad[0])
            step = at - int((episode == episode[at]).nonzero()[0])
            raise self._error(f"{name} of episode {int(episode[at])}, step {step} is NaN or infinite")

    def _episode(self) -> Tensor:
        """(S,) number of the episode of each step."""
        return torch.arange(self.num_episodes).repeat_interleave(self.lengths)

    def _episode_of_obs(self) -> Tensor:
        return torch.arange(self.num_episodes).repeat_interleave(self.lengths + 1)

    def _where(self, step: int) -> str:
        episode = int(self._episode()[step])
        return f"episode {episode}, step {step - int(self.starts[episode])}"

    def _error(self, problem: str) -> UsageError:
        return UsageError(f"dataset {self.origin}: {problem}")


def scaled_actions(values: Tensor, terms: Collection[ActionTerm]) -> Tensor:
    """Map (S, A) actions in physical units onto [-1, 1], float32; what rounding put beyond is put back."""
    low = torch.tensor([term.low for term in terms], dtype=torch.float64)
    high = torch.tensor([term.high for term in terms], dtype=torch.float64)
    if values.shape[1:] != low.shape:
        return values.float()  # which the dataset's own check refuses
    scaled = ((2 * values.double() - low - high) / (high - low)).float()
    return torch.where(scaled.abs() <= 1 + _ROUNDING, scaled.clamp(-1.0, 1.0), scaled)


def _physical(action: Tensor, term: ActionTerm) -> float:
    return (term.low + term.high) / 2 + float(action) * (term.high - term.low) / 2


def _identity(term: ObsTerm) -> tuple[Any, ...]:
    return term.name, term.size, term.unit, term.elements


def _spread(values: Tensor) -> dict[str, float]:
    return {
        "mean": float(values.mean()),
        "std": float(values.std(correction=0)),
        "min": float(values.min()),
        "max": float(values.max()),
    }
