"""Actions within (-1, 1) by tanh: draws, log probabilities, and the gradient of an objective through both.

Squashed Gaussian, outputs (mu, pre), sigma as in `heads`, noise x ~ N(0, I):

    u = mu + sigma x,   a = tanh u
    log pi(a|s) = sum_i [-x^2 / 2 - log sigma - log(2 pi) / 2 - log(1 - a^2)]_i

Of Q(s, a) - alpha log pi(a|s) at fixed x, with q = dQ / da:

    g = q (1 - a^2) - 2 alpha a,   d / d mu = g,   d / d pre = (g x + alpha / sigma) d sigma / d pre

Deterministic, outputs mu: a = tanh(mu) + noise_std x, cut at +-1, and d / d mu = q (1 - tanh(mu)^2) whether
it was cut or not.
"""

from __future__ import annotations

import math

from robotrl.algorithms.streaming.compiled import Doubles, Reals, kernel
from robotrl.algorithms.streaming.heads import DETERMINISTIC, deviation, softplus
from robotrl.algorithms.streaming.state import NOISE_STD

_LOG_2 = math.log(2.0)
_HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)


@kernel
def squashed_action(
    head: int, y: Reals, noise: Doubles, hyper: Doubles, draw: Doubles, action: Reals
) -> float:
    """Write the action that the noise leads to, and return its log probability, 0 of a deterministic one.

    Args:
        head: what the outputs mean.
        y: (2 A,) or (A,) outputs.
        noise: (A,) standard normal.
        hyper: of the stream.
        draw: (A,) receives u, or the action where it is deterministic.
        action: (A,) receives a.
    """
    dim = len(noise)
    log_prob = 0.0
    for k in range(dim):
        if head == DETERMINISTIC:
            draw[k] = min(max(math.tanh(y[k]) + hyper[NOISE_STD] * noise[k], -1.0), 1.0)
            action[k] = draw[k]
        else:
            sigma, _ = deviation(head, y[dim + k], hyper)
            u = y[k] + sigma * noise[k]
            draw[k] = u
            action[k] = math.tanh(u)
            log_slope = 2.0 * (_LOG_2 - u - softplus(-2.0 * u))  # of tanh, without cancellation
            log_prob -= 0.5 * noise[k] * noise[k] + math.log(sigma) + _HALF_LOG_2PI + log_slope
    return log_prob


@kernel
def squashed_gradient(
    head: int, y: Reals, draw: Doubles, hyper: Doubles, q: Doubles, alpha: float, d: Reals
) -> None:
    """Write the gradient of Q - alpha log pi by the outputs into d (2 A,) or (A,).

    Args:
        head: what the outputs mean.
        y: (2 A,) or (A,) outputs.
        draw: (A,) as `squashed_action` wrote it.
        hyper: of the stream.
        q: (A,) dQ / da.
        alpha: temperature in units of Q.
        d: written.
    """
    dim = len(draw)
    for k in range(dim):
        if head == DETERMINISTIC:
            a = math.tanh(y[k])
            d[k] = q[k] * (1.0 - a * a)
        else:
            sigma, slope = deviation(head, y[dim + k], hyper)
            a = math.tanh(draw[k])
            g = q[k] * (1.0 - a * a) - 2.0 * alpha * a
            d[k] = g
            d[dim + k] = (g * (draw[k] - y[k]) / sigma + alpha / sigma) * slope
