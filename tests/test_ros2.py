"""ROS 2: messages to signals, commands to messages, the bridge over a real socket, the generated package."""

from __future__ import annotations

import ast
import dataclasses
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import threading
import time
import tomllib
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mujoco
import numpy as np
import pytest
import runtime_common
import yaml
from bundles import KINDS, TASK, make_policy

import robotrl.deploy.ros2.bridge
import robotrl.deploy.runtime.robots.server
from robotrl.cli import main
from robotrl.core.errors import RobotrlError, UsageError
from robotrl.deploy.contract import Contract
from robotrl.deploy.robot_contract import Drive, Joint, Robot
from robotrl.deploy.ros2.bridge import Bridge
from robotrl.deploy.ros2.conversion import Commands, Interface, Readings, layout_of, measured_s
from robotrl.deploy.runtime.binding import bind
from robotrl.deploy.runtime.robots.client import PacketRobot
from robotrl.deploy.runtime.robots.robot import Command, Layout, Signal
from robotrl.deploy.runtime.robots.udp import UdpChannel
from robotrl.export.bundle import export_policy
from robotrl.export.ros2.package import write_ros2_package

rosbags = pytest.importorskip("rosbags.typesys")
STORE = rosbags.get_typestore(rosbags.Stores.ROS2_JAZZY)
LAYOUT = Layout(
    "arm",
    (
        Signal("joint_position", "rad", ("a", "b")),
        Signal("joint_velocity", "rad/s", ("a", "b")),
        Signal("projected_gravity", "1", ("x", "y", "z")),
        Signal("angular_velocity", "rad/s", ("x", "y", "z")),
        Signal("velocity_command", "m/s", ("x", "y", "yaw")),
        Signal("ball", "m", ("x", "z")),
    ),
    ("a", "b"),
)
BODY = Robot(
    "arm",
    (Joint("a", "rad", -1.0, 1.0, 0.0), Joint("b", "rad", None, None, 0.5)),
    (Drive("a", "position", "a", 20.0, 1.0, 5.0, None), Drive("b", "position", "b", 10.0, 2.0, 5.0, None)),
    (0.0, 0.0),
    (0.0, 0.0),
)  # fmt: skip


def message(kind: str, **fields: Any) -> Any:
    """A message as it comes over the wire: written as CDR and read back."""
    made = STORE.types[kind](**fields)
    return STORE.deserialize_cdr(STORE.serialize_cdr(made, kind), kind)


def header() -> Any:
    stamp = STORE.types["builtin_interfaces/msg/Time"](sec=3, nanosec=5)
    return STORE.types["std_msgs/msg/Header"](stamp=stamp, frame_id="base")


def joint_state(names: list[str], position: list[float], velocity: list[float]) -> Any:
    columns = {
        name: np.array(x) for name, x in (("position", position), ("velocity", velocity), ("effort", []))
    }
    return message("sensor_msgs/msg/JointState", header=header(), name=names, **columns)


def vector(x: float, y: float, z: float) -> Any:
    return STORE.types["geometry_msgs/msg/Vector3"](x=x, y=y, z=z)


def imu(quat: np.ndarray) -> Any:
    w, x, y, z = map(float, quat)
    return message(
        "sensor_msgs/msg/Imu",
        header=header(),
        orientation=STORE.types["geometry_msgs/msg/Quaternion"](x=x, y=y, z=z, w=w),
        orientation_covariance=np.zeros(9),
        angular_velocity=vector(0.1, 0.2, 0.3),
        angular_velocity_covariance=np.zeros(9),
        linear_acceleration=vector(0.0, 0.0, 9.8),
        linear_acceleration_covariance=np.zeros(9),
    )


def array(*numbers: float) -> Any:
    layout = STORE.types["std_msgs/msg/MultiArrayLayout"](dim=[], data_offset=0)
    return message("std_msgs/msg/Float64MultiArray", layout=layout, data=np.array(numbers))


def test_joints_are_found_by_name() -> None:
    readings = Readings(LAYOUT)
    readings.joint_state(joint_state(["gripper", "b", "a"], [9.0, 2.0, 1.0], [90.0, 20.0, 10.0]), 4.0)
    assert readings.values[:4].tolist() == [1.0, 2.0, 10.0, 20.0]
    assert readings.times_s[:2].tolist() == [4.0, 4.0]
    assert not readings.complete and np.isnan(readings.values[4:]).all()


