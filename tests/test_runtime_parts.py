"""The runtime's clockwork, chunk execution and limits, against numbers made by hand."""

from __future__ import annotations

import math
import time
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runtime_common import Network, contract

from robotrl.core.errors import RobotrlError, UsageError
from robotrl.deploy.runtime.chunks import MostCoherent, RealTimeChunks, TemporalEnsemble, UnderrunError
from robotrl.deploy.runtime.decide import check_recordings, execution
from robotrl.deploy.runtime.histogram import Histogram
from robotrl.deploy.runtime.limits import Limits, read_limits
from robotrl.deploy.runtime.rate import Rate
from robotrl.deploy.runtime.robots.clock_map import ClockMap


class Clock:
    """Time that passes only when somebody sleeps or a test says so."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, duration_s: float) -> None:
        assert duration_s > 0
        self.now_s += duration_s


def test_deadlines_do_not_drift_with_the_work() -> None:
    clock = Clock()
    rate = Rate(0.01, clock=clock, sleep=clock.sleep)
    for period in range(1, 1001):
        tick = rate.wait()
        assert tick.time_s == pytest.approx(1000.0 + 0.01 * period, abs=1e-9) and tick.missed == 0
        clock.now_s += 0.004  # the work of a period
    assert rate.overruns == 0 and rate.lateness.worst_s < 1e-9


@pytest.mark.parametrize("stall", [1.5, 3.2, 5.4, 1000.5])
def test_what_a_stall_missed_is_skipped(stall: float) -> None:
    clock = Clock()
    rate = Rate(0.01, clock=clock, sleep=clock.sleep)
    rate.wait()
    began_s = clock.now_s
    clock.now_s += 0.01 * stall
    ticks = [rate.wait() for _ in range(50)]
    assert ticks[0].missed == math.floor(stall - 1) and rate.overruns == (stall >= 2)
    grid = [(tick.time_s - began_s) / 0.01 for tick in ticks[1:]]
    np.testing.assert_allclose(np.diff(grid), 1.0, atol=1e-6)
    np.testing.assert_allclose(grid, np.round(grid), atol=1e-6)  # still start + n dt
    assert len([t for t in grid if t <= stall + 10]) <= 10


def test_a_clock_that_goes_back_is_told_and_not_slept_through() -> None:
    clock = Clock()
    rate = Rate(0.01, clock=clock, sleep=clock.sleep)
    rate.wait()
    clock.now_s -= 3600.0
    before_s = clock.now_s
    assert rate.wait().jumped and clock.now_s - before_s <= 0.01
    assert not rate.wait().jumped


def test_quantiles_are_those_of_the_sorted_durations() -> None:
    rng = np.random.default_rng(0)
    durations = 10 ** rng.uniform(-5, -2, 5000)
    histogram = Histogram()
    for duration in durations:
        histogram.add(float(duration))
    for share in (0.5, 0.99, 0.999):
        exact = np.quantile(durations, share)
        assert exact * 0.98 <= histogram.quantile_s(share) <= exact * 10**0.1 * 1.02
    assert histogram.worst_s == durations.max() and histogram.mean_s == pytest.approx(durations.mean())


def chunk(start: float, horizon: int = 6) -> np.ndarray:
    """A decision that counts: start, start + 1, ..., of one action."""
    return start + np.arange(float(horizon)).reshape(-1, 1)


def test_temporal_ensembling_is_the_weighted_mean_of_all_predictions() -> None:
    rng = np.random.default_rng(1)
    horizon, steps, m = 5, 17, 0.3
    decisions = rng.normal(size=(steps, horizon, 2))
    ensemble = TemporalEnsemble(lambda observation: decisions[int(observation[0])], m)
    for t in range(steps):
        # oldest first
        predictions = [decisions[s, t - s] for s in range(max(0, t - horizon + 1), t + 1)]
        weights = np.exp(-m * np.arange(len(predictions)))
        expected = np.average(predictions, axis=0, weights=weights)
        np.testing.assert_allclose(ensemble(np.array([float(t)])), expected, rtol=1e-12)


class Later(Executor):
    """Runs what it is given when the test says so."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Future[Any], Any, tuple[Any, ...]]] = []

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.waiting.append((future, fn, args))
        return future

    def finish(self) -> None:
        future, fn, args = self.waiting.pop(0)
        future.set_result(fn(*args))


def test_real_time_chunks_play_the_old_decision_while_the_next_is_made() -> None:
    later = Later()
    play = RealTimeChunks(lambda o, _: chunk(100 * o[0], 8), 8, 3, executor=later)

    def step(t: int) -> float:
        return float(play(np.array([float(t)]))[0])

    assert [step(t) for t in (0, 1, 2)] == [0, 1, 2] and not later.waiting
    assert step(3) == 3 and len(later.waiting) == 1  # three are played: decided from the observation of 3
    assert step(4) == 4
    later.finish()
    # decided at 3, it comes before 5: its actions for 3 and 4 are over
    assert [step(t) for t in (5, 6)] == [302, 303] and play.worst_delay == 2
    assert len(later.waiting) == 1


