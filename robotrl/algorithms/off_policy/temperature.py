"""The temperature of maximum-entropy methods, learned so that the entropy stays near a target.

Haarnoja et al. 2018 (arXiv:1812.05905, section 5): L = -E[log alpha (log pi(a|s) + target_entropy)].
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from robotrl.networks.flat_adam import FlatAdam


class Temperature:
    """alpha > 0, moved by Adam on log alpha.

    Args:
        initial: alpha at the start.
        target_entropy: nats.
        learning_rate: of Adam.
    """

    def __init__(self, initial: float, target_entropy: float, learning_rate: float) -> None:
        self.log_alpha = torch.tensor(math.log(initial))
        self.target_entropy = target_entropy
        self.optimizer = FlatAdam(self.log_alpha, learning_rate)

    @property
    def alpha(self) -> Tensor:
        """The temperature, ()."""
        return self.log_alpha.exp()

    def update(self, log_prob: Tensor) -> None:
        """Do one gradient step for the mean log density of the policy's own actions, ()."""
        self.optimizer.step(-(log_prob + self.target_entropy))

    def state_dict(self) -> dict[str, Any]:
        """Return log alpha and the optimiser."""
        return {"log_alpha": self.log_alpha, "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.log_alpha.copy_(state["log_alpha"])
        self.optimizer.load_state_dict(state["optimizer"])
