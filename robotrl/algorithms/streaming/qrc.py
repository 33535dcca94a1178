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
from typing import ClassVar

from robotrl.algorithms.streaming import qrc_kernel
from robotrl.algorithms.streaming.config import StreamQConfig, StreamQRCConfig
from robotrl.algorithms.streaming.q_learning import StreamQ


class StreamQRC(StreamQ):
    """QRC(lambda) for N streams; made and used as `StreamQ` is."""

    config: StreamQRCConfig
    default_config: ClassVar[type[StreamQConfig]] = StreamQRCConfig
    networks: ClassVar[tuple[str, ...]] = ("critic", "correction")

    @property
    def _advance(self) -> Callable[..., None]:
        return qrc_kernel.advance
