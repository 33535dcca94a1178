"""A robot's end of a packet connection: what a simulated robot or an adapter to another library runs."""

from __future__ import annotations

import json
import secrets
import time
from typing import Any

import numpy as np

from robotrl.deploy.runtime.robots.channel import Channel
from robotrl.deploy.runtime.robots.client import parse_command
from robotrl.deploy.runtime.robots.packet import BadPacketError, Codec, Kind, Packet, Sequence
from robotrl.deploy.runtime.robots.robot import Command, Layout

LIVE_S = 2.0
"""Without a packet of it for so long a session gives way to another one, s. The watchdog reads the robot, and
says thereby that it is there, once a second at least."""
_TAKEN = f"somebody else is connected, or was less than {LIVE_S:g} s ago"


class RobotServer:
    """Publishes readings to one peer and takes its commands.

    Args:
        channel: carries the packets.
        layout: what the robot publishes and takes.
        key: shared with who may command it.

    Attributes:
        commanded_s: when the last command came, on this machine's monotonic clock; None before the first.
        refused: packets that were refused, by reason.
    """

    def __init__(self, channel: Channel, layout: Layout, key: bytes = b"") -> None:
        self._channel, self._layout, self._codec = channel, layout, Codec(key)
        self._peer: Any = None
        self._order: Sequence | None = None
        self._nonce: Any = None
        self._session = self._sent = 0
        self._next = _new_number()
        self._heard_s = 0.0
        self.commanded_s: float | None = None
        self.refused: dict[str, int] = {}

    def fileno(self) -> int:
        """Return what `select` waits on."""
        return self._channel.fileno()

    def poll(self) -> Command | None:
        """Take what came and return the newest command, None if there is none."""
        newest = None
        while (received := self._channel.receive()) is not None:
            data, peer = received
            try:
                packet = self._codec.decode(data)
                if packet.kind is Kind.HELLO:
                    self._greet(packet, peer)
                elif packet.kind is Kind.COMMAND:
                    command = parse_command(packet, len(self._layout.drives))
                    self._heard(packet)
                    newest, self.commanded_s = command, self._heard_s
                elif packet.kind is Kind.ALIVE:
                    self._heard(packet)
                else:
                    raise BadPacketError(f"{packet.kind.name} is not for a robot")
            except BadPacketError as error:
                reason = str(error).partition(":")[0]
                self.refused[reason] = self.refused.get(reason, 0) + 1
        return newest

    def publish(self, values: np.ndarray, times_s: np.ndarray) -> None:
        """Send a reading to the peer, if there is one.

        Args:
            values: (W,) numbers in the order of the layout.
            times_s: (S,) when each signal was measured, on this machine's monotonic clock.
        """
        if self._order is None:
            return
        payload = times_s.astype("<f8").tobytes() + values.astype("<f8").tobytes()
        self._sent += 1
        data = self._codec.encode(Kind.READING, self._session, self._sent, time.monotonic(), payload)
        self._channel.send(data, self._peer)

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()

    def _heard(self, packet: Packet) -> None:
        if self._order is None:
            raise BadPacketError("a packet before a session")
        self._order.check(packet)
        self._heard_s = time.monotonic()

    def _greet(self, packet: Packet, peer: Any) -> None:
        """Offer the next session's number to whoever asks; begin the session when the number comes back.

        Asking changes nothing here, and each number begins one session only: a recorded greeting is
        answered or refused, no more.
        """
        try:
            nonce = json.loads(packet.payload)["nonce"]
        except (ValueError, KeyError, TypeError) as error:
            raise BadPacketError("a greeting without a nonce") from error
        greeted = self._order is not None
        if not greeted or (nonce, peer) != (self._nonce, self._peer):  # else our answer was lost
            if greeted and time.monotonic() - self._heard_s < LIVE_S:
                self._answer(peer, 0, nonce=nonce, refused=_TAKEN)
                return
            if packet.session == 0:
                self._answer(peer, self._next, nonce=nonce)
                return
            if packet.session != self._next:
                raise BadPacketError("of another session")
            self._nonce, self._peer = nonce, peer
            self._session, self._next = self._next, _new_number()
            self._order, self._sent = Sequence(self._session), 0
            self._heard_s, self.commanded_s = time.monotonic(), None
        self._answer(peer, self._session, nonce=nonce, layout=self._layout.to_json())

    def _answer(self, peer: Any, session: int, **answer: Any) -> None:
        data = self._codec.encode(Kind.LAYOUT, session, 0, time.monotonic(), json.dumps(answer).encode())
        self._channel.send(data, peer)


def _new_number() -> int:
    return secrets.randbits(63) | 1
