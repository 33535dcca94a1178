"""Flat files of transitions, one episode after another, as a `Dataset`: what D4RL's and OGBench's share.

Neither keeps action bounds, names or units: actions are taken to be in [-1, 1].
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robotrl.core.errors import UsageError
from robotrl.core.types import ActionTerm, ObsTerm, Specs
from robotrl.data.dataset import Dataset, scaled_actions


@dataclass(frozen=True)
class Rows:
    """M rows of a file, most of which are control steps.

    Attributes:
        obs: (R, D); the first M rows are what was acted on.
        successor: (M,) the row of `obs` that came after each row.
        action: (M, A).
        reward: (M,).
        terminated: (M,) bool, a true end state.
        ends: (M,) bool, the last step of an episode.
        steps: (S,) the rows that are control steps; the others only hold an observation.
    """

    obs: np.ndarray
    successor: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    ends: np.ndarray
    steps: np.ndarray

    def to_dataset(self, origin: str, provenance: Mapping[str, Any]) -> Dataset:
        """Put the episodes together.

        Raises:
            UsageError: they are not sound, see `Dataset`.
        """
        if any(values.ndim != 2 or not values.shape[1] for values in (self.obs, self.action)):
            raise UsageError(
                f"dataset {origin}: observations {self.obs.shape} and actions {self.action.shape} must be "
                "rows of numbers, at least one a row"
            )
        if not len(self.steps):
            raise UsageError(
                f"dataset {origin}: no episode has a step, as every row ends one and nobody knows what came "
                "after it: check the flags of the ends"
            )
        last = np.flatnonzero(self.ends[self.steps])
        order = np.insert(self.steps, last + 1, self.successor[self.steps[last]])
        actions = tuple(ActionTerm(f"action_{i}", "1", -1.0, 1.0) for i in range(self.action.shape[1]))
        return Dataset(
            origin,
            Specs({"policy": (ObsTerm("observation", self.obs.shape[1], "1"),)}, actions, math.nan),
            {"policy": float_tensor(self.obs[order])},
            scaled_actions(double_tensor(self.action[self.steps]), actions),
            float_tensor(self.reward[self.steps]),
            torch.from_numpy(self.terminated[self.steps]),
            torch.from_numpy(np.diff(last, prepend=-1)),
            provenance=provenance,
        )


def check_rows(where: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Check that every array has a row for each of the rewards, and that there are any.

    Raises:
        UsageError: there are none, or an array has another length.
    """
    reward = arrays["rewards"]
    if reward.ndim != 1 or not len(reward):
        raise UsageError(f"{where}: rewards have the shape {reward.shape}, expected one number a row")
    for name, values in arrays.items():
        if values.ndim < 1 or len(values) != len(reward):
            raise UsageError(f"{where}: {name} has the shape {values.shape}, there are {len(reward)} rewards")


def check_numbers(values: np.ndarray, name: str, where: str) -> np.ndarray:
    """Return an array of real numbers or truth values as it is.

    Raises:
        UsageError: it holds something else.
    """
    if values.dtype.kind not in "biuf":
        raise UsageError(f"{where}: array {name!r} holds {values.dtype}, expected real numbers")
    return values


def truth_values(values: np.ndarray, name: str, where: str) -> np.ndarray:
    """Return (M,) numbers that are 0 or 1 as bool.

    Raises:
        UsageError: one of them is something else, such as NaN, or there is more than one a row.
    """
    if values.ndim != 1:
        raise UsageError(f"{where}: {name} has the shape {values.shape}, expected one number a row")
    wrong = np.flatnonzero((values != 0) & (values != 1))
    if len(wrong):
        raise UsageError(f"{where}: {name} is {values[wrong[0]]:g} in row {wrong[0]}, expected 0 or 1")
    return values.astype(bool)


def float_tensor(values: np.ndarray) -> Tensor:
    """Return a tensor of its own memory, float32, of numbers of any width and byte order."""
    return torch.from_numpy(np.array(values, dtype=np.float32))


def double_tensor(values: np.ndarray) -> Tensor:
    """Return a tensor of its own memory, float64, of numbers of any width and byte order."""
    return torch.from_numpy(np.array(values, dtype=np.float64))
