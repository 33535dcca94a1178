"""The packets between runtime and robot: over UDP and a serial line, damaged, forged and replayed."""

from __future__ import annotations

import contextlib
import json
import math
import os
import pty
import threading
import time
import tty
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runtime_common import layout, serve_until, udp_server

from robotrl.core.errors import RobotrlError, UsageError
from robotrl.deploy.runtime.machine import State
from robotrl.deploy.runtime.operator import RemoteOperator, say
from robotrl.deploy.runtime.robots.client import PacketRobot, open_robot
from robotrl.deploy.runtime.robots.packet import BadPacketError, Codec, Kind, Sequence
from robotrl.deploy.runtime.robots.robot import Command, Layout
from robotrl.deploy.runtime.robots.serial import SerialChannel, cobs, uncobs
from robotrl.deploy.runtime.robots.server import RobotServer
from robotrl.deploy.runtime.robots.udp import UdpChannel

KEY = b"sixteen bytes or more"


class Pipe:
    """A channel whose packets a test puts in and takes out."""

    def __init__(self) -> None:
        self.inbox: list[tuple[bytes, Any]] = []
        self.outbox: list[bytes] = []

    def fileno(self) -> int:
        raise AssertionError

    def receive(self) -> tuple[bytes, Any] | None:
        return self.inbox.pop(0) if self.inbox else None

    def send(self, data: bytes, peer: Any) -> None:
        self.outbox.append(data)

    def close(self) -> None:
        pass


def session(key: bytes = KEY) -> tuple[Pipe, RobotServer, Codec, int]:
    """A server that has accepted a session, and its number."""
    pipe, codec = Pipe(), Codec(key)
    server = RobotServer(pipe, layout(), key)
    hello = json.dumps({"nonce": "ours"}).encode()
    pipe.inbox.append((codec.encode(Kind.HELLO, 0, 0, 0.0, hello), "us"))
    assert server.poll() is None
    answer = codec.decode(pipe.outbox.pop())
    assert Layout.from_json(json.loads(answer.payload)["layout"], "x") == layout()
    return pipe, server, codec, answer.session


def command(number: int, value: float = 0.25) -> bytes:
    rows = np.full((2, 5), value)
    return np.array([4.0]).tobytes() + rows.tobytes()


def test_a_packet_comes_back() -> None:
    codec = Codec(KEY)
    packet = codec.decode(codec.encode(Kind.READING, 2**63 - 1, 7, 1.25, b"abc"))
    assert packet.kind is Kind.READING and packet.payload == b"abc"
    assert (packet.session, packet.sequence, packet.time_s) == (2**63 - 1, 7, 1.25)


def test_only_who_has_the_key_is_heard() -> None:
    data = Codec(KEY).encode(Kind.COMMAND, 1, 1, 0.0, b"")
    for key in (b"", b"another key, 16 bytes"):
        with pytest.raises(BadPacketError, match="HMAC"):
            Codec(key).decode(data)


def test_a_sequence_lets_each_packet_pass_once_and_in_order() -> None:
    order, codec = Sequence(9), Codec(KEY)
    packets = {number: codec.decode(codec.encode(Kind.COMMAND, 9, number, 0.0, b"")) for number in (1, 2, 5)}
    order.check(packets[1])
    order.check(packets[5])
    for late in (5, 2, 1):
        with pytest.raises(BadPacketError, match="replayed or late"):
            order.check(packets[late])
    with pytest.raises(BadPacketError, match="another session"):
        Sequence(8).check(packets[1])


def test_replays_and_other_sessions_never_reach_the_robot() -> None:
    pipe, server, codec, number = session()
    first = codec.encode(Kind.COMMAND, number, 1, 0.0, command(1))
    pipe.inbox.append((first, "us"))
    got = server.poll()
    assert got is not None and got.state == 4 and np.all(got.rows == 0.25)
    pipe.inbox += [
        (first, "us"),
        (first, "somebody"),
        (codec.encode(Kind.COMMAND, 5, 2, 0.0, command(2)), "us"),
    ]
    assert server.poll() is None
    assert server.refused == {"replayed or late": 2, "of another session": 1}


