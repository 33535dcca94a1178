r"""Stream Q(lambda) and SARSA(lambda): values of discrete actions, learned online (arXiv:2410.14606).

    Q:      delta = r + gamma max_b Q(s', b) - Q(s, a)
    SARSA:  delta = r + gamma Q(s', a') - Q(s, a),     a' epsilon-greedy at s', and taken next

g = grad Q(s, a) enters the trace z <- gamma lambda z + g, along which one of `rules` takes a step.
Traces are cleared after the step that ends an episode, and in Q(lambda) after one whose action was not
the greedy one. Epsilon falls linearly from `epsilon_start` to `epsilon_end`; with `repeat_exponent` a random
action is kept for several steps (Dabney, Ostrovski & Barreto 2020, arXiv:2006.01782).

Differences from the released code: SARSA's first action of an episode is drawn in its first state, not
in the last one of the episode before (`preset=reference` does that); those of `normalization` and
`config.Preset`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from robotrl.algorithms.streaming import value_kernel
from robotrl.algorithms.streaming.compiled import Integers
from robotrl.algorithms.streaming.config import EpsilonGreedyConfig, StreamQConfig
from robotrl.algorithms.streaming.heads import Head
from robotrl.algorithms.streaming.learner import StreamLearner
from robotrl.algorithms.streaming.setup import Network, Sweep


class ActionValues(StreamLearner):
    """What learners of the values of discrete actions share; `act` returns indices, (N, 1).

    Args:
        obs_dim: D.
        num_actions: choices, 0 .. A - 1.
        num_streams: N.
        config: hyperparameters.
        seed: of weights and draws.
        sweep: hyperparameters that differ between streams.
        num_threads: CPU threads; all CPUs of the process by default.
        dtype: of networks and traces, float32 or float64.
    """

    config_class: ClassVar[type[EpsilonGreedyConfig]]
    networks: ClassVar[tuple[str, ...]] = ("critic",)
    """Names of the networks, each with an output per action; the first holds the values."""

    def __init__(
        self,
        obs_dim: int,
        num_actions: int,
        num_streams: int = 1,
        config: EpsilonGreedyConfig | None = None,
        seed: int = 0,
        sweep: Sweep | None = None,
        num_threads: int | None = None,
        dtype: npt.DTypeLike = np.float32,
    ) -> None:
        config = self.checked(config or self.config_class())
        networks = [Network(name, config.hidden, num_actions, config.rule) for name in self.networks]
        super().__init__(
            networks, obs_dim, 1, Head.CATEGORICAL, num_streams, config, seed, sweep, num_threads, dtype
        )

    def deterministic_action(self, obs: npt.ArrayLike) -> Integers:
        """Return the best action (N, 1) for raw observations (N, D), without learning."""
        return self.outputs("critic", obs).argmax(1)[:, None]


class StreamQ(ActionValues):
    """Stream Q(lambda) or SARSA(lambda) for N streams, whichever `config` says."""

    config_class: ClassVar[type[EpsilonGreedyConfig]] = StreamQConfig

    config: StreamQConfig

    @property
    def _advance(self) -> Callable[..., None]:
        return value_kernel.advance
