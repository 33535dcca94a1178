r"""QRC(lambda): values of discrete actions by gradient TD (Elelimy et al. 2025, arXiv:2507.09087).

    delta = r + gamma max_b Q(s', b) - Q(s, a),    h = h(s, a) of a second network
    z_h   <- gamma lambda z_h + h
    z_t   <- gamma lambda z_t + grad h
    z_w   <- gamma lambda z_w + grad Q(s, a)
    w     <- w + alpha (delta z_w - h grad Q(s, a) - z_h grad delta)
    theta <- theta + alpha_h (delta z_t - h grad h - beta theta)

grad delta = gamma grad max_b Q(s', b) - grad Q(s, a) goes through the bootstrap, which stream Q(lambda)
leaves out: this descends the projected Bellman error, with h as its estimate of delta. Traces are cleared
after the step that ends an episode and after an action that was not the greedy one.

It is no rule of `rules`: its direction comes from two states and two networks. Observations and rewards are
scaled and networks begin as in `q_learning`, which also chooses the actions.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from robotrl.algorithms.streaming import qrc_kernel
from robotrl.algorithms.streaming.compiled import Integers
from robotrl.algorithms.streaming.config import StreamQRCConfig
from robotrl.algorithms.streaming.heads import Head
from robotrl.algorithms.streaming.learner import StreamLearner
from robotrl.algorithms.streaming.setup import Network, Sweep


class StreamQRC(StreamLearner):
    """QRC(lambda) for N streams; `act` returns indices, (N, 1).

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

    config: StreamQRCConfig

    def __init__(
        self,
        obs_dim: int,
        num_actions: int,
        num_streams: int = 1,
        config: StreamQRCConfig | None = None,
        seed: int = 0,
        sweep: Sweep | None = None,
        num_threads: int | None = None,
        dtype: npt.DTypeLike = np.float32,
    ) -> None:
        config = config or StreamQRCConfig()
        networks = [
            Network(name, config.hidden, num_actions, config.rule) for name in ("critic", "correction")
        ]
        super().__init__(
            networks, obs_dim, 1, Head.CATEGORICAL, num_streams, config, seed, sweep, num_threads, dtype
        )

    @property
    def _advance(self) -> Callable[..., None]:
        return qrc_kernel.advance

    def deterministic_action(self, obs: npt.ArrayLike) -> Integers:
        """Return the best action (N, 1) for raw observations (N, D), without learning."""
        return self.outputs("critic", obs).argmax(1)[:, None]
