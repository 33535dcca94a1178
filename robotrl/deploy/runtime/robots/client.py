"""The runtime's end of a packet connection to a robot."""

from __future__ import annotations

import json
import math
import secrets
import select
import time
from typing import Any

import numpy as np

from robotrl.core.errors import RobotrlError, UsageError
from robotrl.deploy.runtime.machine import State
from robotrl.deploy.runtime.robots.channel import Channel
from robotrl.deploy.runtime.robots.clock_map import ClockMap
from robotrl.deploy.runtime.robots.packet import BadPacketError, Codec, Kind, Packet, Sequence
from robotrl.deploy.runtime.robots.robot import COMMAND_FIELDS, Command, Layout, Reading, check_rows

CONNECT_TIMEOUT_S = 10.0
_ASK_EVERY_S = 0.2
ALIVE_EVERY_S = 0.2
"""Whoever commands nothing says so often that it is there, s."""
_STATES = {int(state) for state in State}


class PacketRobot:
    """A robot at the other end of a channel. Whoever reads it keeps the session: see `read`.

    Args:
        channel: carries the packets.
        name: of the robot, in messages.
        key: shared with the robot.
        timeout_s: how long to wait for it, s.

    Raises:
        RobotrlError: nobody answers, or the robot refuses.
    """

    def __init__(
        self, channel: Channel, name: str, key: bytes = b"", timeout_s: float = CONNECT_TIMEOUT_S
    ) -> None:
        self._channel, self._name, self._codec = channel, name, Codec(key)
        self._clock = ClockMap()
        self._sent, self._sent_s = 0, -math.inf
        self.refused_packets = 0
        self.layout, self._session = self._connect(timeout_s)
        self._order = Sequence(self._session)
        self._num_signals = len(self.layout.signals)

    def _connect(self, timeout_s: float) -> tuple[Layout, int]:
        nonce = secrets.token_hex(16)
        deadline_s = time.monotonic() + timeout_s
        while (now_s := time.monotonic()) < deadline_s:
            self._greet(nonce, 0)
            until_s = min(deadline_s, now_s + _ASK_EVERY_S)
            while (left_s := until_s - time.monotonic()) > 0:
                select.select([self._channel], [], [], left_s)
                packet = self._next()
                if packet is None or packet.kind is not Kind.LAYOUT:
                    continue
                answer = _answer(packet)
                if answer.get("nonce") != nonce:
                    continue
                if "refused" in answer:
                    raise RobotrlError(f"{self._name} refuses: {answer['refused']}")
                if "layout" in answer:
                    return Layout.from_json(str(answer["layout"]), self._name), packet.session
                self._greet(nonce, packet.session)
        wrong = f" ({self.refused_packets} packets were refused: another key, or another version?)"
        raise RobotrlError(
            f"{self._name} does not answer within {timeout_s:g} s{wrong if self.refused_packets else ''}"
        )

    def _greet(self, nonce: str, session: int) -> None:
        hello = json.dumps({"nonce": nonce}).encode()
        self._channel.send(self._codec.encode(Kind.HELLO, session, 0, time.monotonic(), hello), None)

    def fileno(self) -> int:
        """Return what `select` waits on."""
        return self._channel.fileno()

    def read(self) -> Reading | None:
        """Return the newest reading since the last call; say that we are here when nothing else does."""
        if time.monotonic() - self._sent_s >= ALIVE_EVERY_S:
            self._send(Kind.ALIVE, b"")
        newest = None
        while (packet := self._next()) is not None:
            if packet.kind is not Kind.READING:
                continue
            try:
                if len(packet.payload) != 8 * (self._num_signals + self.layout.width):
                    raise BadPacketError("of another size than its layout")
                self._order.check(packet)
                newest = packet, time.monotonic()
            except BadPacketError:
                self.refused_packets += 1
        return None if newest is None else self._reading(*newest)

    def _reading(self, packet: Packet, received_s: float) -> Reading:
        numbers = np.frombuffer(packet.payload, dtype="<f8")
        times_s = np.array(
            [self._clock.to_local(t, packet.time_s, received_s) for t in numbers[: self._num_signals]]
        )
        return Reading(numbers[self._num_signals :], times_s)

    def send(self, command: Command) -> None:
        """Send a command."""
        check_rows(command.rows, len(self.layout.drives))
        payload = np.array([command.state], dtype="<f8").tobytes() + command.rows.astype("<f8").tobytes()
        self._send(Kind.COMMAND, payload)

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()

    def _send(self, kind: Kind, payload: bytes) -> None:
        self._sent, self._sent_s = self._sent + 1, time.monotonic()
        self._channel.send(self._codec.encode(kind, self._session, self._sent, self._sent_s, payload), None)

    def _next(self) -> Packet | None:
        """Return the next packet that holds together."""
        while (received := self._channel.receive()) is not None:
            try:
                return self._codec.decode(received[0])
            except BadPacketError:
                self.refused_packets += 1
        return None


def _answer(packet: Packet) -> dict[str, Any]:
    try:
        answer = json.loads(packet.payload)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def parse_command(packet: Packet, drives: int) -> Command:
    """Read a command's numbers.

    Raises:
        BadPacketError: they are not those of `drives` drives, not all finite, or of no state.
    """
    if len(packet.payload) != 8 * (1 + drives * len(COMMAND_FIELDS)):
        raise BadPacketError(f"a command of {len(packet.payload)} bytes for {drives} drives")
    numbers = np.frombuffer(packet.payload, dtype="<f8").astype(np.float64)
    if not np.isfinite(numbers).all():
        raise BadPacketError("a command that is not finite")
    if numbers[0] not in _STATES:
        raise BadPacketError(f"a command of no state: {numbers[0]:g}")
    return Command(numbers[1:].reshape(drives, -1), int(numbers[0]))


def open_robot(address: str, key: bytes = b"", timeout_s: float = CONNECT_TIMEOUT_S) -> PacketRobot:
    """Connect to a robot.

    Args:
        address: "udp://host:port" or "serial:/dev/tty...", the latter with "@baud" at will.
        key: shared with the robot; empty on loopback and serial lines only.
        timeout_s: how long to wait for an answer, s.

    Raises:
        UsageError: it is no such address, or needs a key.
        RobotrlError: nobody answers.
    """
    if address.startswith("udp://"):
        host, colon, port = address.removeprefix("udp://").rpartition(":")
        if colon and host and port.isdecimal() and 0 < int(port) < 65_536:
            from robotrl.deploy.runtime.robots.udp import UdpChannel

            channel: Channel = UdpChannel(host.strip("[]"), int(port), listen=False, key=key)
            return PacketRobot(channel, address, key, timeout_s)
    if address.startswith("serial:"):
        device, at, baud = address.removeprefix("serial:").partition("@")
        if device and (not at or baud.isdecimal()):
            from robotrl.deploy.runtime.robots.serial import BAUD, SerialChannel

            return PacketRobot(SerialChannel(device, int(baud) if at else BAUD), address, key, timeout_s)
    raise UsageError(f"no robot at {address!r}: expected sim, udp://HOST:PORT or serial:/dev/tty...[@BAUD]")
