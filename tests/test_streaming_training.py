"""Streams as runs: windows of online returns, sweeps, what is written, exported and refused."""

from __future__ import annotations

import copy
import dataclasses
import html
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_runs import overrides

from robotrl.algorithms.streaming.stream_action_value import (
    StreamDeterministicActorCritic,
    StreamSoftActorCritic,
)
from robotrl.algorithms.streaming.stream_actor_critic import StreamActorCritic
from robotrl.algorithms.streaming.streaming_algorithm import StreamingAlgorithm
from robotrl.compose import compose
from robotrl.core.errors import UsageError
from robotrl.core.types import Step
from robotrl.export.verify import verify_bundle
from robotrl.training.restore import load_policy_and_config
from robotrl.training.streaming import OnlineReturns, StreamingLoop
from robotrl.training.streams_report import streams_section
from robotrl.training.train import make_loop, train


def outcome(reward: list[float], valid: list[bool]) -> Step:
    flags = torch.zeros(2, dtype=torch.bool)
    return Step({}, torch.tensor(reward), flags, flags, {}, torch.tensor(valid))


def test_online_returns_by_hand() -> None:
    returns = OnlineReturns(2, 1000)
    returns.add(outcome([1.0, 10.0], [True, True]), None, 1)
    returns.add(outcome([2.0, 20.0], [True, True]), np.array([True, False]), 2)
    returns.add(outcome([4.0, 40.0], [True, False]), np.array([False, True]), 10)  # diverged: unknown
    returns.add(outcome([8.0, 80.0], [True, True]), np.array([True, True]), 951)
    returns.add(outcome([6.0, 7.0], [True, True]), np.array([True, False]), 1000)
    means = returns.means()
    assert means[0, 0] == 3.0 and math.isnan(means[1, 0])
    assert means[0, 95] == 12.0 and means[1, 95] == 80.0 and means[0, 99] == 6.0
    assert returns.last_tenth().tolist() == [9.0, 80.0]
    assert returns.best() == 1
    copied = OnlineReturns(2, 1000)
    copied.load_state_dict(returns.state_dict())
    copied.add(outcome([0.0, 1.0], [True, True]), np.array([False, True]), 1000)
    assert copied.means()[1, 99] == 8.0
    copied.add(outcome([5.0, 5.0], [True, True]), None, 1000)
    copied.forget_running()
    copied.add(outcome([1.0, 2.0], [True, True]), np.array([True, False]), 1000)
    assert copied.means()[0, 99] == (6.0 + 1.0) / 2


def test_an_episode_that_ends_with_a_window_is_its_last() -> None:
    returns = OnlineReturns(1, 100_000)
    for steps in range(1000, 100_001, 1000):
        returns.add(outcome([1.0], [True]), np.array([True]), steps)
    assert returns.counts.tolist() == [[1] * 100]
    returns.add(outcome([1.0], [True]), np.array([True]), 100_002)  # whole steps of the environments
    assert returns.counts[0, 99] == 2


def test_the_stream_that_is_shown_is_the_best_by_its_newest_returns() -> None:
    returns = OnlineReturns(2, 1000)
    done = np.array([True, True])
    for window in range(15):  # the first was good once
        reward = [100.0 if window < 5 else 0.0, 10.0]
        returns.add(outcome(reward, [True, True]), done, 10 * window + 5)
    assert returns.best() == 1


def test_what_is_logged_of_an_update_is_not_an_episodes_end_alone(tmp_path: Path) -> None:
    loop = make_loop(compose(overrides("stream_ac", tmp_path, "total_steps=4000")))
    metrics = loop.iterate()
    assert loop.env_steps == 2000 and loop.obs["policy"].isfinite().all()
    # all four streams have just ended their tenth episode, which clears the traces
    assert loop.algorithm.diagnostics()["stream/critic/trace"] == 0.0
    assert metrics["stream/critic/trace"] > 0.0 and metrics["stream/actor/trace"] > 0.0


