"""Who commands a robot: sessions begin by a challenge, live by packets, and recordings take none."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from packet_common import KEY, Pipe, command, connected, exchange, greet, session
from runtime_common import layout, serve_until, udp_server

from robotrl.core.errors import RobotrlError
from robotrl.deploy.runtime.robots import client
from robotrl.deploy.runtime.robots import server as servers
from robotrl.deploy.runtime.robots.client import PacketRobot, open_robot
from robotrl.deploy.runtime.robots.packet import Codec, Kind
from robotrl.deploy.runtime.robots.server import LIVE_S, RobotServer
from robotrl.deploy.runtime.robots.udp import UdpChannel


def test_replays_and_other_sessions_never_reach_the_robot() -> None:
    pipe, server, codec, number = session()
    first = codec.encode(Kind.COMMAND, number, 1, 0.0, command(1))
    pipe.inbox.append((first, "us"))
    got = server.poll()
    assert got is not None and got.state == 4 and np.all(got.rows == 0.25)
    pipe.inbox += [
        (first, "us"),
        (first, "somebody"),
        (codec.encode(Kind.COMMAND, 5, 2, 0.0, command(2)), "us"),
    ]
    assert server.poll() is None
    assert server.refused == {"replayed or late": 2, "of another session": 1}


def test_nobody_takes_over_a_session_that_lives() -> None:
    pipe, server, codec, number = session()
    assert "refused" in greet(pipe, server, codec, "them", "theirs", 0)[1]
    pipe.inbox.append((codec.encode(Kind.COMMAND, number, 1, 0.0, command(1)), "us"))
    assert server.poll() is not None
    # our own greeting, recorded and sent from elsewhere, does not turn the readings away from us
    for said in (0, number):
        assert "refused" in greet(pipe, server, codec, "them", "ours", said)[1]
    server.publish(np.zeros(7), np.zeros(3))
    assert pipe.peers[-1] == "us"
    # but where our answer was lost, the same greeting gets it again
    assert "layout" in greet(pipe, server, codec, "us", "ours", number)[1]


def test_a_recorded_session_takes_nothing_and_locks_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [1000.0]
    monkeypatch.setattr(servers.time, "monotonic", lambda: now_s[0])
    pipe, server, codec, number = session()
    hello = json.dumps({"nonce": "ours"}).encode()
    recorded = [codec.encode(Kind.HELLO, said, 0, 0.0, hello) for said in (0, number)]
    recorded += [codec.encode(Kind.ALIVE, number, 1, 0.0, b"")]
    recorded += [codec.encode(Kind.COMMAND, number, 2, 0.0, command(2))]
    pipe.inbox += [(data, "us") for data in recorded[2:]]
    assert server.poll() is not None
    now_s[0] += LIVE_S + 0.1  # the runtime left
    pipe.inbox += [(data, "them") for data in recorded * 3]
    assert server.poll() is None
    server.publish(np.zeros(7), np.zeros(3))
    assert pipe.peers[-1] == "us", "the readings still go to where they went"
    # another runtime begins a session while all that was recorded comes again and again
    offered, _ = greet(pipe, server, codec, "new", "theirs", 0)
    pipe.inbox += [(data, "them") for data in recorded * 3]
    assert server.poll() is None
    begun, answer = greet(pipe, server, codec, "new", "theirs", offered)
    assert "layout" in answer and begun == offered != number
    pipe.inbox += [(data, peer) for data in recorded * 3 for peer in ("them", "us", "new")]
    assert server.poll() is None and server.commanded_s is None
    # a number that began a session begins no other one
    now_s[0] += LIVE_S + 0.1
    assert greet(pipe, server, codec, "them", "mine", offered) == (0, {})
    server.publish(np.zeros(7), np.zeros(3))
    assert pipe.peers[-1] == "new"


def test_two_who_greet_at_once_do_not_share_a_session() -> None:
    pipe, codec = Pipe(), Codec(KEY)
    server = RobotServer(pipe, layout(), KEY)
    offered = {greet(pipe, server, codec, who, who, 0)[0] for who in ("one", "two")}
    assert len(offered) == 1
    (number,) = offered
    assert "layout" in greet(pipe, server, codec, "two", "two", number)[1]
    assert "refused" in greet(pipe, server, codec, "one", "one", number)[1]


class Lossy(UdpChannel):
    """A socket that loses some of the packets sent."""

    def __init__(self, port: int, listen: bool, lost: set[int]) -> None:
        super().__init__("127.0.0.1", port, listen, KEY)
        self._lost, self._count = lost, 0

    def send(self, data: bytes, peer: Any) -> None:
        self._count += 1
        if self._count not in self._lost:
            super().send(data, peer)


@pytest.mark.parametrize(("ours", "theirs"), [({1}, set()), ({2}, set()), (set(), {1}), (set(), {2})])
def test_a_session_begins_whichever_packet_of_it_is_lost(ours: set[int], theirs: set[int]) -> None:
    channel = Lossy(0, True, theirs)
    server = RobotServer(channel, layout(), KEY)
    exchange(server, lambda: PacketRobot(Lossy(channel.port, False, ours), "robot", KEY))
    server.close()


def test_who_commands_nothing_keeps_the_session() -> None:
    """As a runtime in READY does: it reads, and its session lives; a second one is refused."""
    server, address = udp_server(KEY)
    robot = connected(server, lambda: open_robot(address, KEY))
    failed: list[str] = []

    def read_until(done: Callable[[], bool]) -> None:
        serve_until(server, lambda: (robot.read(), done())[1], 20.0)

    def connect() -> None:
        try:
            open_robot(address, KEY)
        except RobotrlError as error:
            failed.append(str(error))

    until_s = time.monotonic() + LIVE_S + 0.5
    read_until(lambda: time.monotonic() > until_s)
    second = threading.Thread(target=connect)
    second.start()
    read_until(lambda: not second.is_alive())
    assert failed == [f"{address} refuses: somebody else is connected, or was less than 2 s ago"]
    assert server.commanded_s is None, "to be alive is no command"
    robot.close()
    server.close()


def test_the_watchdog_reads_often_enough_for_its_session() -> None:
    assert client.ALIVE_EVERY_S < 1.0 < LIVE_S  # it reads once a second when nothing comes
