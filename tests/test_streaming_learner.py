"""Streams keep to themselves, refuse bad input untouched, continue bit for bit and become policies."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from streaming_common import ACTIONS, OBS, SPECS, Walk, begun, run, same

from robotrl.algorithms.streaming.actor_critic import StreamAC
from robotrl.algorithms.streaming.config import Preset, StreamACConfig, StreamQConfig
from robotrl.algorithms.streaming.network import draw_parameters, layer_matrices
from robotrl.algorithms.streaming.policy import write_policy
from robotrl.algorithms.streaming.q_learning import StreamQ
from robotrl.algorithms.streaming.rules.codes import Rule
from robotrl.algorithms.streaming.td import predict_series
from robotrl.core.errors import UsageError
from robotrl.policies.gaussian import BetaConfig, BetaPolicy
from robotrl.policies.softplus_gaussian import SoftplusGaussianConfig, SoftplusGaussianPolicy


def learner(num_streams: int = 2, **arguments: object) -> StreamAC:
    config = arguments.pop("config", None) or StreamACConfig(hidden=[16, 16])
    return StreamAC(OBS, ACTIONS, num_streams, config, **arguments)


def row(state: dict, i: int) -> dict:
    return {name: array[i] for name, array in state.items()}


def test_streams_depend_neither_on_threads_nor_on_their_number() -> None:
    many = {threads: learner(13, num_threads=threads) for threads in (1, 2, 3)}
    for stream_ac in many.values():
        begun(stream_ac, 60)
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
    walk = begun(first, 50)
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


def test_a_learner_of_another_rule_is_refused() -> None:
    obgd, sgd = (learner(config=StreamACConfig(hidden=[16, 16], rule=rule)) for rule in (Rule.OBGD, Rule.SGD))
    before = sgd.state_dict()
    with pytest.raises(UsageError, match="actor learned by rule obgd, this one's does by sgd"):
        sgd.load_state_dict(obgd.state_dict())
    assert same(before, sgd.state_dict())
    with pytest.raises(UsageError, match="call start"):
        sgd.update(0.0, False, False, np.zeros((2, OBS)))


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("rule_codes", 2, r"rule_codes of the saved learner is int64 \(\), expected int64 \(2,\)"),
        ("random", np.zeros((2, 1), np.int32), "random of the saved learner is int32 .*, expected int64"),
        ("random", np.zeros((2, 1)), "random of the saved learner is float64 .*, expected int64"),
        ("random", "abc", "random is an array of <U3, expected real numbers"),
    ],
)
def test_a_damaged_state_is_refused(name: str, value: object, words: str) -> None:
    stream_ac = learner()
    before = stream_ac.state_dict()
    with pytest.raises(UsageError, match=words):
        stream_ac.load_state_dict(before | {name: value})
    assert same(before, stream_ac.state_dict())


def test_a_copy_goes_on_alone() -> None:
    first = learner(8, num_threads=2)
    walk = begun(first, 20)
    second, step = copy.deepcopy(first), walk.step()
    second.update(*step)
    assert not same(first.state_dict(), second.state_dict())
    first.update(*step)
    assert same(first.state_dict(), second.state_dict())


def test_actions_of_networks_that_diverged_are_refused() -> None:
    stream_ac = learner()
    begun(stream_ac, 5)
    stream_ac.streams.action[1, 2] = math.nan
    with pytest.raises(UsageError, match=r"stream 1: the action is \[.*nan\]: its networks diverged"):
        stream_ac.command()


@pytest.mark.parametrize(
    ("head", "obs", "words"),
    [
        ("value", np.zeros((2, OBS)), "unknown network 'value'"),
        ("actor", np.full((2, OBS), math.nan), r"obs\[0, 0\] is nan, expected numbers within"),
        ("actor", np.full((2, OBS), -2e15), r"obs\[0, 0\] is -2e\+15, expected"),
    ],
)
def test_what_cannot_be_evaluated_is_one_line(head: str, obs: np.ndarray, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        learner().outputs(head, obs)


def test_what_a_stream_cannot_be_made_of_is_one_line() -> None:
    with pytest.raises(UsageError, match=r"action_dim must be a whole number of at least 1, got 1\.5"):
        StreamAC(OBS, 1.5)
    with pytest.raises(UsageError, match="gamma is empty"):
        predict_series(np.zeros((3, 1)), np.zeros(3), gamma=[])
    beta = BetaPolicy(SPECS, BetaConfig(hidden=[16, 16]), torch.Generator())
    with pytest.raises(UsageError, match=r"a stream's actor is one of .*, got BetaPolicy"):
        write_policy(learner(), 0, beta)
    of_tuple = learner(config=StreamACConfig(hidden=(16, 16)))
    begun(of_tuple, 1)
    fresh = SoftplusGaussianPolicy(SPECS, SoftplusGaussianConfig(hidden=[16, 16]), torch.Generator())
    write_policy(of_tuple, 0, fresh)


def test_hyperparameters_of_a_loaded_learner_are_its_own() -> None:
    slow, fast = (learner(config=StreamACConfig(hidden=[16, 16], actor_eta=eta)) for eta in (0.05, 0.2))
    walk = begun(slow, 50)
    fast.load_state_dict(slow.state_dict())
    step, before = walk.step(), slow.parameters("actor").copy()
    slow.update(*step)
    fast.update(*step)
    moved = [stream_ac.parameters("actor") - before for stream_ac in (slow, fast)]
    np.testing.assert_allclose(moved[1], 4 * moved[0], rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("reward", [0.0, math.nan], "stream 1: reward is nan"),
        (
            "next_obs",
            math.inf,
            r"stream 1: next_obs\[2\] is inf, .*, give the last sound one and set valid to False",
        ),
        ("next_obs", 1e200, r"stream 1: next_obs\[2\] is 1e\+200"),
        ("reward", [0.0, 1e16], r"stream 1: reward is 1e\+16, expected numbers within \+-1e\+15"),
        ("final_obs", math.nan, r"stream 1: final_obs\[2\] is nan"),
        ("next_obs", np.zeros((2, OBS + 1)), r"next_obs has shape \(2, 6\), expected \(2, 5\)"),
        ("reward", np.zeros(3), r"reward has shape \(3,\), expected \(2,\)"),
        ("terminated", [math.nan, 0.0], r"terminated is \[nan, 0.0\], expected true or false"),
        ("truncated", 0.3, "truncated is 0.3, expected true or false"),
        ("final_obs", None, "give final_obs"),
        ("next_obs", 0.5, r"next_obs has shape \(\), expected \(2, 5\)"),
        ("final_obs", 0.5, r"final_obs has shape \(\), expected \(2, 5\)"),
        ("next_obs", np.full((2, OBS), 1j), "next_obs is an array of complex128, expected real numbers"),
        ("reward", ["one", "two"], "reward is an array of <U3, expected real numbers"),
        ("reward", [None, 1.0], "reward is an array of object, expected real numbers"),
        ("next_obs", [[0.0] * OBS, [0.0]], "next_obs is no array of numbers: its rows differ in length"),
    ],
)
def test_bad_input_is_refused_and_changes_nothing(name: str, value: object, words: str) -> None:
    stream_ac = learner()
    walk = begun(stream_ac, 20)
    before = stream_ac.state_dict()
    given = dict(
        zip(("reward", "terminated", "truncated", "next_obs", "final_obs"), walk.step(), strict=True)
    )
    given["terminated"] = np.array([False, True])
    if isinstance(value, float) and value not in (0.3, 0.5):  # one bad number among good ones
        given[name] = given[name].copy()
        given[name][1, 2] = value
    else:
        given[name] = value
    with pytest.raises(UsageError, match=words):
        stream_ac.update(**given)
    assert same(before, stream_ac.state_dict())


def test_what_is_not_valid_may_be_anything_and_begins_an_episode() -> None:
    stream_ac = learner()
    walk = begun(stream_ac, 20)
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


@pytest.mark.parametrize(
    ("obs", "words"),
    [
        ([[0.0] * OBS, [0.0, math.nan, 0.0, 0.0, 0.0]], r"^stream 1: obs\[1\] is nan, .* give a sound obs"),
        (np.zeros((2, OBS + 1)), r"^obs has shape \(2, 6\)"),
        (0.0, r"^obs has shape \(\)"),
    ],
    ids=["nan", "wide", "scalar"],
)
def test_a_refused_start_is_no_start(obs: object, words: str) -> None:
    stream_ac = learner()
    before = stream_ac.state_dict()
    with pytest.raises(UsageError, match=words):
        stream_ac.start(obs)
    assert same(before, stream_ac.state_dict())
    with pytest.raises(UsageError, match="call start"):
        stream_ac.update(0.0, False, False, np.zeros((2, OBS)))


@pytest.mark.parametrize("preset", Preset, ids=lambda preset: preset.value)
@pytest.mark.parametrize("when", [0, 20])
@pytest.mark.parametrize("rule", ["adaptive_obgd", "adam", "intentional"])
def test_the_largest_numbers_that_are_accepted_leave_it_sound(rule: str, when: int, preset: Preset) -> None:
    stream_ac = learner(config=StreamACConfig(rule=Rule(rule), preset=preset))
    walk = begun(stream_ac, when)
    reward, terminated, truncated, next_obs, final_obs = walk.step()
    stream_ac.update(np.array([1e15, -1e15]), terminated, truncated, next_obs, final_obs)
    run(stream_ac, walk, 20)
    large = np.array([[1e15, -1e15, 0.0, 1.0, -1.0]] * 2)
    stream_ac.update(reward, False, False, large)
    run(stream_ac, walk, 20)
    assert np.isfinite(stream_ac.streams.memory).all() and np.isfinite(stream_ac.act()).all()


def test_nothing_is_done_before_start() -> None:
    fresh = learner()
    for use in (lambda: fresh.update(0.0, False, False, np.zeros((2, OBS))), fresh.act, fresh.command):
        with pytest.raises(UsageError, match="call start"):
            use()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"seed": None}, "seed must be a whole number of at least 0, got None"),
        ({"seed": -1}, "seed must be .* got -1"),
        ({"num_threads": 0}, "num_threads must be a whole number of at least 1, got 0"),
        ({"num_threads": -4}, "num_threads must be .* got -4"),
        ({"num_streams": 2.5}, "num_streams must be .* got 2.5"),
        ({"sweep": {"gamma": "abc"}}, "sweep of gamma is an array of <U3, expected real numbers"),
        ({"sweep": {"actor_rest_steps": [0, 1.5]}}, "actor_rest_steps must be a whole number, got 0.0"),
    ],
)
def test_arguments_that_mean_nothing_are_refused(arguments: dict, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        learner(**arguments)


@pytest.mark.parametrize("dtype", [np.int32, np.float16])
def test_networks_of_other_numbers_are_refused(dtype: type) -> None:
    with pytest.raises(UsageError, match="expected float32 or float64"):
        StreamAC(OBS, ACTIONS, dtype=dtype)


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


@pytest.mark.parametrize("preset", Preset, ids=lambda preset: preset.value)
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-9), (np.float32, 1e-5)])
def test_policy_acts_like_its_stream(preset: Preset, dtype: type, tolerance: float) -> None:
    config = StreamACConfig(hidden=[16, 16], preset=preset, rule=Rule.OBGD, sparsity=0.5)
    stream_ac = learner(config=config, dtype=dtype)
    begun(stream_ac, 300)
    policy = SoftplusGaussianPolicy(SPECS, SoftplusGaussianConfig(hidden=[16, 16]), torch.Generator())
    policy = policy.double() if dtype is np.float64 else policy
    obs = np.random.default_rng(1).normal(size=(50, OBS)).astype(dtype)
    for i in range(2):
        write_policy(stream_ac, i, policy)
        with torch.no_grad():
            actions = policy(torch.from_numpy(obs)).numpy()
        own = [stream_ac.deterministic_action(np.tile(x, (2, 1)))[i] for x in obs]
        np.testing.assert_allclose(actions, own, rtol=0, atol=tolerance)
    if preset is Preset.DEFAULT and dtype is np.float64:
        stream_ac.start(np.tile(obs[0], (2, 1)))
        mean, pre = np.split(stream_ac.current_outputs("actor")[1], 2)
        write_policy(stream_ac, 1, policy)
        with torch.no_grad():
            head = policy.distribution({"policy": torch.from_numpy(obs[:1])})
        np.testing.assert_allclose(head.mean[0], mean, atol=1e-9)
        np.testing.assert_allclose(head.log_std.exp()[0], np.log1p(np.exp(pre)) + 1e-3, rtol=1e-9)


def test_a_swept_floor_is_saved_with_the_policy() -> None:
    stream_ac = learner(sweep={"std_floor": [0.001, 0.2]})
    begun(stream_ac, 5)
    written, loaded = (
        SoftplusGaussianPolicy(SPECS, SoftplusGaussianConfig(hidden=[16, 16]), torch.Generator())
        for _ in range(2)
    )
    write_policy(stream_ac, 1, written)
    state = dict(written.state_dict())
    loaded.load_state_dict(state)
    assert loaded.std_floor == 0.2
    # one that was saved before has that of its configuration
    del state["_extra_state"]
    loaded.std_floor = 0.01
    loaded.load_state_dict(state)
    assert loaded.std_floor == 0.01


def test_policy_of_another_size_is_refused() -> None:
    policy = SoftplusGaussianPolicy(SPECS, SoftplusGaussianConfig(hidden=[8]), torch.Generator())
    with pytest.raises(UsageError, match="cannot take an actor"):
        write_policy(learner(), 0, policy)


def test_configurations_of_other_learners_and_unknown_choices_are_refused() -> None:
    with pytest.raises(UsageError, match="StreamAC takes a StreamACConfig, got a StreamQConfig"):
        StreamAC(OBS, ACTIONS, config=StreamQConfig())
    with pytest.raises(UsageError, match="StreamQ takes a StreamQConfig, got a StreamACConfig"):
        StreamQ(OBS, 3, config=StreamACConfig())
    with pytest.raises(ValueError, match=r"unknown rule 'obdg' .did you mean 'obgd'"):
        StreamACConfig(rule="obdg")
    assert StreamACConfig(preset="reference") == StreamACConfig(preset=Preset.REFERENCE)
    with pytest.raises(UsageError, match="there is no command"):
        StreamAC(OBS, 3, discrete=True).command()
