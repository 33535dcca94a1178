"""Packets over a serial line, framed by COBS (Cheshire and Baker, SIGCOMM 1997).

A frame is the packet without its zero bytes, then a zero: a receiver that missed bytes, or was switched on
in the middle of a frame, is in step again at the next zero.
"""

from __future__ import annotations

from typing import Any

from robotrl.core.errors import RobotrlError, UsageError
from robotrl.deploy.runtime.robots.packet import MAX_PACKET

BAUD = 1_000_000


def cobs(data: bytes) -> bytes:
    """Return `data` without zero bytes, at most 1 byte in 254 longer, plus one."""
    out = bytearray()
    for part in data.split(b"\0"):
        while len(part) >= 254:
            out += b"\xff" + part[:254]
            part = part[254:]
        out.append(len(part) + 1)
        out += part
    return bytes(out)


def uncobs(frame: bytes) -> bytes | None:
    """Undo `cobs`; None if nothing is written so."""
    out, place = bytearray(), 0
    while place < len(frame):
        code = frame[place]
        part = frame[place + 1 : place + code]
        if code == 0 or len(part) != code - 1:
            return None
        out += part
        place += code
        if code < 255 and place < len(frame):
            out.append(0)
    return bytes(out)


class SerialChannel:
    """A serial line, 8N1; needs the package pyserial.

    Args:
        device: such as /dev/ttyACM0.
        baud: symbols per second; a line of USB has none and takes any.

    Raises:
        UsageError: pyserial is missing.
        RobotrlError: the device cannot be opened.
    """

    def __init__(self, device: str, baud: int = BAUD) -> None:
        try:
            import serial
        except ImportError as error:
            raise UsageError('a serial line needs pyserial: pip install "robotrl[deploy]"') from error
        try:
            self._line = serial.Serial(device, baud, timeout=0, write_timeout=0)
        except (OSError, ValueError) as error:
            raise RobotrlError(f"serial:{device}: {error}") from error
        self._lost = OSError, serial.SerialException
        self._pending = bytearray()

    def fileno(self) -> int:
        """Return the line."""
        return int(self._line.fileno())

    def receive(self) -> tuple[bytes, Any] | None:
        """Return the next whole packet."""
        try:
            self._pending += self._line.read(4096)
        except self._lost:
            return None
        while (end := self._pending.find(0)) >= 0:
            frame = bytes(self._pending[:end])
            del self._pending[: end + 1]
            data = uncobs(frame) if frame else None
            if data is not None:
                return data, None
        if len(self._pending) > 2 * MAX_PACKET:  # noise without a zero
            self._pending.clear()
        return None

    def send(self, data: bytes, peer: Any) -> None:
        """Send a packet."""
        try:
            self._line.write(cobs(data) + b"\0")
        except self._lost:
            return  # a line that is gone sends no readings either: the age guard damps

    def close(self) -> None:
        """Close the line."""
        self._line.close()
