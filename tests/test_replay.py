"""Replay by hand and, over random histories, against a scalar reference in float64; exact shares of a mix."""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robotrl.core.errors import RobotrlError, UsageError
from robotrl.core.types import Step
from robotrl.data.mix import ReplayMix
from robotrl.data.replay import Replay, Transitions

GAMMA = 0.9


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def flags(values: list[bool]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.bool)


@dataclass
class Row:
    """One transition as it happened; `place` is its reward, too, and tells where a batch came from."""

    place: float
    terminated: bool = False
    truncated: bool = False
    valid: bool = True


def add(replay: Replay, rows: list[Row]) -> None:
    """Add a control step: obs is the place, the action twice that, the true successor half a unit more."""
    place = torch.tensor([row.place for row in rows])
    obs, final = {"policy": place[:, None].expand(-1, 3)}, {"policy": place[:, None].expand(-1, 3) + 0.5}
    ends = flags([row.terminated for row in rows]), flags([row.truncated for row in rows])
    action = torch.stack([2 * place, -place], 1)
    reset = {"policy": torch.full((len(rows), 3), -99.0)}
    replay.add(obs, action, Step(reset, place, *ends, final, flags([row.valid for row in rows])))


def line(*rows: Row, capacity: int = 100) -> Replay:
    """Replay of one environment."""
    replay = Replay(capacity, 1, {"policy": 3}, 2)
    for row in rows:
        add(replay, [row])
    return replay


def window(replay: Replay, start: float, horizon: int) -> Transitions:
    """The window that starts at a place, as a batch of one."""
    batch = replay.sample(500, rng(), horizon, GAMMA)
    (found,) = (batch.obs["policy"][:, 0] == start).nonzero()[:1].tolist() or [[None]]
    assert found[0] is not None, f"no window starts at {start}"
    i = found[0]
    return Transitions(
        {"policy": batch.obs["policy"][i]},
        batch.action[i],
        batch.reward[i],
        batch.discount[i],
        {"policy": batch.next_obs["policy"][i]},
        batch.mask[i],
    )


def check(replay: Replay, start: float, rewards: list[float], discount: float, next_obs: float) -> None:
    """Compare a window of three steps with one written down."""
    got = window(replay, start, 3)
    k = len(rewards)
    places = torch.tensor([*rewards, *[0.0] * (3 - k)])
    assert got.reward.item() == pytest.approx(sum(GAMMA**i * r for i, r in enumerate(rewards)), rel=1e-6)
    assert got.discount.item() == pytest.approx(discount, rel=1e-6)
    assert got.next_obs["policy"].tolist() == [next_obs] * 3
    assert got.mask.tolist() == [1.0] * k + [0.0] * (3 - k)
    assert torch.equal(got.action, torch.stack([2 * places, -places], 1).flatten())


def test_a_window_ends_with_its_episode_and_only_a_true_end_state_stops_the_bootstrap():
    end = line(Row(1.0), Row(2.0, terminated=True), Row(3.0), Row(4.0), Row(5.0))
    check(end, 1.0, [1.0, 2.0], 0.0, 2.5)
    check(end, 2.0, [2.0], 0.0, 2.5)
    check(end, 3.0, [3.0, 4.0, 5.0], GAMMA**3, 5.5)
    time_limit = line(Row(1.0), Row(2.0, truncated=True), Row(3.0), Row(4.0), Row(5.0))
    check(time_limit, 1.0, [1.0, 2.0], GAMMA**2, 2.5)
    check(time_limit, 2.0, [2.0], GAMMA, 2.5)


def places(replay: Replay, horizon: int) -> set[float]:
    """Where windows start."""
    return set(replay.sample(200, rng(), horizon).obs["policy"][:, 0].tolist())


def test_a_window_ends_before_a_diverged_row():
    replay = line(Row(1.0), Row(2.0), Row(9.0, truncated=True, valid=False), Row(4.0), Row(5.0), Row(6.0))
    check(replay, 1.0, [1.0, 2.0], GAMMA**2, 2.5)
    check(replay, 2.0, [2.0], GAMMA, 2.5)
    check(replay, 4.0, [4.0, 5.0, 6.0], GAMMA**3, 6.5)
    assert replay.size == 5 == replay.num_added
    assert places(replay, 1) == {1.0, 2.0, 4.0, 5.0, 6.0}


