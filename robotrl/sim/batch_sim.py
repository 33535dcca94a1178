"""N simulations on CPU threads: MuJoCo's own `mujoco.batch.Batch`, its fields as torch tensors."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import mujoco
import numpy as np
import torch
from mujoco import batch as mujoco_batch
from torch import Tensor

from robotrl.core.errors import RobotrlError, UsageError, unknown_name
from robotrl.sim.sim import Stage

# MuJoCo treats |x| above this as a diverged simulation (mjMAXVAL)
MAX_ABS_STATE = 1e10

# `failed` reports a diverged simulation; left alone, MuJoCo would also print it and write MUJOCO_LOG.TXT
# into the working directory
if mujoco.get_mju_user_warning() is None:
    mujoco.set_mju_user_warning(logging.getLogger("mujoco").info)

with warnings.catch_warnings():
    # outputs are read-only arrays; torch has no read-only tensors and says so once per process: here
    warnings.simplefilter("ignore")
    torch.from_numpy(np.frombuffer(bytes(1), dtype=np.uint8))

KINDS = {
    "joint": "njnt",
    "body": "nbody",
    "geom": "ngeom",
    "site": "nsite",
    "sensor": "nsensor",
    "actuator": "nu",
    "tendon": "ntendon",
    "camera": "ncam",
    "light": "nlight",
}

# every warning of MuJoCo's means that its result is wrong
_CAUSES = {
    mujoco.mjtWarning.mjWARN_INERTIA: "singular inertia matrix",
    mujoco.mjtWarning.mjWARN_CONTACTFULL: "more contacts than its memory holds",
    mujoco.mjtWarning.mjWARN_CNSTRFULL: "more constraints than its memory holds",
    mujoco.mjtWarning.mjWARN_BADQPOS: "position not finite or huge",
    mujoco.mjtWarning.mjWARN_BADQVEL: "velocity not finite or huge",
    mujoco.mjtWarning.mjWARN_BADQACC: "acceleration not finite or huge",
    mujoco.mjtWarning.mjWARN_BADCTRL: "command not finite or huge",
}


_PERSISTENT_FLAGS = int(mujoco.mjtEnableBit.mjENBL_SLEEP) | int(mujoco.mjtEnableBit.mjENBL_IPC)


class BatchSim:
    """N copies of `model`, stepped by a thread pool; same bits for any number of threads.

    State fields (qpos, qvel, act, ctrl, mocap_pos, ...) are writable views of the physics state: a
    write takes effect at the next `step` or `forward`. Every other field is an output that the next
    call overwrites; never write to one. Views are strided float64: copy them once into the learner's
    buffer, never keep them as data.

    Args:
        model: the compiled model; the batch works on a copy.
        num_envs: number of simulations N.
        num_threads: physics threads, None for all CPUs this process may use.
        stage: which derived fields are current after `step`.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        num_envs: int,
        num_threads: int | None = None,
        stage: Stage = Stage.VELOCITY,
    ) -> None:
        if num_envs < 1:
            raise UsageError(f"num_envs must be at least 1, got {num_envs}")
        if num_threads is not None and num_threads < 1:
            raise UsageError(f"num_threads must be at least 1, got {num_threads}")
        self.num_envs = num_envs
        self.device = torch.device("cpu")
        self.stage = stage
        # persistent: the next step continues from the stages computed here, so that fresh derived fields
        # cost nothing extra; without them all simulations share the few MjData that stay in the cache
        self._persistent = stage is not Stage.NONE or _keeps_more_than_its_state(model)
        self.batch = mujoco_batch.Batch(
            model,
            num_envs,
            nthread=min(num_threads or len(os.sched_getaffinity(0)), num_envs),
            persistent=self._persistent,
        )
        self.model = self.batch.model
        self.dt_s = float(self.model.opt.timestep)
        self._data: dict[str, Tensor] = {}
        self._num_outputs = 0
        self._params: dict[str, Tensor] = {}
        self._named: dict[tuple[str, str], NamedView] = {}
        self._ctrl = self.data("ctrl")
        self._raised = np.zeros(num_envs, dtype=bool)
        self._warning_counts = self.batch.warning[..., 1]
        # warning counters, raised errors and insane states at the last failure
        self._found = (self._warning_counts.copy(), self._raised.copy(), self._raised.copy())
        self._flat_state = torch.from_numpy(self.batch.state).view(-1)

    def data(self, field: str) -> Tensor:
        """Return the live (N, ...) float64 tensor over MjData field `field`.

        Raises:
            UsageError: there is no such field, or it has no fixed size.
        """
        found = self._data.get(field)
        if found is None:
            try:
                found = torch.from_numpy(self.batch.bind(field))
            except (ValueError, AttributeError) as error:
                raise _as_usage_error(error) from error
            self._fill_outputs()
            self._data[field] = found
        return found

    def _fill_outputs(self) -> None:
        """Give outputs bound since the last call their values, where the batch has nothing to copy them from.

        They describe the state as it is, and lag like all others from the next step on.
        """
        new, self._num_outputs = self._num_outputs, len(self.batch._bound)
        if new == self._num_outputs or self._persistent:
            return
        others = list(self.batch._bound.values())[:new]
        arrays = [torch.from_numpy(array) for array in (self.batch.state, self.batch.warning, *others)]
        kept = [array.clone() for array in arrays]
        self.forward()
        for array, values in zip(arrays, kept, strict=True):
            array.copy_(values)

    def param(self, field: str) -> Tensor:
        """Return the live (N, ...) per-simulation values of MjModel field `field`, expanding it once.

        MjOption fields are named "opt.gravity" and so on. After writing a field that feeds model
        constants (masses, inertias, armature, qpos0, gear, ...) call `refresh_constants`.

        Raises:
            UsageError: the field does not exist or cannot differ between simulations (assets).
        """
        found = self._params.get(field)
        if found is None:
            try:
                found = torch.from_numpy(self.batch.expand(field))
            except ValueError as error:
                raise _as_usage_error(error) from error
            self._params[field] = found
        return found

    def named(self, kind: str, name: str) -> NamedView:
        """Return the slices of one object: `sim.named("joint", "knee").qpos` is (N, 1).

        Args:
            kind: "joint", "body", "geom", "site", "sensor", "actuator", "tendon", "camera", "light".
            name: the object's name in the model.

        Raises:
            UsageError: there is no such kind, or no object of that kind has that name.
        """
        found = self._named.get((kind, name))
        if found is None:
            if kind not in KINDS:
                raise unknown_name("kind of object", kind, KINDS)
            number = getattr(self.model, KINDS[kind])
            names = [getattr(self.model, kind)(i).name for i in range(number)]
            if name not in names:
                raise unknown_name(kind, name, filter(None, names))
            found = self._named[kind, name] = NamedView(self.batch, kind, name, self._fill_outputs)
        return found

    def assemble(self, views: Sequence[Tensor]) -> Callable[[], Tensor] | None:
        """Return what puts live views side by side as (N, D) float32; None if one of them is not live.

        Made once, it saves the slicing of every step; views that lie side by side in the state are one copy.
        """
        arrays = (self.batch.state, *self.batch._bound.values())
        spans = [(array.ctypes.data, array.ctypes.data + array.nbytes) for array in arrays]
        if not all(any(low <= view.data_ptr() < high for low, high in spans) for view in views):
            return None
        columns = [view if view.ndim == 2 else view.unsqueeze(1) for view in views]
        run = self._state_columns(columns)
        if run is None:
            return lambda: torch.cat(columns, dim=1).float()
        return run.float

    def _state_columns(self, views: Sequence[Tensor]) -> Tensor | None:
        """Return the (N, D) columns of the state that the views are, or None if they are no such block."""
        state = torch.from_numpy(self.batch.state)
        first = end = (views[0].data_ptr() - state.data_ptr()) // state.element_size()
        for view in views:
            start = (view.data_ptr() - state.data_ptr()) // state.element_size()
            dense = view.stride(0) == state.stride(0) and (view.shape[1] == 1 or view.stride(1) == 1)
            if start != end or not dense or not 0 <= start < state.shape[1]:
                return None
            end = start + view.shape[1]
        return state[:, first:end]

    def step(self, ctrl: Tensor | None = None, substeps: int = 1, ids: Tensor | None = None) -> None:
        """Advance by `substeps` physics steps.

        Args:
            ctrl: (N, nu) actuator commands in physical units, or None to keep the last ones.
            substeps: physics steps of `dt_s` each.
            ids: (n,) sorted simulations to step, None for all.
        """
        if ctrl is not None:
            self._ctrl.copy_(ctrl)
        try:
            self.batch.step(_to_numpy(ids), substeps, self.stage.value)
        except mujoco_batch.SimulationError as error:
            self._raised[error.ids] = True

    def forward(self, ids: Tensor | None = None) -> None:
        """Recompute every derived field from the state, as `mj_forward`."""
        try:
            self.batch.forward(_to_numpy(ids))
        except mujoco_batch.SimulationError as error:
            self._raised[error.ids] = True

    def reset(self, ids: Tensor | None = None) -> None:
        """Put the state of `ids` back to the model's defaults; call `forward` after writing the state.

        Their failures are forgotten, too.
        """
        self.batch.reset(_to_numpy(ids), stage=Stage.NONE.value)
        self._raised[slice(None) if ids is None else ids.numpy()] = False

    def refresh_constants(self, ids: Tensor | None = None) -> None:
        """Recompute the constants that depend on changed `param` fields (`mj_setConst`)."""
        self.batch.set_const(_to_numpy(ids))

    def failed(self) -> Tensor | None:
        """Return (N,) bool: which simulations diverged or overflowed since the last call; None for none.

        MuJoCo silently resets a diverged simulation and raises only a counter, so the counters are read
        (and cleared: that reset puts them back to 1 each time) here; a state that became non-finite in
        the last substep is caught as well.
        """
        # one number clears them all: where the sum of squares is small, every |x| is; False for NaN
        small = self._flat_state.dot(self._flat_state).item() <= MAX_ABS_STATE**2
        if small and not np.count_nonzero(self._warning_counts) and not np.count_nonzero(self._raised):
            return None
        warned = self._warning_counts.any(axis=1)
        insane = ~(np.abs(self.batch.state).max(axis=1) <= MAX_ABS_STATE)  # True for NaN
        failed = self._raised | warned | insane
        self._found = (self._warning_counts.copy(), self._raised.copy(), insane)
        self.batch.warning[failed] = 0
        self._raised[...] = False
        return torch.from_numpy(failed) if failed.any() else None

    def failure_causes(self, sim_id: int) -> tuple[str, ...]:
        """Say in words what the last call of `failed` found wrong with one simulation, before its reset."""
        counts, raised, insane = (found[sim_id] for found in self._found)
        causes = [text for warning, text in _CAUSES.items() if counts[int(warning)]]
        if raised:
            causes.append(" ".join(self.batch.error(sim_id).split()))
        if insane and not causes:
            causes.append("state not finite or huge")
        return tuple(causes)

    def state_dict(self) -> dict[str, Any]:
        """Return everything that continues bit for bit: state, lagging outputs, per-simulation fields."""
        outputs = {name: torch.from_numpy(values.copy()) for name, values in self.batch._bound.items()}
        return {
            "state": torch.from_numpy(self.batch.state.copy()),
            "outputs": outputs,
            "params": {name: values.clone() for name, values in self.expanded().items()},
            "warning": torch.from_numpy(self.batch.warning.copy()),
            "raised": torch.from_numpy(self._raised.copy()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict` of a simulator with the same model and number of simulations.

        Raises:
            RobotrlError: the state is of another model or another number of simulations.
        """
        if tuple(state["state"].shape) != self.batch.state.shape:
            raise RobotrlError(
                f"simulator state has shape {tuple(state['state'].shape)}, this model with "
                f"{self.num_envs} simulations needs {self.batch.state.shape}: same model and num_envs?"
            )
        for name in self.expanded().keys() - state["params"].keys():
            owner, field = (self.model.opt, name[4:]) if name.startswith("opt.") else (self.model, name)
            self.param(name).copy_(torch.from_numpy(np.asarray(getattr(owner, field))))
        for name, values in state["params"].items():
            self.param(name).copy_(values)
        self.batch.state[...] = state["state"].numpy()
        if self.stage is not Stage.NONE:
            self.batch.forward(stage=self.stage.value)
        for name, values in state["outputs"].items():
            torch.from_numpy(self.batch.bind(name)).copy_(values)
        self._num_outputs = len(self.batch._bound)
        self.batch.warning[...] = state["warning"].numpy()
        self._raised[...] = state["raised"].numpy()

    def expanded(self) -> dict[str, Tensor]:
        """Return the MjModel fields that differ between simulations, derived constants included."""
        values = {name: self.batch.expanded(name) for name in sorted(mujoco_batch.MODEL_FIELDS)}
        return {name: torch.from_numpy(array) for name, array in values.items() if array is not None}


class NamedView:
    """One object's slices of the per-simulation fields, each resolved once and then live.

    MjData attributes (`qpos`, `xpos`, `data`, ...) are live tensors; MjModel attributes (`mass`, `pos`
    of a geom, ...) are read-only: write those through `BatchSim.param`.
    """

    def __init__(
        self, batch: mujoco_batch.Batch, kind: str, name: str, fill_outputs: Callable[[], None]
    ) -> None:
        self._fill_outputs = fill_outputs
        self._view = getattr(batch, kind)(name)
        self._template = getattr(mujoco.MjData(batch.model), kind)(name)
        self.id: int = self._view.id

    def __getattr__(self, attribute: str) -> Tensor:
        """Return the (N, ...) slice of `attribute`, a live tensor for MjData attributes.

        Raises:
            UsageError: objects of this kind have no such attribute.
        """
        if attribute.startswith("_"):
            raise AttributeError(attribute)
        try:
            tensor = torch.from_numpy(getattr(self._view, attribute))
        except AttributeError as error:
            raise UsageError(f"{self._view.name!r}: {error}") from error
        self._fill_outputs()
        if hasattr(self._template, attribute):
            setattr(self, attribute, tensor)
        return tensor


def _keeps_more_than_its_state(model: mujoco.MjModel) -> bool:
    """Return whether simulations of the model must not share an MjData (MuJoCo's manual, "batch")."""
    return bool(model.nplugin or model.opt.enableflags & _PERSISTENT_FLAGS)


def _as_usage_error(error: Exception) -> UsageError:
    return UsageError(str(error).replace("use expand(", "use param(").replace("use bind(", "use data("))


def _to_numpy(ids: Tensor | None) -> np.ndarray | None:
    return None if ids is None else ids.numpy()
