"""Another library's spaces as our specs, its observations as tensors, our actions as its own."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from robotrl.core.errors import UsageError
from robotrl.core.types import ActionTerm, Obs, ObsTerm

# one float32 rounding step above 1: tanh and clamp never exceed it
_ACTION_LIMIT = 1.0 + 1e-6


@dataclass(frozen=True)
class _Leaf:
    """One Box inside an observation: the keys that lead to it, and its term."""

    path: tuple[str, ...]
    term: ObsTerm


class ObservationReader:
    """Reads the observations of a Box space or of (nested) Dict spaces of Boxes.

    Every Box becomes one term, flattened: "observation", or its keys joined by dots. Units are not
    known ("1"), nor is what would measure the values on a robot (`Source.SENSOR`, so that policies can
    be exported).

    Args:
        space: of one environment.
        name: of the environment, for errors.
        privileged: top-level keys that go into the group "privileged", for critics only; keys that
            the space has not are left aside.

    Attributes:
        terms: group -> terms, in the order of the columns.

    Raises:
        UsageError: another kind of space, or nothing is left for the policy.
    """

    def __init__(self, space: spaces.Space[Any], name: str, privileged: Collection[str] = ()) -> None:
        self._leaves: dict[str, list[_Leaf]] = {}
        for path, box in _boxes(space, name):
            group = "privileged" if path and path[0] in privileged else "policy"
            low, high = float(box.low.min()), float(box.high.max())
            term = ObsTerm(".".join(path) or "observation", math.prod(box.shape), "1", low=low, high=high)
            self._leaves.setdefault(group, []).append(_Leaf(path, term))
        if "policy" not in self._leaves:
            raise UsageError(f"{name}: every observation is privileged, nothing is left for the policy")
        self.terms = {
            group: tuple(leaf.term for leaf in leaves) for group, leaves in sorted(self._leaves.items())
        }

    def batch(self, observations: Any) -> Obs:
        """Turn the batched observations of N environments into fresh tensors, group -> (N, D) float32."""
        return self._read(lambda path: _at(observations, path))

    def rows(self, observations: Sequence[Any]) -> Obs:
        """Turn K observations of single environments into fresh tensors, group -> (K, D) float32."""
        return self._read(lambda path: np.stack([_at(one, path) for one in observations]))

    def _read(self, values: Any) -> Obs:
        obs = {}
        for group in self.terms:
            columns = [values(leaf.path) for leaf in self._leaves[group]]
            flat = [np.reshape(column, (len(column), -1)) for column in columns]
            # concatenate copies even a single array: the library reuses its buffers
            obs[group] = torch.from_numpy(np.concatenate(flat, axis=1, dtype=np.float32, casting="unsafe"))
        return obs


def _boxes(space: Any, name: str, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], spaces.Box]]:
    """Return the Boxes of a space with the keys that lead to them, in the space's own order."""
    if isinstance(space, spaces.Box) and math.prod(space.shape) > 0:
        return [(path, space)]
    if isinstance(space, spaces.Dict) and space.spaces:
        return [found for key, inner in space.items() for found in _boxes(inner, name, (*path, str(key)))]
    where = f" under {'.'.join(path)!r}" if path else ""
    raise UsageError(f"{name} observes {space}{where}: only Box spaces, and Dict spaces of them, can be used")


def _at(observation: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        observation = observation[key]
    return observation


class ActionWriter:
    """Maps actions in [-1, 1] onto a bounded Box space, linearly.

    Args:
        space: of one environment.
        name: of the environment, for errors.

    Attributes:
        terms: one per scalar of the space, in its order; units are not known ("1").

    Raises:
        UsageError: the space is not a Box of real numbers, or not bounded.
    """

    def __init__(self, space: spaces.Space[Any], name: str) -> None:
        if not isinstance(space, spaces.Box) or not np.issubdtype(space.dtype, np.floating):
            raise UsageError(
                f"{name} takes actions in {space}: only continuous ones, a Box of real numbers, can be used"
            )
        self._low, self._high = (bound.reshape(-1).astype(np.float64) for bound in (space.low, space.high))
        for i, (low, high) in enumerate(zip(self._low, self._high, strict=True)):
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise UsageError(
                    f"{name}: action {i} ranges over [{low}, {high}], so [-1, 1] has nothing to map to: give "
                    "the environment a bounded action space, as gymnasium.wrappers.RescaleAction does"
                )
        self.terms = tuple(
            ActionTerm(f"action_{i}", "1", float(low), float(high))
            for i, (low, high) in enumerate(zip(self._low, self._high, strict=True))
        )
        self._shape, self._dtype = space.shape, space.dtype
        self._scale = torch.from_numpy((self._high - self._low) / 2)
        self._offset = torch.from_numpy((self._high + self._low) / 2)

    def batch(self, action: Tensor, num_envs: int) -> np.ndarray:
        """Turn (N, A) actions in [-1, 1] into the library's own array, (N, *shape).

        Raises:
            UsageError: the action has the wrong shape, is not finite or leaves [-1, 1].
        """
        expected = (num_envs, len(self.terms))
        if action.shape != expected:
            raise UsageError(f"actions must have shape {expected}, got {tuple(action.shape)}")
        if not action.abs().max().item() <= _ACTION_LIMIT:  # the comparison is False for NaN
            row = int((~(action.abs() <= _ACTION_LIMIT)).any(1).nonzero()[0])
            raise UsageError(
                f"actions must be finite and in [-1, 1], environment {row} got {action[row].tolist()}"
            )
        values = torch.addcmul(self._offset, action.double(), self._scale).numpy()
        # rounding alone can leave the bounds
        return values.clip(self._low, self._high).astype(self._dtype).reshape(num_envs, *self._shape)
