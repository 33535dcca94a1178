"""The compiled step of QRC(lambda); see `qrc`."""

from __future__ import annotations

from robotrl.algorithms.streaming.compiled import Doubles, Integers, Reals, constant, kernel
from robotrl.algorithms.streaming.episode import (
    enter_state,
    network_memory,
    network_part,
    network_shape,
    output,
    successor_output,
    take_gradient,
    take_step,
)
from robotrl.algorithms.streaming.heads import argmax
from robotrl.algorithms.streaming.network import step_and_forward
from robotrl.algorithms.streaming.rules.codes import GRADIENT
from robotrl.algorithms.streaming.state import (
    CORRECTION_DECAY,
    GAMMA,
    LAMBDA,
    OUTPUT_TRACE,
    RATE,
    STEP,
    TRACE,
    WEIGHTS,
    Layout,
    Streams,
    Transitions,
    Workspace,
)
from robotrl.algorithms.streaming.update import accumulate_gradient
from robotrl.algorithms.streaming.value_kernel import choose

CRITIC, CORRECTION = constant(0), constant(1)


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
        resets, moves = True, batch.valid[i]
        if moves:
            reward, gamma, resets = take_step(i, layout, switches, hyper[i], streams, batch, work.activations)
            resets = resets or not streams.greedy[i]
            now, action = streams.activations[i], int(streams.action[i, 0])
            next_q = successor_output(i, CRITIC, layout, streams, work.activations)
            best = argmax(next_q)
            delta = reward + gamma * next_q[best] - output(CRITIC, layout, now)[action]
            h = output(CORRECTION, layout, now)[action]
            decay = hyper[i, GAMMA] * hyper[i, LAMBDA]
            h_trace = decay * streams.rules[i, CORRECTION, OUTPUT_TRACE] + h
            streams.rules[i, CORRECTION, OUTPUT_TRACE] = h_trace
            for k in (CRITIC, CORRECTION):
                _seed(work, action, 1.0)
                take_gradient(i, k, delta, decay, layout, streams, work)
                _begin(i, k, delta, layout, streams, work)
            _add(i, CRITIC, action, h_trace - h, now, layout, streams, work)
            _add(i, CRITIC, best, -gamma * h_trace, work.activations, layout, streams, work)
            _add(i, CORRECTION, action, -h, now, layout, streams, work)
            theta = network_memory(i, CORRECTION, layout, streams)[WEIGHTS]
            u = network_part(CORRECTION, layout.parameters, work.direction)
            u -= u.dtype.type(hyper[i, CORRECTION_DECAY]) * theta
        enter_state(i, layout, switches, hyper[i], streams, batch, work.activations)
        for k in (CRITIC, CORRECTION):
            _move(i, k, moves, resets, layout, streams, work.direction)
        choose(i, -1, layout, hyper[i], streams)


@kernel
def _seed(work: Workspace, index: int, value: float) -> None:
    """Let the gradient of the outputs be `value` at one of them."""
    work.gradient[0] = 0.0
    work.gradient[0, index] = value


@kernel
def _begin(i: int, k: int, delta: float, layout: Layout, streams: Streams, work: Workspace) -> None:
    """Let the direction of network k be delta times its traces."""
    trace = network_memory(i, k, layout, streams)[TRACE]
    u = network_part(k, layout.parameters, work.direction)
    u[:] = u.dtype.type(delta) * trace


@kernel
def _add(
    i: int,
    k: int,
    index: int,
    factor: float,
    activations: Reals,
    layout: Layout,
    streams: Streams,
    work: Workspace,
) -> None:
    """Add `factor` times the gradient of one output of network k to its direction."""
    _seed(work, index, factor)
    accumulate_gradient(
        GRADIENT,
        network_memory(i, k, layout, streams),
        network_part(k, layout.parameters, work.direction),
        network_shape(k, layout),
        network_part(k, layout.activations, activations),
        work.gradient[0],
        work.gradient[1],
        streams.rules[i, k],
    )


@kernel
def _move(
    i: int, k: int, moves: bool, resets: bool, layout: Layout, streams: Streams, direction: Reals
) -> None:
    """Step network k along its direction, evaluate it at the current state, and clear traces if asked to."""
    memory, rule = network_memory(i, k, layout, streams), streams.rules[i, k]
    rule[STEP] = rule[RATE] if moves else 0.0
    u = network_part(k, layout.parameters, direction)
    a = network_part(k, layout.activations, streams.activations[i])
    step_and_forward(memory[WEIGHTS], u, rule[STEP], network_shape(k, layout), a)
    if resets:
        memory[TRACE] = 0.0
        rule[OUTPUT_TRACE] = 0.0
