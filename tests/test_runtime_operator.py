"""Who says stop: nonsense from a terminal, packets that are lost, recordings that are replayed."""

from __future__ import annotations

import contextlib
import io
import json
import os
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from packet_common import KEY

from robotrl.core.errors import RobotrlError, UsageError
from robotrl.deploy.runtime.machine import State
from robotrl.deploy.runtime.operator import QUIT, Both, Console, RemoteOperator, say
from robotrl.deploy.runtime.robots.packet import Codec, Kind


class Silent:
    """Where nobody reads the answers."""

    def __init__(self) -> None:
        self.written: list[str] = []

    def write(self, text: str) -> None:
        self.written.append(text)


def heard_by(console: Console, last: str) -> list[str]:
    """Words up to `last`."""
    words: list[str] = []
    until_s = time.monotonic() + 5.0
    while last not in words:
        assert time.monotonic() < until_s, f"no {last!r} in {words}"
        words += console.poll(State.POLICY)
        time.sleep(0.002)
    return words


def test_bytes_that_are_no_text_do_not_end_the_listening() -> None:
    ours, theirs = os.pipe()
    with os.fdopen(ours, encoding="utf-8") as lines:
        console = Console(lines, Silent())
        os.write(theirs, b"\xff\xfe\ngo\nst\x80op\n  STOP \n")
        words = heard_by(console, "stop")
        assert "go" in words and len(words) == 4
        os.close(theirs)
        assert heard_by(console, QUIT) == [QUIT]


def test_a_terminal_that_breaks_is_a_person_who_left() -> None:
    class Broken(io.StringIO):
        def __next__(self) -> str:
            raise OSError(5, "Input/output error")

    assert heard_by(Console(Broken(), Silent()), QUIT) == [QUIT]


