"""What a contract says about the robot: numbers by hand, forces by MuJoCo, contradictions in one line."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest
import torch
from test_deploy import contract
from torch import Tensor

from robotrl.core.errors import RobotrlError
from robotrl.core.types import ActionTerm, ObsTerm, Specs
from robotrl.deploy.contract import Contract, OutputTerm, split_age
from robotrl.deploy.robot_contract import Drive, Joint, Robot
from robotrl.export.description import input_terms
from robotrl.export.robot import describe_robot
from robotrl.sim.actuators import Actuator, Kind
from robotrl.sim.latency import Delay
from robotrl.tasks.realism import Ramp, Realism
from robotrl.tasks.task import Task

MJCF = """
<mujoco model="crane">
  <compiler angle="radian"/>
  <worldbody>
    <body name="base">
      <freejoint/><geom size="0.1"/>
      <body><joint name="hip" axis="0 1 0" range="-1.5 0.5"/><geom size="0.1"/>
        <body><joint name="knee" axis="0 1 0"/><geom size="0.1"/>
          <body><joint name="lift" type="slide" range="0 0.3"/><geom size="0.1"/>
            <body><joint name="wheel" axis="0 1 0" actuatorfrcrange="-4 4"/>
              <geom size="0.1"/><site name="tip"/></body>
          </body></body></body></body>
  </worldbody>
  <actuator>
    <position name="hip_servo" joint="hip" kp="40" kv="3" gear="2" ctrlrange="-3 1" forcerange="-15 10"/>
    <motor name="knee_motor" joint="knee" gear="-5" ctrlrange="-0.5 2"/>
    <velocity name="lift_drive" joint="lift" kv="8" gear="0.5" ctrlrange="0.2 1"/>
    <general name="wheel_pd" joint="wheel" gainprm="10" biastype="affine" biasprm="0 -20 -1"
             ctrlrange="-1 1"/>
    <motor name="jet" site="tip" gear="0 0 1 0 0 0" ctrlrange="0 5"/>
    <intvelocity name="slow" joint="wheel" kp="3" actrange="-1 1" ctrlrange="-1 1"/>
  </actuator>
  <keyframe><key name="home" qpos="0 0 1 1 0 0 0 -0.4 0.1 0.25 2"/></keyframe>
