"""A two-joint arm for the tests of the runtime: its contract, and a robot in memory."""

from __future__ import annotations

import dataclasses
import select
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from test_deploy import contract as hand_contract

from robotrl.deploy.contract import Contract, InputTerm, OutputTerm
from robotrl.deploy.controller import BundleController
from robotrl.deploy.robot_contract import Drive, Joint, Robot
from robotrl.deploy.runtime.chunks import Execution
from robotrl.deploy.runtime.limits import Limits
from robotrl.deploy.runtime.rate import Rate, Tick
from robotrl.deploy.runtime.robots.robot import KD, KP, POSITION, VELOCITY, Command, Layout, Reading, Signal
from robotrl.deploy.runtime.robots.server import RobotServer
from robotrl.deploy.runtime.robots.udp import UdpChannel
from robotrl.deploy.runtime.runtime import Runtime

DT_S = 0.02
JOINTS = ("shoulder", "elbow")
DEFAULT = (0.3, -0.4)
KP_, KD_, EFFORT = 20.0, 1.0, 8.0
AXES = ("x", "y", "z")


def term(name: str, start: int, unit: str, elements: tuple[str, ...], age: int = 0) -> InputTerm:
    shown = f"{name}@-{age}" if age else name
    size = max(1, len(elements))
    return InputTerm("policy", shown, unit, (size,), None, None, elements, "sensor", 1.0, start, name, age)


def contract(**changes: object) -> Contract:
    """A policy that sees joint positions and velocities and the projected gravity: 7 numbers."""
    joints = tuple(
        Joint(name, "rad", -1.5, 1.5, default) for name, default in zip(JOINTS, DEFAULT, strict=True)
    )
    drives = tuple(Drive(f"{n}_servo", "position", n, KP_, KD_, EFFORT, None, 1.0) for n in JOINTS)
    made = dataclasses.replace(
        hand_contract(),
        inputs=(
            term("joint_position", 0, "rad", JOINTS),
            term("joint_velocity", 2, "rad/s", JOINTS),
            term("projected_gravity", 4, "1", AXES),
        ),
        outputs=tuple(OutputTerm(f"{n}_servo", "rad", -1.5, 1.5, 1.5, 0.0) for n in JOINTS),
        robot=Robot("arm", joints, drives, (0.0, 0.02), (0.0, 0.02)),
    )
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


def layout(order: Sequence[int] = (0, 1), **changes: object) -> Layout:
    """The arm's own description, its joints and drives in any order."""
    names = tuple(JOINTS[i] for i in order)
    signals = (
        Signal("joint_position", "rad", names),
        Signal("joint_velocity", "rad/s", names),
        Signal("projected_gravity", "1", AXES),
    )
    made = Layout("arm", signals, tuple(f"{name}_servo" for name in names), DT_S)
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


class Arm:
    """A robot in memory: two joints of inertia 0.1 kg m^2, stepped by `pass_time`, on a clock of its own.

    `spoil` may change a reading on its way out.
    """

    def __init__(self, order: Sequence[int] = (0, 1), **changes: object) -> None:
        self.layout = layout(order, **changes)
        self._order = list(order)
        self.q, self.qd = np.array([-0.5, 0.6]), np.zeros(2)
        self.now_s = 100.0
        self.age_s = 0.001
        self.sent: list[Command] = []
        self.damping: np.ndarray | None = None
        self.alive = True
        self.resets = 0
        self.left = False
        self.tripped = False
        self.silent = False
        self.spoil: Callable[[np.ndarray], None] = lambda values: None

    def fileno(self) -> int:
        raise AssertionError("nobody waits for a robot in memory")

    def read(self) -> Reading | None:
        if self.silent:
            return None
        values = np.concatenate([self.q[self._order], self.qd[self._order], [0.0, 0.0, -1.0]])
        self.spoil(values)
        times_s = np.full(len(self.layout.signals), self.now_s - self.age_s)
        return Reading(values, times_s, self.tripped)

    def send(self, command: Command) -> None:
        self.sent.append(command)

    def set_damping(self, rows: np.ndarray) -> None:
        self.damping = rows

    def reset(self) -> None:
        self.resets += 1

    def leave(self) -> None:
        self.left = True

    def close(self) -> None:
        pass

    @property
    def last(self) -> np.ndarray:
        """The last command's rows in the order of JOINTS."""
        return self.sent[-1].rows[np.argsort(self._order)]

    def pass_time(self, dt_s: float) -> None:
        """Move for one control step as commanded."""
        self.now_s += dt_s
        if not self.sent:
            return
        for _ in range(20):
            rows = self.last
            force = rows[:, KP] * (rows[:, POSITION] - self.q) + rows[:, KD] * (rows[:, VELOCITY] - self.qd)
            self.qd = self.qd + force / 0.1 * dt_s / 20
            self.q = self.q + self.qd * dt_s / 20


