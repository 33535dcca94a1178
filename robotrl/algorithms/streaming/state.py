"""What N streams remember and what one step of them brings, as arrays with one row per stream.

Everything a learner knows is in `Streams`, so that copying its arrays copies the learner. Kernels take
both tuples whole; indices of columns stand here.
"""

from __future__ import annotations

from typing import NamedTuple

from robotrl.algorithms.streaming.compiled import Booleans, Doubles, Integers, Reals, Words


class Streams(NamedTuple):
    """The state of N streams; P parameters and C activations over all networks of a stream.

    Attributes:
        memory: (N, R P) for each network in turn its parameters, traces, and the moments that the
            step-size rule keeps, if any: R rows as long as the network has parameters.
        activations: (N, C) of each network at the current state.
        obs_statistics: (N, 1 + 2 D) count, means, sums of squared deviations.
        reward_statistics: (N, 4) discounted sum of rewards; its count, mean, sum of squared deviations.
        rules: (N, K, 10) state of the step-size rule of each of K networks, see the columns below.
        clock: (N, 3) control steps of the current episode, of all, and those for which the current action is
            still to be kept.
        random: (N, 1) state of each stream's generator.
        action: (N, A) the action chosen for the current state; a discrete one is its index.
        greedy: (N,) whether a discrete action is the greedy one.
    """

    memory: Reals
    activations: Reals
    obs_statistics: Doubles
    reward_statistics: Doubles
    rules: Doubles
    clock: Integers
    random: Words
    action: Doubles
    greedy: Booleans


class Layout(NamedTuple):
    """Where the K networks of a stream lie; all have as many layers.

    Attributes:
        sizes: (K, L + 2) layer widths, input and output included.
        parameters: (K + 1,) where each network's parameters begin, and the end.
        activations: (K + 1,) the same for activations.
        constants: (K,) outputs of each that do not depend on the input.
        units: (K,) codes of the hidden units.
        rules: (K,) codes of the step-size rules.
        policy: (K,) whether a network is a policy.
        rows: (1,) R of `Streams.memory`.
    """

    sizes: Integers
    parameters: Integers
    activations: Integers
    constants: Integers
    units: Integers
    rules: Integers
    policy: Booleans
    rows: Integers


class Shape(NamedTuple):
    """Of one network.

    Attributes:
        sizes: (L + 2,) layer widths, input and output included.
        constants: how many of the outputs, the last ones, do not depend on the input.
        unit: code of the hidden units.
    """

    sizes: Integers
    constants: int
    unit: int


class Workspace(NamedTuple):
    """What one thread scribbles on while it advances a stream.

    Attributes:
        direction: (P,).
        activations: (C,) of each network at the successor state.
        gradient: (2, W) for W the widest layer and its bias.
        action: (2, A) of learners of action values: the next draw's noise, and dQ / da.
    """

    direction: Reals
    activations: Reals
    gradient: Reals
    action: Doubles


class Transitions(NamedTuple):
    """One control step of N streams.

    Attributes:
        reward: (N,).
        terminated: (N,) a true end state.
        truncated: (N,) ended by the time limit.
        valid: (N,) False where there is nothing to learn from this step.
        next_obs: (N, D) the state to act in next; where an episode ended, the first of the next one.
        final_obs: (N, D) the true successor where an episode ended.
    """

    reward: Doubles
    terminated: Booleans
    truncated: Booleans
    valid: Booleans
    next_obs: Doubles
    final_obs: Doubles


# columns of Streams.rules
UPDATES = 0  # t, updates so far
DECAY = 1  # c = gamma lambda
DELTA = 2  # TD error that the rule sees
MEAN_FIRST = 3  # running means of the Intentional rules: of n,
OUTPUT_TRACE = 3  # or, of gradient TD, the trace of the correction
MEAN_SQUARE_DELTA = 4  # of delta^2,
MEAN_ABS_DELTA = 5  # and of |delta| after its clip
FIRST = 6  # sums over all parameters in this update: a norm, or n of the Intentional rules,
SECOND = 7  # and their q
STEP = 8  # factor of the direction in the last update
RATE = 9  # kappa, eta or learning rate, whichever the rule has
NUM_RULE_COLUMNS = 10

# rows of one network's part of Streams.memory
WEIGHTS, TRACE, SQUARES, MEANS = 0, 1, 2, 3

# columns of the hyperparameters
GAMMA, LAMBDA, ENTROPY, EPSILON_START, EPSILON_END, EPSILON_STEPS, STD_FLOOR = 0, 1, 2, 3, 4, 5, 6
ACTOR_REST = 7  # control steps before the actor learns
LOG_STD_LOW, LOG_STD_HIGH = 8, 9  # between which log sigma is cut, of the exponential head
OBS_CLIP = 10  # at which normalised observations are cut
ALPHA = 11  # temperature, in units of the raw reward
NOISE_STD = 12  # of a deterministic policy's exploration
REPEAT_EXPONENT = 13  # of how long a random action is kept; infinite: one step
CORRECTION_DECAY = 14  # beta of gradient TD
NUM_HYPER_COLUMNS = 15

# switches
NORMALIZE_OBS = 0
SCALE_REWARD = 1
TRUNCATION_ENDS = 2  # a time limit cuts the bootstrap
TRUNCATION_UNNOTICED = 3  # a time limit resets nothing
LEAK = 4  # see normalization.scale_reward
EPISODE_STEPS = 5  # scale of the time input; 0 without one
HEAD = 6  # what a policy's outputs mean, see `heads`
ON_POLICY = 7  # SARSA instead of Q
NUM_SWITCHES = 8
