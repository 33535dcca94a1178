"""The learner of `qrc` once more, one stream in plain torch with autograd; see `reference`."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from robotrl.algorithms.streaming.config import StreamQRCConfig
from robotrl.algorithms.streaming.reference import Layers, ReferenceStream, gradient, network


class ReferenceQRC(ReferenceStream):
    """QRC(lambda) of one stream.

    Args:
        config: hyperparameters.
        obs_dim: D.
        critic: initial parameters.
        correction: initial parameters.
    """

    config: StreamQRCConfig

    def __init__(self, config: StreamQRCConfig, obs_dim: int, critic: Layers, correction: Layers) -> None:
        super().__init__(config, obs_dim)
        self.critic, self.correction = critic, correction
        self.clear()

    def clear(self) -> None:
        """Clear the traces."""
        self.critic_trace = [torch.zeros_like(w) for w in self.critic]
        self.correction_trace = [torch.zeros_like(w) for w in self.correction]
        self.output_trace = 0.0

    def update(
        self,
        reward: float,
        terminated: bool,
        truncated: bool,
        next_obs: npt.NDArray[np.float64],
        final_obs: npt.NDArray[np.float64],
        action: int,
        greedy: bool,
    ) -> None:
        """Learn from one transition; the traces end after an action that was not the greedy one."""
        ended = terminated or truncated
        next_state, reward, gamma, resets = self.take(
            reward, terminated, truncated, final_obs if ended else next_obs
        )
        c = self.config.gamma * self.config.trace_lambda
        critic = [w.clone().requires_grad_() for w in self.critic]
        correction = [w.clone().requires_grad_() for w in self.correction]
        value, h = network(critic, self.state)[action], network(correction, self.state)[action]
        delta = reward + gamma * network(critic, next_state).max() - value
        by_delta = list(torch.autograd.grad(delta, critic, retain_graph=True))
        by_value, by_h = gradient(value, critic), gradient(h, correction)
        self.output_trace = c * self.output_trace + h.item()
        self.critic_trace = [c * z + g for z, g in zip(self.critic_trace, by_value, strict=True)]
        self.correction_trace = [c * z + g for z, g in zip(self.correction_trace, by_h, strict=True)]
        for w, z, g, d in zip(self.critic, self.critic_trace, by_value, by_delta, strict=True):
            w += self.config.critic_learning_rate * (delta.item() * z - h.item() * g - self.output_trace * d)
        for w, z, g in zip(self.correction, self.correction_trace, by_h, strict=True):
            w += self.config.correction_learning_rate * (
                delta.item() * z - h.item() * g - self.config.correction_decay * w
            )
        if resets or not greedy:
            self.clear()
        if ended:
            self.start(next_obs)
        else:
            self.state = next_state
