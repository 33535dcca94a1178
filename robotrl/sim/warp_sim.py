"""N simulations on an NVIDIA GPU: mujoco-warp's worlds, their fields as torch tensors.

Needs `pip install "robotrl[warp]"`.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from typing import Any

import mujoco
import numpy as np
import torch
from torch import Tensor

from robotrl.core.errors import RobotrlError, UsageError, unknown_name
from robotrl.sim.batch_sim import KINDS, MAX_ABS_STATE
from robotrl.sim.sim import Stage
from robotrl.sim.warp_fields import (
    AFTER_CONSTRAINTS,
    CONSTANTS,
    OUTPUTS,
    POSES,
    STATE,
    Field,
    NamedSlices,
    check_data_field,
    check_model_field,
    model_values,
)

try:
    import mujoco_warp as mjw
    import warp as wp
except ImportError as error:
    message = f'mujoco-warp cannot be imported ({error}): run pip install "robotrl[warp]"'
    raise RobotrlError(message) from error

# its start-up and compilation messages would go to standard output
wp.config.log_level = wp.LOG_ERROR
wp.init()

# a solver that stops at its iteration limit has an answer, only a less exact one
_CAPACITY = int(mjw.OverflowType.ALL) & ~int(mjw.OverflowType.ITERATIONS | mjw.OverflowType.LS_ITERATIONS)

Operation = Callable[[Any, Any], None]


class WarpSim:
    """N copies of `model` in float32 on one device; the semantics of each member are `BatchSim`'s.

    The first step of a model compiles kernels for minutes, once per machine (`WARP_CACHE_PATH`). On a
    GPU results vary in the last bits from run to run, on the CPU they do not.

    Contacts are one pool for all simulations and constraints a fixed number for each; `failed` names
    those that need more. Their sizes come from the arguments, or else from `<size nconmax njmax>` of
    the MJCF, or else from mujoco-warp's estimate.

    Args:
        model: the compiled model.
        num_envs: number of simulations N.
        stage: which derived fields are current after `step`.
        device: "cuda" or "cuda:1"; "cpu" is for tests, some hundred times slower than `BatchSim`.
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
        self.device = torch.device(device)
        self.dt_s = float(model.opt.timestep)
        if self.device.type == "cuda" and not torch.cuda.is_available():
            raise UsageError("the warp backend needs a CUDA GPU and torch sees none: use backend=cpu")
        self._place = wp.device_from_torch(self.device)
        self._sizes = {
            "nconmax": max_contacts or (int(model.nconmax) if model.nconmax > 0 else None),
            "njmax": max_constraints or (int(model.njmax) if model.njmax > 0 else None),
        }
        with wp.ScopedDevice(self._place):
            try:
                _check_model(model)
                self._m = mjw.put_model(model)
                self._d = mjw.make_data(model, num_envs, **self._sizes)
            except (NotImplementedError, ValueError) as error:
                raise UsageError(f"mujoco-warp cannot simulate this model: {error}") from error
        self._m.opt.warn_overflow = 0
        self._template = mujoco.MjData(model)
        self._rows = {name: self._bind(name) for name in (*STATE, *OUTPUTS)}
        self._overflow = wp.to_torch(self._d.overflow)
        self._ctrl = self._rows["ctrl"]
        # state that can diverge
        self._checked = [f for f in map(self._rows.get, ("qpos", "qvel", "act", "ctrl")) if f.shape[1]]
        self._data: dict[str, Tensor] = {}
        self._expanded: dict[str, Tensor] = {}
        self._params: dict[str, Tensor] = {}
        self._named: dict[tuple[str, str], NamedSlices] = {}
        self._graphs: dict[Operation, Any] = {}
        self._parts: dict[int, WarpSim] = {}
        self._warned = False

    def _bind(self, field: str) -> Field:
        """Return the (N, ...) tensor over a field of mujoco-warp's data, shaped as MuJoCo's."""
        shape = np.shape(getattr(self._template, field))
        tensor = wp.to_torch(getattr(self._d, field)).view(self.num_envs, *shape)
        return tensor.as_subclass(Field)

    def data(self, field: str) -> Tensor:
        """Return the live (N, ...) float32 tensor over MjData field `field`.

        Raises:
            UsageError: there is no such field, or mujoco-warp does not compute it as MuJoCo does.
        """
        found = self._data.get(field)
        if found is None:
            check_data_field(field)
            if field in AFTER_CONSTRAINTS and not self._m.opt.run_rne_postconstraint:
                self._m.opt.run_rne_postconstraint = True
                self._forget_graphs()
                self._run(mjw.rne_postconstraint)
            found = self._data[field] = self._rows[field]
        return found

    def param(self, field: str) -> Tensor:
        """Return the live (N, ...) per-simulation values of MjModel field `field`, expanding it once.

        Raises:
            UsageError: the field does not exist or cannot differ between simulations here.
        """
        found = self._params.get(field)
        if found is None:
            check_model_field(self.model, field, self._is_batched(field))
            self._expand(field)
            if field in mujoco.MjModel._setconst_inputs:
                for constant in CONSTANTS:
                    self._expand(constant)
            shape = np.shape(model_values(self.model, field))
            found = self._expanded[field].view(self.num_envs, *shape).as_subclass(Field)
            self._params[field] = found
        return found

    def values(self, field: str) -> Tensor:
        """Return the (N, ...) values of any MjModel field, to read."""
        if field in self._expanded and self._is_batched(field):
            return self.param(field)
        values = torch.as_tensor(model_values(self.model, field), device=self.device)
        values = values.float() if values.is_floating_point() else values
        return values.expand(self.num_envs, *values.shape)

    def _is_batched(self, field: str) -> bool:
        owner, name = (mjw.Option, field[4:]) if field.startswith("opt.") else (mjw.Model, field)
        kinds = {f.name: getattr(f.type, "shape", ()) for f in dataclasses.fields(owner)}
        return bool(kinds.get(name)) and kinds[name][0] == "*"

    def _expand(self, field: str) -> Tensor:
        """Give each simulation its own row of a field of mujoco-warp's model."""
        found = self._expanded.get(field)
        if found is None:
            owner, name = (self._m.opt, field[4:]) if field.startswith("opt.") else (self._m, field)
            shared = getattr(owner, name)
            row = wp.to_torch(shared)
            found = row.repeat(self.num_envs, *[1] * (row.ndim - 1))
            setattr(owner, name, wp.from_torch(found, dtype=shared.dtype))
            self._expanded[field] = found
            self._graphs.clear()
        return found

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

    def step(self, ctrl: Tensor | None = None, substeps: int = 1, ids: Tensor | None = None) -> None:
        """Advance by `substeps` physics steps; see `BatchSim.step`."""
        if ctrl is not None:
            self._ctrl.copy_(ctrl)
        self._on(ids, lambda sim: sim._step(substeps))

    def _step(self, substeps: int) -> None:
        self._move_static_geoms()
        for _ in range(substeps):
            self._run(mjw.step)
        if self.stage is Stage.VELOCITY:
            self._run(_to_velocity)

    def forward(self, ids: Tensor | None = None) -> None:
        """Recompute every derived field from the state, as `mj_forward`."""
        self._on(ids, WarpSim._forward)

    def _forward(self) -> None:
        self._move_static_geoms()
        self._run(mjw.forward)

    def refresh_constants(self, ids: Tensor | None = None) -> None:
        """Recompute the constants that depend on changed `param` fields (`mj_setConst`)."""
        if CONSTANTS[0] in self._expanded:
            self._on(ids, lambda sim: sim._run(mjw.set_const))

    def _on(self, ids: Tensor | None, operation: Callable[[WarpSim], None]) -> None:
        """Do something with simulations `ids` only, in a smaller copy of this simulator.

        mujoco-warp knows only all of them.
        """
        if ids is None or len(ids) == self.num_envs:
            return operation(self)
        if not len(ids):
            return None
        ids = ids.to(self.device)
        size = 1 << (len(ids) - 1).bit_length()
        part = self._parts.get(size)
        if part is None:
            part = WarpSim(self.model, size, self.stage, str(self.device), *self._sizes.values())
            self._parts[size] = part
        part._m.opt.run_rne_postconstraint = self._m.opt.run_rne_postconstraint
        filled = torch.cat([ids, ids[:1].expand(size - len(ids))])
        for name in STATE:
            part._rows[name].copy_(self._rows[name][filled])
        for name, values in self._expanded.items():
            part._expand(name).copy_(values[filled])
        part._overflow.copy_(self._overflow[filled])
        operation(part)
        for name, field in self._rows.items():
            field[ids] = part._rows[name][: len(ids)]
        for name in CONSTANTS:
            if name in self._expanded:
                self._expanded[name][ids] = part._expanded[name][: len(ids)]
        self._overflow[ids] = part._overflow[: len(ids)]
        return None

    def _run(self, operation: Operation) -> None:
        """Launch an operation on the device.

        It is hundreds of short kernels: a GPU takes them from a recorded graph.
        """
        with wp.ScopedDevice(self._place):
            if not self._place.is_cuda:
                return operation(self._m, self._d)
            torch_stream = wp.stream_from_torch(torch.cuda.current_stream(self.device))
            stream = wp.get_stream()
            stream.wait_stream(torch_stream)
            if operation in self._graphs:
                wp.capture_launch(self._graphs[operation])
            else:
                operation(self._m, self._d)  # compiles, which cannot be recorded
                with wp.ScopedCapture() as capture:
                    operation(self._m, self._d)
                self._graphs[operation] = capture.graph
            torch_stream.wait_stream(stream)
        return None

    def _forget_graphs(self) -> None:
        for sim in (self, *self._parts.values()):
            sim._graphs.clear()

    def _move_static_geoms(self) -> None:
        """Put geoms that no joint moves where `param` says; mujoco-warp places them only once."""
        if any(field in self._expanded for field in POSES):
            self._run(_all_kinematics)

    def reset(self, ids: Tensor | None = None) -> None:
        """Put the state of `ids` back to the model's defaults; call `forward` after writing the state."""
        rows: Any = slice(None) if ids is None else ids.to(self.device)
        for name in STATE:
            self._rows[name][rows] = torch.as_tensor(np.asarray(getattr(self._template, name)))
        if "qpos0" in self._params:
            self._rows["qpos"][rows] = self._params["qpos0"][rows]
        bodies = [int((self.model.body_mocapid == i).nonzero()[0][0]) for i in range(self.model.nmocap)]
        for field, source in (("mocap_pos", "body_pos"), ("mocap_quat", "body_quat")):
            if bodies and source in self._params:
                self._rows[field][rows] = self._params[source][:, bodies][rows]
        self._overflow[rows] = 0

    def failed(self) -> Tensor | None:
        """Return (N,) bool on the CPU: which diverged or overflowed since the last call; None for none."""
        largest = torch.cat(self._checked, 1).abs().amax(1)
        over = (self._overflow & _CAPACITY) != 0
        failed = (~(largest <= MAX_ABS_STATE) | over).cpu()  # the comparison is False for NaN
        if not bool(failed.any()):
            return None
        if bool(over.any()) and not self._warned:
            self._warned = True
            logging.getLogger(__name__).warning(_capacity_message(int(self._overflow.max()), self._d))
        self._overflow.zero_()
        return failed

    def state_dict(self) -> dict[str, Any]:
        """Return everything that continues, bit for bit on the CPU: state, outputs in use, own fields."""
        return {
            "state": {name: self._rows[name].cpu().clone() for name in STATE},
            "outputs": {name: self._rows[name].cpu().clone() for name in self._data if name not in STATE},
            "params": {name: values.cpu().clone() for name, values in self._expanded.items()},
            "overflow": self._overflow.cpu().clone(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict` of a simulator with the same model and number of simulations.

        Raises:
            RobotrlError: the state is of another model or another number of simulations.
        """
        given, wanted = state["state"]["qpos"].shape, self._rows["qpos"].shape
        if given != wanted:
            raise RobotrlError(
                f"simulator state has qpos of shape {tuple(given)}, this model with {self.num_envs} "
                f"simulations needs {tuple(wanted)}: same model and num_envs?"
            )
        for name in self._params.keys() - state["params"].keys():
            self._params[name][:] = torch.as_tensor(model_values(self.model, name))
        if self._params.keys() - state["params"].keys():
            self.refresh_constants()
        for name, values in state["params"].items():
            self._expand(name).copy_(values)
        for name, values in state["state"].items():
            self._rows[name].copy_(values)
        self._forward()
        for name, values in (state["state"] | state["outputs"]).items():
            self._rows[name].copy_(values)
        self._overflow.copy_(state["overflow"])


def _check_model(model: mujoco.MjModel) -> None:
    """Refuse what has state that this class does not carry."""
    if model.nflex:
        raise NotImplementedError("the warp backend takes no flexes")
    if model.opt.enableflags & mujoco.mjtEnableBit.mjENBL_SLEEP:
        raise NotImplementedError("the warp backend takes no sleeping bodies")


def _to_velocity(m: Any, d: Any) -> None:
    """Make position- and velocity-dependent fields and sensors current."""
    mjw.fwd_position(m, d, factorize=False)
    mjw.sensor_pos(m, d)
    mjw.fwd_velocity(m, d)
    mjw.sensor_vel(m, d)


def _all_kinematics(m: Any, d: Any) -> None:
    """Compute poses as if nothing were fixed to the world."""
    welded = m.body_weldid
    m.body_weldid = wp.full_like(welded, 1)
    mjw.kinematics(m, d)
    m.body_weldid = welded


def _capacity_message(overflow: int, d: Any) -> str:
    names = ", ".join(flag.name for flag in mjw.OverflowType if flag.name and overflow & flag & _CAPACITY)
    return (
        f"simulations ran out of room ({names}) and failed: it is {d.naconmax // d.nworld} contacts per "
        f"simulation on average and {d.njmax} constraints in each; give more with <size nconmax njmax> in "
        "the MJCF or max_contacts and max_constraints of WarpSim"
    )
