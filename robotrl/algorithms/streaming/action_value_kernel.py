"""The compiled step of streaming actors that follow the gradient of action values; see `action_value`."""

from __future__ import annotations

import math

from robotrl.algorithms.streaming.compiled import Doubles, Integers, Reals, constant, fill_normal, kernel
from robotrl.algorithms.streaming.episode import (
    enter_state,
    move,
    network_memory,
    network_part,
    output,
    successor_output,
    take_gradient,
    take_step,
)
from robotrl.algorithms.streaming.network import product
from robotrl.algorithms.streaming.normalization import reward_scale
from robotrl.algorithms.streaming.squashed import squashed_action, squashed_gradient
from robotrl.algorithms.streaming.state import (
    ACTOR_REST,
    ALPHA,
    GAMMA,
    HEAD,
    LAMBDA,
    SCALE_REWARD,
    WEIGHTS,
    Layout,
    Streams,
    Transitions,
    Workspace,
)
from robotrl.algorithms.streaming.update import finish_update

ACTOR, CRITIC = constant(0), constant(1)


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
        actor_step, critic_step, resets = 0.0, 0.0, True
        fill_normal(streams.random[i], work.action[0])
        if batch.valid[i]:
            reward, gamma, resets = take_step(i, layout, switches, hyper[i], streams, batch, work.activations)
            alpha = _temperature(i, switches, hyper[i], streams)
            next_value = _soft_value(i, alpha, layout, switches, hyper[i], streams, work)
            delta = reward + gamma * next_value - output(CRITIC, layout, streams.activations[i])[0]
            work.gradient[0, 0] = 1.0
            dz = take_gradient(i, CRITIC, delta, hyper[i, GAMMA] * hyper[i, LAMBDA], layout, streams, work)
            critic_step = finish_update(layout.rules[CRITIC], streams.rules[i, CRITIC])
            if streams.clock[i, 1] > hyper[i, ACTOR_REST]:
                _action_gradient(i, dz, layout, streams, work.action[1])
                size = _objective_gradient(i, alpha, layout, switches, hyper[i], streams, work)
                take_gradient(i, ACTOR, size, 0.0, layout, streams, work)
                actor_step = finish_update(layout.rules[ACTOR], streams.rules[i, ACTOR])
        enter_state(i, layout, switches, hyper[i], streams, batch, work.activations)
        move(i, ACTOR, actor_step, True, layout, streams, work.direction)
        y = output(ACTOR, layout, streams.activations[i])
        inputs = _action_input(layout, streams.activations[i])
        squashed_action(switches[HEAD], y, work.action[0], hyper[i], streams.action[i], inputs)
        move(i, CRITIC, critic_step, resets, layout, streams, work.direction)


@kernel
def _temperature(i: int, switches: Integers, hyper: Doubles, streams: Streams) -> float:
    """Return alpha in units of the scaled reward."""
    scale = reward_scale(streams.reward_statistics[i]) if switches[SCALE_REWARD] != 0 else 1.0
    return hyper[ALPHA] / scale


@kernel
def _action_input(layout: Layout, activations: Reals) -> Reals:
    """Return the critic's action inputs, (A,), among the activations (C,) of all networks."""
    part = network_part(CRITIC, layout.activations, activations)
    return part[layout.sizes[ACTOR, 0] : layout.sizes[CRITIC, 0]]


@kernel
def _soft_value(
    i: int,
    alpha: float,
    layout: Layout,
    switches: Integers,
    hyper: Doubles,
    streams: Streams,
    work: Workspace,
) -> float:
    """Return Q(s', a') - alpha log pi(a'|s') for the action that the next noise leads to."""
    y = successor_output(i, ACTOR, layout, streams, work.activations)
    inputs = _action_input(layout, work.activations)
    log_prob = squashed_action(switches[HEAD], y, work.action[0], hyper, work.action[1], inputs)
    return successor_output(i, CRITIC, layout, streams, work.activations)[0] - alpha * log_prob


@kernel
def _action_gradient(i: int, dz: Reals, layout: Layout, streams: Streams, q: Doubles) -> None:
    """Write dQ(s, a) / da into q (A,), given that by the z of the critic's first layer, dz (H,)."""
    first, end = layout.sizes[ACTOR, 0], layout.sizes[CRITIC, 0]
    w = network_memory(i, CRITIC, layout, streams)[WEIGHTS, first * len(dz) : end * len(dz)]
    product(w.reshape(len(q), len(dz)), dz, q)


@kernel
def _objective_gradient(
    i: int,
    alpha: float,
    layout: Layout,
    switches: Integers,
    hyper: Doubles,
    streams: Streams,
    work: Workspace,
) -> float:
    """Write the direction of the objective's gradient by the actor's outputs, and return its length."""
    y = output(ACTOR, layout, streams.activations[i])
    d = work.gradient[0, : len(y)]
    squashed_gradient(switches[HEAD], y, streams.action[i], hyper, work.action[1], alpha, d)
    square = 0.0
    for k in range(len(d)):
        square += d[k] * d[k]
    size = math.sqrt(square)
    if size > 0.0:
        for k in range(len(d)):
            d[k] /= size
    return size