def test_a_decision_from_before_a_reset_is_never_played() -> None:
    later = Later()
    play = RealTimeChunks(lambda o, _: chunk(100 * o[0], 4), 4, 1, executor=later)
    for t in range(2):
        play(np.array([float(t)]))
    play.reset()
    later.finish()
    assert float(play(np.array([7.0]))[0]) == 700
    assert float(play(np.array([8.0]))[0]) == 701


def test_a_decision_that_failed_is_told_once() -> None:
    broken = [False]

    def decide(observation: np.ndarray, rest: np.ndarray | None) -> np.ndarray:
        if broken[0]:
            raise RobotrlError("no")
        return chunk(0, 4)

    play = RealTimeChunks(decide, 4, 1)
    play(np.zeros(1))
    broken[0] = True
    with pytest.raises(RobotrlError, match="no"):
        for _ in range(3):
            play(np.zeros(1))
            time.sleep(0.05)
    broken[0] = False
    play.reset()
    assert [float(play(np.zeros(1))[0]) for _ in range(2)] == [0, 1]
    broken[0] = True
    time.sleep(0.05)
    play.reset()  # while one that fails is still to be collected
    broken[0] = False
    assert float(play(np.zeros(1))[0]) == 0


def test_an_underrun_holds_the_last_action_for_some_steps_then_fails() -> None:
    play = RealTimeChunks(lambda o, _: chunk(0, 4), 4, 1, hold_steps=2, executor=Later())
    played = [float(play(np.zeros(1))[0]) for _ in range(6)]
    assert played == [0, 1, 2, 3, 3, 3]
    with pytest.raises(UnderrunError, match="takes longer than"):
        play(np.zeros(1))


def test_real_time_chunks_in_their_own_thread() -> None:
    play = RealTimeChunks(lambda o, _: chunk(o[0], 60), 60, 2)
    previous = float(play(np.array([0.0]))[0])
    for t in range(1, 150):
        time.sleep(0.002)
        action = float(play(np.array([float(t)]))[0])
        assert action == previous + 1  # every decision says t at control step t
        previous = action
    assert play.worst_delay > 0


@pytest.mark.parametrize("execute", [0, 6, 7])
def test_real_time_chunks_need_some_of_a_decision_to_play_on(execute: int) -> None:
    with pytest.raises(UsageError, match="1 <= execute < 6"):
        RealTimeChunks(lambda o, _: chunk(0), 6, execute)


def test_a_decision_goes_on_with_the_one_before() -> None:
    """Noise says whether to go up or down; of 64 decisions one that goes on is taken."""

    def changes(candidates: int) -> int:
        rng, later = np.random.default_rng(0), Later()

        def decide(observation: np.ndarray) -> np.ndarray:
            return np.outer(rng.choice([-1.0, 1.0]) * np.arange(1.0, 5.0), [1.0, 0.0])

        play = RealTimeChunks(MostCoherent(decide, candidates, np.ones(2)), 4, 2, executor=later)
        played = []
        for _ in range(200):
            played.append(np.sign(play(np.zeros(1))[0]))
            if later.waiting:
                later.finish()
        return int(np.count_nonzero(np.diff(played)))

    assert changes(64) == 0
    assert changes(1) > 20  # without the choice it changes its mind


