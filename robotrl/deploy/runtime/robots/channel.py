"""What carries packets: a socket or a line."""

from __future__ import annotations

from typing import Any, Protocol


class Channel(Protocol):
    """Carries packets to and from peers. Nothing here waits."""

    def fileno(self) -> int:
        """Return what `select` waits on for a packet."""

    def receive(self) -> tuple[bytes, Any] | None:
        """Return the next packet and who sent it, None if there is none."""

    def send(self, data: bytes, peer: Any) -> None:
        """Send a packet to a peer that `receive` named; a packet that cannot leave is lost."""

    def close(self) -> None:
        """Free the socket or line."""