class Wire:
    """Stands between `say` and the runtime, keeps what passes, and loses what `loses` says.

    `loses` is given the kind and how many packets of it came before.
    """

    def __init__(self, port: int, loses: set[tuple[Kind, int]] = frozenset()) -> None:  # type: ignore[assignment]
        self.near = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.near.bind(("127.0.0.1", 0))
        self.far = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.far.connect(("127.0.0.1", port))
        self.port = self.near.getsockname()[1]
        self.passed: dict[Kind, list[bytes]] = {Kind.OPERATOR: [], Kind.ANSWER: []}
        self._loses, self._peer, self._over = loses, None, threading.Event()
        self._threads = [threading.Thread(target=one) for one in (self._go, self._return)]
        for end in (self.near, self.far):
            end.settimeout(0.02)
        for thread in self._threads:
            thread.start()

    def _keep(self, data: bytes) -> bool:
        kind = Codec(KEY).decode(data).kind
        self.passed[kind].append(data)
        return (kind, len(self.passed[kind]) - 1) not in self._loses

    def _go(self) -> None:
        while not self._over.is_set():
            with contextlib.suppress(TimeoutError):
                data, self._peer = self.near.recvfrom(65_536)
                if self._keep(data):
                    self.far.send(data)

    def _return(self) -> None:
        while not self._over.is_set():
            with contextlib.suppress(TimeoutError):
                data = self.far.recv(65_536)
                if self._keep(data):
                    self.near.sendto(data, self._peer)

    def close(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
        self.near.close()
        self.far.close()


@contextlib.contextmanager
def listening() -> Iterator[tuple[RemoteOperator, list[str]]]:
    """A runtime that does what it is told, and what that was."""
    operator = RemoteOperator("127.0.0.1", 0, KEY)
    words: list[str] = []
    over = threading.Event()

    def listen() -> None:
        while not over.is_set():
            for word in operator.poll(State.READY):
                words.append(word)
                operator.answer(f"did {word} {len(words)}")
            time.sleep(0.005)

    thread = threading.Thread(target=listen)
    thread.start()
    try:
        yield operator, words
    finally:
        over.set()
        thread.join()


def test_an_operator_elsewhere_needs_the_key() -> None:
    with pytest.raises(UsageError, match="needs a shared key"):
        RemoteOperator("127.0.0.1", 0, b"")
    with listening() as (operator, words):
        assert say("127.0.0.1", operator.port, KEY, "arm") == "did arm 1"
        with pytest.raises(RobotrlError, match="no runtime answers"):
            say("127.0.0.1", operator.port, b"another key, 16 bytes", "stop", 0.3)
        with pytest.raises(UsageError, match="is none of"):
            say("127.0.0.1", operator.port, KEY, "launch")
        assert words == ["arm"]


@pytest.mark.parametrize(
    "loses",
    [
        {(Kind.OPERATOR, 0)},
        {(Kind.ANSWER, 0)},
        {(Kind.OPERATOR, 1)},
        {(Kind.ANSWER, 1)},
        {(Kind.OPERATOR, 1), (Kind.OPERATOR, 2), (Kind.ANSWER, 1), (Kind.ANSWER, 2)},
    ],
)
def test_a_stop_gets_through_where_packets_are_lost_and_is_done_once(loses: set[tuple[Kind, int]]) -> None:
    with listening() as (operator, words), contextlib.closing(Wire(operator.port, loses)) as wire:
        assert say("127.0.0.1", wire.port, KEY, "stop") == "did stop 1"
        assert words == ["stop"]


def test_a_recorded_word_is_not_done_again_and_a_recorded_answer_is_not_believed() -> None:
    with listening() as (operator, words), contextlib.closing(Wire(operator.port)) as wire:
        assert say("127.0.0.1", wire.port, KEY, "reset") == "did reset 1"
        recorded = {kind: list(packets) for kind, packets in wire.passed.items()}
        for data in recorded[Kind.OPERATOR] * 3:
            wire.far.send(data)
        assert say("127.0.0.1", wire.port, KEY, "stop") == "did stop 2"
        assert words == ["reset", "stop"]
    # somebody who recorded it stands where the runtime was: with its answers, and with what is said itself
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as thief:
        thief.bind(("127.0.0.1", 0))
        thief.settimeout(0.2)
        over = threading.Event()

        def replay() -> None:
            while not over.is_set():
                with contextlib.suppress(TimeoutError):
                    said, peer = thief.recvfrom(65_536)
                    for data in (said, *recorded[Kind.ANSWER], *recorded[Kind.OPERATOR]):
                        thief.sendto(data, peer)

        thread = threading.Thread(target=replay)
        thread.start()
        with pytest.raises(RobotrlError, match="no runtime answers"):
            say("127.0.0.1", thief.getsockname()[1], KEY, "stop", 0.5)
        over.set()
        thread.join()


def test_a_challenge_is_valid_once_and_nonsense_is_not_heard() -> None:
    operator, codec = RemoteOperator("127.0.0.1", 0, KEY), Codec(KEY)

    def put(kind: Kind, message: object) -> None:
        end.send(codec.encode(kind, 0, 0, 0.0, json.dumps(message).encode()))

    def answer() -> dict[str, str]:
        return dict(json.loads(codec.decode(end.recv(65_536)).payload))

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
        end.connect(("127.0.0.1", operator.port))
        end.settimeout(1.0)
        put(Kind.OPERATOR, {"nonce": "a"})
        assert operator.poll(State.HOLD) == []
        challenge = answer()["challenge"]
        for kind, message in (
            (Kind.ANSWER, {"nonce": "x", "challenge": challenge, "word": "go"}),
            (Kind.OPERATOR, {"challenge": challenge, "word": "go"}),
            (Kind.OPERATOR, {"nonce": "x", "challenge": challenge, "word": 3}),
            (Kind.OPERATOR, [challenge, "go"]),
        ):
            put(kind, message)
        assert operator.poll(State.HOLD) == []
        for nonce in ("a", "b"):
            put(Kind.OPERATOR, {"nonce": nonce, "challenge": challenge, "word": "go"})
        assert operator.poll(State.HOLD) == ["go"]
        assert answer()["challenge"] != challenge  # for b, who was late
        operator.answer("POLICY")
        assert answer() == {"nonce": "a", "answer": "POLICY"}


def test_who_spoke_is_answered() -> None:
    written = Silent()
    operator = RemoteOperator("127.0.0.1", 0, KEY)
    both = Both(Console(io.StringIO("arm\n"), written), operator)
    time.sleep(0.1)
    answers: list[str] = []
    teller = threading.Thread(target=lambda: answers.append(say("127.0.0.1", operator.port, KEY, "stop")))
    teller.start()
    heard: list[str] = []
    until_s = time.monotonic() + 5.0
    while len(heard) < 3:
        assert time.monotonic() < until_s
        for word in both.poll(State.READY):
            heard.append(word)
            both.answer(f"heard {word}")
        time.sleep(0.005)
    teller.join()
    assert heard == ["arm", QUIT, "stop"] and answers == ["heard stop"]
    assert written.written == ["heard arm\n", f"heard {QUIT}\n"]
