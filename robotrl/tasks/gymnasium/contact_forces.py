"""Contact force and torque per body, at the very instant at which Gymnasium's tasks read them.

With the RK4 integrator the last thing a physics step evaluates is Runge-Kutta's fourth stage, a guess
at the new state, and Gymnasium calls `mj_rnePostConstraint` there. The engine itself computes these
forces in the first stage only, for sensors. But the outputs of a step describe the fourth stage, so
that its state can be read off them and evaluated once more. All four stages start the constraint solver
from the warm start that the step found; where the solver stops early, the forces show it.
"""

from __future__ import annotations

import mujoco
import numpy as np
import torch
from torch import Tensor

from robotrl.sim.sim import Sim


def add_force_sensor(spec: mujoco.MjSpec) -> None:
    """Add a sensor in whose wake the engine computes `cfrc_ext`."""
    root = spec.worldbody.first_body()
    root.add_site(name="contact_forces")
    spec.add_sensor(
        name="contact_forces",
        type=mujoco.mjtSensor.mjSENS_FORCE,
        objtype=mujoco.mjtObj.mjOBJ_SITE,
        objname="contact_forces",
    )


class ContactForces:
    """The contact forces of the last control step, evaluated when they are first read.

    For one free body with hinges, each driven by one motor.

    Args:
        sim: whose model has the sensor of `add_force_sensor`.
        low: torques (N m) and forces (N) are clipped to [low, high].
        high: see `low`.
    """

    def __init__(self, sim: Sim, low: float, high: float) -> None:
        self.sim = sim
        self._range = low, high
        self._values: Tensor | None = None
        self._qpos, self._qvel = sim.data("qpos"), sim.data("qvel")
        self._warm_start = self._last_warm_start = sim.data("qacc_warmstart")
        self._position, self._orientation = sim.data("xpos")[:, 1], sim.data("xquat")[:, 1]
        self._rotation = sim.data("xmat")[:, 1].unflatten(1, (3, 3))
        # com-based velocity: angular, then linear of the point of the body at the tree's centre of mass
        self._angular, self._linear = sim.data("cvel")[:, 1, :3], sim.data("cvel")[:, 1, 3:]
        self._centre = sim.data("subtree_com")[:, 1]
        self._length, self._velocity = sim.data("actuator_length"), sim.data("actuator_velocity")
        self._gear = sim.param("actuator_gear")[:, :, 0]  # it may differ between simulations
        motor_of_hinge = np.argsort(sim.model.actuator_trnid[:, 0])
        self._motor_of_hinge = torch.from_numpy(motor_of_hinge).to(sim.device)

    def advance(self, ctrl: Tensor, substeps: int) -> None:
        """Advance the physics and remember from where the last physics step's solver started."""
        if substeps > 1:
            self.sim.step(ctrl, substeps - 1)
        self._last_warm_start = self._warm_start.clone()
        self.sim.step(ctrl)
        self._values = None

    def reset(self, ids: Tensor) -> None:
        """Set the forces in simulations `ids` to 0: Gymnasium's first observation shows none."""
        if self._values is None:
            self._values = torch.zeros_like(self.sim.data("cfrc_ext"))
        self._values[ids] = 0.0

    def read(self) -> Tensor:
        """(N, nbody, 6) clipped torque (N m), then force (N), on every body, world axes.

        About the centre of mass of the body's tree.
        """
        if self._values is None:
            state = self._qpos, self._qvel, self._warm_start
            kept = [field.clone() for field in state]
            self._write_stage()
            self.sim.forward()
            for field, values in zip(state, kept, strict=True):
                field.copy_(values)
            self._values = self.sim.data("cfrc_ext").clamp(*self._range)
        return self._values

    def _write_stage(self) -> None:
        """Write the state at the instant that the outputs of the last step describe."""
        lever = self._position - self._centre
        self._qpos[:, :3] = self._position
        self._qpos[:, 3:7] = self._orientation
        self._qvel[:, :3] = torch.linalg.cross(self._angular, lever).add_(self._linear)
        self._qvel[:, 3:6] = (self._angular.unsqueeze(1) @ self._rotation).squeeze(1)  # in body axes
        # a motor's length and velocity are its hinge's, times the gear
        self._qpos[:, 7:] = (self._length / self._gear).index_select(1, self._motor_of_hinge)
        self._qvel[:, 6:] = (self._velocity / self._gear).index_select(1, self._motor_of_hinge)
        self._warm_start.copy_(self._last_warm_start)