def test_gravity_and_rates_in_the_body_frame() -> None:
    rng = np.random.default_rng(0)
    readings = Readings(LAYOUT)
    for _ in range(50):
        quat = rng.normal(size=4)
        quat /= np.linalg.norm(quat)
        readings.imu(imu(quat), 1.0)
        rotation = np.zeros(9)
        mujoco.mju_quat2Mat(rotation, quat)
        expected = rotation.reshape(3, 3).T @ [0.0, 0.0, -1.0]
        np.testing.assert_allclose(readings.values[4:7], expected, atol=1e-12)
    assert readings.values[7:10].tolist() == [0.1, 0.2, 0.3]


def test_the_rest_comes_from_a_twist_and_topics_of_its_name() -> None:
    readings = Readings(LAYOUT)
    assert readings.topics == ("ball",)
    readings.twist(message("geometry_msgs/msg/Twist", linear=vector(1, 2, 3), angular=vector(4, 5, 6)), 2.0)
    readings.array("ball", array(7.0, 8.0), 3.0)
    assert readings.values[10:].tolist() == [1.0, 2.0, 6.0, 7.0, 8.0]
    readings.joint_state(joint_state(["a", "b"], [0.0, 0.0], [0.0, 0.0]), 4.0)
    readings.imu(imu(np.array([1.0, 0.0, 0.0, 0.0])), 5.0)
    assert readings.complete and readings.times_s.tolist() == [4.0, 4.0, 5.0, 5.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("take", "told"),
    [
        (
            lambda r: r.joint_state(joint_state(["a"], [0.0], [0.0]), 0.0),
            r"JointState.position has no 'b'; it has a",
        ),
        (lambda r: r.joint_state(joint_state(["a", "a"], [0, 0], [0, 0]), 0.0), "names joint 'a' twice"),
        (
            lambda r: r.joint_state(joint_state(["a", "b"], [0, 0], []), 0.0),
            "velocity has 0 numbers for 2 joints",
        ),
        (lambda r: r.imu(imu(np.zeros(4)), 0.0), "no unit quaternion"),
        (lambda r: r.imu(imu(np.full(4, np.nan)), 0.0), "no unit quaternion"),
        (lambda r: r.array("ball", array(1.0), 0.0), "has 1 numbers, needs x, z"),
    ],
)
def test_what_does_not_fit_is_one_line(take, told: str) -> None:
    readings = Readings(LAYOUT)
    with pytest.raises(RobotrlError, match=told):
        take(readings)
    assert not np.isfinite(readings.times_s[1])


def test_commands_by_hand() -> None:
    rows = np.array([[0.5, 0.1, 0.2, 20.0, 1.0], [-1.0, 0.0, 0.0, 10.0, 2.0]])
    damping = np.array([[0.0, 0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0, 2.0]])
    q, qd = np.array([0.3, 0.0]), np.array([1.0, -2.0])
    position = Commands(BODY, Interface.POSITION)
    assert position.message(rows, False, q, qd) == [0.5, -1.0]
    assert position.message(damping, True, q, qd) == [0.3, 0.0]
    assert position.message(damping, True, q + 1, qd) == [0.3, 0.0], "holds where damping began"
    assert Commands(BODY, Interface.IMPEDANCE).message(rows, False, q, qd) == rows.reshape(-1).tolist()
    effort = Commands(BODY, Interface.EFFORT)
    # 20 (0.5 - 0.3) + 1 (0.1 - 1) + 0.2 and 10 (-1 - 0) + 2 (0 + 2)
    assert effort.message(rows, False, q, qd) == pytest.approx([3.3, -6.0])
    assert effort.message(damping, True, q, qd) == pytest.approx([-1.0, 4.0])
    # without a joint's reading: nothing to hold, and no effort of the drive that needs it
    unknown = np.array([np.nan, 0.0])
    assert Commands(BODY, Interface.POSITION).message(damping, True, unknown, qd) is None
    assert effort.message(damping, True, q, unknown) == [0.0, 0.0]
    assert effort.message(rows, False, unknown, qd) == pytest.approx([0.0, -6.0])
    with pytest.raises(UsageError, match="interface=velocity cannot command 'a', whose mode is position"):
        Commands(BODY, Interface.VELOCITY)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    policy = make_policy(KINDS["deterministic"], TASK)
    out = tmp_path_factory.mktemp("ros2") / "bundle"
    return export_policy(
        policy, TASK, out, provenance={"task_name": "walker_walk"}, allow_simulation_only=True
    )


