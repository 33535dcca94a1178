"""The ROS 2 node: subscriptions, one publisher, and a `Bridge` between them and `robotrl deploy`.

Needs a ROS 2 installation (rclpy, sensor_msgs, geometry_msgs, std_msgs), which does not come from PyPI: this
file is the one part of the bridge that its makers could not run.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import rclpy
from geometry_msgs.msg import Twist
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Imu, JointState
from std_msgs.msg import Float64MultiArray

from robotrl.core.errors import RobotrlError
from robotrl.deploy.contract import CONTRACT_FILE, Contract
from robotrl.deploy.ros2.bridge import Bridge
from robotrl.deploy.ros2.conversion import TWIST, Interface, measured_s
from robotrl.deploy.runtime.robots.udp import UdpChannel

_POLL_S = 0.001


class RobotNode(Node):
    """Parameters: see the `config/params.yaml` of a generated package."""

    def __init__(self) -> None:
        super().__init__("robotrl_robot")
        folder = Path(self._parameter("bundle", ""))
        contract = Contract.from_json((folder / CONTRACT_FILE).read_text(encoding="utf-8"), str(folder))
        self._publisher = self.create_publisher(
            Float64MultiArray, self._parameter("command_topic", "~/command"), 1
        )
        self._bridge = Bridge(
            contract,
            Interface(self._parameter("interface", "impedance")),
            UdpChannel("127.0.0.1", self._parameter("port", 7447), listen=True, key=b""),
            lambda numbers: self._publisher.publish(Float64MultiArray(data=numbers)),
            self._parameter("silence_s", 0.1),
            self._parameter("damping_kd", 1.0),
        )
        readings, sensors = self._bridge.readings, qos_profile_sensor_data
        self._listen(JointState, "joint_states_topic", "/joint_states", sensors, self._bridge.joint_state)
        self._listen(Imu, "imu_topic", "/imu/data", sensors, readings.imu)
        if readings.has(TWIST):
            self._listen(Twist, "velocity_command_topic", "/cmd_vel", 1, readings.twist)
        for name in readings.topics:
            self._listen(Float64MultiArray, f"{name}_topic", f"~/{name}", 1, partial(readings.array, name))
        self.create_timer(_POLL_S, self._bridge.poll)

    def destroy_node(self) -> None:
        """Damp the robot, then go."""
        self._bridge.close()
        super().destroy_node()

    def _parameter(self, name: str, default: Any) -> Any:
        return self.declare_parameter(name, default).value

    def _listen(
        self, kind: type, parameter: str, default: str, quality: Any, take: Callable[[Any, float], None]
    ) -> None:
        def heard(message: Any) -> None:
            try:
                ros_now_s = self.get_clock().now().nanoseconds * 1e-9
                take(message, measured_s(message, ros_now_s, time.monotonic()))
            except RobotrlError as error:
                self.get_logger().error(str(error), throttle_duration_sec=1.0)

        self.create_subscription(kind, self._parameter(parameter, default), heard, quality)


def main() -> None:
    """Run the node until it is told to end."""
    rclpy.init()
    node = RobotNode()
    try:
        rclpy.spin(node)
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
