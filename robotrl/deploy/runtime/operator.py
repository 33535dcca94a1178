"""Who says arm, go, stop, reset and quit: a person at the terminal, or one elsewhere who has the key."""

from __future__ import annotations

import queue
import secrets
import socket
import threading
import time
from typing import Protocol, TextIO

from robotrl.core.errors import RobotrlError, UsageError
from robotrl.deploy.runtime.machine import WORDS, State
from robotrl.deploy.runtime.robots.packet import BadPacketError, Codec, Kind
from robotrl.deploy.runtime.robots.udp import UdpChannel

QUIT = "quit"
_FRESH_S = 2.0


class Operator(Protocol):
    """Says what to do. Nothing here waits."""

    def poll(self, state: State) -> list[str]:
        """Return the words said since the last call."""

    def answer(self, text: str) -> None:
        """Tell what came of a word."""


class Writer(Protocol):
    """What answers are written to, without waiting."""

    def write(self, text: str) -> None:
        """Write soon."""


class Automatic:
    """Arms and starts by itself and quits when the robot is damped: for simulated robots only."""

    def poll(self, state: State) -> list[str]:
        """Return the word that fits the state."""
        word = {State.READY: "arm", State.HOLD: "go", State.DAMPING: QUIT}.get(state)
        return [] if word is None else [word]

    def answer(self, text: str) -> None:
        """Nobody listens."""


class Console:
    """A person's lines of text. An end of the input means quit: nobody is there any more.

    Args:
        lines: such as stdin.
        out: where answers are written.
    """

    def __init__(self, lines: TextIO, out: Writer) -> None:
        self._words: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._out = out
        threading.Thread(target=self._read, args=(lines,), daemon=True).start()

    def _read(self, lines: TextIO) -> None:
        for line in lines:
            if line.strip():
                self._words.put(line.strip().lower())
        self._words.put(QUIT)

    def poll(self, state: State) -> list[str]:
        """Return the lines that were typed."""
        words = []
        while not self._words.empty():
            words.append(self._words.get())
        return words

    def answer(self, text: str) -> None:
        """Write a line."""
        self._out.write(f"{text}\n")


class RemoteOperator:
    """Words in packets, `Kind.OPERATOR`, signed with the key: a nonce of ours, a space and the word.

    A nonce is valid once and for two seconds; the word `hello` asks for one.

    Args:
        host: to listen on; loopback unless the user says otherwise.
        port: to listen on, 0 for any free one.
        key: shared with the operator; it must not be empty.

    Raises:
        UsageError: the key is empty.
        RobotrlError: the address cannot be used.
    """

    def __init__(self, host: str, port: int, key: bytes) -> None:
        if not key:
            raise UsageError("an operator over the network needs a shared key: --key-file FILE")
        self._channel = UdpChannel(host, port, listen=True, key=key)
        self._codec = Codec(key)
        self._nonces: dict[str, float] = {}
        self._peer: object = None
        self.port = self._channel.port

    def poll(self, state: State) -> list[str]:
        """Return the words that came."""
        words = []
        while (received := self._channel.receive()) is not None:
            data, peer = received
            try:
                packet = self._codec.decode(data)
                nonce, _, word = packet.payload.decode().partition(" ")
            except (BadPacketError, UnicodeDecodeError):
                continue
            if packet.kind is not Kind.OPERATOR:
                continue
            self._peer = peer
            if word == "hello":
                self.answer(f"{self._new_nonce()} {state.name}")
            elif self._nonces.pop(nonce, 0.0) >= time.monotonic():
                words.append(word)
        return words

    def answer(self, text: str) -> None:
        """Send an answer to who spoke last."""
        if self._peer is not None:
            data = self._codec.encode(Kind.OPERATOR, 0, 0, time.monotonic(), text.encode())
            self._channel.send(data, self._peer)

    def _new_nonce(self) -> str:
        now_s = time.monotonic()
        self._nonces = {nonce: until for nonce, until in self._nonces.items() if until >= now_s}
        nonce = secrets.token_hex(8)
        self._nonces[nonce] = now_s + _FRESH_S
        return nonce


class Both:
    """Several operators: whoever speaks is heard, and all hear the answers."""

    def __init__(self, *operators: Operator) -> None:
        self._operators = operators

    def poll(self, state: State) -> list[str]:
        """Return the words of all."""
        return [word for operator in self._operators for word in operator.poll(state)]

    def answer(self, text: str) -> None:
        """Tell all."""
        for operator in self._operators:
            operator.answer(text)


def say(host: str, port: int, key: bytes, word: str, timeout_s: float = 2.0) -> str:
    """Say a word to the runtime that listens at `host:port`; return its answer.

    Raises:
        UsageError: it is no word.
        RobotrlError: nobody answers.
    """
    if word not in (*WORDS, QUIT):
        raise UsageError(f"{word!r} is none of {', '.join((*WORDS, QUIT))}")
    codec = Codec(key)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
        end.settimeout(timeout_s)
        end.connect((host, port))

        def exchange(text: str) -> str:
            end.send(codec.encode(Kind.OPERATOR, 0, 0, time.monotonic(), text.encode()))
            return codec.decode(end.recv(65_536)).payload.decode()

        try:
            nonce = exchange(" hello").partition(" ")[0]
            return exchange(f"{nonce} {word}")
        except (OSError, BadPacketError) as error:
            raise RobotrlError(f"no runtime answers at {host}:{port}: {error}") from error
