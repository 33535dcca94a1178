"""QRC(lambda), compiled, against plain torch with autograd through the whole TD error, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from streaming_common import Walk, close

from robotrl.algorithms.streaming.compiled import uniform
from robotrl.algorithms.streaming.config import StreamQRCConfig
from robotrl.algorithms.streaming.qrc import StreamQRC
from robotrl.algorithms.streaming.reference import (
    Layers,
    ReferenceStream,
    epsilon,
    epsilon_greedy,
    gradient,
    network,
)
from robotrl.algorithms.streaming.rules.codes import Rule

OBS, ACTIONS, STREAMS = 4, 3, 2


class ReferenceQRC(ReferenceStream):
    """One stream."""

    config: StreamQRCConfig

    def __init__(self, config: StreamQRCConfig, critic: Layers, correction: Layers) -> None:
        super().__init__(config, OBS)
        self.critic, self.correction = critic, correction
        self.clear()

    def clear(self) -> None:
        self.h_sum = 0.0
        self.traces = [[torch.zeros_like(w) for w in net] for net in (self.critic, self.correction)]

    def update(
        self,
        reward: float,
        terminated: bool,
        truncated: bool,
        next_obs: np.ndarray,
        final_obs: np.ndarray,
        action: int,
    ) -> None:
        config, ended = self.config, bool(terminated or truncated)
        greedy = int(network(self.critic, self.state).argmax()) == action
        next_state, reward, gamma, _ = self.take(
            reward, terminated, truncated, final_obs if ended else next_obs
        )
        critic = [w.clone().requires_grad_() for w in self.critic]
        correction = [w.clone().requires_grad_() for w in self.correction]
        value, h = network(critic, self.state)[action], network(correction, self.state)[action]
        delta = reward + gamma * network(critic, next_state).max() - value
        g_delta = torch.autograd.grad(delta, critic, retain_graph=True)
        g_value, g_h = gradient(value, critic), gradient(h, correction)
        h, delta, c = h.item(), delta.item(), config.gamma * config.trace_lambda
        self.h_sum = c * self.h_sum + h
        for trace, g in zip(self.traces, (g_value, g_h), strict=True):
            trace[:] = [c * z + gi for z, gi in zip(trace, g, strict=True)]
        for w, z, g, full in zip(self.critic, self.traces[0], g_value, g_delta, strict=True):
            w += config.critic_learning_rate * (delta * z - h * g - self.h_sum * full)
        for theta, y, g in zip(self.correction, self.traces[1], g_h, strict=True):
            theta += config.correction_learning_rate * (delta * y - h * g - theta)
        if ended or not greedy:
            self.clear()
        if ended:
            self.start(next_obs)
        else:
            self.state = next_state


def test_qrc_is_the_formula() -> None:
    config = StreamQRCConfig(
        hidden=[12, 8],
        sparsity=0.5,
        exploration_steps=200,
        epsilon_end=0.1,
        # large, so that the correction has something to say
        critic_learning_rate=1e-2,
        correction_learning_rate=1e-2,
    )
    learner = StreamQRC(OBS, ACTIONS, STREAMS, config, seed=1, dtype=np.float64)
    made = []
    for i in range(STREAMS):
        networks = ([torch.from_numpy(w.copy()) for w in learner.layers(head, i)] for head in learner.heads)
        made.append(ReferenceQRC(config, *networks))
    walk, random = Walk(STREAMS, OBS), learner.streams.random.copy()
    learner.start(walk.obs)
    for i, reference in enumerate(made):
        reference.start(walk.obs[i])
    for t in range(500):
        actions = learner.act()[:, 0].astype(int)
        for i, reference in enumerate(made):
            probability, first = epsilon(config, t), uniform(random[i])
            second = uniform(random[i]) if first <= probability else 0.0
            q = network(reference.critic, reference.state)
            assert epsilon_greedy(q, probability, first, second) == actions[i]
        step = walk.step()
        learner.update(*step)
        for i, reference in enumerate(made):
            transition = (*(float(x[i]) for x in step[:3]), step[3][i], step[4][i])
            reference.update(*transition, actions[i])
            expected = (reference.critic, reference.correction)
            for head, layers, traces in zip(learner.heads, expected, reference.traces, strict=True):
                close(learner.layers(head, i), layers)
                close(learner.layers(head, i, traces=True), traces)
    assert max(abs(float(w.max())) for w in made[0].correction) > 1e-3


def test_other_rules_are_refused() -> None:
    with pytest.raises(ValueError, match="knows rule=sgd only, got obgd"):
        StreamQRCConfig(rule=Rule.OBGD)
    with pytest.raises(ValueError, match="greedy policy's values only"):
        StreamQRCConfig(on_policy=True)
