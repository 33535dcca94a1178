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
from typing import ClassVar

from robotrl.algorithms.streaming import qrc_kernel
from robotrl.algorithms.streaming.config import EpsilonGreedyConfig, StreamQRCConfig
from robotrl.algorithms.streaming.q_learning import ActionValues


class StreamQRC(ActionValues):
    """QRC(lambda) for N streams."""

    config_class: ClassVar[type[EpsilonGreedyConfig]] = StreamQRCConfig
    networks: ClassVar[tuple[str, ...]] = ("critic", "correction")

    config: StreamQRCConfig

    @property
    def _advance(self) -> Callable[..., None]:
        return qrc_kernel.advance
