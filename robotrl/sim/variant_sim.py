"""N simulations on CPU threads that run on models of several files: other meshes, sizes, masses, textures."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import mujoco
import torch
from mujoco.batch import MODEL_FIELDS
from torch import Tensor

from robotrl.core.errors import unknown_name
from robotrl.sim.batch_sim import BatchSim
from robotrl.sim.model_fields import compiled_values, model_values, write_model_values
from robotrl.sim.sim import Stage


class VariantSim(BatchSim):
    """Simulations that each run on one of several models of the same layout (`Batch.set_models`).

    MuJoCo allows either this or fields that differ between simulations. So from the first `param` on,
    each simulation has a copy of its model, into which the values are written before they are needed:
    that takes N times the memory of a model, textures included.

    Args:
        models: K compiled models that `layouts.check_layouts` accepts; names and sizes of the first hold
            for all. All simulations begin on it.
        num_envs: number of simulations N.
        num_threads: see `BatchSim`.
        stage: see `BatchSim`.
    """

    def __init__(
        self,
        models: Sequence[mujoco.MjModel],
        num_envs: int,
        num_threads: int | None = None,
        stage: Stage = Stage.VELOCITY,
    ) -> None:
        super().__init__(models[0], num_envs, num_threads, stage)
        self.models = tuple(models)
        # what each simulation runs on, and what was last written to it
        self._running = [self.models[0]] * num_envs
        self._written: dict[str, Tensor] = {}
        self._scratch = mujoco.MjData(self.models[0])
        self.batch.set_models(self._running)

    def choose(self, ids: Tensor, which: Tensor) -> None:
        """Let simulations `ids`, (n,) int64, run on the models `which`, (n,) int64, as compiled.

        Their state is as before: call `reset`. No other simulation is touched.
        """
        self.chosen[ids] = which
        for sim_id, index in zip(ids.tolist(), which.tolist(), strict=True):
            model = self.models[index]
            self._running[sim_id] = copy.copy(model) if self._params else model
        for field, values in self._params.items():
            values[ids] = compiled_values(self, field)[which]
            self._written[field][ids] = values[ids]
        self.batch.set_models(self._running)

    def param(self, field: str) -> Tensor:
        """Return the live (N, ...) per-simulation values of an MjModel field; see `BatchSim.param`.

        Raises:
            UsageError: the field does not exist, cannot differ between simulations (assets), or has
                another size in each model.
        """
        found = self._params.get(field)
        if found is None:
            if field not in MODEL_FIELDS:
                raise unknown_name("MjModel field (assets differ between files only)", field, MODEL_FIELDS)
            values = compiled_values(self, field)[self.chosen]
            if not self._params:
                self._running = [copy.copy(model) for model in self._running]
                self.batch.set_models(self._running)
            # constants may have been refreshed since
            for row, model in zip(values, self._running, strict=True):
                row.copy_(torch.as_tensor(model_values(model, field)))
            found = self._params[field] = values
            self._written[field] = values.clone()
        return found

    def step(self, ctrl: Tensor | None = None, substeps: int = 1, ids: Tensor | None = None) -> None:
        """See `BatchSim.step`."""
        self._write()
        super().step(ctrl, substeps, ids)

    def forward(self, ids: Tensor | None = None) -> None:
        """See `BatchSim.forward`."""
        self._write()
        super().forward(ids)

    def reset(self, ids: Tensor | None = None) -> None:
        """See `BatchSim.reset`."""
        self._write()
        super().reset(ids)

    def refresh_constants(self, ids: Tensor | None = None) -> None:
        """See `BatchSim.refresh_constants`."""
        if not self._params:
            return
        self._write()
        for sim_id in range(self.num_envs) if ids is None else ids.tolist():
            model = self._running[sim_id]
            mujoco.mj_setConst(model, self._scratch)
            for field, values in self._params.items():
                values[sim_id] = self._written[field][sim_id] = torch.as_tensor(model_values(model, field))
        self.batch.set_models(self._running)

    def _write(self) -> None:
        """Write what changed in `param` fields into the models."""
        changed = False
        for field, values in self._params.items():
            written = self._written[field]
            ids = (values != written).reshape(self.num_envs, -1).any(1).nonzero().squeeze(1)
            for sim_id in ids.tolist():
                write_model_values(self._running[sim_id], field, values[sim_id].numpy())
            written[ids] = values[ids]
            changed |= len(ids) > 0
        if changed:
            self.batch.set_models(self._running)

    def expanded(self) -> dict[str, Tensor]:
        """Return the fields that were asked for by `param` and the constants that changed with them."""
        if not self._params:
            return {}
        self._write()
        fields = dict(self._params)
        for name in sorted(MODEL_FIELDS.intersection(mujoco.MjModel._setconst_outputs) - fields.keys()):
            values = torch.stack([torch.as_tensor(model_values(model, name)) for model in self._running])
            if not torch.equal(values, compiled_values(self, name)[self.chosen]):
                fields[name] = values
        return fields

    def state_dict(self) -> dict[str, Any]:
        """See `BatchSim.state_dict`; it says on which model each simulation runs."""
        return super().state_dict() | {"chosen": self.chosen.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `BatchSim.load_state_dict`."""
        self._check_shape(state)
        self.choose(torch.arange(self.num_envs), state["chosen"])
        super().load_state_dict(state)
