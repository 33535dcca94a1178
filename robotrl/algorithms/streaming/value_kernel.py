"""The compiled step of stream Q(lambda), SARSA(lambda) and TD(lambda); see `q_learning` and `td`.

A prediction is the value of the one action there is.
"""

from __future__ import annotations

import math

from robotrl.algorithms.streaming.compiled import (
    Doubles,
    Integers,
    Reals,
    constant,
    kernel,
    uniform,
    uniform_index,
    zeta,
)
from robotrl.algorithms.streaming.episode import (
    enter_state,
    move,
    output,
    successor_output,
    take_gradient,
    take_step,
)
from robotrl.algorithms.streaming.heads import argmax
from robotrl.algorithms.streaming.state import (
    EPSILON_END,
    EPSILON_START,
    EPSILON_STEPS,
    GAMMA,
    LAMBDA,
    LEAK,
    ON_POLICY,
    REPEAT_EXPONENT,
    Layout,
    Streams,
    Transitions,
    Workspace,
)
from robotrl.algorithms.streaming.update import finish_update

CRITIC = constant(0)


@kernel
def advance(
    low: int,
    high: int,
    layout: Layout,
    switches: Integers,
    hyper: Doubles,
    streams: Streams,
    batch: Transitions,
    work: Workspace,
) -> None:
    """Learn from one step of the streams from `low` up to `high`, and choose their next actions."""
    for i in range(low, high):
        step, resets, next_action = 0.0, True, -1
        if batch.valid[i]:
            reward, gamma, resets = take_step(i, layout, switches, hyper[i], streams, batch, work.activations)
            action = int(streams.action[i, 0])
            value = output(CRITIC, layout, streams.activations[i])[action]
            next_q = successor_output(i, CRITIC, layout, streams, work.activations)
            if switches[ON_POLICY] != 0:
                next_action = _explore(i, next_q, hyper[i], streams)
                delta = reward + gamma * next_q[next_action] - value
                if (batch.terminated[i] or batch.truncated[i]) and switches[LEAK] == 0:
                    next_action = -1
            else:
                resets = resets or not streams.greedy[i]
                delta = reward + gamma * next_q[argmax(next_q)] - value
            work.gradient[0, : len(next_q)] = 0.0
            work.gradient[0, action] = 1.0
            take_gradient(i, CRITIC, delta, hyper[i, GAMMA] * hyper[i, LAMBDA], layout, streams, work)
            step = finish_update(layout.rules[CRITIC], streams.rules[i, CRITIC])
        enter_state(i, layout, switches, hyper[i], streams, batch, work.activations)
        move(i, CRITIC, step, resets, layout, streams, work.direction)
        choose(i, next_action, layout, hyper[i], streams)


@kernel
def choose(i: int, action: int, layout: Layout, hyper: Doubles, streams: Streams) -> None:
    """Make `action` that of the current state of stream i; draw one where it is negative."""
    q = output(CRITIC, layout, streams.activations[i])
    if action < 0:
        action = _explore(i, q, hyper, streams)
    streams.action[i, 0] = action
    streams.greedy[i] = action == argmax(q)


@kernel
def _explore(i: int, q: Reals, hyper: Doubles, streams: Streams) -> int:
    """Return a random action with probability epsilon, else the best; or the current one while it is kept."""
    clock, random = streams.clock[i], streams.random[i]
    if clock[2] > 0:
        clock[2] -= 1
        return int(streams.action[i, 0])
    part = min(1.0, clock[1] / hyper[EPSILON_STEPS])
    epsilon = hyper[EPSILON_START] + part * (hyper[EPSILON_END] - hyper[EPSILON_START])
    if uniform(random) > epsilon:
        return argmax(q)
    if hyper[REPEAT_EXPONENT] < math.inf:
        clock[2] = zeta(random, hyper[REPEAT_EXPONENT]) - 1
    return uniform_index(random, len(q))
