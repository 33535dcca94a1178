"""The parts of which every learner's step is made: observations, rewards, ends, one network's update."""

from __future__ import annotations

from robotrl.algorithms.streaming.compiled import Doubles, Integers, Reals, kernel
from robotrl.algorithms.streaming.network import copy, forward, step_and_forward
from robotrl.algorithms.streaming.normalization import normalize, scale_reward
from robotrl.algorithms.streaming.rules.codes import OBGD, SGD
from robotrl.algorithms.streaming.state import (
    EPISODE_STEPS,
    GAMMA,
    LEAK,
    NORMALIZE_OBS,
    OBS_CLIP,
    SCALE_REWARD,
    TRACE,
    TRUNCATION_ENDS,
    TRUNCATION_UNNOTICED,
    WEIGHTS,
    Layout,
    Shape,
    Streams,
    Transitions,
    Workspace,
)
from robotrl.algorithms.streaming.update import accumulate_gradient, begin_update


@kernel
def network_memory(i: int, k: int, layout: Layout, streams: Streams) -> Reals:
    """Return the memory of network k of stream i, (R, P_k)."""
    rows = layout.rows[0]
    start, end = layout.parameters[k], layout.parameters[k + 1]
    return streams.memory[i, rows * start : rows * end].reshape(rows, end - start)


@kernel
def network_shape(k: int, layout: Layout) -> Shape:
    """Return the shape of network k."""
    return Shape(layout.sizes[k], layout.constants[k], layout.units[k])


@kernel
def network_part(k: int, starts: Integers, vector: Reals) -> Reals:
    """Return network k's part of a vector of all networks' parameters or activations."""
    return vector[starts[k] : starts[k + 1]]


@kernel
def output(k: int, layout: Layout, activations: Reals) -> Reals:
    """Return the outputs of network k, (O,), among the activations (C,) of all networks."""
    end = layout.activations[k + 1] - (layout.sizes.shape[1] - 2)
    return activations[end - layout.sizes[k, -1] : end]


@kernel
def observe(
    i: int,
    x: Doubles,
    layout: Layout,
    switches: Integers,
    hyper: Doubles,
    streams: Streams,
    activations: Reals,
) -> None:
    """Take in an observation (D,) of stream i and make it the input of every network.

    With a time input, that is (t - 1) / T - 0.5 at step t of an episode and -0.5 at its start: the
    released code moves its clock after it has read it.
    """
    dim = len(x)
    first = activations[: layout.sizes[0, 0]]
    if switches[NORMALIZE_OBS] != 0:
        normalize(streams.obs_statistics[i], x, hyper[OBS_CLIP], first)
    else:
        copy(x, first)
    if switches[EPISODE_STEPS] != 0:
        first[dim] = max(streams.clock[i, 0] - 1, 0) / switches[EPISODE_STEPS] - 0.5
    for k in range(1, len(layout.sizes)):
        start = layout.activations[k]
        copy(first, activations[start:])


@kernel
def take_step(
    i: int,
    layout: Layout,
    switches: Integers,
    hyper: Doubles,
    streams: Streams,
    batch: Transitions,
    activations: Reals,
) -> tuple[float, float, bool]:
    """Take in what a step brought, except for the observation that begins a new episode.

    Args:
        i: the stream.
        layout: of the networks.
        switches: of the learner.
        hyper: of the stream.
        streams: changed.
        batch: the step.
        activations: the successor state becomes the input of the networks here.

    Returns:
        The scaled reward; gamma, or 0 where the return ends; whether traces end here.
    """
    terminated, truncated = batch.terminated[i], batch.truncated[i]
    resets = terminated or (truncated and switches[TRUNCATION_UNNOTICED] == 0)
    cuts = terminated or (truncated and switches[TRUNCATION_ENDS] != 0)
    streams.clock[i, 0] += 1
    streams.clock[i, 1] += 1
    x = batch.final_obs[i] if terminated or truncated else batch.next_obs[i]
    observe(i, x, layout, switches, hyper, streams, activations)
    reward = batch.reward[i]
    if switches[SCALE_REWARD] != 0:
        leak = switches[LEAK] != 0
        reward = scale_reward(streams.reward_statistics[i], reward, hyper[GAMMA], resets, leak)
    return reward, 0.0 if cuts else hyper[GAMMA], resets


@kernel
def successor_output(i: int, k: int, layout: Layout, streams: Streams, activations: Reals) -> Reals:
    """Evaluate network k at the successor state in `activations`, with the parameters as they are."""
    memory = network_memory(i, k, layout, streams)
    forward(memory[WEIGHTS], network_shape(k, layout), network_part(k, layout.activations, activations))
    return output(k, layout, activations)


@kernel
def take_gradient(
    i: int,
    k: int,
    delta: float,
    decay: float,
    layout: Layout,
    streams: Streams,
    work: Workspace,
) -> Reals:
    """Take the gradient of network k, of which `work` holds that of the outputs, into its traces.

    Args:
        i: the stream.
        k: the network.
        delta: TD error.
        decay: gamma lambda.
        layout: of the networks.
        streams: changed.
        work: the gradient of the outputs is in its first row.

    Returns:
        What `accumulate_gradient` does.
    """
    begin_update(layout.rules[k], delta, decay, layout.policy[k], streams.rules[i, k])
    return propagate(i, k, layout.rules[k], layout, streams, work)


@kernel
def propagate(i: int, k: int, rule: int, layout: Layout, streams: Streams, work: Workspace) -> Reals:
    """Propagate the gradient of the outputs in `work` back through network k, for `rule`."""
    return accumulate_gradient(
        rule,
        network_memory(i, k, layout, streams),
        network_part(k, layout.parameters, work.direction),
        network_shape(k, layout),
        network_part(k, layout.activations, streams.activations[i]),
        work.gradient[0],
        work.gradient[1],
        streams.rules[i, k],
    )


@kernel
def enter_state(
    i: int,
    layout: Layout,
    switches: Integers,
    hyper: Doubles,
    streams: Streams,
    batch: Transitions,
    activations: Reals,
) -> None:
    """Make the next state the current one: the successor in `activations`, or a new episode's first."""
    current = streams.activations[i]
    if not batch.valid[i]:
        streams.reward_statistics[i, 0] = 0.0
    elif not (batch.terminated[i] or batch.truncated[i]):
        for k in range(len(layout.sizes)):
            start = layout.activations[k]
            copy(activations[start : start + layout.sizes[k, 0]], current[start:])
        return
    streams.clock[i, 0], streams.clock[i, 2] = 0, 0
    observe(i, batch.next_obs[i], layout, switches, hyper, streams, current)


@kernel
def move(
    i: int, k: int, step: float, resets: bool, layout: Layout, streams: Streams, direction: Reals
) -> None:
    """Step network k of stream i, evaluate it at the current state, and clear its traces if asked to."""
    memory = network_memory(i, k, layout, streams)
    a = network_part(k, layout.activations, streams.activations[i])
    rule = layout.rules[k]
    u = memory[TRACE] if rule in (OBGD, SGD) else network_part(k, layout.parameters, direction)
    step_and_forward(memory[WEIGHTS], u, step, network_shape(k, layout), a)
    if resets:
        memory[TRACE] = 0.0
