"""Running statistics of one stream, in float64 whatever the network's numbers are (Welford 1962).

    n += 1,  d = x - mean,  mean += d / n,  p += d (x - mean),  var = p / (n - 1), or 1 for n = 1

Observations become (x - mean) / sqrt(var + 1e-8) after they have entered their own statistics. They need
no clip, |x| <= (n - 1) / sqrt(n), and are cut only for a network that was trained so. Rewards are divided
by the deviation of their running discounted sum u <- gamma u + r, without taking a mean off
(arXiv:2410.14606, algorithms 4, 5).

Differences from the released code: u starts at 0 in every episode, where `leak` keeps the last reward
of one episode in the sum of the next.
"""

from __future__ import annotations

import math

from robotrl.algorithms.streaming.compiled import Doubles, Reals, kernel

EPS = 1e-8


@kernel
def normalize(statistics: Doubles, x: Doubles, clip: float, out: Reals) -> None:
    """Take an observation into the statistics, then write it normalised.

    Args:
        statistics: (1 + 2 D,) count, means, sums of squared deviations.
        x: (D,) raw.
        clip: at which normalised observations are cut.
        out: (D,).
    """
    dim = len(x)
    statistics[0] += 1.0
    count = statistics[0]
    for k in range(dim):
        deviation = x[k] - statistics[1 + k]
        statistics[1 + k] += deviation / count
        statistics[1 + dim + k] += deviation * (x[k] - statistics[1 + k])
    normalize_frozen(statistics, x, clip, out)


@kernel
def normalize_frozen(statistics: Doubles, x: Doubles, clip: float, out: Reals) -> None:
    """Write an observation (D,) normalised, without learning from it."""
    dim = len(x)
    for k in range(dim):
        var = statistics[1 + dim + k] / (statistics[0] - 1.0) if statistics[0] > 1.5 else 1.0
        out[k] = min(max((x[k] - statistics[1 + k]) / math.sqrt(var + EPS), -clip), clip)


@kernel
def scale_reward(statistics: Doubles, reward: float, gamma: float, ends: bool, leak: bool) -> float:
    """Take a reward into the statistics and return it scaled.

    Args:
        statistics: (4,) discounted sum of rewards; its count, mean and sum of squared deviations.
        reward: raw.
        gamma: discount.
        ends: whether the episode ends with this reward.
        leak: carry the last reward of an episode over into the next one, as released.
    """
    total = gamma * (0.0 if ends and leak else statistics[0]) + reward
    statistics[1] += 1.0
    deviation = total - statistics[2]
    statistics[2] += deviation / statistics[1]
    statistics[3] += deviation * (total - statistics[2])
    statistics[0] = 0.0 if ends and not leak else total
    return reward / reward_scale(statistics)


@kernel
def reward_scale(statistics: Doubles) -> float:
    """Return what rewards are divided by."""
    var = statistics[3] / (statistics[1] - 1.0) if statistics[1] > 1.5 else 1.0
    return math.sqrt(var + EPS)