</mujoco>
"""


@dataclasses.dataclass
class Crane(Task):
    """Four joints, six actuators of every kind."""

    mjcf: Path
    control_dt_s: float = 0.02
    episode_length_s: float = 1.0

    def observation_terms(self, model: mujoco.MjModel) -> dict[str, tuple[ObsTerm, ...]]:
        joints = ("hip", "knee")
        return {
            "policy": (
                ObsTerm("joint_position", 2, "rad", elements=joints),
                ObsTerm("joint_velocity", 2, "rad/s", elements=joints),
                ObsTerm("load", 1, "kg"),
            )
        }

    def reset(self, sim: Any, ids: Tensor, rng: torch.Generator) -> None:
        raise NotImplementedError

    observe = reward_terms = reset


@dataclasses.dataclass
class Hovering(Crane):
    """Commands thrust and rates, which a controller of its own turns into forces."""

    def action_terms(self, model: mujoco.MjModel) -> tuple[ActionTerm, ...]:
        return (ActionTerm("thrust", "N", 1.0, 9.0), ActionTerm("roll_rate", "rad/s", -3.0, 3.0))


def describe(kind: type[Crane], folder: Path, mjcf: str = MJCF, **realism: Any) -> tuple[Robot, Specs]:
    (folder / "crane.xml").write_text(mjcf)
    task = kind(folder / "crane.xml", realism=Realism(**realism))
    specs = task.specs(task.build_model())
    return describe_robot(task, specs), specs


def test_numbers_by_hand(tmp_path: Path) -> None:
    robot, _ = describe(Crane, tmp_path)
    assert robot.name == "crane"
    assert robot.joints == (
        Joint("hip", "rad", -1.5, 0.5, -0.4),
        Joint("knee", "rad", None, None, 0.1),
        Joint("lift", "m", 0.0, 0.3, 0.25),
        Joint("wheel", "rad", None, None, 2.0),
    )
    assert robot.drives == (
        # force 2 (40 (u - 2 q) - 3 (2 qd)) = 160 (u / 2 - q) - 12 qd, cut at -2 * 15 and 2 * 10
        Drive("hip_servo", "position", "hip", 160.0, 12.0, 20.0, None, 0.5),
        Drive("knee_motor", "effort", "knee", 0.0, 0.0, 10.0, 0.0, -5.0),
        # 0.5 * 8 (u - 0.5 qd) = 2 (2 u - qd); its slowest command is 0.2
        Drive("lift_drive", "velocity", "lift", 0.0, 2.0, None, 0.2, 2.0),
        # its joint takes no more than 4 N m from all its actuators
        Drive("wheel_pd", "position", "wheel", 20.0, 1.0, 4.0, None, 0.5),
        Drive("jet", "other", None, 0.0, 0.0, None, 0.0),
        Drive("slow", "other", None, 0.0, 0.0, None, 0.0),
    )
    assert robot.action_delay_s == robot.observation_delay_s == (0.0, 0.0)
    without = describe(Crane, tmp_path, MJCF.replace('key name="home"', 'key name="sit"'))[0]
    assert [joint.default for joint in without.joints] == [0.0] * 4


def test_drives_make_mujocos_forces(tmp_path: Path) -> None:
    robot, specs = describe(Crane, tmp_path)
    model = mujoco.MjModel.from_xml_path(str(tmp_path / "crane.xml"))
    data, rng = mujoco.MjData(model), np.random.default_rng(0)
    for _ in range(50):
        data.qpos[7:], data.qvel[6:] = rng.normal(size=4), rng.normal(size=4)
        data.ctrl[:] = rng.uniform(specs.action_low, specs.action_high)
        data.ctrl[4:] = 0.0
        data.act[:] = data.qpos[10]  # the integrator holds its joint where it is
        mujoco.mj_forward(model, data)
        for i, drive in enumerate(robot.drives[:4]):
            c, q, qd = drive.ratio * data.ctrl[i], data.qpos[7 + i], data.qvel[6 + i]
            force = {
                "position": drive.kp * (c - q) - drive.kd * qd,
                "velocity": drive.kd * (c - qd),
                "effort": c,
            }[drive.mode]
            limit = drive.effort_limit or np.inf
            if i == 0:  # the model's own range is lopsided, the contract keeps to its smaller side
                force, limit = np.clip(force, -30.0, 20.0), np.inf
            assert data.qfrc_actuator[6 + i] == pytest.approx(np.clip(force, -limit, limit), abs=1e-12)


def test_replaced_actuators_and_delays(tmp_path: Path) -> None:
    motor = Actuator(
        Kind.DC_MOTOR,
        "hip_servo",
        kp=30.0,
        kd=2.0,
        stall_torque_nm=7.0,
        no_load_speed_rad_s=20.0,
        torque_limit_nm=5.0,
    )
    robot, _ = describe(
        Crane,
        tmp_path,
        actuators={"motor": motor},
        actuator_delays={"slow": Delay((0.004, 0.01), buffer_s=0.05)},
        curriculum={"slower": Ramp("actuator_delays.slow.range_s", [0.0, 0.0], [0.006, 0.03])},
    )
    assert robot.drives[0] == Drive("hip_servo", "position", "hip", 30.0, 2.0, 5.0, None)
    assert robot.action_delay_s == (0.006, 0.03)
    partly = describe(Crane, tmp_path, actuator_delays={"one": Delay((0.004, 0.01), "jet")})[0]
    assert partly.action_delay_s == (0.0, 0.01)


def test_commands_that_are_no_actuators(tmp_path: Path) -> None:
    robot, _ = describe(Hovering, tmp_path)
    assert robot.drives == (
        Drive("thrust", "other", None, 0.0, 0.0, None, 1.0),
        Drive("roll_rate", "other", None, 0.0, 0.0, None, 0.0),
    )


def of_crane(folder: Path) -> Contract:
    robot, specs = describe(
        Crane, folder, history={"policy": 3}, actuator_delays={"a": Delay((0.1 / 3, 0.2))}
    )
    outputs = tuple(
        OutputTerm(t.name, t.unit, t.low, t.high, (t.high - t.low) / 2, (t.high + t.low) / 2)
        for t in specs.action
    )
    return contract(inputs=input_terms(specs, ("policy",)), outputs=outputs, robot=robot)


def test_survives_json_bit_for_bit(tmp_path: Path) -> None:
    made = of_crane(tmp_path)
    assert Contract.from_json(made.to_json(), "x") == made
    assert Contract.from_json(made.to_json(), "x").robot.action_delay_s[0] == 0.1 / 3
    rng, drive = np.random.default_rng(0), made.robot.drives[0]
    for _ in range(200):
        kp, kd, limit, ratio = map(float, 10.0 ** rng.uniform(-300, 300, 4))
        drives = (
            dataclasses.replace(drive, kp=kp, kd=kd, effort_limit=limit, ratio=-ratio),
            *made.robot.drives[1:],
        )
        other = dataclasses.replace(made, robot=dataclasses.replace(made.robot, drives=drives))
        assert Contract.from_json(other.to_json(), "x") == other


def test_history_says_which_reading_is_where(tmp_path: Path) -> None:
    made = of_crane(tmp_path)
    assert [(term.name, term.of, term.age_steps, term.start) for term in made.inputs] == [
        ("joint_position@-2", "joint_position", 2, 0),
        ("joint_velocity@-2", "joint_velocity", 2, 2),
        ("load@-2", "load", 2, 4),
        ("joint_position@-1", "joint_position", 1, 5),
        ("joint_velocity@-1", "joint_velocity", 1, 7),
        ("load@-1", "load", 1, 9),
        ("joint_position", "joint_position", 0, 10),
        ("joint_velocity", "joint_velocity", 0, 12),
        ("load", "load", 0, 14),
    ]
    for name, split in {"x@-0": ("x@-0", 0), "x@-01": ("x@-01", 0), "a@-1@-12": ("a@-1", 12)}.items():
        assert split_age(name) == split


def test_earlier_schemas_are_read(tmp_path: Path) -> None:
    made = of_crane(tmp_path)
    for schema, missing in (("1", {"horizon", "noise_dim", "sampling_steps"}), ("2", set())):
        data = json.loads(made.to_json())
        data = {k: v for k, v in data.items() if k not in missing | {"robot", "files"}}
        for term in data["inputs"]:
            del term["of"], term["age_steps"]
        text = json.dumps(data | {"schema": f"robotrl.bundle/{schema}"})
        assert Contract.from_json(text, "x") == dataclasses.replace(made, robot=None)
        data["inputs"][0] = 7
        with pytest.raises(RobotrlError, match=r"inputs\[0\]: expected an object, got 7"):
            Contract.from_json(json.dumps(data | {"schema": f"robotrl.bundle/{schema}"}), "x")


Edit = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda r: r["joints"].append(r["joints"][0]), "joint 'hip' appears twice"),
        (lambda r: r["joints"].pop(2), "drive of 'lift_drive': there is no joint 'lift'"),
        (lambda r: r["joints"][0].update(unit="deg"), "joint 'hip': unit must be rad or m, got 'deg'"),
        (lambda r: r["joints"][0].update(lower=None), "joint 'hip': has one end of a range"),
        (lambda r: r["joints"][0].update(lower=0.5), r"joint 'hip': range \[0.5, 0.5\] is empty"),
        (lambda r: r["joints"][0].update(default="0"), "default: expected float, got '0'"),
        (lambda r: r["drives"].pop(), "drives are of hip_servo.*outputs are hip_servo"),
        (lambda r: r["drives"].reverse(), "drives are of slow.*outputs are hip_servo"),
        (lambda r: r["drives"][1].update(action="hip_servo"), "drive of action 'hip_servo' appears twice"),
        (lambda r: r["drives"][0].update(action="hip"), "drives are of hip,"),
        (lambda r: r["drives"][0].update(mode="pd"), "mode must be one of position, .* got 'pd'"),
        (lambda r: r["drives"][0].update(joint=None), "mode position with joint None"),
        (lambda r: r["drives"][4].update(joint="hip"), "mode other with joint 'hip'"),
        (lambda r: r["drives"][0].update(kp=1e999), "kp: expected a finite number, got inf"),
        (lambda r: r["drives"][0].update(kp=10**400), "kp: expected a finite number"),
        (lambda r: r["drives"][0].update(kp=0.0), "kp 0.0 and kd 12.0 do not fit mode position"),
        (lambda r: r["drives"][0].update(kd=-1.0), "do not fit mode position"),
        (lambda r: r["drives"][1].update(kp=1.0), "do not fit mode effort"),
        (lambda r: r["drives"][2].update(kd=0.0), "do not fit mode velocity"),
        (lambda r: r["drives"][0].update(ratio=0.0), "ratio 0.0 does not fit"),
        (lambda r: r["drives"][0].update(effort_limit=0.0), "effort_limit must be above 0"),
        (lambda r: r["drives"][4].update(safe=None), "needs a safe command"),
        (lambda r: r["drives"][2].update(safe=0.0), r"safe command 0.0 is outside \[0.2, 1.0\]"),
        (lambda r: r.update(action_delay_s=[0.2, 0.1]), "action_delay_s must be 0 <= shortest <= longest"),
        (lambda r: r.update(observation_delay_s=[-1.0, 0.1]), "observation_delay_s must be 0 <="),
        (lambda r: r.update(action_delay_s=[0.1]), r"action_delay_s: expected 2 values, got \[0.1\]"),
        (lambda r: r.pop("name"), "robot: 'name' is missing"),
    ],
)
def test_contradictions_of_a_robot_are_one_line(edit: Edit, message: str, tmp_path: Path) -> None:
    data = json.loads(of_crane(tmp_path).to_json())
    edit(data["robot"])
    text = json.dumps(data).replace("Infinity", "1e999")
    with pytest.raises(RobotrlError, match=message) as caught:
        Contract.from_json(text, "contract.json")
    assert "\n" not in str(caught.value) and str(caught.value).startswith("contract.json: ")


def swap(inputs: list[dict[str, Any]], i: int, j: int) -> None:
    inputs[i], inputs[j] = inputs[j], inputs[i]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda i: i[0].update(age_steps=1), "says to be 'joint_position' of 1 control steps ago"),
        (lambda i: i[0].update(of="joint_velocity"), "says to be 'joint_velocity' of 2"),
        (lambda i: i[0].update(name="joint_position@-3", age_steps=3), "group 'policy' is no history"),
        (lambda i: i[0].update(unit="deg"), "is no history"),
        (lambda i: swap(i, 0, 1), "is no history"),
        (lambda i: swap(i, 2, 3), "is no history"),
        (lambda i: i.pop(), "is no history"),
        (lambda i: [i.pop() for _ in range(3)], "is no history.*shows joint_position@-2, joint_velocity@-2"),
    ],
)
def test_broken_history_is_one_line(edit: Edit, message: str, tmp_path: Path) -> None:
    data = json.loads(of_crane(tmp_path).to_json())
    edit(data["inputs"])
    start = 0
    for term in data["inputs"]:
        term["start"], start = start, start + term["shape"][0]
    with pytest.raises(RobotrlError, match=message) as caught:
        Contract.from_json(json.dumps(data), "contract.json")
    assert "\n" not in str(caught.value)


def test_unknown_further_file_is_refused() -> None:
    text = json.dumps(json.loads(contract().to_json()) | {"files": {"../x": "00"}})
    with pytest.raises(RobotrlError, match=r"files: '../x' is none of policy.c, policy.h, policy.pt2"):
        Contract.from_json(text, "contract.json")
