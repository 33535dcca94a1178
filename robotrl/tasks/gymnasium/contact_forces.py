"""Contact force and torque per body, at the very instant at which Gymnasium's tasks read them.

With the RK4 integrator the last thing a physics step evaluates is Runge-Kutta's fourth stage, a guess
at the new state, and Gymnasium calls `mj_rnePostConstraint` there. The engine itself computes these
forces in the first stage only, for sensors. But the outputs of a step describe the fourth stage, so
that its state can be read off them and evaluated once more.
"""

from __future__ import annotations

import mujoco
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


def stage_contact_forces(sim: Sim) -> Tensor:
    """(N, nbody, 6) torque (N m) and force (N) on every body about its tree's centre of mass, world axes.

    For one free body with hinges, each driven by one motor. Leaves the state as it was.
    """
    stage = _stage_state(sim)
    kept = {name: sim.data(name).clone() for name in stage}
    for name, values in stage.items():
        sim.data(name).copy_(values)
    sim.forward()
    for name, values in kept.items():
        sim.data(name).copy_(values)
    return sim.data("cfrc_ext")


def _stage_state(sim: Sim) -> dict[str, Tensor]:
    """The state, by field, at the instant that the outputs of the last step describe."""
    model = sim.model
    position = sim.data("xpos")[:, 1]
    rotation = sim.data("xmat")[:, 1].unflatten(1, (3, 3))
    # com-based velocity: angular, then linear of the point of the body at the tree's centre of mass
    angular, linear = sim.data("cvel")[:, 1, :3], sim.data("cvel")[:, 1, 3:]
    lever = position - sim.data("subtree_com")[:, 1]
    root_linear = linear + torch.linalg.cross(angular, lever)
    root_angular = (rotation.mT @ angular.unsqueeze(2)).squeeze(2)

    # a motor's length and velocity are its joint's, times the gear
    gear = torch.from_numpy(model.actuator_gear[:, 0].copy())
    joints = model.actuator_trnid[:, 0]
    qpos, qvel = sim.data("qpos").clone(), sim.data("qvel").clone()
    qpos[:, :7] = torch.cat([position, sim.data("xquat")[:, 1]], 1)
    qvel[:, :6] = torch.cat([root_linear, root_angular], 1)
    qpos[:, torch.from_numpy(model.jnt_qposadr[joints]).long()] = sim.data("actuator_length") / gear
    qvel[:, torch.from_numpy(model.jnt_dofadr[joints]).long()] = sim.data("actuator_velocity") / gear

    # the solver started from the third stage's acceleration and, where it stopped early, that shows;
    # qacc is the whole step's acceleration
    velocity_before = sim.data("qvel") - sim.dt_s * sim.data("qacc")
    return {"qpos": qpos, "qvel": qvel, "qacc_warmstart": (qvel - velocity_before) / sim.dt_s}
