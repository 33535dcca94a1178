"""Observations between the simulator and the policy: assembly, noise, bias, dropout, history."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from robotrl.core.errors import UsageError, unknown_name
from robotrl.core.types import Obs, ObsTerm
from robotrl.envs.images import Images
from robotrl.envs.task_check import check_observation
from robotrl.sim.batch_sim import BatchSim
from robotrl.sim.draws import Distribution, draw, matching
from robotrl.sim.sim import Sim
from robotrl.tasks.realism import ObservationNoise
from robotrl.tasks.task import Task


class Observer:
    """Puts a task's observation terms side by side.

    Args:
        task: what observes.
        sim: whom it observes.
        terms: group -> terms, in their order.
    """

    def __init__(self, task: Task, sim: Sim, terms: Mapping[str, tuple[ObsTerm, ...]]) -> None:
        self._task, self._sim, self._terms = task, sim, terms
        self._names = {group: [term.name for term in named] for group, named in terms.items()}
        # groups that are views of the simulator's memory: reading them needs no call of the task
        self._live: dict[str, Callable[[], Tensor]] = {}
        self._images = _images(task, sim)
        for group in task.images.keys() & terms.keys():
            raise UsageError(f"images.{group}: the task has an observation group of that name already")

    def __call__(self) -> Obs:
        """Return group -> (N, D) float32, fresh tensors on the CPU."""
        if len(self._live) == len(self._names):
            return {group: read() for group, read in self._live.items()}
        values = self._task.observe(self._sim)
        return {
            group: self._live[group]() if group in self._live else _side_by_side(self._columns(values, group))
            for group in self._names
        }

    def images(self, ids: Tensor | None = None) -> Obs:
        """Return the pictures of simulations `ids`, or of all: group -> (n, height, width, channels)."""
        return {} if self._images is None else self._images.observe(ids)

    def _columns(self, values: Mapping[str, Mapping[str, Tensor]], group: str) -> list[Tensor]:
        named = values[group]
        return [named[name] for name in self._names[group]]

    def prepare(self) -> None:
        """Check the shapes of the task's values and find those that are views of the simulator's memory.

        Raises:
            UsageError: a value has another shape than its term.
        """
        values = self._task.observe(self._sim)
        check_observation(self._task, self._sim, self._terms, values)
        found = {group: self._sim.assemble(self._columns(values, group)) for group in self._names}
        self._live = {group: read for group, read in found.items() if read is not None}


def _images(task: Task, sim: Sim) -> Images | None:
    if not task.images:
        return None
    if not isinstance(sim, BatchSim):
        raise UsageError(f"images are drawn of simulations on the CPU, not of {type(sim).__name__}")
    return Images(sim, task.images)


def _side_by_side(columns: list[Tensor]) -> Tensor:
    columns = [column if column.ndim == 2 else column.unsqueeze(1) for column in columns]
    return torch.cat(columns, dim=1).to("cpu", torch.float32)


class Corruption:
    """Noise, bias and dropout of one observation group.

    Args:
        num_envs: N.
        terms: the group's terms.
        items: name -> noise of this group.

    Raises:
        UsageError: a pattern matches no term.
    """

    def __init__(
        self, num_envs: int, terms: tuple[ObsTerm, ...], items: Mapping[str, ObservationNoise]
    ) -> None:
        self._num_envs = num_envs
        self._items = list(items.values())
        starts, width = [], 0
        for term in terms:
            starts.append(width)
            width += term.size
        self._columns = []
        # term -> index, so that the scalars of a term drop out together
        self._term_of = torch.tensor([i for i, term in enumerate(terms) for _ in range(term.size)])
        for name, item in items.items():
            found = matching(item.terms, [term.name for term in terms], "term", f"observation_noise.{name}")
            self._columns.append(
                torch.cat([torch.arange(starts[i], starts[i] + terms[i].size) for i in found])
            )
        self._bias = torch.zeros(num_envs, width)
        self._last = torch.zeros(num_envs, width)
        self._num_terms = len(terms)
        self._biased = any(tuple(item.bias) != (0.0, 0.0) for item in self._items)
        self._drops = any(item.dropout > 0.0 for item in self._items)

    def reset(self, ids: Tensor, rng: torch.Generator) -> None:
        """Draw the biases of new episodes."""
        self._bias[ids] = 0.0
        for item, columns in zip(self._items, self._columns, strict=True):
            item.check()
            drawn = draw((len(ids), len(columns)), item.bias, Distribution.UNIFORM, rng)
            self._bias[ids.unsqueeze(1), columns] += drawn.float()

    def apply(self, values: Tensor, rng: torch.Generator, ids: Tensor | None = None) -> Tensor:
        """Return (N, D) float32 readings of the true `values`.

        Args:
            values: (N, D) or (n, D) for `ids`.
            rng: of the noise.
            ids: (n,) simulations at the start of an episode: nothing has been read before, so nothing
                is repeated; None for a control step of all.
        """
        values = values + (self._bias if ids is None else self._bias[ids]) if self._biased else values.clone()
        for item, columns in zip(self._items, self._columns, strict=True):
            shape = (len(values), len(columns))
            if item.std:
                values[:, columns] += item.std * torch.randn(shape, generator=rng)
            if item.half_width:
                values[:, columns] += item.half_width * (2.0 * torch.rand(shape, generator=rng) - 1.0)
        if not self._drops:
            return values
        if ids is not None:
            self._last[ids] = values
            return values
        for item, columns in zip(self._items, self._columns, strict=True):
            if item.dropout:
                dropped = torch.rand(len(values), self._num_terms, generator=rng) < item.dropout
                mine = dropped[:, self._term_of[columns]]
                values[:, columns] = torch.where(mine, self._last[:, columns], values[:, columns])
        self._last.copy_(values)
        return values

    def state_dict(self) -> dict[str, Any]:
        """Return biases and last readings."""
        return {"bias": self._bias.clone(), "last": self._last.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        self._bias.copy_(state["bias"])
        self._last.copy_(state["last"])


class History:
    """The last H readings of one observation group side by side, oldest first.

    An episode starts with H copies of its first reading.
    """

    def __init__(self, num_envs: int, width: int, length: int) -> None:
        self._readings = torch.zeros(num_envs, length, width)

    def reset(self, values: Tensor, ids: Tensor) -> Tensor:
        """Start with the (n, D) first readings of simulations `ids`; return (n, H D)."""
        self._readings[ids] = values.unsqueeze(1).expand(-1, self._readings.shape[1], -1)
        return self._readings[ids].flatten(1)

    def push(self, values: Tensor) -> Tensor:
        """Add the (N, D) readings of a control step; return (N, H D)."""
        self._readings = torch.cat([self._readings[:, 1:], values.unsqueeze(1)], 1)
        # a copy: `reset` writes into the readings in place
        return self._readings.flatten(1).clone()

    def state_dict(self) -> dict[str, Any]:
        """Return the readings."""
        return {"readings": self._readings.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        self._readings.copy_(state["readings"])


class ObservationPipeline:
    """Noise, then history, of every observation group.

    Args:
        num_envs: N.
        terms: group -> terms of one reading, without history.
        noise: name -> observation noise.
        history: group -> readings shown.

    Raises:
        UsageError: a group or term does not exist.
    """

    def __init__(
        self,
        num_envs: int,
        terms: Mapping[str, tuple[ObsTerm, ...]],
        noise: Mapping[str, ObservationNoise],
        history: Mapping[str, int],
    ) -> None:
        for name, item in noise.items():
            if item.group not in terms:
                raise unknown_name(f"observation group in observation_noise.{name}", item.group, terms)
        by_group = {group: {n: i for n, i in noise.items() if i.group == group} for group in terms}
        self._noise = {g: Corruption(num_envs, terms[g], items) for g, items in by_group.items() if items}
        self._history = {
            group: History(num_envs, sum(term.size for term in terms[group]), length)
            for group, length in history.items()
            if length > 1
        }

    def start(self, obs: Obs, ids: Tensor, rng: torch.Generator) -> Obs:
        """Return what the new episodes of simulations `ids` show first, group -> (n, ...)."""
        shown = {}
        for group, values in obs.items():
            if group in self._noise:
                self._noise[group].reset(ids, rng)
                values = self._noise[group].apply(values, rng, ids)
            shown[group] = self._history[group].reset(values, ids) if group in self._history else values
        return shown

    def step(self, obs: Obs, rng: torch.Generator) -> Obs:
        """Return what a control step shows, group -> (N, ...)."""
        if not self._noise and not self._history:
            return obs
        shown = {}
        for group, values in obs.items():
            if group in self._noise:
                values = self._noise[group].apply(values, rng)
            shown[group] = self._history[group].push(values) if group in self._history else values
        return shown

    def state_dict(self) -> dict[str, Any]:
        """Return everything that continues bit for bit."""
        noise = {group: part.state_dict() for group, part in self._noise.items()}
        return {
            "noise": noise,
            "history": {group: part.state_dict() for group, part in self._history.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        for group, part in self._noise.items():
            part.load_state_dict(state["noise"][group])
        for group, history in self._history.items():
            history.load_state_dict(state["history"][group])
