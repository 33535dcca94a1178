"""Who says arm, go, stop, reset and quit: a person at the terminal, or one elsewhere who has the key."""

from __future__ import annotations

import contextlib
import io
import json
import math
import queue
import secrets
import select
import threading
import time
from typing import Protocol, TextIO

from robotrl.core.errors import RobotrlError, UsageError
from robotrl.deploy.runtime.machine import WORDS, State
from robotrl.deploy.runtime.robots.packet import BadPacketError, Codec, Kind
from robotrl.deploy.runtime.robots.udp import UdpChannel

QUIT = "quit"
_FRESH_S = 2.0
_REPEAT_S = 0.1


class Operator(Protocol):
    """Says what to do. Nothing here waits."""

    def poll(self, state: State) -> list[str]:
        """Return the words said since the last call."""

    def answer(self, text: str) -> None:
        """Tell what came of a word: of each that `poll` returned, in that order."""


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
        try:
            if isinstance(lines, io.TextIOWrapper):
                lines.reconfigure(errors="replace")  # a byte that is no text must not end the listening
            for line in lines:
                if line.strip():
                    self._words.put(line.strip().lower())
        except OSError:
            pass  # a terminal that went away
        finally:
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
    """Words in packets signed with the key; neither a word nor an answer can be replayed.

    Whoever has something to say draws a nonce. `Kind.OPERATOR` with JSON {"nonce"} asks for the challenge,
    {"nonce", "challenge", "word"} says the word; `Kind.ANSWER` is {"nonce", "challenge"} or {"nonce",
    "answer"}. A challenge is valid once and for two seconds. Packets get lost, so each may be repeated: a
    nonce whose word was heard gets the same answer again.

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
        self._challenge, self._drawn_s = "", -math.inf
        self._unanswered: list[tuple[str, object]] = []
        self._answers: dict[str, str | None] = {}
        self.port = self._channel.port

    def poll(self, state: State) -> list[str]:
        """Return the words that came."""
        words = []
        while (received := self._channel.receive()) is not None:
            data, peer = received
            try:
                said = _read(self._codec, data, Kind.OPERATOR)
            except BadPacketError:
                continue
            nonce = said["nonce"]
            if nonce in self._answers:
                self._send(peer, nonce, "answer", self._answers[nonce])
            elif "word" in said and said.get("challenge") == self._fresh_challenge():
                self._drawn_s = -math.inf
                self._answers[nonce] = None
                self._unanswered.append((nonce, peer))
                words.append(said["word"])
            else:
                self._send(peer, nonce, "challenge", self._fresh_challenge())
        return words

    def answer(self, text: str) -> None:
        """Answer the first word that has no answer yet."""
        nonce, peer = self._unanswered.pop(0)
        self._answers[nonce] = text
        self._send(peer, nonce, "answer", text)

    def _fresh_challenge(self) -> str:
        now_s = time.monotonic()
        if now_s - self._drawn_s > _FRESH_S:
            self._challenge, self._drawn_s = secrets.token_hex(16), now_s
        return self._challenge

    def _send(self, peer: object, nonce: str, what: str, text: str | None) -> None:
        if text is not None:
            self._channel.send(_written(self._codec, Kind.ANSWER, {"nonce": nonce, what: text}), peer)


class Both:
    """Several operators: whoever speaks is heard and answered."""

    def __init__(self, *operators: Operator) -> None:
        self._operators = operators
        self._unanswered: list[Operator] = []

    def poll(self, state: State) -> list[str]:
        """Return the words of all."""
        words = []
        for operator in self._operators:
            said = operator.poll(state)
            words += said
            self._unanswered += [operator] * len(said)
        return words

    def answer(self, text: str) -> None:
        """Answer who said the first word that has no answer yet."""
        self._unanswered.pop(0).answer(text)


def say(host: str, port: int, key: bytes, word: str, timeout_s: float = 2.0) -> str:
    """Say a word to the runtime that listens at `host:port`, until it answers; return its answer.

    Raises:
        UsageError: it is no word.
        RobotrlError: nobody answers within `timeout_s`.
    """
    if word not in (*WORDS, QUIT):
        raise UsageError(f"{word!r} is none of {', '.join((*WORDS, QUIT))}")
    codec, nonce = Codec(key), secrets.token_hex(16)
    message = {"nonce": nonce}
    deadline_s = time.monotonic() + timeout_s
    with contextlib.closing(UdpChannel(host, port, listen=False, key=key)) as channel:
        while (now_s := time.monotonic()) < deadline_s:
            channel.send(_written(codec, Kind.OPERATOR, message), None)
            answer = _answer(channel, codec, nonce, min(deadline_s, now_s + _REPEAT_S))
            if "answer" in answer:
                return answer["answer"]
            if "challenge" in answer:
                message = {"nonce": nonce, "challenge": answer["challenge"], "word": word}
    raise RobotrlError(f"no runtime answers at {host}:{port} within {timeout_s:g} s: is the key right?")


def _answer(channel: UdpChannel, codec: Codec, nonce: str, until_s: float) -> dict[str, str]:
    """Return the answer to `nonce`, an empty one if there is none by `until_s`."""
    while (left_s := until_s - time.monotonic()) > 0:
        select.select([channel], [], [], left_s)
        received = channel.receive()
        if received is None:
            continue
        with contextlib.suppress(BadPacketError):
            answer = _read(codec, received[0], Kind.ANSWER)
            if answer["nonce"] == nonce:
                return answer
    return {}


def _written(codec: Codec, kind: Kind, message: dict[str, str]) -> bytes:
    return codec.encode(kind, 0, 0, time.monotonic(), json.dumps(message).encode())


def _read(codec: Codec, data: bytes, kind: Kind) -> dict[str, str]:
    packet = codec.decode(data)
    try:
        message = json.loads(packet.payload)
    except ValueError as error:
        raise BadPacketError("no JSON") from error
    is_one = isinstance(message, dict) and all(isinstance(text, str) for text in message.values())
    if packet.kind is not kind or not is_one or "nonce" not in message:
        raise BadPacketError(f"no {kind.name} with a nonce")
    return dict(message)
