"""N simulations on an NVIDIA GPU: mujoco-warp's worlds behind the `Sim` protocol.

Needs `pip install "robotrl[warp]"`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import mujoco
import numpy as np
import torch
from torch import Tensor

from robotrl.core.errors import RobotrlError, UsageError, unknown_name
from robotrl.sim import warp_worlds
from robotrl.sim.batch_sim import KINDS, MAX_ABS_STATE
from robotrl.sim.model_fields import model_values
from robotrl.sim.sim import Stage
from robotrl.sim.warp_fields import (
    CONSTANTS,
    EXTRAS,
    POSES,
    STATE,
    Field,
    NamedSlices,
    check_data_field,
    check_model_field,
)
from robotrl.sim.warp_worlds import Worlds


class WarpSim:
    """N copies of `model` in float32 on one device; the semantics of each member are `BatchSim`'s.

    The first step of a model compiles kernels for minutes, once per machine (`WARP_CACHE_PATH` says
    where they are kept). On a GPU results vary in their last bits from run to run, on the CPU they do
    not.

    Contacts are one pool for all simulations, constraints a fixed number in each; `failed` names the
    simulations that needed more. The sizes come from the arguments, or else from `<size nconmax njmax>`
    of the MJCF, or else from mujoco-warp's estimate.

    Args:
        model: the compiled model.
        num_envs: number of simulations N.
        stage: which derived fields are current after `step`.
        device: "cuda" or "cuda:1"; "cpu" is for tests, far slower than `BatchSim`.
        max_contacts: contacts per simulation, on average over all.
        max_constraints: scalar constraints in each simulation.

    Raises:
        UsageError: mujoco-warp cannot simulate the model, or there is no such device.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        num_envs: int,
        stage: Stage = Stage.VELOCITY,
        device: str = "cuda",
        max_contacts: int | None = None,
        max_constraints: int | None = None,
    ) -> None:
        if num_envs < 1:
            raise UsageError(f"num_envs must be at least 1, got {num_envs}")
        self.model, self.num_envs, self.stage = model, num_envs, stage
        self.models, self.chosen = (model,), torch.zeros(num_envs, dtype=torch.int64)
        self.device = torch.device(device)
        self.dt_s = float(model.opt.timestep)
        # -1 where the MJCF has none
        self._sizes = (
            max_contacts or (int(model.nconmax) if model.nconmax > 0 else None),
            max_constraints or (int(model.njmax) if model.njmax > 0 else None),
        )
        self._worlds = Worlds(model, num_envs, self.device, *self._sizes)
        self._template = mujoco.MjData(model)
        rows = self._worlds.rows
        self._ctrl = rows["ctrl"]
        self._can_diverge = [rows[name] for name in ("qpos", "qvel", "act", "ctrl") if rows[name].shape[1]]
        self._data: dict[str, Tensor] = {}
        self._params: dict[str, Tensor] = {}
        self._named: dict[tuple[str, str], NamedSlices] = {}
        # simulators of 1, 2, 4, ... simulations, made when first needed
        self._parts: dict[int, WarpSim] = {}
        self._warned = False

    def data(self, field: str) -> Tensor:
        """Return the live (N, ...) float32 tensor over MjData field `field`.

        Raises:
            UsageError: there is no such field, or mujoco-warp does not compute it as MuJoCo does.
        """
        found = self._data.get(field)
        if found is None:
            check_data_field(field)
            if field in EXTRAS:
                self._worlds.compute(field)
            found = self._data[field] = self._worlds.rows[field]
        return found

    def param(self, field: str) -> Tensor:
        """Return the live (N, ...) per-simulation values of MjModel field `field`, expanding it once.

        Raises:
            UsageError: the field does not exist or cannot differ between simulations here.
        """
        found = self._params.get(field)
        if found is None:
            check_model_field(self.model, field, Worlds.has(field))
            values = self._worlds.expand(field)
            if field in mujoco.MjModel._setconst_inputs:
                for constant in CONSTANTS:
                    self._worlds.expand(constant)
            shape = np.shape(model_values(self.model, field))
            found = self._params[field] = values.view(self.num_envs, *shape).as_subclass(Field)
        return found

    def values(self, field: str) -> Tensor:
        """Return the (N, ...) values of any MjModel field, to read."""
        if field in self._params or field in self._worlds.expanded:
            return self.param(field)
        values = torch.as_tensor(model_values(self.model, field), device=self.device)
        values = values.float() if values.is_floating_point() else values
        return values.expand(self.num_envs, *values.shape)

    def named(self, kind: str, name: str) -> NamedSlices:
        """Return the slices of one object: `sim.named("joint", "knee").qpos` is (N, 1).

        Raises:
            UsageError: there is no such kind, or no object of that kind has that name.
        """
        found = self._named.get((kind, name))
        if found is None:
            if kind not in KINDS:
                raise unknown_name("kind of object", kind, KINDS)
            names = [getattr(self.model, kind)(i).name for i in range(getattr(self.model, KINDS[kind]))]
            if name not in names:
                raise unknown_name(kind, name, filter(None, names))
            found = self._named[kind, name] = NamedSlices(self, self._template, kind, name)
        return found

    def assemble(self, views: Sequence[Tensor]) -> Callable[[], Tensor] | None:
        """Return None: `torch.cat` is as good on a GPU."""
        return None

    def step(self, ctrl: Tensor | None = None, substeps: int = 1, ids: Tensor | None = None) -> None:
        """Advance by `substeps` physics steps; see `BatchSim.step`."""
        if ctrl is not None:
            self._ctrl.copy_(ctrl)
        self._on(ids, lambda sim: sim._step(substeps))

    def _step(self, substeps: int) -> None:
        self._place_static_geoms()
        for _ in range(substeps):
            self._worlds.run(warp_worlds.step)
        if self.stage is Stage.VELOCITY:
            self._worlds.run(warp_worlds.to_velocity)
        self._worlds.count_contacts()

    def forward(self, ids: Tensor | None = None) -> None:
        """Recompute every derived field from the state, as `mj_forward`."""
        self._on(ids, WarpSim._forward)

    def _forward(self) -> None:
        self._place_static_geoms()
        self._worlds.run(warp_worlds.forward)
        self._worlds.count_contacts()

    def _place_static_geoms(self) -> None:
        if any(field in self._worlds.expanded for field in POSES):
            self._worlds.run(warp_worlds.place_static_geoms)

    def refresh_constants(self, ids: Tensor | None = None) -> None:
        """Recompute the constants that depend on changed `param` fields (`mj_setConst`)."""
        if CONSTANTS[0] in self._worlds.expanded:
            self._on(ids, lambda sim: sim._worlds.run(warp_worlds.set_const))

    def _on(self, ids: Tensor | None, operation: Callable[[WarpSim], None]) -> None:
        """Do something with simulations `ids` only.

        mujoco-warp can only do it with all: they are copied into a smaller simulator and back.
        """
        if ids is None or len(ids) == self.num_envs:
            operation(self)
        elif len(ids):
            ids = ids.to(self.device)
            part = self._part(ids)
            operation(part)
            mine, theirs = self._worlds, part._worlds
            for name, values in theirs.rows.items():
                mine.rows[name][ids] = values[: len(ids)]
            for name in CONSTANTS:
                if name in mine.expanded:
                    mine.expanded[name][ids] = theirs.expanded[name][: len(ids)]
            mine.overflow[ids] = theirs.overflow[: len(ids)]

    def _part(self, ids: Tensor) -> WarpSim:
        """Return a simulator whose first simulations are copies of `ids`; further ones repeat the first."""
        size = 1 << (len(ids) - 1).bit_length()
        if size not in self._parts:
            self._parts[size] = WarpSim(self.model, size, self.stage, str(self.device), *self._sizes)
        part = self._parts[size]
        ids = torch.cat([ids, ids[:1].expand(size - len(ids))])
        mine, theirs = self._worlds, part._worlds
        for extra in mine.extras:
            theirs.compute(extra)
        for name in STATE:
            theirs.rows[name].copy_(mine.rows[name][ids])
        for name, values in mine.expanded.items():
            theirs.expand(name).copy_(values[ids])
        theirs.overflow.copy_(mine.overflow[ids])
        return part

    def reset(self, ids: Tensor | None = None) -> None:
        """Put the state of `ids` back to the model's defaults; call `forward` after writing the state.

        Their failures are forgotten, too.
        """
        chosen: Any = slice(None) if ids is None else ids.to(self.device)
        rows = self._worlds.rows
        for name in STATE:
            rows[name][chosen] = torch.as_tensor(np.asarray(getattr(self._template, name)))
        if "qpos0" in self._params:
            rows["qpos"][chosen] = self._params["qpos0"][chosen]
        bodies = [int((self.model.body_mocapid == i).nonzero()[0][0]) for i in range(self.model.nmocap)]
        for name, source in (("mocap_pos", "body_pos"), ("mocap_quat", "body_quat")):
            if bodies and source in self._params:
                rows[name][chosen] = self._params[source][:, bodies][chosen]
        self._worlds.overflow[chosen] = 0

    def failed(self) -> Tensor | None:
        """Return (N,) bool on the CPU: which diverged or overflowed since the last call; None for none.

        The first overflow is logged as a warning that says what to raise.
        """
        largest = torch.cat(self._can_diverge, 1).abs().amax(1)
        full = self._worlds.full()
        failed = (~(largest <= MAX_ABS_STATE) | full).cpu()  # the comparison is False for NaN
        if not bool(failed.any()):
            return None
        if not self._warned and bool(full.any()):
            self._warned = True
            logging.getLogger(__name__).warning(self._worlds.describe_overflow())
        self._worlds.overflow.zero_()
        return failed

    def state_dict(self) -> dict[str, Any]:
        """Return everything that continues, bit for bit on the CPU: state, outputs in use, own fields."""
        rows = self._worlds.rows
        return {
            "state": {name: rows[name].cpu().clone() for name in STATE},
            "outputs": {name: rows[name].cpu().clone() for name in self._data if name not in STATE},
            "params": {name: values.cpu().clone() for name, values in self._worlds.expanded.items()},
            "overflow": self._worlds.overflow.cpu().clone(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict` of a simulator with the same model and number of simulations.

        Raises:
            RobotrlError: the state is of another model or another number of simulations.
        """
        rows = self._worlds.rows
        given, wanted = state["state"]["qpos"].shape, rows["qpos"].shape
        if given != wanted:
            raise RobotrlError(
                f"simulator state has qpos of shape {tuple(given)}, this model with {self.num_envs} "
                f"simulations needs {tuple(wanted)}: same model and num_envs?"
            )
        for name in self._worlds.expanded.keys() - state["params"].keys():
            nominal = torch.as_tensor(model_values(self.model, name)).reshape(1, -1)
            self._worlds.expanded[name].flatten(1)[:, : nominal.shape[1]] = nominal
        for name, values in state["params"].items():
            self._worlds.expand(name).copy_(values)
        for name, values in state["state"].items():
            rows[name].copy_(values)
        self._forward()
        for name, values in (state["state"] | state["outputs"]).items():
            rows[name].copy_(values)
        self._worlds.overflow.copy_(state["overflow"])