@pytest.mark.parametrize("name", ["stream_ac", "stream_sac", "stream_dac"])
def test_streams_are_told_what_the_step_brought(name: str, tmp_path: Path) -> None:
    """Ends, time limits, the true successor before the reset, and what is not to be learned from."""
    loop = make_loop(compose(overrides(name, tmp_path, "total_steps=100")))
    algorithm, rng = loop.algorithm, torch.Generator().manual_seed(5)
    twin = copy.deepcopy(algorithm.learner)
    dim = algorithm.policy.obs_dim
    first, true = (torch.randn(4, dim, generator=rng) for _ in range(2))
    ends, limits = torch.tensor([True, False, False, False]), torch.tensor([False, True, False, True])
    reward, valid = torch.randn(4, generator=rng), torch.tensor([True, True, True, False])
    final = torch.where((ends | limits).unsqueeze(1), true, first)
    for _ in range(2):
        algorithm.update(Step({"policy": first}, reward, ends, limits, {"policy": final}, valid))
        twin.update(
            reward=reward, terminated=ends, truncated=limits, next_obs=first, final_obs=final, valid=valid
        )
    for key, array in twin.state_dict().items():
        np.testing.assert_array_equal(algorithm.learner.state_dict()[key], array, err_msg=key)


@pytest.mark.parametrize(
    "algorithm", [StreamActorCritic, StreamSoftActorCritic, StreamDeterministicActorCritic]
)
def test_a_run_has_its_learners_defaults(algorithm: type[StreamingAlgorithm]) -> None:
    run, learner = algorithm.config_class(), algorithm.learner_config_class()
    names = [item.name for item in dataclasses.fields(learner)]
    assert {name: getattr(run, name) for name in names} == dataclasses.asdict(learner)


@pytest.mark.parametrize(
    ("algorithm", "name"), [("stream_ac", "actor_eta"), ("stream_sac", "alpha"), ("stream_dac", "noise_std")]
)
def test_a_sweep_trains_streams_that_differ_and_every_one_is_evaluated(
    algorithm: str, name: str, tmp_path: Path
) -> None:
    words = overrides(algorithm, tmp_path, "total_steps=8000", "export=true")
    sweep = f"algorithm.sweep={{{name}: [0.01, 0.05, 0.1, 0.2]}}"
    run = train(compose([*words, sweep]), show_progress=False)
    document = json.loads((run / "streams.json").read_text())
    assert document["env_steps_per_stream"] == 2000
    streams = document["streams"]
    assert [stream["swept"] for stream in streams] == [{name: value} for value in (0.01, 0.05, 0.1, 0.2)]
    # 2000 steps are 40 episodes of 50, of which the last tenth has four; a reward is in [0, 1]
    for stream in streams:
        known = [value for value in stream["curve"] if value is not None]
        assert len(known) == 40 and all(0 < value < 50 for value in known)
        assert stream["online_return"] == pytest.approx(np.mean(known[-4:]))
    assert len({stream["eval_return"] for stream in streams}) == 4
    page = (run / "report.html").read_text()
    assert (
        "<h2>Streams</h2>" in page and "<td>0.01</td>" in page and f"is stream {document['shown']}." in page
    )
    summary = json.loads((run / "evaluation" / "summary.json").read_text())
    assert summary["mean"] == pytest.approx(streams[document["shown"]]["eval_return"])
    policy, _ = load_policy_and_config(run)
    assert all(check.passed for check in verify_bundle(run / "bundle", policy))
    if name == "noise_std":  # that of the stream that is shown
        assert {name: policy.noise_std} == streams[document["shown"]]["swept"]


