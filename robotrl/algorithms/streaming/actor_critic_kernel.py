"""The compiled step of stream AC(lambda); see `actor_critic` for its formulas."""

from __future__ import annotations

from robotrl.algorithms.streaming.compiled import Doubles, Integers, Reals, fill_normal, kernel
from robotrl.algorithms.streaming.episode import (
    enter_state,
    move,
    network_memory,
    network_part,
    output,
    take_step,
)
from robotrl.algorithms.streaming.heads import (
    categorical_action,
    categorical_gradient,
    gaussian_action,
    gaussian_gradient,
    gaussian_score,
)
from robotrl.algorithms.streaming.network import forward
from robotrl.algorithms.streaming.rules.codes import FISHER_TRACE, INTENTIONAL_FISHER
from robotrl.algorithms.streaming.state import (
    CONTINUOUS,
    ENTROPY,
    GAMMA,
    LAMBDA,
    STD_FLOOR,
    WEIGHTS,
    Layout,
    Streams,
    Transitions,
    Workspace,
)
from robotrl.algorithms.streaming.update import accumulate_gradient, begin_update, finish_update

ACTOR, CRITIC = 0, 1


@kernel
def advance(
    low: int, high: int, layout: Layout, switches: Integers, hyper: Doubles, streams: Streams,
    batch: Transitions, work: Workspace,
) -> None:
    """Learn from one step of the streams from `low` up to `high`, and choose their next actions."""
    for i in range(low, high):
        actor_step, critic_step, resets = 0.0, 0.0, True
        if batch.valid[i]:
            reward, gamma, resets = take_step(
                i, layout, switches, hyper[i], streams, batch, work.activations
            )
            next_a = network_part(CRITIC, layout.activations, work.activations)
            memory = network_memory(i, CRITIC, layout, streams)
            forward(memory[WEIGHTS], layout.sizes[CRITIC], next_a)
            next_value = output(CRITIC, layout, work.activations)[0]
            value = output(CRITIC, layout, streams.activations[i])[0]
            delta = reward + gamma * next_value - value
            work.gradient[0, 0] = 1.0
            critic_step = _learn(i, CRITIC, delta, layout, switches, hyper[i], streams, work)
            _policy_gradient(i, delta, layout, switches, hyper[i], streams, work.gradient[0])
            actor_step = _learn(i, ACTOR, delta, layout, switches, hyper[i], streams, work)
        else:
            streams.reward_statistics[i, 0] = 0.0
        enter_state(i, layout, switches, streams, batch, work.activations)
        move(i, CRITIC, critic_step, resets, layout, streams, work.direction)
        move(i, ACTOR, actor_step, resets, layout, streams, work.direction)
        _act(i, layout, switches, hyper[i], streams, work.gradient[0])


@kernel
def _learn(
    i: int, k: int, delta: float, layout: Layout, switches: Integers, hyper: Doubles, streams: Streams,
    work: Workspace,
) -> float:
    """Take the output's gradient in `work` into the traces of network k; return the factor of the step."""
    rule, s = layout.rules[k], streams.rules[i, k]
    memory = network_memory(i, k, layout, streams)
    u = network_part(k, layout.parameters, work.direction)
    a = network_part(k, layout.activations, streams.activations[i])
    d, spare = work.gradient[0], work.gradient[1]
    begin_update(rule, delta, hyper[GAMMA] * hyper[LAMBDA], k == ACTOR, s)
    accumulate_gradient(rule, memory, u, layout.sizes[k], a, d, spare, s)
    if rule == INTENTIONAL_FISHER:
        _draw_score(i, layout, switches, hyper, streams, d, spare)
        accumulate_gradient(FISHER_TRACE, memory, u, layout.sizes[k], a, d, spare, s)
    return finish_update(rule, s)


@kernel
def _policy_gradient(
    i: int, delta: float, layout: Layout, switches: Integers, hyper: Doubles, streams: Streams, d: Reals
) -> None:
    """Write the gradient of log pi(a|s) + tau sign(delta) H by the actor's outputs."""
    y = output(ACTOR, layout, streams.activations[i])
    weight = hyper[ENTROPY] * ((delta > 0.0) - (delta < 0.0))
    if switches[CONTINUOUS] != 0:
        gaussian_gradient(y, streams.action[i], hyper[STD_FLOOR], weight, d)
    else:
        categorical_gradient(y, int(streams.action[i, 0]), weight, d[: len(y)])


@kernel
def _draw_score(
    i: int, layout: Layout, switches: Integers, hyper: Doubles, streams: Streams, d: Reals, spare: Reals
) -> None:
    """Write the gradient of log pi by the outputs at an action drawn independently of the one taken."""
    y = output(ACTOR, layout, streams.activations[i])
    if switches[CONTINUOUS] != 0:
        noise = spare[: len(y) // 2]
        fill_normal(streams.random[i], noise)
        gaussian_score(y, noise, hyper[STD_FLOOR], d)
    else:
        action = categorical_action(y, streams.random[i], spare[: len(y)])
        categorical_gradient(y, action, 0.0, d[: len(y)])


@kernel
def _act(
    i: int, layout: Layout, switches: Integers, hyper: Doubles, streams: Streams, spare: Reals
) -> None:
    """Draw the action for the current state."""
    y = output(ACTOR, layout, streams.activations[i])
    if switches[CONTINUOUS] != 0:
        noise = spare[: len(y) // 2]
        fill_normal(streams.random[i], noise)
        gaussian_action(y, noise, hyper[STD_FLOOR], streams.action[i])
    else:
        streams.action[i, 0] = categorical_action(y, streams.random[i], spare[: len(y)])
