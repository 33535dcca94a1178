"""Identify an arm: `python examples/sysid_arm.py FOLDER` makes a log of it and runs `robotrl sysid`.

The "real" arm here is a simulation whose numbers the model in arm.xml does not have. With a robot, bench.csv
comes from its own control loop; see docs/sysid.md.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import mujoco
import numpy as np

from robotrl.cli import main

ARM = """\
<mujoco model="arm">
  <option timestep="0.002" integrator="implicitfast"/>
  <worldbody>
    <body name="link">
      <joint name="elbow" axis="0 1 0" damping="{damping}" armature="{armature}" frictionloss="{friction}"/>
      <inertial pos="0 0 -0.2" mass="{mass}" diaginertia="0.01 0.01 0.0003"/>
      <geom type="capsule" fromto="0 0 0 0 0 -0.4" size="0.03"/>
    </body>
  </worldbody>
  <actuator>
    <motor name="elbow" joint="elbow" ctrllimited="true" ctrlrange="-5 5" {delay}/>
  </actuator>
</mujoco>
"""
NOMINAL = {"damping": 0.1, "armature": 0.01, "friction": 0.03, "mass": 0.6, "delay": ""}
REAL = {
    "damping": 0.35,
    "armature": 0.02,
    "friction": 0.08,
    "mass": 0.7,
    "delay": 'delay="0.0137" nsample="20" interp="linear"',
}
PARAMETERS = """\
parameters:
  damping:  {field: dof_damping, names: elbow, range: [0.0, 2.0]}
  armature: {field: dof_armature, names: elbow, range: [0.0, 0.2]}
  friction: {field: dof_frictionloss, names: elbow, range: [0.0, 1.0]}
  mass:     {field: body_mass, names: link, range: [0.1, 2.0]}
  delay:    {field: actuator_delay, range: [0.0, 0.04]}  # s
"""
PERIOD_S = 0.01


def torque_nm(time_s: float) -> float:
    """A chirp from 0.3 to 4.5 Hz and a square wave: slow and fast, small and large, with stops."""
    chirp = 1.5 * np.sin(2 * np.pi * (0.3 * time_s + 0.35 * time_s**2))
    return float(chirp + np.sign(np.sin(4.4 * time_s)))


def record(path: Path, duration_s: float = 6.0) -> None:
    """Drive the "real" arm and write one row per control step: time, command, what the encoder says."""
    model = mujoco.MjModel.from_xml_string(ARM.format(**REAL))
    data, noise = mujoco.MjData(model), np.random.default_rng(0)
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["time_s", "ctrl/elbow", "joint_position/elbow", "joint_velocity/elbow"])
        for step in range(round(duration_s / PERIOD_S)):
            time_s = step * PERIOD_S
            position = data.qpos[0] + 1e-3 * noise.standard_normal()
            velocity = data.qvel[0] + 1e-2 * noise.standard_normal()
            data.ctrl[0] = torque_nm(time_s)
            writer.writerow([time_s, data.ctrl[0], position, velocity])
            for _ in range(round(PERIOD_S / model.opt.timestep)):
                mujoco.mj_step(model, data)


def identify(folder: Path) -> int:
    """Write the nominal model, what to identify and a log into a folder, and run the command on them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "arm.xml").write_text(ARM.format(**NOMINAL))
    (folder / "params.yaml").write_text(PARAMETERS)
    record(folder / "bench.csv")
    model, parameters = str(folder / "arm.xml"), str(folder / "params.yaml")
    words = [str(folder / "bench.csv"), "--model", model, "--params", parameters]
    return main(["sysid", *words, "--out", str(folder / "identified")])


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/sysid_arm.py FOLDER")
    sys.exit(identify(Path(sys.argv[1])))