def test_a_window_that_is_not_over_is_not_drawn():
    """Its last actions are still to come, and are not 0."""
    replay = line(Row(1.0), Row(2.0))
    assert not replay.can_sample(3) and replay.can_sample(2)
    with pytest.raises(RobotrlError, match="no windows of 3 control steps that are over"):
        replay.sample(1, rng(), 3)
    add(replay, [Row(3.0)])
    assert replay.can_sample(3) and places(replay, 3) == {1.0}
    add(replay, [Row(4.0, truncated=True)])
    assert places(replay, 3) == {1.0, 2.0, 3.0, 4.0}
    add(replay, [Row(5.0)])
    assert places(replay, 3) == {1.0, 2.0, 3.0, 4.0} and places(replay, 1) == {1.0, 2.0, 3.0, 4.0, 5.0}


def test_rows_are_enough_only_if_a_window_starts_in_one_and_is_over():
    replay = line(Row(9.0, truncated=True, valid=False), Row(2.0), Row(3.0), Row(4.0))
    assert not replay.can_sample(4) and replay.can_sample(3)
    add(replay, [Row(5.0)])
    assert replay.can_sample(4) and places(replay, 4) == {2.0}
    ended = line(Row(1.0), Row(2.0, truncated=True))
    assert ended.can_sample(4) and places(ended, 4) == {1.0, 2.0}
    ring = line(*(Row(float(i)) for i in range(1, 7)), capacity=4)  # 5 6 3 4
    assert ring.can_sample(4) and not ring.can_sample(5)
    assert not line().can_sample(1)


def test_a_window_of_the_oldest_rows_does_not_meet_the_newest():
    replay = line(*(Row(float(i)) for i in range(1, 7)), capacity=4)  # 5 6 3 4
    check(replay, 3.0, [3.0, 4.0, 5.0], GAMMA**3, 5.5)
    check(replay, 4.0, [4.0, 5.0, 6.0], GAMMA**3, 6.5)
    assert places(replay, 3) == {3.0, 4.0}


def test_a_cut_ends_windows_but_no_episode():
    replay = line(Row(1.0), Row(2.0))
    replay.cut()
    add(replay, [Row(3.0)])
    check(replay, 1.0, [1.0, 2.0], GAMMA**2, 2.5)


def reference(
    history: list[list[Row]], t: int, n: int, horizon: int
) -> tuple[list[float], float, float] | None:
    """Rewards, discount and place of the successor of the window at row t of environment n, if it is over."""
    rewards: list[float] = []
    while t < len(history):
        row = history[t][n]
        rewards.append(row.place)
        over = row.terminated or row.truncated or (t + 1 < len(history) and not history[t + 1][n].valid)
        if over or len(rewards) == horizon:
            return rewards, 0.0 if row.terminated else GAMMA ** len(rewards), row.place + 0.5
        t += 1
    return None


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**20),
    num_envs=st.integers(1, 4),
    capacity_rows=st.integers(1, 9),
    num_rows=st.integers(1, 25),
    horizon=st.integers(1, 6),
)
def test_every_window_of_random_histories_is_the_references(seed, num_envs, capacity_rows, num_rows, horizon):
    draw = random.Random(seed)
    replay = Replay(capacity_rows * num_envs + draw.randrange(num_envs), num_envs, {"policy": 3}, 2)
    history = []
    for t in range(num_rows):
        # terminated, truncated, valid: goes on, ends, reaches the time limit, diverges
        kinds = [(False, False, True), (True, False, True), (False, True, True), (False, True, False)]
        drawn = draw.choices(kinds, [6, 1, 1, 1], k=num_envs)
        history.append([Row(float(t * num_envs + n), *kind) for n, kind in enumerate(drawn)])
        add(replay, history[-1])
    kept = range(max(0, num_rows - capacity_rows), num_rows)
    sound = {history[t][n].place for t in kept for n in range(num_envs) if history[t][n].valid}
    assert replay.size == len(sound)
    if not sound:
        with pytest.raises(RobotrlError, match="no transition"):
            replay.sample(1, rng())
        return
    windows = {place: reference(history, *divmod(int(place), num_envs), horizon) for place in sound}
    windows = {place: window for place, window in windows.items() if window is not None}
    if not windows:
        with pytest.raises(RobotrlError, match="that are over"):
            replay.sample(1, rng(), horizon)
        return
    batch = replay.sample(40 * len(sound), rng(seed), horizon, GAMMA)
    starts = batch.obs["policy"][:, 0].tolist()
    assert set(starts) == windows.keys()  # each is missed with probability e^-40
    for i, place in enumerate(starts):
        rewards, discount, successor = windows[place]
        k = len(rewards)
        expected = sum(GAMMA**j * reward for j, reward in enumerate(rewards))
        assert batch.reward[i].item() == pytest.approx(expected, rel=1e-5)
        assert batch.discount[i].item() == pytest.approx(discount, rel=1e-5)
        assert batch.next_obs["policy"][i].tolist() == [successor] * 3
        assert batch.mask[i].tolist() == [1.0] * k + [0.0] * (horizon - k)
        actions = [value for reward in rewards for value in (2 * reward, -reward)]
        assert batch.action[i].tolist() == actions + [0.0] * (2 * (horizon - k))


