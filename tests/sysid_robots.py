"""Robots with known numbers, simulated by MuJoCo alone, and the logs they leave."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import mujoco
import numpy as np

DT_S = 0.002
ARM = """
<mujoco model="arm">
  <option timestep="{dt}" integrator="implicitfast"/>
  <worldbody>
    <body name="link">
      <joint name="elbow" axis="0 1 0" damping="{damping}" armature="{armature}" frictionloss="{friction}"/>
      <inertial pos="0 0 -0.2" mass="{mass}" diaginertia="0.01 0.01 0.0003"/>
      <geom name="skin" type="capsule" fromto="0 0 0 0 0 -0.4" size="0.03"/>
    </body>
  </worldbody>
  <actuator><motor name="elbow" joint="elbow" ctrlrange="-5 5" {delayed}/></actuator>
  <sensor><jointpos name="encoder" joint="elbow" {encoder}/></sensor>
</mujoco>
"""
TRUE = {"damping": 0.35, "armature": 0.02, "friction": 0.08, "mass": 0.7}
NOMINAL = {"damping": 0.1, "armature": 0.01, "friction": 0.03, "mass": 0.6}
DELAY_S = 0.0137  # 6.85 steps
DELAYED = 'nsample="20" interp="linear" delay="{}"'
ARM_PARAMETERS = """
parameters:
  damping: {field: dof_damping, range: [0, 2]}
  armature: {field: dof_armature, range: [0, 0.2]}
  friction: {field: dof_frictionloss, range: [0, 1]}
  mass: {field: body_mass, names: link, range: [0.1, 2]}
  delay: {field: actuator_delay, range: [0, 0.04]}
"""


def arm(delayed: str = "", encoder: str = "", dt: float = DT_S, **numbers: float) -> str:
    return ARM.format(**NOMINAL | numbers, dt=dt, delayed=delayed, encoder=encoder)


def swing(t: float) -> np.ndarray:
    """A chirp and a square wave, N m."""
    return np.array([1.5 * np.sin(2 * np.pi * (0.3 * t + 0.35 * t * t)) + np.sign(np.sin(4.4 * t))])


def record(
    path: Path,
    xml: str,
    command: Callable[[float], np.ndarray] = swing,
    duration_s: float = 3.0,
    period_s: float = 0.01,
    steps_late: int = 0,
    columns: tuple[str, ...] = ("joint_position", "joint_velocity"),
    seed: int = 0,
) -> Path:
    """Simulate a model and write what it was told and did, with noise, as a log.

    `steps_late`: physics steps that pass between a row's time and its readings.
    """
    model = mujoco.MjModel.from_xml_string(xml)
    data, rng = mujoco.MjData(model), np.random.default_rng(seed)
    joints = [model.joint(i).name for i in range(model.njnt)]
    header = ["time_s", *(f"ctrl/{model.actuator(i).name}" for i in range(model.nu))]
    sensors = [model.sensor(i).name for i in range(model.nsensor)]
    header += [f"{kind}/{name}" for kind in columns for name in (sensors if kind == "sensor" else joints)]
    std = {"joint_position": 1e-3, "joint_velocity": 1e-2, "sensor": 1e-3}
    rows = []
    for k in range(round(duration_s / period_s)):
        data.ctrl[:] = command(k * period_s)
        for step in range(round(period_s / model.opt.timestep)):
            if step == steps_late:
                mujoco.mj_forward(model, data)  # sensors of now, not of a step ago
                shown = {"joint_position": data.qpos, "joint_velocity": data.qvel, "sensor": data.sensordata}
                readings = [
                    shown[kind] + std[kind] * rng.standard_normal(len(shown[kind])) for kind in columns
                ]
                rows.append([k * period_s, *data.ctrl, *np.concatenate(readings)])
            mujoco.mj_step(model, data)
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def written(folder: Path, model: str, parameters: str) -> tuple[Path, Path]:
    (folder / "robot.xml").write_text(model)
    (folder / "params.yaml").write_text(parameters)
    return folder / "robot.xml", folder / "params.yaml"


TRUE_ARM = arm(DELAYED.format(DELAY_S), **TRUE)
LEG = """
<mujoco model="leg">
  <option timestep="{dt}" integrator="implicitfast"/>
  <worldbody>
    <body name="thigh">
      <joint name="hip" axis="0 1 0" damping="{hip}" armature="0.01"/>
      <inertial pos="0 0 -0.15" mass="1" diaginertia="0.01 0.01 0.001"/>
      <body name="shank" pos="0 0 -0.3">
        <joint name="knee" axis="0 1 0" damping="{knee}" armature="0.01"/>
        <inertial pos="0 0 {com}" mass="0.5" diaginertia="0.004 0.004 0.0004"/>
      </body>
    </body>
  </worldbody>
  <actuator>
    <position name="hip" joint="hip" kp="{kp}" kv="0.5" {delayed}/>
    <position name="knee" joint="knee" kp="{kp}" kv="0.5" {delayed}/>
  </actuator>
</mujoco>
"""
LEG_NOMINAL = {"hip": 0.1, "knee": 0.1, "com": -0.12, "kp": 30.0}
LEG_TRUE = {"hip": 0.3, "knee": 0.18, "com": -0.155, "kp": 22.0}
LEG_PARAMETERS = """
parameters:
  damping: {field: dof_damping, range: [0, 1], shared: false}
  com: {field: body_ipos, names: shank, columns: [2], range: [-0.25, 0]}
  kp: {field: actuator_kp, range: [5, 60]}
  delay: {field: actuator_delay, range: [0, 0.04]}
"""


def step_leg(seed: int) -> Callable[[float], np.ndarray]:
    """Targets of hip and knee, rad."""
    return lambda t: np.array([0.5 * np.sign(np.sin((5 - seed) * t + seed)), 0.8 * np.sin(3 * t + 2 * t * t)])