def test_nobody_takes_over_a_session_that_lives() -> None:
    pipe, server, codec, number = session()
    hello = json.dumps({"nonce": "theirs"}).encode()
    pipe.inbox.append((codec.encode(Kind.HELLO, 0, 0, 0.0, hello), "them"))
    server.poll()
    assert "refused" in json.loads(codec.decode(pipe.outbox.pop()).payload)
    pipe.inbox.append((codec.encode(Kind.COMMAND, number, 1, 0.0, command(1)), "us"))
    assert server.poll() is not None
    # our own greeting, recorded and sent from elsewhere, does not turn the readings away from us
    ours = json.dumps({"nonce": "ours"}).encode()
    pipe.inbox.append((codec.encode(Kind.HELLO, 0, 0, 0.0, ours), "them"))
    server.poll()
    assert "refused" in json.loads(codec.decode(pipe.outbox.pop()).payload)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_command_that_is_not_finite_is_refused_by_the_robot(bad: float) -> None:
    pipe, server, codec, number = session()
    pipe.inbox.append((codec.encode(Kind.COMMAND, number, 1, 0.0, command(1, bad)), "us"))
    assert server.poll() is None and server.refused == {"a command that is not finite": 1}


def mutated(rng: np.random.Generator, data: bytes) -> bytes:
    """Cut, extend, flip or overwrite bytes."""
    out = bytearray(data)
    kind = rng.integers(5)
    if kind == 0:
        return bytes(out[: rng.integers(len(out))])
    if kind == 1:
        return bytes(out + rng.bytes(int(rng.integers(1, 40))))
    if kind == 2:
        return rng.bytes(int(rng.integers(200)))
    for _ in range(int(rng.integers(1, 6))):
        place = int(rng.integers(len(out)))
        out[place] = int(rng.integers(256)) if kind == 3 else out[place] ^ (1 << int(rng.integers(8)))
    return bytes(out)


def test_ten_thousand_mutated_packets_move_nothing() -> None:
    rng = np.random.default_rng(0)
    pipe, server, codec, number = session()
    good = [codec.encode(Kind.COMMAND, number, i + 1, 0.0, command(i)) for i in range(50)] + [
        codec.encode(Kind.HELLO, 0, 0, 0.0, b'{"nonce": "x"}')
    ]
    for _ in range(10_000):
        whole = good[int(rng.integers(len(good)))]
        data = mutated(rng, whole)
        if data != whole:
            pipe.inbox.append((data, "them"))
    assert server.poll() is None and server.commanded_s is None
    assert sum(server.refused.values()) > 9_900
    pipe.inbox.append((good[0], "us"))  # and it is still there
    assert server.poll() is not None


def test_mutated_payloads_from_who_has_the_key_pass_whole_or_not_at_all() -> None:
    rng = np.random.default_rng(1)
    pipe, server, codec, number = session()
    for i in range(10_000):
        kind = Kind(int(rng.integers(1, 6)))
        payload = mutated(rng, command(1) if kind is Kind.COMMAND else b'{"nonce": "y"}')
        pipe.inbox.append((codec.encode(kind, number, i + 1, float("nan"), payload), "us"))
        got = server.poll()
        assert got is None or (got.rows.shape == (2, 5) and np.isfinite(got.rows).all())


def test_ten_thousand_mutated_readings_leave_the_runtime_standing() -> None:
    """The runtime's end: answers and readings, damaged, and well signed with nonsense inside."""
    rng = np.random.default_rng(2)
    server, address = udp_server(KEY)
    connected: list[PacketRobot] = []
    thread = threading.Thread(target=lambda: connected.append(open_robot(address, KEY)))
    thread.start()
    serve_until(server, lambda: bool(connected), 20.0)
    thread.join()
    robot = connected[0]
    robot._channel.close()
    robot._channel = pipe = Pipe()  # type: ignore[assignment]
    codec, number = Codec(KEY), robot._session
    good = codec.encode(Kind.READING, number, 10**6, 0.0, np.zeros(10).tobytes())
    last = robot._order._last
    for i in range(10_000):
        pipe.inbox.append((mutated(rng, good), None))
        payload = mutated(rng, np.zeros(10).tobytes())
        pipe.inbox.append(
            (codec.encode(Kind(int(rng.integers(2, 5))), number, last + i + 1, 0.0, payload), None)
        )
        reading = robot.read()
        assert reading is None or (reading.values.shape == (7,) and reading.times_s.shape == (3,))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=1200))
def test_cobs_has_no_zero_and_comes_back(data: bytes) -> None:
    frame = cobs(data)
    assert 0 not in frame and uncobs(frame) == data
    assert len(frame) <= len(data) + 1 + len(data) // 254


