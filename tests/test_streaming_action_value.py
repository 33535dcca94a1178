"""The compiled S2AC and SDAC against plain torch with autograd, in float64; streams keep to themselves."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from streaming_common import ACTIONS, OBS, SPECS, Walk, close, run, same

from robotrl.algorithms.streaming.action_value import StreamQAC
from robotrl.algorithms.streaming.actor_critic import Actor
from robotrl.algorithms.streaming.compiled import fill_normal
from robotrl.algorithms.streaming.config import Preset, StreamDACConfig, StreamQACConfig, StreamSACConfig
from robotrl.algorithms.streaming.heads import Head
from robotrl.algorithms.streaming.policy import write_policy
from robotrl.algorithms.streaming.reference_action_value import ReferenceQAC
from robotrl.algorithms.streaming.rules.codes import Rule
from robotrl.algorithms.streaming.units import Unit
from robotrl.core.errors import UsageError
from robotrl.policies.deterministic import LayerNormDeterministicConfig, LayerNormDeterministicPolicy
from robotrl.policies.softplus_gaussian import SoftplusGaussianConfig, SquashedSoftplusPolicy

STREAMS = 2
SOFT = StreamSACConfig(hidden=[16, 12], sparsity=0.5, alpha=0.3)
DETERMINISTIC = StreamDACConfig(hidden=[16, 12], sparsity=0.5, noise_std=0.4)
SAC_ACTOR = Actor([16, 12], Head.SQUASHED, Unit.RELU, log_std_bounds=(-0.5, 0.3), obs_clip=1.5)
KINDS = {
    "s2ac": (SOFT, None),
    "sdac": (DETERMINISTIC, None),
    "sac": (dataclasses.replace(SOFT, critic_unit=Unit.RELU), SAC_ACTOR),
    "td3": (DETERMINISTIC, Actor([9, 20], Head.DETERMINISTIC, Unit.TANH)),
}


def learner(config: StreamQACConfig, actor: Actor | None = None, **arguments: object) -> StreamQAC:
    stream_qac = StreamQAC(OBS, ACTIONS, STREAMS, config, 3, actor=actor, dtype=np.float64, **arguments)
    # biases away from 0, where all kinds of units would be alike
    for head in stream_qac.heads:
        for i in range(STREAMS):
            for matrix in stream_qac.layers(head, i):
                matrix[:, -1] += 0.3 * np.random.default_rng(i).normal(size=len(matrix))
    return stream_qac


def draw_noise(random: np.ndarray) -> torch.Tensor:
    """What a generator in this state draws, which moves on."""
    noise = np.zeros(ACTIONS)
    fill_normal(random, noise)
    return torch.from_numpy(noise)


def check(config: StreamQACConfig, actor: Actor | None, steps: int) -> None:
    sweep = {"gamma": [0.99, 0.9], "trace_lambda": [0.8, 0.0]}
    stream_qac = learner(config, actor, sweep=sweep)
    made = []
    for i in range(STREAMS):
        own = {name: values[i] for name, values in sweep.items()}
        networks = [
            [torch.from_numpy(w.copy()) for w in stream_qac.layers(head, i)] for head in stream_qac.heads
        ]
        made.append(ReferenceQAC(dataclasses.replace(config, **own), OBS, stream_qac.actor, *networks))
    walk, random = Walk(STREAMS, OBS), stream_qac.streams.random.copy()
    noise = [draw_noise(random[i]) for i in range(STREAMS)]
    stream_qac.start(walk.obs)
    for i, reference in enumerate(made):
        reference.start(walk.obs[i])
    for t in range(steps):
        reward, terminated, truncated, next_obs, final_obs = walk.step()
        valid = np.array([t % 50 != 49, True])
        stream_qac.update(reward, terminated, truncated, next_obs, final_obs, valid)
        for i, reference in enumerate(made):
            next_noise = draw_noise(random[i])
            if valid[i]:
                outcome = float(reward[i]), bool(terminated[i]), bool(truncated[i]), next_obs[i], final_obs[i]
                reference.update(noise[i], next_noise, *outcome)
            else:
                reference.lose_episode(next_obs[i])
            noise[i] = next_noise
            close(stream_qac.layers("actor", i), reference.actor)
            close(stream_qac.layers("critic", i), reference.critic)
            close(stream_qac.layers("critic", i, traces=True), reference.critic_rule.trace)
            action, _ = reference.draw(reference.outputs(reference.actor, reference.state), noise[i])
            close([stream_qac.command()[i]], [action])
            value = reference.value(reference.critic, reference.state, action)
            # a value may be near 0, where its own size is no measure
            np.testing.assert_allclose(stream_qac.current_outputs("critic")[i], value, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rule", Rule, ids=lambda rule: rule.value)
def test_every_rule_is_the_formula(rule: Rule, kind: str) -> None:
    config, actor = KINDS[kind]
    check(dataclasses.replace(config, rule=rule, actor_rule=rule), actor, 150)


@pytest.mark.parametrize("kind", ["s2ac", "sdac"])
def test_it_stays_exact_over_thousands_of_steps(kind: str) -> None:
    config, actor = KINDS[kind]
    check(dataclasses.replace(config, actor_rest_steps=100), actor, 2000)


@pytest.mark.parametrize("config", [SOFT, DETERMINISTIC], ids=["s2ac", "sdac"])
def test_streams_depend_on_no_threads_and_continue_bit_for_bit(config: StreamQACConfig) -> None:
    learners = [StreamQAC(OBS, ACTIONS, 13, config, seed=1, num_threads=threads) for threads in (1, 3)]
    walks = [Walk(13, OBS) for _ in learners]
    for stream_qac, walk in zip(learners, walks, strict=True):
        stream_qac.start(walk.obs)
        run(stream_qac, walk, 40)
    assert [stream_qac.num_threads for stream_qac in learners] == [1, 3]
    assert same(learners[0].state_dict(), learners[1].state_dict())

    again = StreamQAC(OBS, ACTIONS, 13, config, seed=2)
    again.load_state_dict(learners[0].state_dict())
    run(again, walks[1], 40)
    run(learners[0], walks[0], 40)
    assert same(again.state_dict(), learners[0].state_dict())


def test_an_actor_that_rests_leaves_the_critic_to_learn() -> None:
    stream_qac = learner(dataclasses.replace(SOFT, actor_rest_steps=30))
    actor, critic = (stream_qac.parameters(head).copy() for head in stream_qac.heads)
    walk = Walk(STREAMS, OBS)
    stream_qac.start(walk.obs)
    run(stream_qac, walk, 30)
    assert (stream_qac.parameters("actor") == actor).all()
    assert (stream_qac.parameters("critic") != critic).any(1).all()
    run(stream_qac, walk, 1)
    assert (stream_qac.parameters("actor") != actor).any(1).all()


def test_values_are_those_of_the_actions_taken_in_units_of_the_reward() -> None:
    stream_qac, walk = learner(SOFT), Walk(STREAMS, OBS)
    stream_qac.start(walk.obs)
    run(stream_qac, walk, 20)
    # the normaliser has seen the current observation
    now = stream_qac.values(walk.obs, stream_qac.command())
    np.testing.assert_allclose(
        now, stream_qac.current_outputs("critic")[:, 0] * stream_qac.reward_scale(), rtol=1e-9
    )
    with pytest.raises(UsageError, match=r"action has shape \(3,\), expected \(2, 3\)"):
        stream_qac.values(walk.obs, np.zeros(3))


@torch.no_grad()
def test_policies_act_like_their_streams() -> None:
    soft = SquashedSoftplusPolicy(SPECS, SoftplusGaussianConfig([16, 12]), torch.Generator())
    deterministic = LayerNormDeterministicPolicy(
        SPECS, LayerNormDeterministicConfig([16, 12]), torch.Generator()
    )
    obs = np.random.default_rng(1).normal(size=(20, OBS))
    for config, policy in ((SOFT, soft.double()), (DETERMINISTIC, deterministic.double())):
        stream_qac, walk = learner(config), Walk(STREAMS, OBS)
        stream_qac.start(walk.obs)
        run(stream_qac, walk, 100)
        write_policy(stream_qac, 1, policy)
        own = [stream_qac.deterministic_action(np.tile(x, (2, 1)))[1] for x in obs]
        np.testing.assert_allclose(policy(torch.from_numpy(obs)), own, rtol=0, atol=1e-9)
    assert deterministic.noise_std == 0.4
    # the density that the policy reports is that of the draws of the stream that wrote it
    stream_qac = learner(SOFT)
    stream_qac.start(obs[:2])
    noise = draw_noise(stream_qac.streams.random.copy()[1])
    write_policy(stream_qac, 1, soft)
    head = soft.distribution({"policy": torch.from_numpy(obs[1:2])})
    mean, pre = np.split(stream_qac.current_outputs("actor")[1], 2)
    std = np.logaddexp(0, pre) + 1e-3
    np.testing.assert_allclose(head.mode()[0], np.tanh(mean), rtol=1e-9)
    u = mean + std * noise.numpy()
    expected = (-0.5 * noise.numpy() ** 2 - np.log(std) - 0.5 * np.log(2 * np.pi)).sum()
    expected -= np.log(1 - np.tanh(u) ** 2).sum()
    np.testing.assert_allclose(head.log_prob(torch.from_numpy(np.tanh(u)))[0], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"preset": Preset.REFERENCE}, "nothing is known to be released of this method"),
        ({"alpha": -0.1}, "alpha must be at least 0, got -0.1"),
        (
            {"actor_rule": "adam", "actor_eta": 0.2},
            "actor_eta=0.2 does nothing with actor_rule=adam, which has actor_learning_rate: set that",
        ),
        ({"rule": "sgd", "critic_kappa": 7}, "with rule=sgd, which has critic_learning_rate: set that"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        StreamSACConfig(**options)


def test_an_actor_of_another_form_is_refused() -> None:
    with pytest.raises(UsageError, match="needs an actor that is deterministic, got squashed"):
        StreamQAC(OBS, ACTIONS, 1, DETERMINISTIC, actor=SAC_ACTOR)


@pytest.mark.parametrize("config", [SOFT, DETERMINISTIC], ids=["s2ac", "sdac"])
def test_the_actor_finds_the_best_action(config: StreamQACConfig) -> None:
    """The reward falls with the distance of the command from a target: the policy moves there."""
    config = dataclasses.replace(
        config, **{"alpha": 0.01} if config is SOFT else {"noise_std": 0.2}, gamma=0.0, trace_lambda=0.0
    )
    stream_qac, obs = StreamQAC(OBS, ACTIONS, STREAMS, config), np.ones((STREAMS, OBS))
    stream_qac.start(obs)
    for _ in range(3000):
        stream_qac.update(-((stream_qac.command() - 0.5) ** 2).sum(1), False, False, obs)
    assert abs(stream_qac.deterministic_action(obs) - 0.5).max() < 0.15