def test_diverged_rows_leave_the_other_starts_uniform():
    replay = line(*(Row(float(i), truncated=i % 3 == 0, valid=i % 3 != 0) for i in range(30)))
    places = replay.sample(40_000, rng()).obs["policy"][:, 0].long()
    counts = torch.bincount(places, minlength=30)
    assert (counts[::3] == 0).all()
    drawn = counts[counts > 0].double()
    # chi square of 19 degrees of freedom: above 43.8 in one of 1000
    assert ((drawn - 2000).square() / 2000).sum() < 43.8


def test_state_round_trip_continues_bit_for_bit():
    rows = [[Row(float(10 * t + n), truncated=t == n, valid=t != n) for n in range(3)] for t in range(6)]
    replay = Replay(14, 3, {"policy": 3}, 2)  # four rows of three
    for row in rows[:5]:
        add(replay, row)
    other = Replay(14, 3, {"policy": 3}, 2)
    other.load_state_dict(copy.deepcopy(replay.state_dict()))
    for replay_ in (replay, other):
        add(replay_, rows[5])
    assert (other.size, other.num_added) == (replay.size, replay.num_added) == (11, 15)
    for horizon in (1, 3):
        a, b = replay.sample(64, rng(3), horizon), other.sample(64, rng(3), horizon)
        for name in ("action", "reward", "discount", "mask"):
            assert torch.equal(getattr(a, name), getattr(b, name))
        assert torch.equal(a.next_obs["policy"], b.next_obs["policy"])


def test_a_state_of_other_sizes_is_refused():
    replay = line(Row(1.0), Row(2.0), capacity=6)
    with pytest.raises(RobotrlError, match="holds 2 transitions, replay_size is 1"):
        Replay(1, 1, {"policy": 3}, 2).load_state_dict(replay.state_dict())
    with pytest.raises(RobotrlError, match="is of 1 environments, num_envs is 2"):
        Replay(6, 2, {"policy": 3}, 2).load_state_dict(replay.state_dict())


def test_a_mix_has_exact_shares_and_keeps_parts_apart():
    offline = line(*(Row(float(i)) for i in range(10)))
    online = line(*(Row(float(i)) for i in range(100, 110)))
    mix = ReplayMix({"offline": (offline, 0.29), "online": (online, 0.71)})
    assert mix.counts(100) == [29, 71]
    for horizon in (1, 3):
        batch = mix.sample(100, rng(), horizon)
        from_online = batch.obs["policy"][:, 0] >= 100
        assert from_online.tolist() == [False] * 29 + [True] * 71
        assert batch.action.shape == (100, 2 * horizon) and batch.mask.shape == (100, horizon)
    thirds = ReplayMix({name: (offline, 1 / 3) for name in "abc"})
    assert thirds.counts(256) == [86, 85, 85]
    assert ReplayMix({"a": (offline, 0.5), "b": (online, 0.5)}).counts(7) == [4, 3]
    # a part without a share may be empty
    only = ReplayMix({"offline": (offline, 1.0), "online": (Replay(5, 1, {"policy": 3}, 2), 0.0)})
    assert len(only.sample(8, rng()).reward) == 8


@pytest.mark.parametrize("shares", [[0.5, 0.4], [1.5, -0.5], []])
def test_shares_that_do_not_fill_a_batch_are_refused(shares):
    replay = line(Row(0.0))
    with pytest.raises(UsageError, match="add up to 1"):
        ReplayMix({str(i): (replay, share) for i, share in enumerate(shares)})
