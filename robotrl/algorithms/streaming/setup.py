"""The arrays a learner starts from, and the hyperparameters of its streams."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from robotrl.algorithms.streaming.compiled import Doubles, Integers, random_state
from robotrl.algorithms.streaming.config import Preset, StreamConfig, StreamQConfig
from robotrl.algorithms.streaming.heads import Head
from robotrl.algorithms.streaming.inputs import as_numbers
from robotrl.algorithms.streaming.network import draw_parameters, new_activations
from robotrl.algorithms.streaming.rules.codes import Rule
from robotrl.algorithms.streaming.state import (
    ACTOR_REST,
    ALPHA,
    CORRECTION_DECAY,
    ENTROPY,
    EPISODE_STEPS,
    EPSILON_END,
    EPSILON_START,
    EPSILON_STEPS,
    GAMMA,
    HEAD,
    LAMBDA,
    LEAK,
    LOG_STD_HIGH,
    LOG_STD_LOW,
    MEAN_SQUARE_DELTA,
    NOISE_STD,
    NORMALIZE_OBS,
    NUM_HYPER_COLUMNS,
    NUM_RULE_COLUMNS,
    NUM_SWITCHES,
    OBS_CLIP,
    ON_POLICY,
    REPEAT_EXPONENT,
    SCALE_REWARD,
    STD_FLOOR,
    TRUNCATION_ENDS,
    TRUNCATION_UNNOTICED,
    Layout,
    Streams,
    Transitions,
)
from robotrl.algorithms.streaming.units import Unit
from robotrl.core.errors import UsageError, unknown_name

_HYPER_COLUMNS = {
    "gamma": GAMMA,
    "trace_lambda": LAMBDA,
    "entropy_coef": ENTROPY,
    "std_floor": STD_FLOOR,
    "actor_rest_steps": ACTOR_REST,
    "alpha": ALPHA,
    "noise_std": NOISE_STD,
    "epsilon_start": EPSILON_START,
    "epsilon_end": EPSILON_END,
    "exploration_steps": EPSILON_STEPS,
    "repeat_exponent": REPEAT_EXPONENT,
    "correction_decay": CORRECTION_DECAY,
}
Sweep = Mapping[str, npt.ArrayLike]
"""Names of hyperparameters -> (N,) values, one per stream; the others are those of the configuration."""


@dataclass(frozen=True)
class Network:
    """What one network of a learner is.

    Attributes:
        name: by which the learner knows it.
        hidden: widths of the hidden layers.
        outputs: how many.
        rule: its step-size rule.
        unit: of the hidden layers.
        constants: how many of the outputs, the last ones, do not depend on the input.
        action_inputs: how many inputs follow those that all networks have.
    """

    name: str
    hidden: Sequence[int]
    outputs: int
    rule: Rule
    unit: Unit = Unit.LAYER_NORM
    constants: int = 0
    action_inputs: int = 0


def make_switches(config: StreamConfig, head: Head) -> Integers:
    """Say what a preset means, as kernels read it."""
    released = config.preset is Preset.REFERENCE
    switches = np.zeros(NUM_SWITCHES, np.int64)
    switches[NORMALIZE_OBS] = config.normalize_obs
    switches[SCALE_REWARD] = config.scale_reward
    switches[TRUNCATION_ENDS] = released and config.rule is not Rule.INTENTIONAL
    switches[TRUNCATION_UNNOTICED] = released and config.rule is Rule.INTENTIONAL
    switches[LEAK] = released
    switches[EPISODE_STEPS] = config.episode_steps if config.sees_time else 0
    switches[HEAD] = head.code
    switches[ON_POLICY] = isinstance(config, StreamQConfig) and config.on_policy
    return switches


def make_hyper(config: StreamConfig, networks: Sequence[Network], num_streams: int, sweep: Sweep) -> Doubles:
    """Return the hyperparameters of N streams, (N, H + K): those of `state`, then each network's rate.

    Raises:
        UsageError: the sweep names something else, has another length, or a value is out of bounds.
    """
    rates = [f"{network.name}_{network.rule.rate}" for network in networks]
    names = [*(name for name in _HYPER_COLUMNS if hasattr(config, name)), *rates]
    hyper = np.zeros((num_streams, NUM_HYPER_COLUMNS + len(networks)))
    hyper[:, EPSILON_STEPS] = 1.0
    hyper[:, LOG_STD_LOW], hyper[:, LOG_STD_HIGH], hyper[:, OBS_CLIP] = -np.inf, np.inf, np.inf
    for name in sweep:
        if name not in names:
            raise unknown_name("hyperparameter to sweep", name, names)
    for name in names:
        column = _HYPER_COLUMNS.get(name)
        if column is None:
            column = NUM_HYPER_COLUMNS + rates.index(name)
        hyper[:, column] = _values(config, name, num_streams, sweep)
    return hyper


def _values(config: StreamConfig, name: str, num_streams: int, sweep: Sweep) -> Doubles:
    """Return one value per stream; one that is left unset is infinite."""
    if name not in sweep:
        value = getattr(config, name)
        return np.full(num_streams, np.inf if value is None else float(value))
    values = as_numbers(f"sweep of {name}", sweep[name])
    if values.shape != (num_streams,):
        raise UsageError(
            f"sweep of {name} has shape {values.shape}, expected one value for each of {num_streams} streams"
        )
    for i, value in enumerate(values.tolist()):
        try:
            dataclasses.replace(config, **{name: value})
        except ValueError as error:
            raise UsageError(f"stream {i}: {error}") from error
    return values.astype(np.float64)


def make_layout(networks: Sequence[Network], in_dim: int) -> Layout:
    """Lay out K networks one after the other; the first has no action inputs.

    Raises:
        UsageError: they differ in their number of layers.
    """
    if len({len(network.hidden) for network in networks}) > 1:
        depths = " and ".join(f"the {network.name} has {len(network.hidden)}" for network in networks)
        raise UsageError(f"networks need as many hidden layers as each other, but {depths}")
    sizes = [[in_dim + network.action_inputs, *network.hidden, network.outputs] for network in networks]
    rng = np.random.default_rng(0)
    parameters = [
        len(draw_parameters(s, 0.0, 0, rng, network.constants))
        for s, network in zip(sizes, networks, strict=True)
    ]
    activations = [new_activations(s, 1, np.float32).shape[1] for s in sizes]
    return Layout(
        sizes=np.array(sizes),
        parameters=np.cumsum([0, *parameters]),
        activations=np.cumsum([0, *activations]),
        constants=np.array([network.constants for network in networks]),
        units=np.array([network.unit.code for network in networks]),
        rules=np.array([network.rule.code for network in networks]),
        policy=np.array([network.name == "actor" for network in networks]),
        rows=np.array([2 + max(network.rule.num_moments for network in networks)]),
    )


def new_streams(
    layout: Layout,
    config: StreamConfig,
    obs_dim: int,
    action_width: int,
    num_streams: int,
    seed: int,
    dtype: npt.DTypeLike,
) -> Streams:
    """Return N streams before their first observation; stream i depends on the seed and i only."""
    rows = int(layout.rows[0])
    memory = np.zeros((num_streams, rows * int(layout.parameters[-1])), dtype)
    min_inputs = 0 if config.preset is Preset.REFERENCE else 2
    for i in range(num_streams):
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(i, 0)))
        for k, (start, sizes) in enumerate(zip(layout.parameters, layout.sizes.tolist(), strict=False)):
            w = draw_parameters(sizes, config.sparsity, min_inputs, rng, int(layout.constants[k]))
            memory[i, rows * start : rows * start + len(w)] = w
    rules = np.zeros((num_streams, len(layout.sizes), NUM_RULE_COLUMNS))
    rules[:, :, MEAN_SQUARE_DELTA] = 1.0
    parts = [new_activations(sizes, num_streams, dtype) for sizes in layout.sizes.tolist()]
    return Streams(
        memory=memory,
        activations=np.concatenate(parts, axis=1),
        obs_statistics=np.zeros((num_streams, 1 + 2 * obs_dim)),
        reward_statistics=np.zeros((num_streams, 4)),
        rules=rules,
        clock=np.zeros((num_streams, 3), np.int64),
        random=random_state(seed, num_streams),
        action=np.zeros((num_streams, action_width)),
        greedy=np.zeros(num_streams, np.bool_),
    )


def new_transitions(num_streams: int, obs_dim: int) -> Transitions:
    """Return room for one step of N streams."""
    return Transitions(
        reward=np.zeros(num_streams),
        terminated=np.zeros(num_streams, np.bool_),
        truncated=np.zeros(num_streams, np.bool_),
        valid=np.zeros(num_streams, np.bool_),
        next_obs=np.zeros((num_streams, obs_dim)),
        final_obs=np.zeros((num_streams, obs_dim)),
    )
