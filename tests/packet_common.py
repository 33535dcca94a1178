"""What tests of packets and sessions share: a channel in memory, a server with a session, an exchange."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from runtime_common import layout, serve_until

from robotrl.deploy.runtime.machine import State
from robotrl.deploy.runtime.robots.client import PacketRobot
from robotrl.deploy.runtime.robots.packet import Codec, Kind
from robotrl.deploy.runtime.robots.robot import Command, Layout
from robotrl.deploy.runtime.robots.server import RobotServer

KEY = b"sixteen bytes or more"


class Pipe:
    """A channel whose packets a test puts in and takes out."""

    def __init__(self) -> None:
        self.inbox: list[tuple[bytes, Any]] = []
        self.outbox: list[bytes] = []
        self.peers: list[Any] = []

    def fileno(self) -> int:
        raise AssertionError

    def receive(self) -> tuple[bytes, Any] | None:
        return self.inbox.pop(0) if self.inbox else None

    def send(self, data: bytes, peer: Any) -> None:
        self.outbox.append(data)
        self.peers.append(peer)

    def close(self) -> None:
        pass


def session(key: bytes = KEY) -> tuple[Pipe, RobotServer, Codec, int]:
    """A server that has accepted a session, and its number."""
    pipe, codec = Pipe(), Codec(key)
    server = RobotServer(pipe, layout(), key)
    offered, answer = greet(pipe, server, codec, "us", "ours", 0)
    assert answer == {"nonce": "ours"} and server.commanded_s is None
    number, answer = greet(pipe, server, codec, "us", "ours", offered)
    assert number == offered and Layout.from_json(answer["layout"], "x") == layout()
    return pipe, server, codec, number


def greet(
    pipe: Pipe, server: RobotServer, codec: Codec, peer: str, nonce: str, number: int
) -> tuple[int, dict[str, str]]:
    """Say HELLO as a peer; return the session in the answer's header, and the answer, 0 and {} for none."""
    before = len(pipe.outbox)
    hello = json.dumps({"nonce": nonce}).encode()
    pipe.inbox.append((codec.encode(Kind.HELLO, number, 0, 0.0, hello), peer))
    assert server.poll() is None
    if len(pipe.outbox) == before:
        return 0, {}
    packet = codec.decode(pipe.outbox.pop())
    return packet.session, json.loads(packet.payload)


def command(number: int, value: float = 0.25, state: float = 4.0) -> bytes:
    rows = np.full((2, 5), value)
    return np.array([state]).tobytes() + rows.tobytes()


def connected(server: RobotServer, connect: Callable[[], PacketRobot]) -> PacketRobot:
    """Connect while the server answers."""
    made: list[PacketRobot] = []
    thread = threading.Thread(target=lambda: made.append(connect()))
    thread.start()
    serve_until(server, lambda: bool(made), 20.0)
    thread.join()
    return made[0]


def exchange(server: RobotServer, connect: Callable[[], PacketRobot]) -> None:
    """Connect, get readings and deliver a command."""
    robot = connected(server, connect)
    assert robot.layout == layout()
    rows = np.arange(10.0).reshape(2, 5)
    robot.send(Command(rows, int(State.HOLD)))
    got: list[Any] = []
    values = np.arange(7.0)
    deadline_s = time.monotonic() + 10.0
    reading = None
    while not got or reading is None:
        assert time.monotonic() < deadline_s
        arrived = server.poll()
        got += [] if arrived is None else [arrived]
        server.publish(values, np.full(3, time.monotonic()))
        time.sleep(0.002)
        reading = robot.read() or reading
    np.testing.assert_array_equal(got[0].rows, rows)
    assert got[0].state == State.HOLD
    np.testing.assert_array_equal(reading.values, values)
    assert np.all(np.abs(time.monotonic() - reading.times_s) < 5.0)
    robot.close()
