"""The compiled stream AC(lambda) against plain torch with autograd, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from streaming_common import Walk, close

from robotrl.algorithms.streaming.actor_critic import Actor, StreamAC
from robotrl.algorithms.streaming.compiled import fill_normal, uniform
from robotrl.algorithms.streaming.config import Preset, StreamACConfig
from robotrl.algorithms.streaming.heads import Head
from robotrl.algorithms.streaming.reference import ReferenceAC
from robotrl.algorithms.streaming.rules.codes import Rule
from robotrl.algorithms.streaming.units import Unit

OBS, ACTIONS, STREAMS = 5, 3, 2
SWEEP = {"gamma": [0.99, 0.9], "trace_lambda": [0.8, 0.0], "entropy_coef": [0.01, 0.1]}


def learner(config: StreamACConfig, kind: Actor) -> StreamAC:
    discrete = kind.head is Head.CATEGORICAL
    stream_ac = StreamAC(
        OBS, ACTIONS, STREAMS, config, 3, discrete, sweep=SWEEP, dtype=np.float64, actor=kind
    )
    # biases and constants away from 0, where all kinds of units would be alike
    for head in stream_ac.heads:
        for i in range(STREAMS):
            for matrix in stream_ac.layers(head, i):
                matrix[:, -1] += 0.3 * np.random.default_rng(i).normal(size=len(matrix))
    return stream_ac


def references(stream_ac: StreamAC, config: StreamACConfig) -> list[ReferenceAC]:
    made = []
    for i in range(STREAMS):
        own = {name: values[i] for name, values in SWEEP.items()}
        networks = [
            [torch.from_numpy(w.copy()) for w in stream_ac.layers(head, i)] for head in stream_ac.heads
        ]
        made.append(ReferenceAC(StreamACConfig(**vars(config) | own), OBS, stream_ac.actor, *networks))
    return made


def draw(stream_ac: StreamAC, i: int, reference: ReferenceAC, state: np.ndarray) -> torch.Tensor:
    """What a stream draws at the reference's state from a generator in that state, which moves on."""
    policy = reference.policy(reference.actor)
    if isinstance(policy, torch.distributions.Categorical):
        bounds = torch.cumsum(policy.probs, 0)
        return torch.searchsorted(bounds, torch.tensor(uniform(state), dtype=torch.float64))
    noise = np.zeros(ACTIONS)
    fill_normal(state, noise)
    return policy.mean + policy.stddev * torch.from_numpy(noise)


def check(config: StreamACConfig, kind: Actor, steps: int) -> None:
    stream_ac = learner(config, kind)
    made = references(stream_ac, config)
    discrete = kind.head is Head.CATEGORICAL
    walk = Walk(STREAMS, OBS)
    stream_ac.start(walk.obs)
    for i, reference in enumerate(made):
        reference.start(walk.obs[i])
    for _ in range(steps):
        action, random = stream_ac.act(), stream_ac.streams.random.copy()
        step = walk.step()
        stream_ac.update(*step)
        for i, reference in enumerate(made):
            fisher = config.rule is Rule.INTENTIONAL_FISHER
            other = draw(stream_ac, i, reference, random[i]) if fisher else None
            taken = int(action[i, 0]) if discrete else action[i]
            reference.update(taken, *(float(x[i]) for x in step[:3]), step[3][i], step[4][i], other)
            for head, rule in (("actor", reference.actor_rule), ("critic", reference.critic_rule)):
                close(stream_ac.layers(head, i), rule.layers)
                close(stream_ac.layers(head, i, traces=True), rule.trace)
            close([stream_ac.streams.action[i]], [draw(stream_ac, i, reference, random[i]).reshape(-1)])


KINDS = {
    "softplus": Actor([16, 12], Head.SOFTPLUS),
    "categorical": Actor([16, 12], Head.CATEGORICAL),
    "ppo": Actor([16, 12], Head.CONSTANT, Unit.ELU, obs_clip=1.0),
    "sac": Actor([16, 12], Head.SQUASHED, Unit.RELU, log_std_bounds=(-0.5, 0.3), obs_clip=1.5),
    "tanh": Actor([9, 20], Head.CONSTANT, Unit.TANH),
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("rule", Rule, ids=lambda rule: rule.value)
def test_every_rule_is_the_formula(rule: Rule, kind: Actor) -> None:
    steps = 250 if kind.unit is Unit.LAYER_NORM else 80
    check(StreamACConfig(rule=rule, hidden=[16, 12], sparsity=0.5), kind, steps)


@pytest.mark.parametrize("unit", Unit, ids=lambda unit: unit.value)
def test_an_actor_that_rests_leaves_the_critic_to_learn(unit: Unit) -> None:
    config = StreamACConfig(hidden=[8, 6], sparsity=0.5, critic_unit=unit, actor_rest_steps=30)
    stream_ac = learner(config, KINDS["ppo"])
    walk, before = Walk(STREAMS, OBS), stream_ac.parameters("actor").copy()
    stream_ac.start(walk.obs)
    for _ in range(30):
        stream_ac.update(*walk.step())
    assert (stream_ac.parameters("actor") == before).all() and (stream_ac.traces("actor") == 0).all()
    check(config, KINDS["ppo"], steps=120)


@pytest.mark.parametrize("rule", [Rule.OBGD, Rule.INTENTIONAL], ids=lambda rule: rule.value)
def test_reference_preset_is_as_released(rule: Rule) -> None:
    config = StreamACConfig(
        preset=Preset.REFERENCE, rule=rule, hidden=[16, 12], sparsity=0.5, std_floor=0.0, episode_steps=40
    )
    check(config, KINDS["softplus"], steps=250)


def test_it_stays_exact_over_thousands_of_steps() -> None:
    check(StreamACConfig(hidden=[8]), Actor([8], Head.SQUASHED, Unit.ELU, (-5.0, 2.0)), steps=1500)