class Network:
    """Decides by a function of the observation (D,) -> (h, A)."""

    def __init__(self, decide: Callable[[np.ndarray], np.ndarray], made: Contract) -> None:
        self._decide, self.contract = decide, made

    def __call__(self, observation: np.ndarray, noise: np.ndarray | None = None) -> np.ndarray:
        return self._decide(observation).reshape(-1)


class Bench:
    """A runtime on the arm, stepped by hand on a clock that tests set.

    `decide` maps an observation (7,) to decisions (1, 2); NaN and all.
    """

    def __init__(
        self,
        folder: Path,
        decide: Callable[[np.ndarray], np.ndarray] = lambda obs: np.array([[0.5, 0.2]]),
        arm: Arm | None = None,
        limits: Limits | None = None,
        made: Contract | None = None,
        execution: Execution | None = None,
        **options: Any,
    ) -> None:
        self.arm = arm or Arm()
        self.rate = Rate(DT_S, clock=lambda: self.arm.now_s, sleep=self.arm.pass_time)
        made = made or contract()
        ends = np.tile(np.array([[-2.0], [2.0]]), (1, made.input_size)).astype(np.float32)
        self.runtime = Runtime(
            made,
            {"observation": ends},
            execution or BundleController(Network(decide, made)),
            options.pop("self_test", lambda: None),
            self.arm,
            limits or Limits(),
            self.rate,
            options.pop("log", None),
            folder / "dump.mcap",
        )
        self.machine = self.runtime.machine

    def step(self, count: int = 1, *words: str) -> None:
        """Do control steps, before the first of which a person says `words`."""
        said = list(words)

        class Person:
            def poll(self, state: object) -> list[str]:
                taken, said[:] = list(said), []
                return taken

            def answer(self, text: str) -> None:
                pass

        for _ in range(count):
            tick: Tick = self.rate.wait()
            self.runtime._listen(Person(), tick.time_s)
            self.runtime.cycle(tick)

    def to_hold(self) -> None:
        self.step(2)
        self.step(1, "arm")
        self.step(round(2.0 / DT_S) + 1)

    def to_policy(self) -> None:
        self.to_hold()
        self.step(1, "go")


def udp_server(key: bytes = b"", made: Layout | None = None) -> tuple[RobotServer, str]:
    """A robot's end on loopback, and its address."""
    channel = UdpChannel("127.0.0.1", 0, listen=True, key=key)
    return RobotServer(channel, made or layout(), key), f"udp://127.0.0.1:{channel.port}"


def serve_until(
    server: RobotServer, done: Callable[[], bool], timeout_s: float, values: np.ndarray | None = None
) -> list[tuple[float, Command]]:
    """Publish a reading every 2 ms and return the commands that came with their times, until `done`."""
    got: list[tuple[float, Command]] = []
    values = np.array([*DEFAULT, 0.0, 0.0, 0.0, 0.0, -1.0]) if values is None else values
    deadline_s = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline_s, "timed out"
        select.select([server], [], [], 0.002)
        command = server.poll()
        now_s = time.monotonic()
        if command is not None:
            got.append((now_s, command))
        server.publish(values, np.full(3, now_s))
    return got


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
        end.bind(("127.0.0.1", 0))
        return int(end.getsockname()[1])