def exchange(server: RobotServer, connect: Callable[[], PacketRobot]) -> None:
    """Connect, get readings and deliver a command."""
    connected: list[PacketRobot] = []
    thread = threading.Thread(target=lambda: connected.append(connect()))
    thread.start()
    serve_until(server, lambda: bool(connected), 20.0)
    thread.join()
    robot = connected[0]
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


def test_a_robot_over_udp() -> None:
    server, address = udp_server(KEY)
    exchange(server, lambda: open_robot(address, KEY))
    server.close()


def test_a_robot_over_a_serial_line() -> None:
    ours, theirs = pty.openpty()
    tty.setraw(ours)
    tty.setraw(theirs)

    class Line:
        """The robot's end of the line."""

        def __init__(self) -> None:
            os.set_blocking(ours, False)
            self.pending = bytearray(b"noise before the first frame\x00")

        def fileno(self) -> int:
            return ours

        def receive(self) -> tuple[bytes, Any] | None:
            with contextlib.suppress(BlockingIOError):
                self.pending += os.read(ours, 4096)
            while (end := self.pending.find(0)) >= 0:
                data = uncobs(bytes(self.pending[:end]))
                del self.pending[: end + 1]
                if data is not None:
                    return data, None
            return None

        def send(self, data: bytes, peer: Any) -> None:
            with contextlib.suppress(BlockingIOError):
                os.write(ours, b"\x07garbage\x00" + cobs(data) + b"\0")

        def close(self) -> None:
            os.close(ours)

    server = RobotServer(Line(), layout())
    exchange(server, lambda: open_robot(f"serial:{os.ttyname(theirs)}@115200"))
    server.close()
    os.close(theirs)


def test_what_cannot_be_reached_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(RobotrlError, match=r"udp://127.0.0.1:9 does not answer within 0.3 s"):
        open_robot("udp://127.0.0.1:9", timeout_s=0.3)
    server, address = udp_server(KEY)
    failed: list[str] = []

    def connect() -> None:
        try:
            open_robot(address, b"another key, 16 bytes", 1.0)
        except RobotrlError as error:
            failed.append(str(error))

    thread = threading.Thread(target=connect)
    thread.start()
    serve_until(server, lambda: bool(failed), 10.0)
    assert "does not answer" in failed[0] and server.refused == {
        "not from who has the key": pytest.approx(5, abs=4)
    }
    with pytest.raises(RobotrlError, match="serial:/dev/nothing"):
        SerialChannel("/dev/nothing")
    for address in ("simulated", "udp://host", "udp://:4000", "udp://a:0", "serial:", "serial:/dev/x@fast"):
        with pytest.raises(UsageError, match="no robot at"):
            open_robot(address)


def test_beyond_loopback_a_key_is_needed() -> None:
    for host, listen in (("0.0.0.0", True), ("192.0.2.1", False)):
        with pytest.raises(UsageError, match="is not this machine: give a shared key"):
            UdpChannel(host, 4000, listen=listen, key=b"")
    UdpChannel("0.0.0.0", 0, listen=True, key=KEY).close()


def test_an_operator_elsewhere_needs_the_key_and_cannot_be_replayed() -> None:
    with pytest.raises(UsageError, match="needs a shared key"):
        RemoteOperator("127.0.0.1", 0, b"")
    operator = RemoteOperator("127.0.0.1", 0, KEY)
    words: list[str] = []
    over = threading.Event()

    def listen() -> None:
        while not over.is_set():
            for word in operator.poll(State.READY):
                words.append(word)
                operator.answer(f"did {word}")
            time.sleep(0.005)

    thread = threading.Thread(target=listen)
    thread.start()
    try:
        assert say("127.0.0.1", operator.port, KEY, "arm") == "did arm"
        with pytest.raises(RobotrlError, match="no runtime answers"):
            say("127.0.0.1", operator.port, b"another key, 16 bytes", "arm", 0.3)
        with pytest.raises(UsageError, match="is none of"):
            say("127.0.0.1", operator.port, KEY, "launch")
        codec = Codec(KEY)
        channel = UdpChannel("127.0.0.1", operator.port, listen=False, key=KEY)
        for nonce in ("", "0" * 16):  # a nonce that was not given, or not any more
            channel.send(codec.encode(Kind.OPERATOR, 0, 0, 0.0, f"{nonce} go".encode()), None)
        time.sleep(0.2)
        channel.close()
    finally:
        over.set()
        thread.join()
    assert words == ["arm"]
