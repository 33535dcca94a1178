"""The compiled S2AC and SDAC against plain torch with autograd, in float64; streams keep to themselves."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from streaming_common import Walk, close

from robotrl.algorithms.streaming.action_value import StreamQAC
from robotrl.algorithms.streaming.actor_critic import Actor
from robotrl.algorithms.streaming.compiled import fill_normal
from robotrl.algorithms.streaming.config import StreamDACConfig, StreamQACConfig, StreamSACConfig
from robotrl.algorithms.streaming.heads import Head
from robotrl.algorithms.streaming.reference_action_value import ReferenceQAC
from robotrl.algorithms.streaming.rules.codes import Rule
from robotrl.algorithms.streaming.units import Unit

OBS, ACTIONS, STREAMS = 5, 3, 2
RULES = [rule for rule in Rule if rule is not Rule.INTENTIONAL_FISHER]
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
            close([stream_qac.current_outputs("critic")[i]], [value.reshape(1)])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.value)
def test_every_rule_is_the_formula(rule: Rule, kind: str) -> None:
    config, actor = KINDS[kind]
    check(dataclasses.replace(config, rule=rule, actor_rule=rule), actor, 150)


@pytest.mark.parametrize("kind", KINDS)
def test_it_stays_exact_over_thousands_of_steps(kind: str) -> None:
    config, actor = KINDS[kind]
    check(dataclasses.replace(config, actor_rest_steps=100), actor, 2000)
