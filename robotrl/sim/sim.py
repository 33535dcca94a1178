"""The simulator as the layers above see it: N copies of one MuJoCo model as torch tensors.

Both the CPU implementation (`batch_sim.BatchSim`) and a GPU one speak MuJoCo's own field names and
hand out torch tensors, so a task is written once.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import mujoco
import torch
from torch import Tensor


class Stage(enum.Enum):
    """Which derived fields describe the new state after `Sim.step`.

    After a bare step derived fields (xpos, sensordata, ...) lag one substep behind qpos and qvel, as
    with `mj_step`. A task that reads them fresh asks for VELOCITY, as dm_control does; one written
    against the lag, as Gymnasium's are, asks for NONE.
    """

    NONE = int(mujoco.mjtStage.mjSTAGE_NONE)
    VELOCITY = int(mujoco.mjtStage.mjSTAGE_VEL)


class Named(Protocol):
    """One object's slice of every per-simulation field: `sim.named("joint", "knee").qpos` is (N, 1)."""

    id: int

    def __getattr__(self, attribute: str) -> Tensor:
        """Return the object's slice of a field, named as in MuJoCo's own named access."""
        ...


class Sim(Protocol):
    """N simulations of one model. See `BatchSim` for the semantics of each member.

    Attributes:
        model: whose names and sizes hold for all simulations.
        models: what the simulations run on: `model` alone, or models of the same layout, `model` first.
        chosen: (N,) int64 on the CPU, which of `models` each simulation runs on.
        num_envs: N.
        device: where the tensors are.
        dt_s: physics step, s.
    """

    model: mujoco.MjModel
    models: tuple[mujoco.MjModel, ...]
    chosen: Tensor
    num_envs: int
    device: torch.device
    dt_s: float

    def data(self, field: str) -> Tensor:
        """Live (N, ...) tensor over an MjData field."""
        ...

    def param(self, field: str) -> Tensor:
        """Live (N, ...) tensor over an MjModel field, one value per simulation."""
        ...

    def named(self, kind: str, name: str) -> Named:
        """Slices of the fields that belong to one named object."""
        ...

    def assemble(self, views: Sequence[Tensor]) -> Callable[[], Tensor] | None:
        """What puts live views side by side as (N, D) float32, time after time; None if it cannot."""
        ...

    def step(self, ctrl: Tensor | None = None, substeps: int = 1, ids: Tensor | None = None) -> None:
        """Advance by `substeps` physics steps."""
        ...

    def forward(self, ids: Tensor | None = None) -> None:
        """Recompute derived fields from the state, in simulations `ids`, (n,) int64; None for all."""
        ...

    def reset(self, ids: Tensor | None = None) -> None:
        """Put the state of `ids`, (n,) or all, to the model's defaults; derived fields stay as they are."""
        ...

    def refresh_constants(self, ids: Tensor | None = None) -> None:
        """Recompute the constants of `ids`, (n,) or all, after writes to `param` fields that feed them."""
        ...

    def failed(self) -> Tensor | None:
        """(N,) bool on the CPU: diverged or over capacity since the last call; None where none did."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        ...


class MakeSim(Protocol):
    """What makes a simulator: `BatchSim`, `WarpSim`, either with some arguments given."""

    def __call__(self, model: mujoco.MjModel, num_envs: int, *, stage: Stage) -> Sim:
        """Return `num_envs` simulations of `model`."""
        ...
