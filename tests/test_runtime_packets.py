"""The packets between runtime and robot: over UDP and a serial line, damaged, forged and nonsense."""

from __future__ import annotations

import contextlib
import math
import os
import pty
import threading
import tty
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packet_common import KEY, Pipe, command, connected, exchange, session
from runtime_common import layout, serve_until, udp_server

from robotrl.core.errors import RobotrlError, UsageError
from robotrl.deploy.runtime.robots.client import open_robot
from robotrl.deploy.runtime.robots.packet import BadPacketError, Codec, Kind, Sequence
from robotrl.deploy.runtime.robots.serial import SerialChannel, cobs, uncobs
from robotrl.deploy.runtime.robots.server import RobotServer
from robotrl.deploy.runtime.robots.udp import UdpChannel


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


@pytest.mark.parametrize(
    ("rows", "state", "reason"),
    [
        (math.nan, 4.0, "a command that is not finite"),
        (math.inf, 4.0, "a command that is not finite"),
        (0.25, 9.0, "a command of no state"),
        (0.25, 4.5, "a command of no state"),
        (0.25, -1.0, "a command of no state"),
        (0.25, 1e300, "a command of no state"),
    ],
)
def test_a_command_that_says_nothing_is_refused_by_the_robot(rows: float, state: float, reason: str) -> None:
    pipe, server, codec, number = session()
    payload = command(1, rows, state)
    pipe.inbox.append((codec.encode(Kind.COMMAND, number, 1, 0.0, payload), "us"))
    assert server.poll() is None and server.refused == {reason: 1}


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
        kind = Kind(int(rng.integers(1, len(Kind) + 1)))
        payload = mutated(rng, command(1) if kind is Kind.COMMAND else b'{"nonce": "y"}')
        pipe.inbox.append((codec.encode(kind, number, i + 1, float("nan"), payload), "us"))
        got = server.poll()
        assert got is None or (got.rows.shape == (2, 5) and np.isfinite(got.rows).all())


def test_ten_thousand_mutated_readings_leave_the_runtime_standing() -> None:
    """The runtime's end: answers and readings, damaged, and well signed with nonsense inside."""
    rng = np.random.default_rng(2)
    server, address = udp_server(KEY)
    robot = connected(server, lambda: open_robot(address, KEY))
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
