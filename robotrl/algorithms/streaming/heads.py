"""What a policy's outputs mean: draws, and gradients of log probability and entropy by the outputs.

Gaussian, outputs (mu, pre), with x = (a - mu) / sigma

    d log N / d mu = x / sigma,   d log N / d sigma = (x^2 - 1) / sigma,   dH / d sigma = 1 / sigma,
    softplus:      sigma = softplus(pre) + floor,          d sigma / d pre = sigmoid(pre)
    exponential:   sigma = exp(cut(pre, low, high)) + floor,  d sigma / d pre = exp(pre), 0 where it is cut

A floor under sigma leaves d sigma / d pre as it is, so that the head can always recover. The exponential
head is that of PPO, whose pre is a constant, and of SAC, which squashes its draws, a = tanh(u): the squash
has no parameters, so that grad log pi(a|s) = grad log N(u), and it is left to the actuators; the entropy
is then that of u.

Categorical, outputs are logits: d log p_a / d logit_k = [k = a] - p_k and
dH / d logit_k = -p_k (log p_k + H).

The entropy's weight comes with the sign of the TD error, by which the trace is multiplied afterwards:
the step is always towards more entropy (arXiv:2410.14606, section 3.4).
"""

from __future__ import annotations

import enum
import math

from robotrl.algorithms.streaming.compiled import Doubles, Reals, Words, kernel, uniform
from robotrl.algorithms.streaming.state import LOG_STD_HIGH, LOG_STD_LOW, STD_FLOOR

CATEGORICAL, SOFTPLUS, SQUASHED_SOFTPLUS, DETERMINISTIC = 0, 1, 4, 5


class Head(enum.Enum):
    """What a network's outputs mean."""

    CATEGORICAL = "categorical"
    SOFTPLUS = "softplus"
    """Gaussian; sigma by softplus."""
    CONSTANT = "constant"
    """Gaussian; sigma exponential, the same in all states."""
    SQUASHED = "squashed"
    """Gaussian; sigma exponential, and actuators receive tanh of the draw."""
    SQUASHED_SOFTPLUS = "squashed_softplus"
    """Gaussian; sigma by softplus, and actuators receive tanh of the draw."""
    DETERMINISTIC = "deterministic"
    """tanh of the outputs, see `squashed`."""

    @property
    def code(self) -> int:
        """What kernels call it; the two exponential ones are the same to them."""
        return list(Head).index(self)

    @property
    def is_squashed(self) -> bool:
        """Whether actuators receive tanh of a Gaussian draw."""
        return self in (Head.SQUASHED, Head.SQUASHED_SOFTPLUS)


@kernel
def softplus(x: float) -> float:
    """Return log(1 + e^x) without overflow or cancellation."""
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


@kernel
def sigmoid(x: float) -> float:
    """Return 1 / (1 + e^-x)."""
    return 1.0 / (1.0 + math.exp(-x)) if x > 0.0 else math.exp(x) / (1.0 + math.exp(x))


@kernel
def deviation(head: int, pre: float, hyper: Doubles) -> tuple[float, float]:
    """Return sigma and d sigma / d pre."""
    if head in (SOFTPLUS, SQUASHED_SOFTPLUS):
        return softplus(pre) + hyper[STD_FLOOR], sigmoid(pre)
    low, high = hyper[LOG_STD_LOW], hyper[LOG_STD_HIGH]
    sigma = math.exp(min(max(pre, low), high))
    return sigma + hyper[STD_FLOOR], sigma if low <= pre <= high else 0.0


@kernel
def gaussian_action(head: int, y: Reals, noise: Doubles, hyper: Doubles, action: Doubles) -> None:
    """Write mu + sigma noise into `action`, (A,), for outputs y (2 A,)."""
    dim = len(action)
    for k in range(dim):
        sigma, _ = deviation(head, y[dim + k], hyper)
        action[k] = y[k] + sigma * noise[k]


@kernel
def gaussian_gradient(
    head: int, y: Reals, action: Doubles, hyper: Doubles, entropy_weight: float, d: Reals
) -> None:
    """Write the gradient of log N(a) + entropy_weight H by the outputs y (2 A,) into d (2 A,)."""
    dim = len(action)
    for k in range(dim):
        sigma, slope = deviation(head, y[dim + k], hyper)
        x = (action[k] - y[k]) / sigma
        d[k] = x / sigma
        d[dim + k] = (x * x - 1.0 + entropy_weight) / sigma * slope


@kernel
def softmax(y: Reals, p: Reals) -> None:
    """Write the probabilities of logits y (A,) into p (A,)."""
    top = y[argmax(y)]
    total = 0.0
    for k in range(len(y)):
        total += math.exp(y[k] - top)
    for k in range(len(y)):
        p[k] = math.exp(y[k] - top) / total


@kernel
def categorical_action(y: Reals, random: Words, p: Reals) -> int:
    """Draw an index for logits y (A,); `p` (A,) receives the probabilities."""
    softmax(y, p)
    left = uniform(random)
    for k in range(len(p) - 1):
        left -= p[k]
        if left <= 0.0:
            return k
    return len(p) - 1


@kernel
def categorical_gradient(y: Reals, action: int, entropy_weight: float, d: Reals) -> None:
    """Write the gradient of log p_a + entropy_weight H by the logits y (A,) into d (A,)."""
    softmax(y, d)
    entropy = 0.0
    for k in range(len(d)):
        if d[k] > 0.0:
            entropy -= d[k] * math.log(d[k])
    for k in range(len(d)):
        p = d[k]
        log_p = math.log(p) if p > 0.0 else 0.0
        d[k] = (1.0 if k == action else 0.0) - p - entropy_weight * p * (log_p + entropy)


@kernel
def argmax(y: Reals) -> int:
    """Return the index of the largest entry, the first of several."""
    best = 0
    for k in range(1, len(y)):
        if y[k] > y[best]:
            best = k
    return best
