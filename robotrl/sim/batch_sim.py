"""N simulations on CPU threads: MuJoCo's own `mujoco.batch.Batch`, its fields as torch tensors."""

from __future__ import annotations

import os
import warnings
from typing import Any

import mujoco
import numpy as np
import torch
from mujoco import batch as mujoco_batch
from torch import Tensor

from robotrl.core.errors import RobotrlError, UsageError
from robotrl.sim.sim import Stage

# MuJoCo treats |x| above this as a diverged simulation (mjMAXVAL)
_MAX_ABS_STATE = 1e10

_FATAL_WARNINGS = [
    int(w)
    for w in (
        mujoco.mjtWarning.mjWARN_BADQPOS,
        mujoco.mjtWarning.mjWARN_BADQVEL,
        mujoco.mjtWarning.mjWARN_BADQACC,
        mujoco.mjtWarning.mjWARN_BADCTRL,
        mujoco.mjtWarning.mjWARN_CONTACTFULL,
        mujoco.mjtWarning.mjWARN_CNSTRFULL,
    )
]


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
        # persistent: the next step continues from the stages computed here, so that fresh derived
        # fields cost nothing extra
        self.batch = mujoco_batch.Batch(
            model,
            num_envs,
            nthread=min(num_threads or len(os.sched_getaffinity(0)), num_envs),
            persistent=stage is not Stage.NONE,
        )
        self.model = self.batch.model
        self.dt_s = float(self.model.opt.timestep)
        self._data: dict[str, Tensor] = {}
        self._params: dict[str, Tensor] = {}
        self._named: dict[tuple[str, str], NamedView] = {}
        self._ctrl = self.data("ctrl")
        self._fatal = self.batch.warning[:, _FATAL_WARNINGS, 1].copy()
        self._raised = np.zeros(num_envs, dtype=bool)

    def data(self, field: str) -> Tensor:
        """Return the live (N, ...) float64 tensor over MjData field `field`.

        Raises:
            UsageError: there is no such field, or it has no fixed size.
        """
        found = self._data.get(field)
        if found is None:
            try:
                found = _as_tensor(self.batch.bind(field))
            except (ValueError, AttributeError) as error:
                raise UsageError(str(error)) from error
            self._data[field] = found
            if not _is_state(self.batch, field):
                # an output bound between two calls is zero until it is computed
                self.batch.forward(stage=Stage.VELOCITY.value)
        return found

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
                found = _as_tensor(self.batch.expand(field))
            except ValueError as error:
                raise UsageError(str(error)) from error
            self._params[field] = found
        return found

    def named(self, kind: str, name: str) -> NamedView:
        """Return the slices of one object: `sim.named("joint", "knee").qpos` is (N, 1).

        Args:
            kind: "joint", "body", "geom", "site", "sensor", "actuator", "tendon", "camera", "light".
            name: the object's name in the model.

        Raises:
            UsageError: no object of that kind has that name.
        """
        found = self._named.get((kind, name))
        if found is None:
            try:
                found = NamedView(self, kind, name)
            except (KeyError, AttributeError) as error:
                raise UsageError(f"no {kind} named {name!r}: {error}".replace("\n", " ")) from error
            self._named[kind, name] = found
        return found

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
        """Put the state of `ids` back to the model's defaults; call `forward` after writing the state."""
        self.batch.reset(_to_numpy(ids), stage=Stage.NONE.value)

    def refresh_constants(self, ids: Tensor | None = None) -> None:
        """Recompute the constants that depend on changed `param` fields (`mj_setConst`)."""
        self.batch.set_const(_to_numpy(ids))

    def failed(self) -> Tensor:
        """Return (N,) bool: which simulations diverged or overflowed since the last call.

        MuJoCo silently resets a diverged simulation and raises only a counter, so the counters are
        compared here; a state that became non-finite in the last substep is caught as well.
        """
        counters = self.batch.warning[:, _FATAL_WARNINGS, 1]
        sane = np.abs(self.batch.state).max(axis=1) <= _MAX_ABS_STATE  # False for NaN
        failed = self._raised | ~sane
        if not np.array_equal(counters, self._fatal):
            failed |= (counters != self._fatal).any(axis=1)
            self._fatal[...] = counters
        self._raised[...] = False
        return torch.from_numpy(failed)

    def state_dict(self) -> dict[str, Any]:
        """Return everything that continues bit for bit: state, lagging outputs, per-simulation fields."""
        bound = self.batch._bound
        outputs = {name: torch.from_numpy(values.copy()) for name, values in bound.items()}
        params = {}
        for name in sorted(mujoco_batch.MODEL_FIELDS):
            values = self.batch.expanded(name)
            if values is not None:
                params[name] = torch.from_numpy(np.array(values))
        return {
            "state": torch.from_numpy(self.batch.state.copy()),
            "outputs": outputs,
            "params": params,
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
        for name, values in state["params"].items():
            self.param(name).copy_(values)
        self.batch.state[...] = state["state"].numpy()
        if self.stage is not Stage.NONE:
            self.batch.forward(stage=self.stage.value)
        for name, values in state["outputs"].items():
            _as_tensor(self.batch.bind(name)).copy_(values)
        self._fatal[...] = self.batch.warning[:, _FATAL_WARNINGS, 1]
        self._raised[...] = False


class NamedView:
    """One object's slices of the per-simulation fields, each resolved once and then live.

    MjData attributes (`qpos`, `xpos`, `data`, ...) are live tensors; MjModel attributes (`mass`, `pos`
    of a geom, ...) are read-only: write those through `BatchSim.param`.
    """

    def __init__(self, sim: BatchSim, kind: str, name: str) -> None:
        self._sim = sim
        self._view = getattr(sim.batch, kind)(name)
        self._template = getattr(mujoco.MjData(sim.model), kind)(name)
        self.id: int = self._view.id

    def __getattr__(self, attribute: str) -> Tensor:
        """Return the (N, ...) slice of `attribute`, a live tensor for MjData attributes."""
        tensor = _as_tensor(getattr(self._view, attribute))
        if hasattr(self._template, attribute):
            setattr(self, attribute, tensor)
            # an output bound between two calls is zero until it is computed
            self._sim.batch.forward(stage=Stage.VELOCITY.value)
        return tensor


def _as_tensor(values: np.ndarray) -> Tensor:
    with warnings.catch_warnings():
        # outputs are read-only arrays; torch has no read-only tensors and warns
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(values)


def _to_numpy(ids: Tensor | None) -> np.ndarray | None:
    return None if ids is None else ids.numpy()


def _is_state(batch: mujoco_batch.Batch, field: str) -> bool:
    return np.may_share_memory(batch.bind(field), batch.state)