def test_what_is_nearest_counts_what_both_decisions_have_in_units_of_scale() -> None:
    made = iter([[[0.0, 5.0], [9.0, 9.0]], [[0.5, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
    nearest = MostCoherent(lambda o: np.array(next(made)), 2, np.array([0.1, 10.0]))
    # one action is left of the old decision: distances 0.5 of 10 against 0.5 of 0.1
    assert nearest(np.zeros(1), np.zeros((1, 2))).tolist() == [[0.0, 5.0], [9.0, 9.0]]
    assert nearest(np.zeros(1), None).tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_ways_of_execution_and_what_they_need() -> None:
    made = contract(horizon=6, noise_dim=3)
    noises: list[np.ndarray] = []

    class Chunks:
        contract = made

        def __call__(self, observation: np.ndarray, noise: np.ndarray | None = None) -> np.ndarray:
            assert noise is not None and noise.shape == (3,) and noise.dtype == np.float32
            noises.append(noise)
            return np.arange(12.0) + 100 * observation[0]

    played = {}
    for kind in ("queue", "ensemble", "realtime"):
        play = execution(kind, Chunks(), Limits(), seed=7)
        played[kind] = [play(np.full(7, float(t))).tolist() for t in range(2)]
    assert played["queue"] == played["realtime"] == [[0, 1], [2, 3]]
    weight = math.exp(-0.01)
    np.testing.assert_allclose(
        played["ensemble"][1], np.array([2 + 100 * weight, 3 + 101 * weight]) / (1 + weight)
    )
    np.testing.assert_array_equal(noises[0], noises[1])  # the same seed
    with pytest.raises(UsageError, match="one action at a time"):
        execution("ensemble", Network(lambda o: chunk(0, 1), contract()), Limits())
    with pytest.raises(UsageError, match="expected queue, ensemble, realtime"):
        execution("fast", Chunks(), Limits())


def test_recordings_that_do_not_come_out_again_are_refused() -> None:
    golden = {"observation": np.zeros((2, 7), np.float32), "action": np.full((2, 2), 0.25, np.float32)}
    made = contract()
    check_recordings(Network(lambda o: np.array([[0.25, 0.25 + 9e-6]]), made), golden)
    for wrong in (0.25 + 2e-5, math.nan):
        with pytest.raises(RobotrlError, match="do not come out again"):
            check_recordings(Network(lambda o, wrong=wrong: np.array([[0.25, wrong]]), made), golden)  # type: ignore[misc]


def test_ages_by_a_robots_clock_and_its_jumps() -> None:
    clock = ClockMap()
    rng = np.random.default_rng(3)

    def age_s(now_s: float, robot_s: float, measured_s: float) -> float:
        return now_s - clock.to_local(measured_s, robot_s, now_s)

    def run(start_s: float, offset_s: float, seconds: float, frozen_s: float | None = None) -> list[float]:
        ages = []
        for i in range(round(seconds / 0.01)):
            sent_s = start_s + 0.01 * i
            received_s = sent_s + 0.0002 + float(rng.exponential(0.0003))
            measured_s = sent_s - 0.003 if frozen_s is None else frozen_s
            ages.append(age_s(received_s, sent_s + offset_s, measured_s + offset_s))
        return ages

    ages = run(0.0, 5000.0, 20.0)
    assert 0.003 <= max(ages[10:]) < 0.008 and min(ages) > 0.0025
    assert run(20.0, 5000.0, 0.2, frozen_s=19.997)[-1] > 0.18  # the sensor froze, packets go on
    assert min(run(20.2, 4999.0, 0.2)) > 0.9  # the robot's clock went back by a second
    assert max(run(20.4, 5002.0, 0.2)) < -1.9  # and ahead by two


def test_late_packets_do_not_move_the_clock_and_drift_does() -> None:
    clock, rng = ClockMap(), np.random.default_rng(4)
    drift, ahead = 8e-5, []
    for i in range(60_000):  # 10 minutes at 100 Hz
        sent_s = 0.01 * i
        # a crowded machine: nine packets of ten are 20 ms late for minutes
        late_s = 0.02 if 6_000 < i < 50_000 and rng.random() < 0.9 else 0.0
        received_s = sent_s + 0.0002 + late_s
        on_robot_s = 70.0 + sent_s * (1.0 + drift)
        ahead.append(clock.to_local(on_robot_s, on_robot_s, received_s) - sent_s)
    # within the drift of two windows and the fastest packet's travel
    assert min(ahead) > -0.002 and max(ahead) < 0.002 + 0.0002


def test_limits_are_read_and_checked(tmp_path: Path) -> None:
    file = tmp_path / "limits.yaml"
    file.write_text("tilt_rad: 0.6\nhold_steps: 5\nsignals:\n  battery: [21.5, null]\n")
    assert read_limits(file) == Limits(tilt_rad=0.6, hold_steps=5, signals={"battery": (21.5, math.inf)})
    for text, message in (
        ("tilt: 0.6", "unknown limit in .*'tilt' .*did you mean 'tilt_rad'"),
        ("tilt_rad: -1", "tilt_rad must be above 0"),
        ("tilt_rad: .nan", "tilt_rad must be finite"),
        ("tilt_rad: yes", "tilt_rad: expected a number, got True"),
        ("hold_steps: 1.5", "hold_steps: expected a whole number"),
        ("soft_limit_share: 1.5", r"soft_limit_share must be in \(0, 1\]"),
        ("signals: {battery: 3}", r"'battery' needs \[low, high\]"),
        ("signals: {battery: [3, 2]}", "low < high"),
        ("[1, 2]", "expected `name: value` lines"),
        ("a: [", "limits"),
    ):
        file.write_text(text)
        with pytest.raises(UsageError, match=message) as caught:
            read_limits(file)
        assert "\n" not in str(caught.value)