@pytest.mark.parametrize(
    ("words", "floor"),
    [
        ([], 1e-3),
        (["algorithm.preset=reference", "algorithm.rule=obgd", "algorithm.episode_steps=50"], 0.0),
        (["algorithm.preset=reference", "algorithm.std_floor=0.01"], 0.01),
        (["algorithm.std_floor=0.02"], 0.02),
    ],
)
def test_the_policys_floor_is_its_streams(words: list[str], floor: float) -> None:
    loop = make_loop(compose(overrides("stream_ac", Path("unused"), *words)))
    assert isinstance(loop, StreamingLoop) and loop.algorithm.learner is not None
    assert (loop.algorithm.learner.std_floor == floor).all()
    assert [policy.std_floor for policy in loop.algorithm.policies()] == [floor] * 4


def test_the_report_draws_the_mean_of_the_streams_where_all_have_episodes() -> None:
    def stream(*curve: float | None) -> dict[str, Any]:
        return {"swept": {}, "online_return": 1.0, "eval_return": None, "curve": list(curve)}

    streams = [stream(None, 2.0, 4.0, 6.0), stream(1.0, 4.0, 4.0, 12.0)]
    section = streams_section({"env_steps_per_stream": 400, "shown": 1, "streams": streams})
    assert section is not None
    (drawn,) = json.loads(html.unescape(re.search('data-series="([^"]*)"', section["chart"])[1]))
    assert (drawn["x"], drawn["y"]) == (["200", "300", "400"], ["3", "4", "9"])
    assert drawn["interval"] == ["2 to 4", "4 to 4", "6 to 12"]
    assert streams_section(None) is None
    nothing = {"env_steps_per_stream": 4, "shown": 0, "streams": [stream(1.0, None), stream(None, 2.0)]}
    assert streams_section(nothing) == {"chart": None, "rows": nothing["streams"], "shown": 0}


@torch.no_grad()
@pytest.mark.parametrize("algorithm", ["stream_ac", "stream_sac", "stream_dac"])
def test_the_policy_is_the_actor_that_learned(algorithm: str) -> None:
    loop = make_loop(compose(overrides(algorithm, Path("unused"))))
    assert isinstance(loop, StreamingLoop) and loop.algorithm.learner is not None
    loop.iterate()
    for i, policy in enumerate(loop.algorithm.policies()):
        mean = loop.algorithm.learner.deterministic_action(loop.obs["policy"].numpy())[i]
        shown = policy.act(loop.obs, deterministic=True)[i].numpy()
        np.testing.assert_allclose(shown, mean, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["algorithm.sweep={actor_etta: [1, 2, 3, 4]}"], "unknown hyperparameter .*did you mean 'actor_eta'"),
        (["algorithm.sweep={actor_eta: [1, 2]}"], r"sweep of actor_eta has shape \(2,\)"),
        (["algorithm.sweep={actor_eta: 0.2}"], "sweep.actor_eta must be a list of one number per stream"),
        (["algorithm.hidden=[8]"], r"policy.hidden is \[16\] but algorithm.hidden is \[8\]"),
        (["policy.std_floor=0.05"], "policy.std_floor is 0.05 but algorithm.std_floor is 0.001"),
        (["policy=gaussian"], "stream_ac trains a SoftplusGaussianPolicy, got GaussianPolicy"),
        (
            ["algorithm.preset=reference", "algorithm.rule=obgd"],
            "algorithm.episode_steps is 1000, but an episode of this task has 50 control steps",
        ),
        (
            ["algorithm.actor_learning_rate=0.5"],
            "actor_learning_rate=0.5 does nothing with rule=intentional, which has actor_eta: set that",
        ),
        (
            ["total_steps=400", "algorithm.sweep={actor_rest_steps: [100, 0, 0, 0]}"],
            "actor_rest_steps=100 is not below the 100 ",
        ),
        (["algorithm.gamma=1.0"], r"gamma must be in \[0, 1\), got 1.0"),
    ],
)
def test_what_does_not_fit_is_one_line(words: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_loop(compose(overrides("stream_ac", Path("unused"), *words)))
