"""The compiled stream AC(lambda) against plain torch with autograd, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from streaming_common import Walk, close

from robotrl.algorithms.streaming.actor_critic import StreamAC
from robotrl.algorithms.streaming.compiled import fill_normal, uniform
from robotrl.algorithms.streaming.config import Preset, StreamACConfig
from robotrl.algorithms.streaming.network import layer_matrices
from robotrl.algorithms.streaming.reference import ReferenceAC
from robotrl.algorithms.streaming.rules.codes import Rule

OBS, ACTIONS, STREAMS = 5, 3, 2
SWEEP = {"gamma": [0.99, 0.9], "trace_lambda": [0.8, 0.0], "entropy_coef": [0.01, 0.1]}


def learner(config: StreamACConfig, discrete: bool, sweep: dict | None = None) -> StreamAC:
    return StreamAC(OBS, ACTIONS, STREAMS, config, seed=3, discrete=discrete, sweep=sweep, dtype=np.float64)


def references(stream_ac: StreamAC, config: StreamACConfig, discrete: bool) -> list[ReferenceAC]:
    made = []
    for i in range(STREAMS):
        own = {name: values[i] for name, values in SWEEP.items()}
        networks = [
            [torch.from_numpy(w.copy()) for w in layer_matrices(stream_ac.parameters(head)[i], sizes)]
            for head, sizes in zip(stream_ac.heads, stream_ac.sizes, strict=True)
        ]
        made.append(ReferenceAC(StreamACConfig(**vars(config) | own), OBS, discrete, *networks))
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


def check(config: StreamACConfig, discrete: bool, steps: int) -> None:
    stream_ac = learner(config, discrete, SWEEP)
    made = references(stream_ac, config, discrete)
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
                sizes = stream_ac.sizes[stream_ac.heads.index(head)]
                close(layer_matrices(stream_ac.parameters(head)[i], sizes), rule.layers)
                close(layer_matrices(stream_ac.traces(head)[i], sizes), rule.trace)
            close([stream_ac.streams.action[i]], [draw(stream_ac, i, reference, random[i]).reshape(-1)])


@pytest.mark.parametrize("discrete", [False, True], ids=["gaussian", "categorical"])
@pytest.mark.parametrize("rule", Rule, ids=lambda rule: rule.value)
def test_every_rule_is_the_formula(rule: Rule, discrete: bool) -> None:
    check(StreamACConfig(rule=rule, hidden=[16, 12], sparsity=0.5), discrete, steps=250)


@pytest.mark.parametrize("rule", [Rule.OBGD, Rule.INTENTIONAL], ids=lambda rule: rule.value)
def test_reference_preset_is_as_released(rule: Rule) -> None:
    config = StreamACConfig(
        preset=Preset.REFERENCE, rule=rule, hidden=[16, 12], sparsity=0.5, std_floor=0.0, episode_steps=40
    )
    check(config, False, steps=250)


def test_it_stays_exact_over_thousands_of_steps() -> None:
    check(StreamACConfig(rule=Rule.INTENTIONAL, hidden=[8]), False, steps=1500)
