"""Packets over UDP."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from typing import Any

from robotrl.core.errors import RobotrlError, UsageError
from robotrl.deploy.runtime.robots.packet import MAX_PACKET


class UdpChannel:
    """A UDP socket.

    Args:
        host: to listen on, or of the robot.
        port: to listen on (0: any free one), or of the robot.
        listen: whether peers come to us; otherwise packets of others than `host:port` are not heard.
        key: the shared key, which everything but loopback needs.

    Raises:
        UsageError: not loopback and no key.
        RobotrlError: the address cannot be used.
    """

    def __init__(self, host: str, port: int, listen: bool, key: bytes) -> None:
        try:
            family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
            if not key and not ipaddress.ip_address(address[0]).is_loopback:
                raise UsageError(
                    f"udp://{host}:{port} is not this machine: give a shared key (--key-file FILE)"
                )
            self._socket = socket.socket(family, kind)
            (self._socket.bind if listen else self._socket.connect)(address)
        except OSError as error:
            raise RobotrlError(f"udp://{host}:{port}: {error.strerror or error}") from error
        self._socket.setblocking(False)
        self.port: int = self._socket.getsockname()[1]

    def fileno(self) -> int:
        """Return the socket."""
        return self._socket.fileno()

    def receive(self) -> tuple[bytes, Any] | None:
        """Return the next packet and its sender's address."""
        try:
            return self._socket.recvfrom(MAX_PACKET + 1)
        except OSError:  # nothing there, or what we sent found nobody
            return None

    def send(self, data: bytes, peer: Any) -> None:
        """Send a packet; `peer` None is whom the socket is connected to."""
        with contextlib.suppress(OSError):  # UDP promises nothing: who does not hear, times out
            self._socket.send(data) if peer is None else self._socket.sendto(data, peer)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
