r"""QRC(lambda): Q-learning by gradient TD, with regularised corrections and traces (arXiv:2507.09087).

    delta = r + gamma max_b Q(s', b) - Q(s, a),     D = grad_w delta, through Q(s', b) too
    H <- c H + h(s, a),   z <- c z + grad Q(s, a),   y <- c y + grad h(s, a),     c = gamma lambda
    w     <- w + alpha (delta z - h(s, a) grad Q(s, a) - H D)
    theta <- theta + alpha' (delta y - h(s, a) grad h(s, a) - beta theta),        beta = 1

h is a second network with parameters theta that learns what delta to expect. H and the traces are
cleared after a step that ends an episode and after one whose action was not the greedy one.

Differences from the released code: those of `normalization` and `config.Preset`.
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
