"""The compiled step of QRC(lambda); see `qrc` for its formulas."""

from __future__ import annotations

from robotrl.algorithms.streaming.compiled import Doubles, Integers, Reals, constant, kernel
from robotrl.algorithms.streaming.episode import (
    enter_state,
    network_memory,
    network_part,
    network_shape,
    output,
    propagate,
    successor_output,
    take_step,
)
from robotrl.algorithms.streaming.heads import argmax
from robotrl.algorithms.streaming.network import step_and_forward
from robotrl.algorithms.streaming.rules.codes import CORRECTED, SUCCESSOR
from robotrl.algorithms.streaming.state import (
    CORRECTION_TRACE,
    DECAY,
    DELTA,
    GAMMA,
    LAMBDA,
    RATE,
    STEP,
    TRACE,
    UPDATES,
    WEIGHT,
    WEIGHTS,
    Layout,
    Streams,
    Transitions,
    Workspace,
)
from robotrl.algorithms.streaming.update import accumulate_gradient
from robotrl.algorithms.streaming.value_kernel import CRITIC, choose

CORRECTION = constant(1)
_BETA = 1.0


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
        resets = True
        if batch.valid[i]:
            reward, gamma, resets = take_step(i, layout, switches, hyper[i], streams, batch, work.activations)
            resets = resets or not streams.greedy[i]
            _take_gradients(i, reward, gamma, hyper[i, GAMMA] * hyper[i, LAMBDA], layout, streams, work)
        enter_state(i, layout, switches, hyper[i], streams, batch, work.activations)
        for k in (CRITIC, CORRECTION):
            _move(i, k, batch.valid[i], resets, layout, streams, work.direction)
        choose(i, -1, layout, hyper[i], streams)


@kernel
def _take_gradients(
    i: int, reward: float, gamma: float, decay: float, layout: Layout, streams: Streams, work: Workspace
) -> None:
    """Take the gradients of both networks into their traces, and write their directions."""
    action = int(streams.action[i, 0])
    now, rules = streams.activations[i], streams.rules[i]
    next_q = successor_output(i, CRITIC, layout, streams, work.activations)
    best = argmax(next_q)
    delta = reward + gamma * next_q[best] - output(CRITIC, layout, now)[action]
    h = output(CORRECTION, layout, now)[action]
    total = decay * rules[CRITIC, CORRECTION_TRACE] + h
    rules[CRITIC, CORRECTION_TRACE] = total
    for k in (CRITIC, CORRECTION):
        s = rules[k]
        s[UPDATES] += 1.0
        s[DECAY], s[DELTA] = decay, delta
        # D is gamma g' - g: its second part joins the gradient at s
        s[WEIGHT] = total - h if k == CRITIC else -h
        _unit(action, len(next_q), work.gradient[0])
        propagate(i, k, CORRECTED, layout, streams, work)
    if gamma > 0.0:
        rules[CRITIC, WEIGHT] = -total * gamma
        _unit(best, len(next_q), work.gradient[0])
        accumulate_gradient(
            SUCCESSOR,
            network_memory(i, CRITIC, layout, streams),
            network_part(CRITIC, layout.parameters, work.direction),
            network_shape(CRITIC, layout),
            network_part(CRITIC, layout.activations, work.activations),
            work.gradient[0],
            work.gradient[1],
            rules[CRITIC],
        )
    w = network_memory(i, CORRECTION, layout, streams)[WEIGHTS]
    u = network_part(CORRECTION, layout.parameters, work.direction)
    beta = w.dtype.type(_BETA)
    for k in range(len(w)):
        u[k] -= beta * w[k]


@kernel
def _unit(index: int, length: int, d: Reals) -> None:
    """Write a unit vector into the beginning of d."""
    d[:length] = 0.0
    d[index] = 1.0


@kernel
def _move(
    i: int, k: int, learns: bool, resets: bool, layout: Layout, streams: Streams, direction: Reals
) -> None:
    """Step network k of stream i, evaluate it at the current state, and clear its traces if asked to."""
    memory, s = network_memory(i, k, layout, streams), streams.rules[i, k]
    a = network_part(k, layout.activations, streams.activations[i])
    u = network_part(k, layout.parameters, direction)
    s[STEP] = s[RATE] if learns else 0.0
    step_and_forward(memory[WEIGHTS], u, s[STEP], network_shape(k, layout), a)
    if resets:
        memory[TRACE] = 0.0
        s[CORRECTION_TRACE] = 0.0
