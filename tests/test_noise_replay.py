"""Replay of noises against decisions written down by hand."""

from __future__ import annotations

import copy

import pytest
import torch
from test_replay import GAMMA, Row, add, rng

from robotrl.core.errors import UsageError
from robotrl.data.noise_replay import NoiseReplay


def noise(place: float) -> list[float]:
    """Of a decision of three steps of two numbers."""
    return [place + i / 10 for i in range(6)]


def play(replay: NoiseReplay, *rows: list[Row]) -> None:
    """Run control steps; a decision takes three, or ends with its episode."""
    left = [0] * replay.num_envs
    for row in rows:
        asked = [steps == 0 for steps in left]
        replay.decide(
            torch.tensor(asked),
            torch.tensor([noise(r.place) for r, new in zip(row, asked, strict=True) if new]).view(-1, 6),
        )
        add(replay, row)
        ended = [r.terminated or r.truncated for r in row]
        left = [0 if over else (2 if new else n - 1) for n, new, over in zip(left, asked, ended, strict=True)]


def decisions(replay: NoiseReplay) -> dict[float, tuple[float, float, float, int]]:
    """Place of each decision that can be drawn -> its reward, discount, next observation and steps."""
    batch = replay.sample(400, rng(), 3, GAMMA)
    found = {}
    for i, place in enumerate(batch.obs["policy"][:, 0].tolist()):
        assert batch.action[i].tolist() == pytest.approx(noise(place))
        got = batch.reward[i], batch.discount[i], batch.next_obs["policy"][i, 0], batch.mask[i].sum()
        found[place] = tuple(round(float(value), 4) for value in got)
    assert len(found) == replay.size
    return found


def test_a_decision_is_learned_from_whole_and_once_it_is_over():
    replay = NoiseReplay(100, 1, {"policy": 3}, 2, horizon=3)
    rows = [Row(1.0), Row(2.0), Row(3.0), Row(4.0), Row(5.0, terminated=True), Row(6.0, truncated=True)]
    play(replay, *([row] for row in [*rows, Row(7.0), Row(8.0)]))
    whole = 1 + GAMMA * 2 + GAMMA**2 * 3
    assert decisions(replay) == {
        1.0: (round(whole, 4), round(GAMMA**3, 4), 3.5, 3),
        4.0: (4 + GAMMA * 5, 0.0, 5.5, 2),  # its noise is there to the last number: see `decisions`
        6.0: (6.0, GAMMA, 6.5, 1),
    }
    assert replay.num_added == 8


def test_environments_decide_on_their_own_clocks_and_the_oldest_are_overwritten():
    replay = NoiseReplay(12, 2, {"policy": 3}, 2, horizon=3)  # six rows of two
    ends = {(1, 0), (3, 1)}
    rows = [[Row(10.0 * t + n, terminated=(t, n) in ends) for n in range(2)] for t in range(9)]
    play(replay, *rows)
    # environment 0 decides at 0, 2, 5, 8; environment 1 at 0, 3, 4, 7; rows 0 to 2 are gone
    assert decisions(replay).keys() == {50.0, 31.0, 41.0}
    assert decisions(replay)[31.0] == (31.0, 0.0, 31.5, 1)


def test_nothing_is_learned_from_a_diverged_simulation():
    replay = NoiseReplay(100, 1, {"policy": 3}, 2, horizon=3)
    diverged = {"truncated": True, "valid": False}
    play(replay, [Row(1.0)], [Row(2.0, **diverged)], [Row(3.0, **diverged)], [Row(4.0)], [Row(5.0)])
    assert decisions(replay) == {1.0: (1.0, GAMMA, 1.5, 1)}
    assert replay.num_added == 3


def test_state_round_trip_in_the_middle_of_decisions():
    rows = [[Row(10.0 * t + n, truncated=t == 2 * n) for n in range(2)] for t in range(8)]
    a, b = (NoiseReplay(10, 2, {"policy": 3}, 2, horizon=3) for _ in range(2))
    play(a, *rows[:4])
    b.load_state_dict(copy.deepcopy(a.state_dict()))
    for replay in (a, b):
        replay.decide(torch.tensor([True, False]), torch.tensor([noise(40.0)]))
        add(replay, rows[4])
        replay.decide(torch.tensor([True, True]), torch.tensor([noise(50.0), noise(51.0)]))
        add(replay, rows[5])
    assert a.size == b.size and decisions(a) == decisions(b)


def test_a_replay_that_overwrites_decisions_before_they_are_over_is_refused():
    with pytest.raises(UsageError, match=r"raise algorithm\.replay_size above 15"):
        NoiseReplay(15, 4, {"policy": 3}, 2, horizon=3)
    NoiseReplay(16, 4, {"policy": 3}, 2, horizon=3)
