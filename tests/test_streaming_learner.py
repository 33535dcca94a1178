"""Streams keep to themselves, refuse bad input untouched, continue bit for bit and become policies."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from streaming_common import Walk

from robotrl.algorithms.streaming.actor_critic import StreamAC
from robotrl.algorithms.streaming.compiled import fill_normal, random_state
from robotrl.algorithms.streaming.config import Preset, StreamACConfig
from robotrl.algorithms.streaming.network import draw_parameters, layer_matrices
from robotrl.algorithms.streaming.policy import write_policy
from robotrl.algorithms.streaming.rules.codes import Rule
from robotrl.core.errors import UsageError
from robotrl.core.types import ActionTerm, ObsTerm, Specs
from robotrl.policies.softplus_gaussian import SoftplusGaussianConfig, SoftplusGaussianPolicy

OBS, ACTIONS = 5, 3


def learner(num_streams: int = 2, **arguments: object) -> StreamAC:
    config = arguments.pop("config", None) or StreamACConfig(hidden=[16, 16])
    return StreamAC(OBS, ACTIONS, num_streams, config, **arguments)


def run(stream_ac: StreamAC, steps: int, walk: Walk | None = None) -> Walk:
    if walk is None:
        walk = Walk(stream_ac.num_streams, OBS)
        stream_ac.start(walk.obs)
    for _ in range(steps):
        stream_ac.update(*walk.step())
    return walk


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(a[name].tobytes() == b[name].tobytes() for name in a)


def row(state: dict, i: int) -> dict:
    return {name: array[i] for name, array in state.items()}


def test_streams_depend_neither_on_threads_nor_on_their_number() -> None:
    many = {threads: learner(13, num_threads=threads) for threads in (1, 2, 3)}
    for stream_ac in many.values():
        run(stream_ac, 60)
    assert [stream_ac.num_threads for stream_ac in many.values()] == [1, 2, 3]
    assert same(many[1].state_dict(), many[2].state_dict())
    assert same(many[1].state_dict(), many[3].state_dict())

    few, walk = learner(2), Walk(13, OBS)
    few.start(walk.obs[:2])
    for _ in range(60):
        few.update(*(x[:2] for x in walk.step()))
    for i in range(2):
        assert same(row(few.state_dict(), i), row(many[1].state_dict(), i))
    assert not same(row(few.state_dict(), 0), row(few.state_dict(), 1))


def test_a_saved_learner_continues_bit_for_bit() -> None:
    first = learner(seed=1)
    walk = run(first, 50)
    second = learner(seed=2)
    second.load_state_dict(first.state_dict())
    for _ in range(50):
        assert first.act().tobytes() == second.act().tobytes()
        step = walk.step()
        first.update(*step)
        second.update(*step)
    assert same(first.state_dict(), second.state_dict())


def test_a_learner_of_another_size_is_refused() -> None:
    with pytest.raises(UsageError, match=r"memory of the saved learner is float32 \(2, .*expected .*\(3, "):
        learner(3).load_state_dict(learner(2).state_dict())


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("reward", [0.0, math.nan], "stream 1: reward is nan"),
        ("next_obs", math.inf, "stream 1: next_obs is"),
        ("next_obs", 1e200, "stream 1: next_obs is"),
        ("final_obs", math.nan, "stream 1: final_obs is"),
        ("next_obs", np.zeros((2, OBS + 1)), r"next_obs has shape \(2, 6\), expected \(2, 5\)"),
        ("reward", np.zeros(3), r"reward has shape \(3,\), expected \(2,\)"),
        ("final_obs", None, "give final_obs"),
    ],
)
def test_bad_input_is_refused_and_changes_nothing(name: str, value: object, words: str) -> None:
    stream_ac = learner()
    walk = run(stream_ac, 20)
    before = stream_ac.state_dict()
    given = dict(
        zip(("reward", "terminated", "truncated", "next_obs", "final_obs"), walk.step(), strict=True)
    )
    given["terminated"] = np.array([False, True])
    if isinstance(value, float):
        given[name] = given[name].copy()
        given[name][1, 2] = value
    else:
        given[name] = value
    with pytest.raises(UsageError, match=words):
        stream_ac.update(**given)
    assert same(before, stream_ac.state_dict())


def test_what_is_not_valid_may_be_anything_and_begins_an_episode() -> None:
    stream_ac = learner()
    walk = run(stream_ac, 20)
    weights, traces = stream_ac.parameters("actor").copy(), stream_ac.traces("actor")
    reward, terminated, truncated, next_obs, final_obs = walk.step()
    reward[1] = final_obs[1] = math.nan
    terminated[:] = False
    truncated[:] = [False, True]
    stream_ac.update(reward, terminated, truncated, next_obs, final_obs, valid=np.array([True, False]))
    now = stream_ac.parameters("actor")
    assert (now[1] == weights[1]).all() and (now[0] != weights[0]).any()
    assert (traces[1] == 0).all() and (traces[0] != 0).any()
    assert stream_ac.streams.clock[1, 0] == 0
    assert np.isfinite(stream_ac.streams.memory).all()


@pytest.mark.parametrize("name", ["gamma", "trace_lambda"])
@pytest.mark.parametrize("value", [1.0, -0.1, math.nan])
def test_gamma_and_lambda_stay_below_one(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        StreamACConfig(**{name: value})
    with pytest.raises(UsageError, match=f"stream 1: {name}"):
        learner(sweep={name: [0.5, value]})


def test_sweep_of_an_unknown_name_suggests_one() -> None:
    with pytest.raises(UsageError, match="actor_eta"):
        learner(sweep={"actor_etta": [0.1, 0.2]})


def test_update_before_start_is_refused() -> None:
    with pytest.raises(UsageError, match="call start"):
        learner().update(0.0, False, False, np.zeros((2, OBS)))


@pytest.mark.parametrize(("fan_in", "kept"), [(5, 2), (18, 2), (128, 12)])
def test_every_unit_starts_with_two_inputs(fan_in: int, kept: int) -> None:
    rng = np.random.default_rng(0)
    w, _ = layer_matrices(draw_parameters([fan_in, 64, 3], 0.9, 2, rng), [fan_in, 64, 3])
    assert ((w[:, :-1] != 0).sum(1) == kept).all()
    assert abs(w).max() <= fan_in**-0.5 and (w[:, -1] == 0).all()
    released, _ = layer_matrices(draw_parameters([fan_in, 64, 3], 0.9, 0, rng), [fan_in, 64, 3])
    assert ((released[:, :-1] != 0).sum(1) == fan_in - math.ceil(0.9 * fan_in)).all()


def test_observation_statistics_are_those_of_all_that_was_seen() -> None:
    stream_ac, walk = learner(1), Walk(1, OBS)
    seen = [walk.obs[0]]
    stream_ac.start(walk.obs)
    for _ in range(300):
        step = walk.step()
        stream_ac.update(*step)
        ended = step[1][0] or step[2][0]
        seen += [step[4][0], step[3][0]] if ended else [step[3][0]]
    mean, var = stream_ac.obs_mean_var(0)
    np.testing.assert_allclose(mean, np.mean(seen, axis=0), rtol=1e-12)
    np.testing.assert_allclose(var, np.var(seen, axis=0, ddof=1), rtol=1e-12)


@pytest.mark.parametrize("rule", Rule, ids=lambda rule: rule.value)
def test_traces_of_a_dead_input_end_at_zero(rule: Rule) -> None:
    config = StreamACConfig(hidden=[16, 16], rule=rule, normalize_obs=False)
    stream_ac = learner(1, config=config)
    stream_ac.start(np.ones((1, OBS)))
    dead = np.ones((1, OBS))
    dead[0, 2] = 0.0
    for t in range(500):
        stream_ac.update(1.0, False, False, np.ones((1, OBS)) if t < 5 else dead)
    trace = layer_matrices(stream_ac.traces("actor")[0], stream_ac.sizes[0])[0]
    assert (trace[:, 2] == 0).all() and (trace[:, 0] != 0).all()


def test_normal_draws_are_normal() -> None:
    draws = np.zeros(200_001)
    fill_normal(random_state(0, 1)[0], draws)
    # standard errors: mean 0.0022, variance 0.0032, fourth moment 0.022
    assert abs(draws.mean()) < 0.01 and abs(draws.var() - 1) < 0.015 and abs((draws**4).mean() - 3) < 0.1
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 0.01


@pytest.mark.parametrize("preset", Preset, ids=lambda preset: preset.value)
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-9), (np.float32, 1e-5)])
def test_policy_acts_like_its_stream(preset: Preset, dtype: type, tolerance: float) -> None:
    config = StreamACConfig(hidden=[16, 16], preset=preset, rule=Rule.OBGD, sparsity=0.5)
    stream_ac = learner(config=config, dtype=dtype)
    run(stream_ac, 300)
    specs = Specs(
        {"policy": (ObsTerm("x", OBS, "m"),)},
        tuple(ActionTerm(f"a{i}", "1", -1.0, 1.0) for i in range(ACTIONS)),
        0.02,
    )
    policy = SoftplusGaussianPolicy(specs, SoftplusGaussianConfig(hidden=[16, 16]), torch.Generator())
    policy = policy.double() if dtype is np.float64 else policy
    obs = np.random.default_rng(1).normal(size=(50, OBS)).astype(dtype)
    for i in range(2):
        write_policy(stream_ac, i, policy)
        with torch.no_grad():
            actions = policy(torch.from_numpy(obs)).numpy()
        own = [stream_ac.deterministic_action(np.tile(x, (2, 1)))[i] for x in obs]
        np.testing.assert_allclose(actions, np.clip(own, -1, 1), rtol=0, atol=tolerance)
    if preset is Preset.DEFAULT and dtype is np.float64:
        stream_ac.start(np.tile(obs[0], (2, 1)))
        mean, pre = np.split(stream_ac.current_outputs("actor")[1], 2)
        write_policy(stream_ac, 1, policy)
        with torch.no_grad():
            head = policy.distribution({"policy": torch.from_numpy(obs[:1])})
        np.testing.assert_allclose(head.mean[0], mean, atol=1e-9)
        np.testing.assert_allclose(head.log_std.exp()[0], np.log1p(np.exp(pre)) + 1e-3, rtol=1e-9)


def test_policy_of_another_size_is_refused() -> None:
    specs = Specs(
        {"policy": (ObsTerm("x", OBS, "m"),)},
        tuple(ActionTerm(f"a{i}", "1", -1.0, 1.0) for i in range(ACTIONS)),
        0.02,
    )
    policy = SoftplusGaussianPolicy(specs, SoftplusGaussianConfig(hidden=[8]), torch.Generator())
    with pytest.raises(UsageError, match="cannot take an actor"):
        write_policy(learner(), 0, policy)
