"""The compiled step of stream AC(lambda); see `actor_critic` for its formulas."""

from __future__ import annotations

from robotrl.algorithms.streaming.compiled import (
    Doubles,
    Integers,
    Reals,
    constant,
    fill_normal,
    kernel,
    uniform_index,
)
from robotrl.algorithms.streaming.episode import (
    enter_state,
    move,
    output,
    propagate,
    successor_output,
    take_gradient,
    take_step,
)
from robotrl.algorithms.streaming.heads import (
    CATEGORICAL,
    categorical_action,
    categorical_gradient,
    gaussian_action,
    gaussian_gradient,
)
from robotrl.algorithms.streaming.rules.codes import INTENTIONAL_LOGITS, OUTPUT_NORM
from robotrl.algorithms.streaming.state import (
    ACTOR_REST,
    ENTROPY,
    GAMMA,
    HEAD,
    LAMBDA,
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
        if batch.valid[i]:
            reward, gamma, resets = take_step(i, layout, switches, hyper[i], streams, batch, work.activations)
            next_value = successor_output(i, CRITIC, layout, streams, work.activations)[0]
            value = output(CRITIC, layout, streams.activations[i])[0]
            delta = reward + gamma * next_value - value
            decay = hyper[i, GAMMA] * hyper[i, LAMBDA]
            work.gradient[0, 0] = 1.0
            take_gradient(i, CRITIC, delta, decay, layout, streams, work)
            critic_step = finish_update(layout.rules[CRITIC], streams.rules[i, CRITIC])
            if streams.clock[i, 1] > hyper[i, ACTOR_REST]:
                _policy_gradient(i, delta, layout, switches, hyper[i], streams, work.gradient[0])
                take_gradient(i, ACTOR, delta, decay, layout, streams, work)
                if layout.rules[ACTOR] == INTENTIONAL_LOGITS:
                    _take_logit_norm(i, layout, streams, work)
                actor_step = finish_update(layout.rules[ACTOR], streams.rules[i, ACTOR])
        enter_state(i, layout, switches, hyper[i], streams, batch, work.activations)
        move(i, CRITIC, critic_step, resets, layout, streams, work.direction)
        move(i, ACTOR, actor_step, resets, layout, streams, work.direction)
        _act(i, layout, switches, hyper[i], streams, work.gradient[0])


@kernel
def _policy_gradient(
    i: int, delta: float, layout: Layout, switches: Integers, hyper: Doubles, streams: Streams, d: Reals
) -> None:
    """Write the gradient of log pi(a|s) + tau sign(delta) H by the actor's outputs."""
    y = output(ACTOR, layout, streams.activations[i])
    weight = hyper[ENTROPY] * ((delta > 0.0) - (delta < 0.0))
    if switches[HEAD] != CATEGORICAL:
        gaussian_gradient(switches[HEAD], y, streams.action[i], hyper, weight, d)
    else:
        categorical_gradient(y, int(streams.action[i, 0]), weight, d[: len(y)])


@kernel
def _take_logit_norm(i: int, layout: Layout, streams: Streams, work: Workspace) -> None:
    """Add the size of the gradient of a logit drawn at random to the actor's rule."""
    y = output(ACTOR, layout, streams.activations[i])
    d = work.gradient[0]
    d[: len(y)] = -1.0 / len(y)
    d[uniform_index(streams.random[i], len(y))] += 1.0
    propagate(i, ACTOR, OUTPUT_NORM, layout, streams, work)


@kernel
def _act(i: int, layout: Layout, switches: Integers, hyper: Doubles, streams: Streams, spare: Reals) -> None:
    """Draw the action for the current state."""
    y = output(ACTOR, layout, streams.activations[i])
    if switches[HEAD] != CATEGORICAL:
        noise = spare[: len(y) // 2]
        fill_normal(streams.random[i], noise)
        gaussian_action(switches[HEAD], y, noise, hyper, streams.action[i])
    else:
        streams.action[i, 0] = categorical_action(y, streams.random[i], spare[: len(y)])
