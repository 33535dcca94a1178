"""A model and its N worlds in mujoco-warp on one device: memory, launches, capacity.

Needs `pip install "robotrl[warp]"`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import mujoco
import numpy as np
import torch
from torch import Tensor

from robotrl.core.errors import RobotrlError, UsageError
from robotrl.sim.warp_fields import BODY_FORCES, OUTPUTS, STATE, Field

try:
    import mujoco_warp as mjw
    import warp as wp
except ImportError as error:
    message = f'mujoco-warp cannot be imported ({error}): run pip install "robotrl[warp]"'
    raise RobotrlError(message) from error

# messages of start-up and compilation would go to standard output
wp.config.log_level = wp.LOG_ERROR
wp.init()

# a solver that stops at its iteration limit has an answer, only a less exact one
_CAPACITY = int(mjw.OverflowType.ALL) & ~int(mjw.OverflowType.ITERATIONS | mjw.OverflowType.LS_ITERATIONS)

# of mujoco-warp's ContactType, which it does not export: not one that only a sensor asked for
_CONSTRAINT = 1

Operation = Callable[[Any, Any], None]
"""Something that mujoco-warp does with its model and data."""


class Worlds:
    """What mujoco-warp holds on a device, as torch tensors.

    Args:
        model: the compiled model.
        num: number of worlds N.
        device: where they live.
        max_contacts: contacts per world, on average over all; None for mujoco-warp's estimate.
        max_constraints: scalar constraints in each world; None for mujoco-warp's estimate.

    Attributes:
        rows: MjData field -> live (N, ...) tensor, shaped as MuJoCo's.
        expanded: MjModel field -> live (N, ...) tensor, shaped as mujoco-warp's, where worlds differ.
        extras: `EXTRAS` fields that are computed.
        overflow: (N,) int32 bits of what was full; they stay until they are cleared.

    Raises:
        UsageError: mujoco-warp cannot simulate the model, or there is no such device.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        num: int,
        device: torch.device,
        max_contacts: int | None,
        max_constraints: int | None,
    ) -> None:
        if device.type == "cuda" and not torch.cuda.is_available():
            raise UsageError("the warp backend needs a CUDA GPU and torch sees none: use backend=cpu")
        self.num, self._device = num, device
        self._place = wp.device_from_torch(device)
        with wp.ScopedDevice(self._place):
            try:
                _check(model)
                self._m = mjw.put_model(model)
                self._d = mjw.make_data(model, num, nconmax=max_contacts, njmax=max_constraints)
            except (NotImplementedError, ValueError) as error:
                raise UsageError(f"mujoco-warp cannot simulate this model: {error}") from error
        self._m.opt.warn_overflow = 0
        self.overflow: Tensor = wp.to_torch(self._d.overflow)
        template = mujoco.MjData(model)
        self.rows: dict[str, Tensor] = {}
        for name in (*STATE, *OUTPUTS):
            tensor = wp.to_torch(getattr(self._d, name))
            self.rows[name] = tensor.view(num, *np.shape(getattr(template, name))).as_subclass(Field)
        self.rows["ncon"] = torch.zeros(num, dtype=torch.int64, device=device)
        self.extras: set[str] = set()
        self.expanded: dict[str, Tensor] = {}
        self._graphs: dict[Operation, Any] = {}

    @staticmethod
    def has(field: str) -> bool:
        """Whether an MjModel field can differ between worlds."""
        owner, name = (mjw.Option, field[4:]) if field.startswith("opt.") else (mjw.Model, field)
        shapes = (getattr(f.type, "shape", ()) for f in dataclasses.fields(owner) if f.name == name)
        return any(shape[:1] == ("*",) for shape in shapes)

    def expand(self, field: str) -> Tensor:
        """Give each world its own row of an MjModel field; return them."""
        found = self.expanded.get(field)
        if found is None:
            owner, name = (self._m.opt, field[4:]) if field.startswith("opt.") else (self._m, field)
            shared = getattr(owner, name)
            row: Tensor = wp.to_torch(shared)
            found = row.repeat(self.num, *[1] * (row.ndim - 1))
            setattr(owner, name, wp.from_torch(found, dtype=shared.dtype))
            self.expanded[field] = found
            self._graphs.clear()
        return found

    def run(self, operation: Operation) -> None:
        """Launch an operation.

        It is hundreds of short kernels: a GPU takes them from a recorded graph.
        """
        with wp.ScopedDevice(self._place):
            if not self._place.is_cuda:
                operation(self._m, self._d)
                return
            torch_stream = wp.stream_from_torch(torch.cuda.current_stream(self._device))
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

    def compute(self, extra: str) -> None:
        """Compute one of `EXTRAS`, now and from now on."""
        if extra in self.extras:
            return
        self.extras.add(extra)
        if extra in BODY_FORCES and not self._m.opt.run_rne_postconstraint:
            self._m.opt.run_rne_postconstraint = True
            self._graphs.clear()
            self.run(mjw.rne_postconstraint)
        self.count_contacts()

    def count_contacts(self) -> None:
        """Bring `ncon` up to date if it is wanted: the worlds share one list of contacts."""
        if "ncon" not in self.extras:
            return
        contact = self._d.contact
        index = torch.arange(self._d.naconmax, device=self._device)
        kind = wp.to_torch(contact.type) & _CONSTRAINT
        found = (index < wp.to_torch(self._d.nacon)) & (kind != 0)
        # what lies behind the end of the list is from earlier
        world = wp.to_torch(contact.worldid).long().clamp(0, self.num - 1)
        self.rows["ncon"].zero_().index_add_(0, world, found.long())

    def full(self) -> Tensor:
        """(N,) bool: contacts or constraints were left out since `overflow` was cleared."""
        return (self.overflow & _CAPACITY) != 0

    def describe_overflow(self) -> str:
        """Say what was full and what to do."""
        bits = int(np.bitwise_or.reduce(self.overflow.cpu().numpy())) & _CAPACITY
        names = ", ".join(str(flag.name) for flag in mjw.OverflowType if flag.name != "ALL" and bits & flag)
        return (
            f"simulations ran out of room ({names}) and failed: there is room for "
            f"{self._d.naconmax // self.num} contacts per simulation on average and {self._d.njmax} "
            "constraints in each; give more with <size nconmax njmax> in the MJCF or with max_contacts and "
            "max_constraints of WarpSim"
        )


def _check(model: mujoco.MjModel) -> None:
    """Refuse what has state that `STATE` lacks."""
    if model.nflex:
        raise NotImplementedError("flexes are not supported")
    if model.opt.enableflags & mujoco.mjtEnableBit.mjENBL_SLEEP:
        raise NotImplementedError("sleeping is not supported")


def step(m: Any, d: Any) -> None:
    """Advance by one physics step."""
    mjw.step(m, d)


def forward(m: Any, d: Any) -> None:
    """Recompute every derived field."""
    mjw.forward(m, d)


def set_const(m: Any, d: Any) -> None:
    """Recompute model constants."""
    mjw.set_const(m, d)


def to_velocity(m: Any, d: Any) -> None:
    """Make position- and velocity-dependent fields and sensors current."""
    mjw.fwd_position(m, d, factorize=False)
    mjw.sensor_pos(m, d)
    mjw.fwd_velocity(m, d)
    mjw.sensor_vel(m, d)


def place_static_geoms(m: Any, d: Any) -> None:
    """Place the geoms that no joint moves, too; mujoco-warp does so only when it makes its data."""
    welded = m.body_weldid
    m.body_weldid = wp.full_like(welded, 1)
    mjw.kinematics(m, d)
    m.body_weldid = welded
