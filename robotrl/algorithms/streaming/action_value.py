r"""S2AC and SDAC: streaming actors that follow the gradient of action values (arXiv:2603.08588).

    a = f(s, x) with noise x                                                   (see `squashed`)
    delta  = r + gamma (Q(s', a') - alpha / sigma log pi(a'|s')) - Q(s, a),    no Q' after a true end
    critic:  g = grad Q(s, a),  z <- gamma lambda z + g, and a step by `rule` along z
    actor:   g = grad [Q(s, f(s, x)) - alpha / sigma log pi(f(s, x)|s)], and a step by `actor_rule`

S2AC is the soft actor-critic (arXiv:1801.01290), a squashed Gaussian. Rewards are divided by sigma, the
deviation of their discounted sum, and so is the temperature alpha: a nat of entropy keeps its worth in
rewards. SDAC is the deterministic one (arXiv:1802.09477), without entropy: a' has Gaussian noise, which
smooths the target, the same that explores.

Every Q is that of the parameters before the step. The critic is one network: no replay, target network
or second critic. a' comes from the noise that the next action comes from, so that successive errors
telescope but for the actor's last step. dQ/da falls out of the backward pass of grad Q(s, a).

What of the paper is known to us is this much, and that the networks, initialisation and normalisers are
those of stream AC. How its actor is optimised, alpha and the noise are not: `actor_rule`, `alpha` and
`noise_std` are ours, chosen by what they reached on HalfCheetah-v5 and Hopper-v5 in 100,000 steps. That
SDAC's actor follows dQ/da at the action with its noise, instead of without, is ours too.

An actor has no TD error for its rule to scale a gradient by. The gradient by the actor's outputs comes in
two parts: its length stands in for the error, its direction goes back through the network. ObGD, SGD and
Adam see their product; the Intentional rule moves the outputs by `actor_eta` times the gradient over
the running mean of its length.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from robotrl.algorithms.streaming import action_value_kernel
from robotrl.algorithms.streaming.actor_critic import Actor, check_head, set_actor
from robotrl.algorithms.streaming.compiled import Doubles, Reals
from robotrl.algorithms.streaming.config import (
    StreamConfig,
    StreamDACConfig,
    StreamQACConfig,
    StreamSACConfig,
)
from robotrl.algorithms.streaming.heads import Head
from robotrl.algorithms.streaming.inputs import require_whole
from robotrl.algorithms.streaming.learner import StreamLearner
from robotrl.algorithms.streaming.setup import Network, Sweep

_NOISE_STD = 0.2


class StreamQAC(StreamLearner):
    """S2AC or SDAC for N streams, whichever the configuration is of.

    Args:
        obs_dim: D.
        action_dim: A.
        num_streams: N.
        config: hyperparameters; S2AC's by default.
        seed: of weights and draws.
        sweep: hyperparameters that differ between streams.
        num_threads: CPU threads; all CPUs of the process by default.
        dtype: of networks and traces, float32 or float64.
        actor: what the policy is made of, instead of `config.hidden` with a softplus deviation.
    """

    config_class: ClassVar[type[StreamConfig]] = StreamQACConfig

    config: StreamSACConfig | StreamDACConfig

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        num_streams: int = 1,
        config: StreamSACConfig | StreamDACConfig | None = None,
        seed: int = 0,
        sweep: Sweep | None = None,
        num_threads: int | None = None,
        dtype: npt.DTypeLike = np.float32,
        actor: Actor | None = None,
    ) -> None:
        require_whole("action_dim", action_dim, 1)
        config = self.checked(config or StreamSACConfig())
        if isinstance(config, StreamDACConfig) and config.noise_std is None:
            config = dataclasses.replace(config, noise_std=_NOISE_STD)
        is_soft = isinstance(config, StreamSACConfig)
        heads = [Head.SQUASHED_SOFTPLUS, Head.SQUASHED] if is_soft else [Head.DETERMINISTIC]
        actor = actor or Actor(list(config.hidden), heads[0])
        check_head(type(config).__name__, actor, heads)
        networks = [
            Network("actor", actor.hidden, action_dim * (1 + is_soft), config.actor_rule, actor.unit),
            Network("critic", config.hidden, 1, config.rule, config.critic_unit, action_inputs=action_dim),
        ]
        super().__init__(
            networks, obs_dim, action_dim, actor.head, num_streams, config, seed, sweep, num_threads, dtype
        )
        self.action_dim, self.actor = action_dim, actor
        set_actor(self._hyper, actor)

    @property
    def _advance(self) -> Callable[..., None]:
        return action_value_kernel.advance

    def command(self) -> Doubles:
        """Return what the actuators receive, (N, A) in [-1, 1].

        Raises:
            UsageError: it is not finite as the networks diverged, or there is nothing before `start`.
        """
        action = self._finite_action()
        return np.tanh(action) if self.actor.head.is_squashed else action

    def deterministic_action(self, obs: npt.ArrayLike) -> Reals:
        """Return the actions without noise, (N, A) in [-1, 1], for raw observations; nothing is learned."""
        return np.tanh(self.outputs("actor", obs)[:, : self.action_dim])

    def values(self, obs: npt.ArrayLike, action: npt.ArrayLike) -> Doubles:
        """Return Q(s, a) in units of the raw reward, (N,), for raw observations (N, D), actions (N, A)."""
        return self.outputs("critic", obs, action)[:, 0] * self.reward_scale()