def test_gravity_is_published_where_the_policy_takes_anything_of_an_imu() -> None:
    made = runtime_common.contract()
    assert made.robot is not None
    joints = made.inputs[:2]
    without = layout_of(dataclasses.replace(made, inputs=joints), made.robot)
    assert "projected_gravity" not in without.columns
    for name, elements in (("angular_velocity", ("z",)), ("projected_gravity", ("x", "y"))):
        inputs = (*joints, runtime_common.term(name, 4, "1", elements))
        taken = dataclasses.replace(made, inputs=inputs)
        found = layout_of(taken, made.robot)
        (gravity,) = (signal for signal in found.signals if signal.name == "projected_gravity")
        assert gravity.elements == ("x", "y", "z")
        assert bind(taken, made.robot, found).gravity is not None


def test_a_stamp_ahead_of_the_clock_gives_a_time_ahead_of_now() -> None:
    """3.000000005 s is the stamp of every message here."""
    state = joint_state(["a"], [0.0], [0.0])
    assert measured_s(state, 3.5, 100.0) == pytest.approx(99.5)
    assert measured_s(state, 2.9, 100.0) == pytest.approx(100.1)
    assert measured_s(array(1.0), 3.5, 100.0) == 100.0
    stamp = STORE.types["builtin_interfaces/msg/Time"](sec=0, nanosec=0)
    state.header.stamp = stamp
    assert measured_s(state, 3.5, 100.0) == 100.0


@pytest.mark.parametrize("interface", [Interface.EFFORT, Interface.POSITION])
def test_damping_before_the_first_joint_state_publishes_nothing(bundle: Path, interface: Interface) -> None:
    contract = Contract.from_json((bundle / "contract.json").read_text(), "bundle")
    assert contract.robot is not None
    drives = tuple(dataclasses.replace(one, mode="position", kp=1.0) for one in contract.robot.drives)
    contract = dataclasses.replace(contract, robot=dataclasses.replace(contract.robot, drives=drives))
    channel = UdpChannel("127.0.0.1", 0, listen=True, key=b"")
    published: list[list[float]] = []
    bridge = Bridge(contract, interface, channel, published.append, silence_s=0.05, damping_kd=3.0)
    robot = connect(bridge, channel.port)
    robot.send(Command(np.zeros((len(drives), 5)), 5))
    wait(lambda: bridge.poll() or bridge._command is not None)
    time.sleep(0.1)
    bridge.poll()
    robot.close()
    bridge.close()
    assert published == []


def test_bridge_serves_the_runtime_and_damps_when_it_falls_silent(bundle: Path, monkeypatch) -> None:
    now_s = time.monotonic()
    # silence by the test's clock: no machine is too busy for it
    clock = SimpleNamespace(monotonic=lambda: now_s)
    for module in (robotrl.deploy.ros2.bridge, robotrl.deploy.runtime.robots.server):
        monkeypatch.setattr(module, "time", clock)
    contract = Contract.from_json((bundle / "contract.json").read_text(), "bundle")
    body = contract.robot
    assert body is not None
    channel = UdpChannel("127.0.0.1", 0, listen=True, key=b"")
    published: list[list[float]] = []
    bridge = Bridge(contract, Interface.EFFORT, channel, published.append, silence_s=0.2, damping_kd=3.0)
    names = [joint.name for joint in body.joints]
    try:
        robot = connect(bridge, channel.port)
        assert robot.layout == layout_of(contract, body)
        for topic in bridge.readings.topics:
            size = len(bridge.readings.values[robot.layout.columns[topic]])
            bridge.readings.array(topic, array(*[0.5] * size), now_s)
        state = joint_state(names[::-1], list(map(float, range(len(names)))), [0.1] * len(names))
        bridge.joint_state(state, now_s)
        reading = wait(robot.read)
        assert (
            reading.values[robot.layout.columns["joint_position"]].tolist() == list(range(len(names)))[::-1]
        )
        rows = np.zeros((len(body.drives), 5))
        rows[:, 2] = np.arange(len(body.drives))
        efforts, damping, nothing = rows[:, 2].tolist(), [-0.1 * 3.0] * len(rows), [0.0] * len(rows)
        robot.send(Command(rows, 4))
        wait(lambda: bridge.poll() or published)
        assert published[-1] == efforts
        for wait_s, expected in ((0.19, efforts), (0.02, damping), (0.19, damping)):
            now_s += wait_s
            bridge.joint_state(state, now_s)
            bridge.poll()
            assert published[-1] == pytest.approx(expected)
        # the joints say nothing any more: no effort by what they said last
        for wait_s, expected in ((0.19, damping), (0.02, nothing)):
            now_s += wait_s
            bridge.poll()
            assert published[-1] == pytest.approx(expected)
        robot.close()
    finally:
        bridge.close()


