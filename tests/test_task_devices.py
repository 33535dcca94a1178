"""Every task computes in float32 on another device than the CPU, as on a GPU.

torch's "meta" device stands in for it: it computes shapes and types only, and refuses operands on
different devices or, in products, of different types, just as a GPU does.
"""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
import pytest
import torch
from torch import Tensor

from robotrl.compose import compose_task
from robotrl.core.catalog import available
from robotrl.sim.warp_fields import Field, NamedSlices, model_values
from robotrl.tasks.task import Task

N = 3
META = torch.device("meta")


class MetaSim:
    """The shapes and types of a `WarpSim`."""

    def __init__(self, model: mujoco.MjModel) -> None:
        self.model, self.num_envs, self.device, self.dt_s = model, N, META, model.opt.timestep
        self._template = mujoco.MjData(model)

    def data(self, field: str) -> Tensor:
        return _like(getattr(self._template, field))

    def param(self, field: str) -> Tensor:
        return _like(model_values(self.model, field))

    values = param

    def named(self, kind: str, name: str) -> NamedSlices:
        return NamedSlices(self, self._template, kind, name)  # type: ignore[arg-type]

    def step(self, *_: Any) -> None:
        pass

    forward = step


def _like(values: Any) -> Tensor:
    values = np.asarray(values)
    kind = torch.float32 if values.dtype.kind == "f" else torch.int64
    return torch.zeros(N, *values.shape, dtype=kind, device=META).as_subclass(Field)


@pytest.mark.parametrize("name", sorted(available("task")))
def test_task_mixes_no_devices(name: str) -> None:
    task = compose_task(name, {})
    if not isinstance(task, Task):
        pytest.skip("of another library")
    sim: Any = MetaSim(task.build_model())
    ctrl = torch.zeros(N, sim.model.nu, dtype=torch.float64, device=META)
    task.before_step(sim)
    task.advance(sim, ctrl, 2)
    for named in task.observe(sim).values():
        assert {term: value.device for term, value in named.items()} == dict.fromkeys(named, META)
    task.reward_terms(sim, ctrl)
    task.terminated(sim)
    task.success(sim)
    command = task.expert(sim)
    assert command is None or (command.device, command.shape) == (META, ctrl.shape)
