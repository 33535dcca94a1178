"""A simulated robot of two joints, of which the hip's actuator is known, and its logs."""

from __future__ import annotations

import math
from pathlib import Path

import mujoco
import numpy as np

from robotrl.training.actuator_log import COLUMNS

DT_S, CONTROL_DT_S = 0.002, 0.02
XML = f"""
<mujoco>
  <option timestep="{DT_S}"/>
  <default><joint axis="0 1 0" range="-90 90" damping="0.05" armature="0.01"/></default>
  <worldbody>
    <body>
      <joint name="hip"/><geom type="capsule" size="0.03" fromto="0 0 0 0 0 -0.3" mass="0.8"/>
    </body>
    <body pos="2 0 0">
      <joint name="knee"/><geom type="capsule" size="0.03" fromto="0 0 0 0 0 -0.2" mass="0.5"/>
    </body>
    <body pos="4 0 0"><joint name="ball" type="ball" range="0 1"/><geom size="0.1"/></body>
  </worldbody>
  <actuator>
    <motor name="hip" joint="hip" gear="7" ctrllimited="true" ctrlrange="-1 1"/>
    <motor name="knee" joint="knee" ctrllimited="true" ctrlrange="-1 1"/>
  </actuator>
</mujoco>
"""


class TrueActuator:
    """A PD law on a command that comes 6 ms late, saturating at 10 N m, with a lag of 8 ms."""

    def __init__(self) -> None:
        self.commands = [0.0] * 4
        self.torque = 0.0

    def step(self, command: float, position: float, velocity: float) -> float:
        self.commands = [*self.commands[1:], command]
        wanted = 10.0 * math.tanh((30.0 * (self.commands[0] - position) - 0.8 * velocity) / 10.0)
        self.torque += (1.0 - math.exp(-DT_S / 0.008)) * (wanted - self.torque)
        return self.torque


def targets(seed: int, count: int) -> np.ndarray:
    """A random walk of commands for the hip, one per control step."""
    rng, walk = np.random.default_rng(seed), [0.0]
    while len(walk) < count:
        walk.append(float(np.clip(walk[-1] + 0.35 * rng.normal(), -1.2, 1.2)))
    return np.array(walk)


def drive_hip(commands: np.ndarray) -> np.ndarray:
    """(T, 5) time, command, position, velocity, torque of the hip under its true actuator."""
    model = mujoco.MjModel.from_xml_string(XML)
    data, actuator, rows = mujoco.MjData(model), TrueActuator(), []
    for command in np.repeat(commands, round(CONTROL_DT_S / DT_S)):
        torque = actuator.step(command, data.qpos[0], data.qvel[0])
        rows.append((data.time, command, data.qpos[0], data.qvel[0], torque))
        data.qfrc_applied[0] = torque
        mujoco.mj_step(model, data)
    return np.array(rows)


def write_log(path: Path, rows: np.ndarray, header: str = ",".join(COLUMNS)) -> Path:
    np.savetxt(path, rows, delimiter=",", header=header, comments="")
    return path