def connect(bridge: Bridge, port: int) -> PacketRobot:
    """Connect while the bridge answers."""

    done = threading.Event()
    server = threading.Thread(
        target=lambda: [bridge.poll() or time.sleep(1e-3) for _ in iter(done.is_set, True)]
    )
    server.start()
    try:
        return PacketRobot(UdpChannel("127.0.0.1", port, listen=False, key=b""), "test", timeout_s=5.0)
    finally:
        done.set()
        server.join()


def wait(what: Any) -> Any:
    """Ask until there is something."""
    until_s = time.monotonic() + 5.0
    while not (found := what()):
        assert time.monotonic() < until_s
        time.sleep(1e-3)
    return found


def test_package_is_whole(bundle: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "walker_policy"
    assert main(["ros2", str(bundle), "--out", str(out)]) == 0
    assert "params.yaml" in capsys.readouterr().out
    assert json.loads((out / "bundle" / "contract.json").read_text())["schema"].startswith("robotrl.bundle")
    tree = ElementTree.parse(out / "package.xml").getroot()
    assert tree.findtext("name") == "walker_policy" and tree.findtext("export/build_type") == "ament_python"
    for file in out.rglob("*.py"):
        compile(file.read_text(), str(file), "exec")
    params = yaml.safe_load((out / "config" / "params.yaml").read_text())["/**"]["ros__parameters"]
    assert params["interface"] in {one.value for one in Interface}
    assert declared() - {"bundle", "velocity_command_topic"} <= set(params)
    topics = {name.removesuffix("_topic") for name in params if name.endswith("_topic")} - {
        "command", "joint_states", "imu", "velocity_command",
    }  # fmt: skip
    contract = Contract.from_json((out / "bundle" / "contract.json").read_text(), "bundle")
    assert contract.robot is not None
    assert topics == set(Readings(layout_of(contract, contract.robot)).topics)
    # setuptools takes it, with every file where ROS 2 looks for it
    built = tmp_path / "built"
    command = [sys.executable, "setup.py", "-q", "install_data", f"--install-dir={built}"]
    subprocess.run(command, cwd=out, check=True, capture_output=True)
    share = built / "share" / "walker_policy"
    assert (share / "bundle" / "policy.onnx").read_bytes() == (bundle / "policy.onnx").read_bytes()
    assert (share / "launch" / "robot.launch.py").is_file() and (share / "config" / "params.yaml").is_file()


def test_deploy_runs_on_what_the_readme_installs(bundle: Path, tmp_path: Path) -> None:
    """Everything else that robotrl depends on cannot be imported there, as after `pip install --no-deps`."""
    out = write_ros2_package(bundle, tmp_path / "walker_policy")
    installed = re.search(r"pip install (.*) && pip install --no-deps", (out / "README.md").read_text())
    assert installed is not None
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["deploy"]]
    missing = {canonical(re.split(r"[>=\[]", line)[0]) for line in wanted}
    missing -= {canonical(name) for name in installed[1].split()}
    modules = [
        module
        for module, owners in importlib.metadata.packages_distributions().items()
        if {canonical(owner) for owner in owners} & missing
    ]
    assert {"torch", "mujoco"} <= set(modules) and "numpy" not in modules
    (tmp_path / "sitecustomize.py").write_text(
        f"import sys\nsys.modules.update(dict.fromkeys({modules!r}))\n"
    )
    contract = Contract.from_json((bundle / "contract.json").read_text(), "bundle")
    assert contract.robot is not None
    made = layout_of(contract, contract.robot)
    server, address = runtime_common.udp_server(made=made)
    process = subprocess.Popen(
        [sys.executable, "-m", "robotrl", "deploy", str(out / "bundle"), "--robot", address],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
    )
    while process.poll() is None:
        server.poll()
        server.publish(np.zeros(made.width), np.full(len(made.signals), time.monotonic()))
        time.sleep(2e-3)
    server.close()
    told, _ = process.communicate()
    assert process.returncode == 0 and "under the policy" in told, told


def canonical(name: str) -> str:
    return name.strip().lower().replace("_", "-")


def declared() -> set[str]:
    """Names of the parameters that the node declares as literals."""
    source = (Path(robotrl.deploy.ros2.__file__).parent / "node.py").read_text()
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    found = set()
    for call in calls:
        name = getattr(call.func, "attr", "")
        place = {"_parameter": 0, "_listen": 1}.get(name)
        if place is not None and isinstance(call.args[place], ast.Constant):
            found.add(call.args[place].value)
    return found


def test_bad_names_and_places_are_refused(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no ROS 2 package name"):
        write_ros2_package(bundle, tmp_path / "Walker-Policy")
    (tmp_path / "there").mkdir()
    with pytest.raises(UsageError, match="nothing is overwritten"):
        write_ros2_package(bundle, tmp_path / "there")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["there"]
