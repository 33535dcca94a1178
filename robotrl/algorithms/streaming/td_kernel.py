"""The compiled step of stream TD(lambda); see `td` for its formulas."""

from __future__ import annotations

import numpy as np

from robotrl.algorithms.streaming.compiled import Doubles, Integers, kernel
from robotrl.algorithms.streaming.episode import (
    enter_state,
    move,
    output,
    successor_output,
    take_gradient,
    take_step,
)
from robotrl.algorithms.streaming.state import GAMMA, LAMBDA, Layout, Streams, Transitions, Workspace
from robotrl.algorithms.streaming.update import finish_update

# not a plain integer: kernels would be compiled anew for it
CRITIC = np.int64(0)


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
    """Learn from one step of the streams from `low` up to `high`."""
    for i in range(low, high):
        step, resets = 0.0, True
        if batch.valid[i]:
            reward, gamma, resets = take_step(i, layout, switches, hyper[i], streams, batch, work.activations)
            value = output(CRITIC, layout, streams.activations[i])[0]
            delta = reward + gamma * successor_output(i, CRITIC, layout, streams, work.activations)[0] - value
            work.gradient[0, 0] = 1.0
            take_gradient(i, CRITIC, delta, hyper[i, GAMMA] * hyper[i, LAMBDA], layout, streams, work)
            step = finish_update(layout.rules[CRITIC], streams.rules[i, CRITIC])
        enter_state(i, layout, switches, streams, batch, work.activations)
        move(i, CRITIC, step, resets, layout, streams, work.direction)
