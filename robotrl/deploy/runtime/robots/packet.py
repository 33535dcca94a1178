"""The packet between a robot and who commands it: one layout over UDP, a serial line and loopback.

Little-endian: magic "RRL1", version u8, kind u8, length u16 of the payload, session u64, sequence u64,
time f64 (sender's monotonic clock, s); the payload; 16 bytes of HMAC-SHA256 under a shared key over all
that is before; CRC-32 over all that is before. The CRC finds noise, the HMAC forgery.

Sequence numbers grow within a session and direction. A session's number is drawn by the robot for that
session alone, and the session begins only when a signed greeting brings it back, so that a recorded packet
is worth nothing later.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
import struct
import zlib
from dataclasses import dataclass

MAGIC = b"RRL1"
VERSION = 2
_HEADER = struct.Struct("<4sBBHQQd")
_CRC = struct.Struct("<I")
_TAG_SIZE = 16
MAX_PAYLOAD = 60_000
MAX_PACKET = _HEADER.size + MAX_PAYLOAD + _TAG_SIZE + _CRC.size


class Kind(enum.IntEnum):
    """What a packet holds."""

    HELLO = 1
    """To the robot, JSON {"nonce"}: session 0 asks for a number, a session of that number begins it."""
    LAYOUT = 2
    """From the robot: JSON {"nonce"} and the number in the header, then {"nonce", "layout"}; or
    {"nonce", "refused"}."""
    READING = 3
    """From the robot: f64 times of the signals on the robot's clock, then the f64 numbers."""
    COMMAND = 4
    """To the robot: f64 state, then five f64 per drive."""
    OPERATOR = 5
    """A person's word to the runtime, JSON, see `operator.py`."""
    ANSWER = 6
    """The runtime's answer to it, JSON."""
    ALIVE = 7
    """To the robot, empty: whoever commands nothing at present is still there."""


@dataclass(frozen=True)
class Packet:
    """What was in a packet that holds together."""

    kind: Kind
    session: int
    sequence: int
    time_s: float
    payload: bytes


class BadPacketError(Exception):
    """A packet is not ours, damaged, forged or a replay; says which."""


class Codec:
    """Writes and reads packets.

    Args:
        key: shared secret; empty on loopback only, where the operating system tells who is who.
    """

    def __init__(self, key: bytes = b"") -> None:
        self._key = key

    def encode(self, kind: Kind, session: int, sequence: int, time_s: float, payload: bytes) -> bytes:
        """Return the packet's bytes."""
        if len(payload) > MAX_PAYLOAD:
            raise ValueError(f"a packet holds {MAX_PAYLOAD} bytes, got {len(payload)}")
        body = _HEADER.pack(MAGIC, VERSION, kind, len(payload), session, sequence, time_s) + payload
        body += self._tag(body)
        return body + _CRC.pack(zlib.crc32(body))

    def decode(self, data: bytes) -> Packet:
        """Read a packet.

        Raises:
            BadPacketError: it is not one, or not from who has the key.
        """
        if len(data) < _HEADER.size + _TAG_SIZE + _CRC.size or data[:4] != MAGIC:
            raise BadPacketError("not a robotrl packet")
        body, (crc,) = data[: -_CRC.size], _CRC.unpack(data[-_CRC.size :])
        if zlib.crc32(body) != crc:
            raise BadPacketError("damaged: CRC")
        signed, tag = body[:-_TAG_SIZE], body[-_TAG_SIZE:]
        if not hmac.compare_digest(self._tag(signed), tag):
            raise BadPacketError("not from who has the key: HMAC")
        _, version, kind, length, session, sequence, time_s = _HEADER.unpack_from(signed)
        payload = signed[_HEADER.size :]
        if version != VERSION or length != len(payload) or kind not in Kind.__members__.values():
            raise BadPacketError(f"version {version}, kind {kind}, {length} bytes: not of version {VERSION}")
        return Packet(Kind(kind), session, sequence, time_s, payload)

    def _tag(self, body: bytes) -> bytes:
        return hmac.digest(self._key, body, hashlib.sha256)[:_TAG_SIZE]


class Sequence:
    """Lets a session's packets pass once and in order."""

    def __init__(self, session: int) -> None:
        self._session, self._last = session, 0

    def check(self, packet: Packet) -> None:
        """Take note of a packet.

        Raises:
            BadPacketError: it belongs to another session, or is not newer than the last.
        """
        if packet.session != self._session:
            raise BadPacketError("of another session")
        if packet.sequence <= self._last:
            raise BadPacketError(f"replayed or late: sequence {packet.sequence} after {self._last}")
        self._last = packet.sequence
